"""Changes: what a compiled graph does differently from the original, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import fx, nn

from fxprune.analysis import Analysis
from fxprune_passes.errors import VerifyError, explain
from fxprune_passes.fakes import shadow
from fxprune_passes.quiet import quiet_run

KINDS = ("unchanged", "sliced", "mended", "new", "removed")


@dataclass(frozen=True, slots=True)
class Change:
    """One node, before and after.

    Attributes:
        node: Its name in the original graph (in the compiled one for a new node).
        kind: ``"unchanged"``; ``"sliced"``: the same call of smaller tensors; ``"mended"``: another call, or other
            literals in it; ``"new"``: has no original; ``"removed"``: is not there any more.
        module: Path of the module whose forward it comes from.
        source: File and line.
        call: The original call, "" for a new node.
        new_call: The compiled call, "" for a removed node.
        value: Shapes of the original value; of a size the number itself.
        new_value: The same after compiling.
        literals: The arguments and module attributes that differ, each ``(name, old, new)``.
    """

    node: str
    kind: str
    module: str
    source: str
    call: str
    new_call: str
    value: str
    new_value: str
    literals: tuple[tuple[str, str, str], ...]

    def __str__(self) -> str:
        """What was done to the node's code, in one line."""
        if self.kind in ("new", "removed"):
            return self.new_call or self.call
        return ", ".join(f"{name}: {old} -> {new}" for name, old, new in self.literals)


def diff(analysis: Analysis, small: fx.GraphModule) -> list[Change]:
    """Compare a model with what :func:`fxprune.compile` made of it.

    Args:
        analysis: The analysed original; ``plan.analysis_of(model)`` gives it.
        small: The compiled graph module; not modified.

    Returns:
        A change for every node of either graph, in the order the compiled one runs; removed nodes come where they were.

    Raises:
        VerifyError: The compiled graph does not run on the example inputs.

    Example:
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> plan = fxprune.plan(model, torch.zeros(1, 8), channels=0.5)
        >>> for change in diff(plan.analysis_of(model), fxprune.compile(model, plan))[1:3]:
        ...     print(change.node, change.kind, change.value, "->", change.new_value, change.literals)
        _0 sliced (1, 6) -> (1, 3) (('out_features', '6', '3'),)
        _1 sliced (1, 6) -> (1, 3) ()
    """
    pair = _Pair(analysis, small, _run(analysis, small))
    old_nodes = list(analysis.capture.graph_module.graph.nodes)
    places = {node.name: place for place, node in enumerate(old_nodes)}
    written, here = set(map(_origin, small.graph.nodes)), 0
    changes: list[Change] = []
    for new in small.graph.nodes:
        place = places.get(_origin(new))
        if place is None:
            changes.append(pair.added(new))
            continue
        changes += [pair.removed(old) for old in old_nodes[here:place] if old.name not in written]
        changes.append(pair.change(old_nodes[place], new))
        here = max(here, place)
    return changes


def table(changes: Sequence[Change], *, unchanged: bool = False) -> str:
    """Lay out changes as a table with a line of counts below it.

    Args:
        changes: What :func:`diff` gave.
        unchanged: Show the nodes that are as they were, too.
    """
    shown = [one for one in changes if unchanged or one.kind != "unchanged"]
    rows = [(one.kind, one.node, str(one), _arrow(one.value, one.new_value), one.source) for one in shown]
    headers = ("", "node", "mended", "value", "source")
    counts = Counter(one.kind for one in changes)
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in KINDS)
    laid_out = tabulate(rows, headers=headers, disable_numparse=True, maxcolwidths=[None, 40, 60, 50, None])
    return f"{laid_out}\n\n{len(changes)} nodes: {summary}"


def _origin(node: fx.Node) -> str:
    """The name of the original node that a compiled one was written for, "" for a new one."""
    return node.name if node.op == "output" else str(node.meta.get("origin", ""))


def _arrow(old: str, new: str) -> str:
    return old if old == new or not new else new if not old else f"{old} -> {new}"


