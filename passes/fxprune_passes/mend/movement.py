"""Mends of slices, splits and gathers: the same channels, at the places where they are now."""

from __future__ import annotations

import itertools
import operator
import sys
from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import fx
from torch._ops import OpOverload

from fxprune_passes.axes import Axes
from fxprune_passes.mend.registry import Call, mend

aten = torch.ops.aten


def run_of(places: Sequence[int]) -> tuple[int, int] | None:
    """Start and stop of a run of consecutive places, or None."""
    if not places:
        return (0, 0)
    start, stop = places[0], places[0] + len(places)
    return (start, stop) if list(places) == list(range(start, stop)) else None


def as_slice(places: Sequence[int], size: int) -> slice | None:
    """The plainest slice that reads ``places`` of an axis of ``size``, or None."""
    if len(places) > 1 and len(steps := {b - a for a, b in itertools.pairwise(places)}) == 1:
        step = steps.pop()
        if step > 1:
            return slice(places[0] or None, places[-1] + 1 if places[-1] + step < size else None, step)
    if (run := run_of(places)) is None:
        return None
    return slice(run[0] or None, run[1] if run[1] < size else None, None)


@mend(operator.getitem)
def getitem(call: Call) -> Any:
    """``x[:, :8]`` -> ``x[:, :5]``; a part of a tuple stays that part."""
    source = call.input
    if isinstance(parts := call.tensors.get(source), tuple):
        part = parts[call.old(call.node.args[1])]
        if isinstance(part, fx.Node):
            part.meta.update(origin=call.node.name, mended=True)
        return part
    if not isinstance(call.axes(source), tuple):
        return call.copy()
    x, index = _index(call)
    return call.emit(call.node.op, call.node.target, (call.tensors[source] if x is None else x, index))


@mend(operator.setitem)
def setitem(call: Call) -> fx.Node:
    """``x[:, :8] = y`` -> ``x[:, :5] = y``."""
    _, index = _index(call, in_place=True)
    return call.emit(call.node.op, call.node.target, (call.tensors[call.input], index, call.data(call.node.args[2])))


def _index(call: Call, *, in_place: bool = False) -> tuple[fx.Node | None, Any]:
    """The index of a getitem or setitem, written for the new axes; where no slice says it, an index vector does."""
    source, raw = call.input, call.node.args[1]
    x: Axes = call.axes(source)
    items = list(raw) if isinstance(raw, (tuple, list)) else [raw]
    result, dim, selected = [], 0, None
    for number, item in enumerate(items):
        if item is Ellipsis:
            dim = len(x) - sum(_consumes(call, one) for one in items[number + 1 :])
            result.append(item)
            continue
        written = call.shape(item)
        if isinstance(item, slice) and call.kept.mask(x[dim]) is not None:
            written, places = _slice(call, item, x, dim)
            if places is not None:
                index = torch.tensor(places)
                if in_place:
                    written = call.constant(index)
                else:
                    selected = call.function(
                        torch.index_select, selected or call.tensors[source], dim, call.constant(index)
                    )
        elif isinstance(item, list) and call.kept.mask(x[dim]) is not None:
            written = _new_places(call, call.old(item), x, dim)
        elif _is_index(item, call) and call.kept.mask(x[dim]) is not None:
            written = _remapped(call, item, x, dim)
        result.append(written)
        dim += _consumes(call, item)
    plain = not isinstance(raw, (tuple, list))
    return selected, result[0] if plain else tuple(result)


def _is_index(item: Any, call: Call) -> TypeGuard[fx.Node]:
    """Whether an index item is a tensor of places (a mask is as long as the axes that it selects from)."""
    return isinstance(item, fx.Node) and isinstance(call.axes(item), tuple) and call.old(item).dtype != torch.bool


def _consumes(call: Call, item: Any) -> int:
    """How many axes of the tensor an index item stands for."""
    if item is None or item is Ellipsis or isinstance(item, bool):
        return 0
    if isinstance(item, fx.Node) and isinstance(value := call.source.values[item], torch.Tensor):
        return value.ndim if value.dtype == torch.bool else 1
    return 1


