"""What a user must know of a captured graph: what it was specialised to, and what it leaves out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import fx, nn

from fxprune_passes.inferred import Inferred
from fxprune_passes.tensors import modules_of, tensors_of

_SHOWN = 5
_LINES = 12


def notes_of(graph_module: fx.GraphModule, model: nn.Module, *, emit: str = "graph") -> tuple[str, ...]:
    """Notes on a captured graph.

    Args:
        graph_module: The captured graph.
        model: What it was captured from.
        emit: ``"graph"`` or ``"module"``.

    Returns:
        One line a fact, empty for a graph that is the whole model for any size.
    """
    compiled = [name or type(model).__name__ for name, one in modules_of(model).items() if one._compiled_call_impl]
    lost = (f"compile() of these is not carried over, compile the result: {listed(compiled)}",) if compiled else ()
    return (*lost, *_baked(graph_module.meta.get("baked", [])), *_left_out(graph_module, model, emit))


def inferred_notes(inferred: Mapping[fx.Node, Inferred]) -> Iterator[str]:
    """Notes on ops whose rules were inferred by running them."""
    where: dict[str, dict[str, None]] = {}
    for node, one in inferred.items():
        where.setdefault(one.op, {})[str(node.meta.get("source") or node.name)] = None
    for op, lines in where.items():
        yield f"rule inferred by running {op}, verified by numbers wherever a plan uses it: {listed(list(lines))}"


def listed(names: Sequence[str], most: int = _SHOWN) -> str:
    """Some names as text, and how many there are more.

    Example:
        >>> listed(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _baked(baked: Iterable[tuple[str, str, float]]) -> Iterator[str]:
    """Sizes and modes that became literals, by the line that asked for their values."""
    lines: dict[tuple[str, str], list[str]] = {}
    for line, what, value in baked:
        kind, shown = (
            ("mode", f"training is {value}") if what == "training" else ("example inputs", f"{what} of {value}")
        )
        lines.setdefault((kind, line or "an unknown line"), []).append(shown)
    notes = [f"fixed to the {kind} at {line}: {listed(values)}" for (kind, line), values in lines.items()]
    yield from notes[:_LINES]
    if len(notes) > _LINES:
        yield f"fixed at {len(notes) - _LINES} more lines, which meta['baked'] of the captured and compiled graph lists"


def _left_out(graph_module: fx.GraphModule, model: nn.Module, emit: str) -> Iterator[str]:
    if names := unread(graph_module, model):
        mode = "train" if model.training else "eval"
        then = "the compiled model leaves out" if emit == "graph" else "the smaller module keeps at their old sizes"
        yield f"the forward in {mode} mode does not use, and {then}: {listed(names)}"


def unread(graph_module: fx.GraphModule, model: nn.Module) -> list[str]:
    """Parameters that no node reads, summed up by the largest modules that hold no others."""
    targets = {str(node.target) for node in graph_module.graph.nodes if node.op in ("get_attr", "call_module")}
    named = [(name, one) for name, one in tensors_of(model).items() if isinstance(one, nn.Parameter)]
    read = {id(one) for name, one in named if any(home in targets for home in (name.rpartition(".")[0], *homes(name)))}
    names = [name for name, one in named if id(one) not in read]
    return _summed_up(names, [name for name, one in named if id(one) in read]) if names else []


def homes(name: str) -> Iterator[str]:
    """The name and the modules that it is in, outermost first."""
    parts = name.split(".")
    yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


def _summed_up(unread: Sequence[str], read: Sequence[str]) -> list[str]:
    """Names of the largest modules all of whose parameters are unread, or of single parameters."""
    partly = {prefix for name in read for prefix in homes(name)}
    return list(dict.fromkeys(next((one for one in homes(name) if one not in partly), name) for name in unread))
