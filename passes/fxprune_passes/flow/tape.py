"""Run a graph and note every op: what of its results is constant, and through which surrogate it depends on what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fxprune_passes.flow.pointwise import each
from fxprune_passes.flow.surrogates import Linear, Ref, Run, flow_of, own, sum_of, takes_sizes
from fxprune_passes.flow.values import Value, everywhere, is_constant, nowhere, ones, zeros
from fxprune_passes.rules import RULES, find
from fxprune_passes.tensors import tensors_of
from fxprune_passes.wide import Wide


@dataclass(frozen=True, slots=True)
class Entry:
    """One op of the run."""

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    linear: Linear


@dataclass(slots=True)
class Tape:
    """A run of a graph.

    Attributes:
        values: For each node the tensors that it gave, in their nesting.
        reads: For each node its inputs, as they were when it ran.
        parameters: What parameters and buffers were, by name.
        entries: The ops of each node, in order.
    """

    values: dict[fx.Node, Any] = field(default_factory=dict)
    reads: dict[fx.Node, dict[fx.Node, Any]] = field(default_factory=dict)
    parameters: dict[str, Value] = field(default_factory=dict)
    entries: dict[fx.Node, list[Entry]] = field(default_factory=dict)

    def read(self) -> dict[Value, Tensor]:
        """Bool of each value's shape: which elements the model's outputs may depend on; what is not named, none."""
        result: dict[Value, Tensor] = {}
        computed = self._computed()
        for node in reversed(self.values):
            if node.op == "output":
                result.update({one: ones(one.shape) > 0 for one in values_in(self.values[node])})
            for entry in reversed(self.entries.get(node, [])):
                pull(entry, result, [not value.static or value in computed for value in entry.inputs])
        return result

    def _computed(self) -> set[Value]:
        """Values made of parameters alone that nodes give, and what becomes of these."""
        result: set[Value] = set()
        for node, entries in self.entries.items():
            result.update(value for value in values_in(self.values.get(node)) if node.op != "get_attr")
            for entry in entries:
                if any(value in result for value in entry.inputs):
                    result.update(entry.outputs)
        return {value for value in result if value.static}

    def differences(self, node: fx.Node, missing: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
        """Bool of each value of a node: what may change where ``missing`` elements of its inputs become zero."""
        found = {value: mask.float() for value, mask in missing.items()}
        for entry in self.entries.get(node, []):
            if any(value in found for value in entry.inputs):
                parts = entry.linear([found.get(value, zeros(value.shape)) for value in entry.inputs])
                found.update({value: (part > 0).float() for value, part in zip(entry.outputs, parts, strict=True)})
        return {value: mask > 0 for value, mask in found.items()}

    def sources(self, node: fx.Node, changed: Mapping[Value, Tensor]) -> dict[Value, Tensor]:
        """Bool of the values that a node reads: which elements these elements of its results may depend on."""
        found = dict(changed)
        for entry in reversed(self.entries.get(node, [])):
            pull(entry, found, [True] * len(entry.inputs))
        return found


def pull(entry: Entry, found: dict[Value, Tensor], asked: Sequence[bool]) -> None:
    """Add which elements of the inputs that are asked for these elements of an op's outputs depend on."""
    weights = [found.get(value) for value in entry.outputs]
    if not any(one is not None and bool(one.any()) for one in weights) or not any(asked):
        return
    with torch.enable_grad():
        given = [ones(one.shape).requires_grad_(want) for one, want in zip(entry.inputs, asked, strict=True)]
        pairs = zip(entry.linear(given), weights, strict=True)
        total = sum_of((part * weight.float()).sum() for part, weight in pairs if weight is not None)
        wanted = [one for one in given if one.requires_grad]
        slopes = torch.autograd.grad(total, wanted, allow_unused=True) if total.requires_grad else [None] * len(wanted)
    values = [value for value, want in zip(entry.inputs, asked, strict=True) if want]
    for value, slope in zip(values, slopes, strict=True):
        if slope is not None:
            found[value] = found[value] | (slope > 0) if value in found else slope > 0