def _slice(call: Call, item: slice, x: Axes, dim: int) -> tuple[Any, list[int] | None]:
    """A slice of a pruned axis: as it is, with new bounds, or as places for an index vector."""
    axis = x[dim]
    positions = range(axis.size)[slice(*call.old((item.start, item.stop, item.step)))]
    kept = call.kept.mask(axis)
    assert kept is not None
    places = call.kept.moved(axis, axis, range(axis.size))
    rank = {int(old): new for new, old in enumerate(kept.nonzero().flatten())}
    places = [rank[position] for position in positions if position in rank]
    now = slice(*call.new((item.start, item.stop, item.step)))
    if list(range(len(rank))[now]) == places:
        return call.shape(item), None
    found = as_slice(places, len(rank))
    return (found, None) if found is not None else (slice(None), places)


def _remapped(call: Call, index: Any, x: Axes, dim: int) -> fx.Node:
    """An index vector with known values, pointing at the kept channels' new places."""
    return call.constant(torch.tensor(_new_places(call, call.source.constants[index].tolist(), x, dim)))


def _new_places(call: Call, index: list[int], x: Axes, dim: int) -> list[int]:
    kept = call.kept.mask(x[dim])
    assert kept is not None
    rank = {int(old): new for new, old in enumerate(kept.nonzero().flatten())}
    places = (place % x[dim].size for place in index)
    return [rank[place] for place in places if place in rank]


@mend(torch.index_select, "index_select", aten.index_select.default)
def index_select(call: Call) -> fx.Node:
    """``x.index_select(1, order)`` -> the order of the channels that are left."""
    x: Axes = call.axes(call.input)
    dim, index = call.old(call.argument(1, "dim")), call.argument(2, "index")
    if call.kept.mask(x[dim]) is None:
        return call.copy()
    return call.emit(call.node.op, call.node.target, (call.tensors[call.input], dim, _remapped(call, index, x, dim)))


@mend(aten.index.Tensor)
def index(call: Call) -> fx.Node:
    """``aten.index(x, [None, order])``: as a getitem by those tensors."""
    source, x = call.input, call.axes(call.input)
    written = [
        _remapped(call, item, x, dim)
        if _is_index(item, call) and call.kept.mask(x[dim]) is not None
        else call.data(item)
        for dim, item in enumerate(call.argument(1, "indices"))
    ]
    return call.emit(call.node.op, call.node.target, (call.tensors[source], written))


@mend(aten.slice.Tensor)
def slice_(call: Call) -> fx.Node:
    """``aten.slice(x, 1, 0, 8)`` -> ``aten.slice(x, 1, 0, 5)``; where no slice says it, an index vector does."""
    x: Axes = call.axes(call.input)
    dim = call.old(call.argument(1, "dim", 0))
    bounds = (call.argument(2, "start"), call.argument(3, "end"), call.argument(4, "step", 1))
    if call.kept.mask(x[dim]) is None:
        return call.copy()
    written, places = _slice(call, slice(*bounds), x, dim)
    if places is not None:
        index = call.constant(torch.tensor(places))
        return call.emit("call_function", aten.index_select.default, (call.tensors[call.input], dim, index))
    return call.emit(call.node.op, call.node.target, (call.tensors[call.input], dim, *_bounds(written)))


@mend(torch.slice_scatter, "slice_scatter", aten.slice_scatter.default)
def slice_scatter(call: Call) -> fx.Node:
    """``aten.slice_scatter(x, y, 1, 0, 8)`` -> the places of y that are left, as a slice or an index vector."""
    x: Axes = call.axes(call.input)
    source = call.argument(1, "src")
    dim = call.old(call.argument(2, "dim", 0))
    bounds = (call.argument(3, "start"), call.argument(4, "end"), call.argument(5, "step", 1))
    if call.kept.mask(x[dim]) is None:
        return call.copy()
    written, places = _slice(call, slice(*bounds), x, dim)
    if places is not None:
        index = call.constant(torch.tensor(places))
        copied = (call.tensors[call.input], dim, index, call.tensors[source])
        return call.emit("call_function", aten.index_copy.default, copied)
    args = (call.tensors[call.input], call.tensors[source], dim, *_bounds(written))
    return call.emit(call.node.op, call.node.target, args)