@dataclass(frozen=True, slots=True)
class _Pair:
    """The original and the compiled graph, with the example values of the nodes of both."""

    analysis: Analysis
    small: fx.GraphModule
    values: Mapping[fx.Node, Any]

    def change(self, old: fx.Node, new: fx.Node) -> Change:
        """A node that is in both graphs."""
        value, new_value = _show_value(self.analysis.propagation.values[old]), _show_value(self.values[new])
        call, attributes = _call_literals(old, new), self._attributes(old, new)
        sliced = value != new_value or self._sizes(old, new)
        is_mend = bool(call) or (bool(attributes) and not self._sizes(old, new))
        kind = "mended" if is_mend else "sliced" if sliced else "unchanged"
        place = (old.meta.get("module", ""), old.meta.get("source", ""))
        return Change(old.name, kind, *place, _call(old), _call(new), value, new_value, (*call, *attributes))

    def removed(self, old: fx.Node) -> Change:
        """A node that is not in the compiled graph."""
        value = _show_value(self.analysis.propagation.values[old])
        place = (old.meta.get("module", ""), old.meta.get("source", ""))
        return Change(old.name, "removed", *place, _call(old), "", value, "", ())

    def added(self, new: fx.Node) -> Change:
        """A node that is only in the compiled graph."""
        place = (new.meta.get("module", ""), new.meta.get("source", ""))
        return Change(new.name, "new", *place, "", _call(new), "", _show_value(self.values[new]), ())

    def _modules(self, old: fx.Node, new: fx.Node) -> tuple[nn.Module, nn.Module] | None:
        """The leaf modules that two nodes call."""
        if old.op != "call_module" or new.op != "call_module":
            return None
        before = self.analysis.capture.graph_module.get_submodule(str(old.target))
        return before, self.small.get_submodule(str(new.target))

    def _attributes(self, old: fx.Node, new: fx.Node) -> list[tuple[str, str, str]]:
        """Public attributes of a leaf module that differ: widths, groups, shapes."""
        if (modules := self._modules(old, new)) is None:
            return []
        before, after = (vars(module) for module in modules)
        plain = (int, float, str, tuple)
        names = [name for name, value in before.items() if not name.startswith("_") and isinstance(value, plain)]
        return [(one, str(before[one]), str(after[one])) for one in names if before[one] != after.get(one)]

    def _sizes(self, old: fx.Node, new: fx.Node) -> bool:
        """Whether a leaf module's parameters and buffers have other shapes."""
        if (modules := self._modules(old, new)) is None:
            return False
        before, after = ([tensor.shape for tensor in _tensors(module)] for module in modules)
        return before != after


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _run(analysis: Analysis, small: fx.GraphModule) -> Mapping[fx.Node, Any]:
    """The value of every node of the compiled graph, on fake tensors."""
    inputs, fake_mode = analysis.capture.inputs, analysis.capture.fake_mode
    assert fake_mode is not None, "a graph was compiled, so that it was captured on fake tensors"
    root = shadow(small, fake_mode)
    interpreter = fx.Interpreter(root, garbage_collect_values=False, graph=small.graph)
    placeholders = [node for node in small.graph.nodes if node.op == "placeholder"]
    try:
        with quiet_run(fake_mode):
            interpreter.run(*(inputs[one.target] if one.target in inputs else one.args[0] for one in placeholders))
    except Exception as error:
        first = "the compiled graph does not run on the example inputs of the analysis."
        raise VerifyError(explain(first, why=str(error), mend="compare it with the model it was made of")) from error
    return interpreter.env


def _call_literals(old: fx.Node, new: fx.Node) -> list[tuple[str, str, str]]:
    """What differs in the call itself: the target, or single arguments."""
    before, after = _call(old), _call(new)
    if before == after:
        return []
    if (old.op, _target(old)) != (new.op, _target(new)) or len(old.args) != len(new.args):
        return [("call", before, after)]
    pairs = [(f"argument {i}", one, other) for i, (one, other) in enumerate(zip(old.args, new.args, strict=True))]
    pairs += [(key, old.kwargs.get(key), new.kwargs.get(key)) for key in {**old.kwargs, **new.kwargs}]
    return [(name, _show(one), _show(other)) for name, one, other in pairs if _show(one) != _show(other)]


def _call(node: fx.Node) -> str:
    """A node as one line of code, other nodes by the names that they have in the original graph."""
    if node.op in ("placeholder", "get_attr"):
        return _target(node)
    arguments = [_show(one) for one in node.args] + [f"{key}={_show(one)}" for key, one in node.kwargs.items()]
    return f"{_target(node)}({', '.join(arguments)})"


def _target(node: fx.Node) -> str:
    return str(node.target) if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))


def _show(argument: Any) -> str:
    """An argument as text."""
    return repr(fx.node.map_aggregate(argument, _named))


def _named(argument: Any) -> Any:
    return _Name(_origin(argument) or argument.name) if isinstance(argument, fx.Node) else argument


class _Name(str):
    """A node's name, written without quotes."""

    __slots__ = ()
    __repr__ = str.__str__


def _show_value(value: Any) -> str:
    """The shape of a tensor, a number itself, shapes of several tensors in brackets."""
    if isinstance(value, torch.Tensor):
        return str(tuple(value.shape))
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_show_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {_show_value(one)}' for key, one in value.items())}}}"
    return str(value) if isinstance(value, (int, float)) else ""
