"""The mend registry, and ``Call``: what a mend sees of the node that it writes anew."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from fxprune_passes.axes import Axes, Term
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.nodes import make_node

CARRIED = ("source", "module", "nn_module_stack", "stack_trace")  # where a node comes from: ours, and torch.export's
Mend = Callable[["Call"], Any]
MENDS: dict[Any, Mend] = {}


def mend(*targets: Any) -> Callable[[Mend], Mend]:
    """Register a function for fx targets: functions as such, methods by name."""

    def register(function: Mend) -> Mend:
        for target in dict.fromkeys(targets):  # torch.nn.functional has some of torch's own functions
            if target in MENDS:
                raise ValueError(f"{target} already has the mend {MENDS[target].__name__}")
            MENDS[target] = function
        return function

    return register


@dataclass(slots=True)
class Source:
    """The captured graph as the rewrite reads it: axes and example values of every node, known index vectors."""

    axes: Mapping[fx.Node, Any]
    values: Mapping[fx.Node, Any]
    constants: Mapping[fx.Node, torch.Tensor]
    statistics: Mapping[fx.Node, list[Term]]


@dataclass(slots=True)
class Scalars:
    """Numbers and sizes in the new graph.

    A size read of a pruned axis has two readings: ``shape`` where it feeds a shape (the new size), ``data`` where it
    feeds arithmetic on data (the original size, a constant of the trained function).
    """

    shape: dict[fx.Node, Any] = field(default_factory=dict)
    data: dict[fx.Node, Any] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Call:
    """One node of the old graph about to be written into the new one."""

    node: fx.Node
    graph: fx.Graph
    source: Source
    kept: Kept
    tensors: dict[Any, Any]
    scalars: Scalars
    add_constant: Callable[..., str]
    is_mend: bool = False

    def axes(self, node: Any = None) -> Any:
        """The old axes of a node's value (this node's by default)."""
        return self.source.axes[self.node if node is None else node]

    @property
    def statistics_axes(self) -> list[Term]:
        """The axes that this node's mean or variance runs over."""
        return self.source.statistics.get(self.node, [])

    def old(self, value: Any) -> Any:
        """The value of an argument in the old graph: nodes replaced by their example values."""
        return fx.node.map_arg(value, lambda node: self.source.values[node])

    def new(self, value: Any) -> Any:
        """The value of a number or size argument in the new graph."""
        return fx.node.map_arg(value, lambda node: self.scalars.values.get(node, self.source.values[node]))

    def data(self, value: Any) -> Any:
        """An argument written for the new graph, sizes as the trained function knows them."""
        return _map(value, lambda node: self.scalars.data[node] if node in self.scalars.data else self.tensors[node])

    def shape(self, value: Any) -> Any:
        """An argument written for the new graph, sizes as they are after pruning."""
        return _map(value, lambda node: self.scalars.shape[node] if node in self.scalars.shape else self.tensors[node])

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """An argument of the old node, positional or by keyword."""
        if position < len(self.node.args):
            return self.node.args[position]
        return self.node.kwargs.get(name, default)

    @property
    def input(self) -> fx.Node:
        """The tensor that the node works on: its first argument."""
        found = self.argument(0, "input")
        assert isinstance(found, fx.Node)
        return found

    def variadic(self, position: int, *names: str) -> Any:
        """Sizes given as one sequence, as separate arguments, or by keyword."""
        rest = self.node.args[position:]
        for name in names:
            if name in self.node.kwargs:
                return self.node.kwargs[name]
        if len(rest) == 1 and not isinstance(self.old(rest[0]), int):
            return rest[0]
        return tuple(rest)

    def copy(self) -> fx.Node:
        """Write the node as it is."""
        return self.emit(self.node.op, self.node.target, self.data(self.node.args), self.data(self.node.kwargs))

    def emit(self, op: str, target: Any, args: Any = (), kwargs: Any = None, *, final: bool = True) -> fx.Node:
        """Write a node; the final one of a mend takes the old node's name."""
        name = self.node.name if final else None
        result = make_node(self.graph.create_node, op, target, tuple(args), dict(kwargs or {}), name)
        result.meta.update({key: self.node.meta[key] for key in CARRIED if key in self.node.meta})
        if final:
            result.meta["origin"] = self.node.name
            result.meta["mended"] = self.is_mend
        return result

    def function(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """Write an intermediate call of a function."""
        return self.emit("call_function", target, args, kwargs, final=False)

    def constant(self, value: torch.Tensor, kind: str = "index", *, saved: bool = False) -> fx.Node:
        """Write a read of a new constant tensor, a buffer that the state dict leaves out unless it is to be saved."""
        name = self.add_constant(f"{self.node.name}_{kind}", value, saved=saved)
        return self.emit("get_attr", name, final=False)

    def scaled(self, size: Any, value: int, axis: Term) -> Any:
        """A size argument that would come out as ``value``, made to come out as the axis's new size."""
        wanted = self.kept.size(axis)
        if value == wanted:
            return size
        if not self.kept.is_dynamic(axis) or not isinstance(size, fx.Node):
            return wanted
        return rescale(self, size, wanted, value)


def rescale(call: Call, size: fx.Node, wanted: int, value: int) -> fx.Node:
    """``size * wanted // value``: exact for every batch size, since both hold the same batch.

    Raises:
        PlanError: The number comes out as zero, which no factor mends.
    """
    if value == 0:
        first = f"a number that the model computes, {size.name}, comes out as 0 with these channels, expected {wanted}."
        where = f"{call.node.meta.get('module', '')} {call.node.meta.get('source', '')}".strip()
        raise PlanError(explain(first, at=where, mend=f"keep more of the channels that {call.node.name} reads"))
    common = math.gcd(wanted, value)
    product = call.function(operator.mul, size, wanted // common) if wanted != common else size
    return call.function(operator.floordiv, product, value // common) if value != common else product


def _map(value: Any, function: Callable[[fx.Node], Any]) -> Any:
    """Like ``fx.node.map_arg``, but leaves plain containers mutable and nodes' replacements of any type."""
    if isinstance(value, fx.Node):
        return function(value)
    if isinstance(value, tuple):
        mapped = [_map(one, function) for one in value]
        return value._make(mapped) if hasattr(value, "_make") else tuple(mapped)
    if isinstance(value, list):
        return [_map(one, function) for one in value]
    if isinstance(value, dict):
        return {key: _map(one, function) for key, one in value.items()}
    if isinstance(value, slice):
        return slice(*(_map(one, function) for one in (value.start, value.stop, value.step)))
    return value


def new_sizes(call: Call, entries: Any, axes: Axes) -> Any:
    """Size entries (literals, -1, or numbers computed in the graph) for a tensor of the given old axes."""
    if isinstance(entries, fx.Node):
        return _new_size_tuple(call, entries, axes)
    result = []
    for entry, axis in zip(entries, axes, strict=True):
        if isinstance(entry, fx.Node):
            result.append(call.scaled(call.shape(entry), call.new(entry), axis))
        else:
            result.append(entry if entry == -1 else call.kept.size(axis))
    return tuple(result)


def _new_size_tuple(call: Call, entries: fx.Node, axes: Axes) -> Any:
    """Sizes that arrive as one computed tuple: left alone if they come out right."""
    values, written = call.new(entries), call.shape(entries)
    wanted = [value if value == -1 else call.kept.size(axis) for value, axis in zip(values, axes, strict=True)]
    if list(values) == wanted:
        return written
    return tuple(
        call.scaled(call.function(operator.getitem, written, number), value, axis)
        if value != want
        else call.function(operator.getitem, written, number)
        for number, (value, want, axis) in enumerate(zip(values, wanted, axes, strict=True))
    )
