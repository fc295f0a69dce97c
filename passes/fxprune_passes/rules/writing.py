"""Writes at places along an axis: that axis stays whole, the others are those of what is written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes
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
