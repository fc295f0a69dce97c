"""Slices, joins and gathers along an axis: which positions go where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes, Term, cat, prod
from fxprune_passes.rules.pointwise import replace
from fxprune_passes.rules.registry import Op, Result, rule

aten = torch.ops.aten


@rule(aten.slice)
def slice_(op: Op, x: Axes, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> Result:
    """(.., C, ..) -> (.., C[start:end:step], ..)."""
    index = range(x[dim].size)[slice(start, end, step)]
    return replace(x, dim, op.equations.take(x[dim], index))


@rule(aten.select)
def select(op: Op, x: Axes, dim: int, index: int) -> Result:
    """(.., C, ..) -> (..): the axis is read at one place."""
    op.freeze([x[dim]], "read at a fixed place")
    return replace(x, dim)


@rule(aten.unbind)
def unbind(op: Op, x: Axes, dim: int = 0) -> Result:
    """(.., C, ..) -> C times (..)."""
    op.freeze([x[dim]], "unbound: every place has its own name")
    return [replace(x, dim) for _ in op.shapes]


@rule(aten.split, aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes)
def split(op: Op, x: Axes, sizes: Any, dim: int = 0) -> Result:
    """(.., A+B, ..) -> (.., A, ..), (.., B, ..)."""
    results, rest = [], x[dim]
    for shape in op.shapes:
        part, rest = op.equations.split(rest, shape[dim])
        results.append(replace(x, dim, part))
    return results


@rule(aten.cat)
def concatenate(op: Op, tensors: Sequence[Axes], dim: int = 0) -> Result:
    """(.., A, ..), (.., B, ..) -> (.., A+B, ..)."""
    parts = [axes for axes in tensors if len(axes) == len(op.shape)]  # a (0,) tensor is skipped by aten.cat
    first = parts[0]
    for place in set(range(len(first))) - {dim % len(first)}:
        for axes in parts[1:]:
            op.equal(first[place], axes[place])
    return replace(first, dim, cat([axes[dim] for axes in parts]))


@rule(aten.stack)
def stack(op: Op, tensors: Sequence[Axes], dim: int = 0) -> Result:
    """N times (A, B) -> (A, n, B)."""
    for axes in tensors[1:]:
        op.equal_all(tensors[0], axes)
    dim %= len(op.shape)
    return (*tensors[0][:dim], op.fixed(len(tensors), "stacked axis"), *tensors[0][dim:])


@rule(aten.flip)
def flip(op: Op, x: Axes, dims: Sequence[int]) -> Result:
    """(.., C, ..) -> the same, reversed."""
    result = list(x)
    for dim in dims:
        result[dim] = op.equations.take(x[dim], range(x[dim].size - 1, -1, -1))
    return tuple(result)


@rule(aten.roll)
def roll(op: Op, x: Axes, shifts: Sequence[int], dims: Sequence[int] = ()) -> Result:
    """(.., C, ..) -> the same, rotated by ``shifts``."""
    if not dims:
        op.freeze(x, "rolled as one flat axis")
        return x
    result = list(x)
    for shift, dim in zip(shifts, dims, strict=True):
        size = x[dim].size
        result[dim] = op.equations.take(result[dim], [(place - shift) % size for place in range(size)])
    return tuple(result)


@rule(aten.constant_pad_nd)
def constant_pad(op: Op, x: Axes, pad: Sequence[int], value: float = 0) -> Result:
    """(.., C, ..) -> (.., before + C + after, ..); negative widths cut."""
    result = list(x)
    for number in range(len(pad) // 2):
        before, after = pad[2 * number], pad[2 * number + 1]
        dim = len(x) - 1 - number
        axis = op.equations.slice(x[dim], max(0, -before), x[dim].size - max(0, -after))
        if before > 0 or after > 0:
            axis = cat((_padding(op, axis, before), axis, _padding(op, axis, after)))
        result[dim] = axis
    return tuple(result)


def _padding(op: Op, axis: Term, width: int) -> Term:
    """Channels of one constant: free, like any uniform axis; a single one is frozen like every axis of width 1."""
    return op.dim(width) if width > 0 else cat(())


@rule(aten.index_select)
def index_select(op: Op, x: Axes, dim: int, index: Axes) -> Result:
    """(.., C, ..), (K,) -> (.., K, ..)."""
    return replace(x, dim, _picked(op, x[dim], index))


def _picked(op: Op, axis: Term, index: Axes) -> Term:
    """An axis read by an index vector: known values pick positions, unknown ones need all of them."""
    values = op.value(index)
    if values is None:
        op.freeze([axis], "read by an index known only at run time")
        return prod(index) if index else op.fixed(1, "axis of width 1")
    op.freeze(index, "index vector")
    return op.equations.take(axis, [place % axis.size for place in values])


@rule(aten.index)
def index(op: Op, x: Axes, indices: Sequence[Axes | None]) -> Result:
    """(.., C, ..) indexed by tensors: one index vector keeps its place, any other mix freezes what it reads."""
    used = [dim for dim, one in enumerate(indices) if one is not None]
    one = indices[used[0]]
    assert one is not None
    if len(used) == 1 and len(one) == 1 and len(op.shape) == len(x):
        return replace(x, used[0], _picked(op, x[used[0]], one))
    op.freeze((axis for one in indices if one is not None for axis in one), "index tensor")
    op.freeze((x[dim] for dim in used), "read by index tensors")
    new = len(op.shape) - (len(x) - len(used))
    together = used == list(range(used[0], used[-1] + 1))  # index tensors that are apart give the first axes
    place = used[0] if together else 0
    middle = tuple(op.fixed(size, "index tensor") for size in op.shape[place : place + new])
    rest = [axis for dim, axis in enumerate(x) if dim not in used]
    return (*rest[:place], *middle, *rest[place:])


@rule(aten.unfold)
def unfold(op: Op, x: Axes, dim: int, size: int, step: int) -> Result:
    """(.., L, ..) -> (.., windows, .., size)."""
    op.freeze([x[dim]], "cut into windows")
    return (*replace(x, dim, *op.spatial([op.shape[:-1][dim % len(x)]])), op.fixed(size, "place in a window"))


@rule(aten.diagonal)
def diagonal(op: Op, x: Axes, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Result:
    """(.., A, .., B, ..) -> (.., diagonal)."""
    gone = {dim1 % len(x), dim2 % len(x)}
    op.freeze((x[dim] for dim in gone), "read along a diagonal")
    rest = (axis for dim, axis in enumerate(x) if dim not in gone)
    return (*rest, op.fixed(op.shape[-1], "diagonal"))


@rule(aten.gather)
def gather(op: Op, x: Axes, dim: int, index: Axes, **kwargs: Any) -> Result:
    """(A, C), (A, K) -> (A, K)."""
    op.freeze(x, "read by an index known only at run time")
    op.freeze(index, "index tensor")
    return index


@rule(aten.embedding)
def embedding(op: Op, weight: Axes, indices: Axes, *args: Any) -> Result:
    """(V, E), (N, L) -> (N, L, E)."""
    op.freeze([weight[0]], "rows of an embedding are looked up by index")
    return (*indices, weight[1])


@rule(aten._embedding_bag, aten._embedding_bag_forward_only)
def embedding_bag(op: Op, weight: Axes, indices: Axes, offsets: Axes, *args: Any, **kwargs: Any) -> Result:
    """(V, E), (L,), (N,) -> (N, E): sums, means or maxima of rows."""
    op.freeze((weight[0], *indices, *offsets), "rows of an embedding are looked up by index")
    return [(op.fixed(op.shape[0], "number of bags", dynamic=True), weight[1])]


@rule(aten.tril, aten.triu, aten.tril_, aten.triu_)
def triangle(op: Op, x: Axes, diagonal: int = 0) -> Result:
    """(.., A, B) -> the same, one triangle zeroed by position."""
    op.freeze(x[-2:], "triangle by position")
    return x