def values_in(tree: Any) -> Iterator[Value]:
    """Every value in nested containers."""
    return (one for one in tree_leaves(tree) if isinstance(one, Value))


def noted(
    module: nn.Module, graph: fx.Graph, inputs: Mapping[str, Any], *, epsilon: float, tainted: Callable[[fx.Node], bool]
) -> Tape:
    """Run a graph in float64 and note what depends on what.

    Args:
        module: What :func:`fxprune_passes.wide.widened` gave; the run may change it.
        graph: Only read.
        inputs: Placeholder values by name, widened.
        epsilon: What an RMS norm without an ``eps`` of its own uses.
        tainted: Whether a node computes with numbers that change with the sizes of the inputs.

    Raises:
        NodeError: A node does not run.
    """
    tensors = {
        **tensors_of(module),
    }
    changing: set[str] = set()  # what the run writes into is another number in every call
    while True:
        tape = Tape()
        recorder = _Recorder(tape)
        for name, tensor in tensors.items():
            tape.parameters[name] = recorder.value(tensor) if name in changing else recorder.learn_constant(tensor)
        _Noting(module, graph, inputs, epsilon, recorder, tainted).result()
        written = {name for name, tensor in tensors.items() if recorder.value(tensor) is not tape.parameters[name]}
        if written <= changing:
            return tape
        changing |= written


class _Noting(Wide):
    """Runs the graph under the recorder, node by node."""

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        inputs: Mapping[str, Any],
        epsilon: float,
        recorder: _Recorder,
        tainted: Callable[[fx.Node], bool],
    ) -> None:
        super().__init__(module, graph, inputs, epsilon=epsilon)
        self.garbage_collect_values = False
        self.recorder = recorder
        self.tainted = tainted

    def compute(self, node: fx.Node) -> Any:
        """The node's value."""
        recorder = self.recorder
        recorder.entries = recorder.tape.entries[node] = []
        recorder.tainted = self.tainted(node)
        recorder.tape.reads[node] = reads = {
            one: tree_map_only(Tensor, recorder.value, self.env[one]) for one in node.all_input_nodes
        }
        recorder.alone = all(one.static for one in values_in(list(reads.values())))
        with recorder:
            value = super().compute(node)
        recorder.tape.values[node] = tree_map_only(Tensor, recorder.value, value)
        return value


