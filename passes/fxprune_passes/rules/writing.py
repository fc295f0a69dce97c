"""Writes at places along an axis: that axis stays whole, the others are those of what is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes
from fxprune_passes.rules.pointwise import replace
from fxprune_passes.rules.registry import Op, Result, rule

aten = torch.ops.aten


@rule(aten.index_add, aten.index_add_, aten.index_copy, aten.index_copy_)
def index_write(op: Op, x: Axes, dim: int, index: Axes, source: Axes, **kwargs: Any) -> Result:
    """(A, C), (K,), (A, K) -> (A, C)."""
    op.freeze((x[dim], source[dim], *index), "written at places")
    for number, (axis, other) in enumerate(zip(x, source, strict=True)):
        if number != dim % len(x):
            op.equal(axis, other)
    return x


@rule(aten.index_fill, aten.index_fill_)
def index_fill(op: Op, x: Axes, dim: int, index: Axes, value: Any) -> Result:
    """(A, C), (K,) -> (A, C)."""
    op.freeze((x[dim], *index), "written at places")
    return x


@rule(aten.index_put, aten.index_put_)
def index_put(op: Op, x: Axes, indices: Sequence[Axes | None], values: Axes, accumulate: bool = False) -> Result:
    """(A, C), (K,) at one dim, (A, K) -> (A, C); several index tensors, or one of several axes, freeze all."""
    given = [(dim, one) for dim, one in enumerate(indices) if one is not None]
    op.freeze((axis for _, one in given for axis in one), "written at places")
    (dim, one), *more = given
    if more or len(one) != 1:
        op.freeze((*x, *values), "written at places")
        return x
    op.freeze([x[dim]], "written at places")
    for number in range(1, len(values) + 1):
        if len(x) - number == dim:
            op.freeze([values[-number]], "written at places")
        elif values[-number].size == x[-number].size:
            op.equal(x[-number], values[-number])
    return x


@rule(aten.slice_scatter)
def slice_scatter(
    op: Op, x: Axes, source: Axes, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Result:
    """(A, C), (A, K) -> (A, C): a slice of C is written."""
    index = range(x[dim].size)[slice(start, end, step)]
    op.equal_all(replace(x, dim, op.equations.take(x[dim], index)), source)
    return x


@rule(aten.select_scatter)
def select_scatter(op: Op, x: Axes, source: Axes, dim: int, index: int) -> Result:
    """(A, C), (A,) -> (A, C)."""
    op.freeze([x[dim]], "written at a fixed place")
    op.equal_all(replace(x, dim), source)
    return x


@rule(aten.diagonal_scatter)
def diagonal_scatter(op: Op, x: Axes, source: Axes, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Result:
    """(.., A, .., B, ..), (.., diagonal) -> (.., A, .., B, ..)."""
    gone = {dim1 % len(x), dim2 % len(x)}
    op.freeze((x[dim1], x[dim2], source[-1]), "written along a diagonal")
    op.equal_all([axis for dim, axis in enumerate(x) if dim not in gone], source[:-1])
    return x


@rule(aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_, aten.scatter_reduce, aten.scatter_reduce_)
def scatter(op: Op, x: Axes, dim: int, index: Axes, source: Any, *args: Any, **kwargs: Any) -> Result:
    """(A, C), (A, K), (A, K) -> (A, C): an axis that every tensor has whole goes along, others stay whole."""
    tensors = [one for one in (x, index, source) if isinstance(one, tuple)]
    for number, axes in enumerate(zip(*tensors, strict=True)):
        if number == dim % len(x) or len({axis.size for axis in axes}) > 1:
            op.freeze(axes, "written at places")
        else:
            op.equal_all(axes[:-1], axes[1:])
    return x