def _bounds(written: slice) -> tuple[Any, Any, Any]:
    """Start, end and step as ATen takes them."""
    start, stop, step = written.start, written.stop, written.step
    return (0 if start is None else start, sys.maxsize if stop is None else stop, 1 if step is None else step)


@mend(torch.narrow, "narrow", aten.narrow.default)
def narrow(call: Call) -> fx.Node:
    """``x.narrow(1, 8, 8)`` -> the run of kept channels."""
    x: Axes = call.axes(call.input)
    dim, start, length = call.old((call.argument(1, "dim"), call.argument(2, "start"), call.argument(3, "length")))
    mask = call.kept.mask(x[dim])
    if mask is None:
        return call.copy()
    start %= x[dim].size
    before, inside = int(mask[:start].sum()), int(mask[start : start + length].sum())
    return call.emit(call.node.op, call.node.target, (call.tensors[call.input], dim, before, inside))


@mend(torch.chunk, "chunk", torch.split, "split", torch.split_with_sizes, "split_with_sizes")
@mend(torch.unsafe_split, "unsafe_split", torch.unsafe_split_with_sizes, "unsafe_split_with_sizes")
@mend(aten.chunk.default, aten.split.Tensor, aten.split.sizes, aten.split_with_sizes.default)
@mend(aten.unsafe_chunk.default, aten.unsafe_split.Tensor, aten.unsafe_split_with_sizes.default)
def split(call: Call) -> fx.Node:
    """``chunk`` and ``split`` of a pruned axis: the sizes of the parts that result."""
    return _split(call, call.old(call.argument(2, "dim", 0)))


@mend(torch.tensor_split, "tensor_split", aten.tensor_split.sections, aten.tensor_split.indices)
def tensor_split(call: Call) -> fx.Node:
    """As split."""
    return _split(call, call.old(call.argument(2, "dim", 0)))


def _split(call: Call, dim: int) -> fx.Node:
    x: Axes = call.axes(call.input)
    if call.kept.mask(x[dim]) is None:
        return call.copy()
    sizes = [call.kept.size(part[dim]) for part in call.axes()]
    is_chunk = call.node.target in ("chunk", torch.chunk, aten.chunk.default, aten.unsafe_chunk.default)
    if is_chunk and sizes == _chunk_sizes(call.kept.size(x[dim]), call.old(call.argument(1, "chunks"))):
        return call.copy()
    target = aten.split_with_sizes.default if isinstance(call.node.target, OpOverload) else torch.split
    return call.emit("call_function", target, (call.tensors[call.input], sizes, dim))


def _chunk_sizes(size: int, chunks: int) -> list[int]:
    step = -(-size // chunks)
    return [min(step, size - start) for start in range(0, size, step)] if step else []


@mend(torch.roll, "roll", aten.roll.default)
def roll(call: Call) -> fx.Node:
    """``torch.roll(x, 3, 1)`` -> rolled by as many kept channels as come round."""
    x: Axes = call.axes(call.input)
    dims = call.old(call.variadic(2, "dims"))
    dims = dims if isinstance(dims, (tuple, list)) else (dims,)
    shifts = call.argument(1, "shifts")
    shifts = list(shifts) if isinstance(shifts, (tuple, list)) else [shifts]
    if not dims or all(call.kept.mask(x[dim]) is None for dim in dims):
        return call.copy()
    result = []
    for shift, dim in zip(shifts, dims, strict=True):
        mask, step = call.kept.mask(x[dim]), call.old(shift) % x[dim].size
        result.append(call.data(shift) if mask is None else int(mask[x[dim].size - step :].sum()) if step else 0)
    return call.emit(call.node.op, call.node.target, (call.tensors[call.input], tuple(result), tuple(dims)))