class _Recorder(TorchDispatchMode):
    """Notes every op that is dispatched."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tape = tape
        self.entries: list[Entry] = []
        self.tainted = self.alone = False
        self._now: dict[int, tuple[Tensor, Value]] = {}
        self._sharing: dict[int, list[Tensor]] = {}
        self._holding: dict[int, list[Value]] = {}

    def learn_constant(self, tensor: Tensor) -> Value:
        """A parameter or buffer, which no input changes."""
        return self._learn(tensor, Value(tensor.shape, everywhere(tensor.shape), tensor.detach().cpu(), static=True))

    def value(self, tensor: Tensor) -> Value:
        """What a tensor is now; one that no op gave depends on the inputs."""
        found = self._now.get(id(tensor))
        return found[1] if found is not None else self._learn(tensor, Value(tensor.shape))

    def _learn(self, tensor: Tensor, value: Value) -> Value:
        if id(tensor) not in self._now:
            self._sharing.setdefault(_memory(tensor), []).append(tensor)
        if value.value is not None:
            self._holding.setdefault(_memory(tensor), []).append(value)
        self._now[id(tensor)] = (tensor, value)
        return value

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        before = [self.value(one) for one in tensors]
        written = _written(func, args, kwargs)
        for one in written:
            self._keep(one)
        out = func(*args, **kwargs)
        outputs = written or [one for one in tree_leaves(out) if isinstance(one, Tensor)]
        if outputs:
            self._note(func, (args, kwargs), tensors, before, outputs, bool(written))
        return out

    def _note(
        self,
        func: OpOverload,
        arguments: Any,
        tensors: Sequence[Tensor],
        before: Sequence[Value],
        outputs: Sequence[Tensor],
        changes: bool,
    ) -> None:
        refs = iter([Ref(at, value, tensor) for at, (value, tensor) in enumerate(zip(before, tensors, strict=True))])
        args, kwargs = tree_map_only(Tensor, lambda _: next(refs), arguments)
        run = Run(func, tuple(args), kwargs, before, outputs)
        flow, reached = flow_of(run, each if find(func) is RULES[torch.ops.aten.add] else None)
        extra = [*flow.extra, *(None for _ in outputs[len(flow.extra) :])]
        if (self.tainted and not takes_sizes(func)) or _is_drawn(func):
            extra = [ones(one.shape) for one in outputs]
        static = bool(before) and all(value.static for value in before) and not self._may_resize(func)
        if static and all(map(is_constant, before)) and not _is_drawn(func):  # the same numbers in every call
            reached, extra = [nowhere(one.shape) for one in outputs], [None] * len(outputs)
        after = [
            _known(tensor, depends if more is None else depends + more, static=static)
            for tensor, depends, more in zip(outputs, reached, extra, strict=True)
        ]
        self.entries.append(Entry(str(func), tuple(before), tuple(after), flow.linear))
        for tensor, value in zip(outputs, after, strict=True):
            self._learn(tensor, value)
            if changes:
                self._renew(tensor, value)

    def _may_resize(self, func: OpOverload) -> bool:
        """Whether an op may give another shape in the next call, though its tensors have the same."""
        return self.tainted or (not self.alone and func._schema.name in _RESIZING)

    def _keep(self, tensor: Tensor) -> None:
        """Copy what is known of a memory before it is written into."""
        for value in self._holding.pop(_memory(tensor), []):
            value.value = None if value.value is None else value.value.clone()

    def _renew(self, changed: Tensor, value: Value) -> None:
        """What shares memory with a tensor that was written into is another one now."""
        for other in self._sharing.get(_memory(changed), []):
            if other is changed:
                continue
            old = self.value(other)
            if (other.data_ptr(), other.shape, other.stride()) == (changed.data_ptr(), changed.shape, changed.stride()):
                self._learn(other, value)
            else:
                both = is_constant(old) and is_constant(value)
                new = _known(other, zeros(other.shape) if both else ones(other.shape), static=False)
                self.entries.append(Entry("alias", (old, value), (new,), _all_of(other.shape)))
                self._learn(other, new)


def _all_of(shape: torch.Size) -> Linear:
    return lambda s: [sum_of(one.mean() for one in s if one.numel()).expand(shape)]


def _known(tensor: Tensor, depends: Tensor, *, static: bool) -> Value:
    """A value, constant where it depends on no input and is a finite number."""
    known, value = depends == 0, tensor.detach().cpu()
    if not bool(known.any()):
        return Value(tensor.shape)
    if not bool(value.isfinite().all()):
        known = known & value.isfinite()
    return Value(tensor.shape, everywhere(tensor.shape) if bool(known.all()) else known, value, static)


def _written(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:
    """The tensors among the arguments that an op writes into."""
    if not func._schema.is_mutable:
        return []
    result: list[Any] = []
    for place, one in enumerate(func._schema.arguments):
        if one.alias_info is not None and one.alias_info.is_write:
            result += tree_leaves(args[place] if place < len(args) else kwargs.get(one.name))
    return [one for one in result if isinstance(one, Tensor)]


def _is_drawn(func: OpOverload) -> bool:
    """Whether an op draws random numbers, and has no surrogate that knows when it does."""
    return torch.Tag.nondeterministic_seeded in func.tags and own(func) is None


_RESIZING = frozenset(f"aten::{name}" for name in ("expand", "repeat", "slice", "narrow", "view", "reshape"))


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
