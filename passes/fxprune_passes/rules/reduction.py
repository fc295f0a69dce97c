"""Reductions and ops along an axis: sums lose a channel harmlessly, order and extremes need all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes, Term
from fxprune_passes.rules.pointwise import replace
from fxprune_passes.rules.registry import Op, Result, optional, rule

aten = torch.ops.aten


def _reduced(x: Axes, dim: Any) -> list[int]:
    """The dims that a reduction runs over, counted from the front; none or an empty list means all."""
    if dim is None or dim == [] or dim == ():
        return list(range(len(x)))
    return [d % len(x) for d in (dim if isinstance(dim, (list, tuple)) else [dim])] if x else []


def _remaining(op: Op, x: Axes, dims: Sequence[int], *, keepdim: bool) -> Axes:
    result: list[Term] = []
    for number, axis in enumerate(x):
        if number not in dims:
            result.append(axis)
        elif keepdim:
            result.append(op.fixed(1, "axis of width 1"))
    return tuple(result)


@rule(aten.sum, aten.nansum)
def total(op: Op, x: Axes, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Result:
    """(.., C, ..) -> (..): a channel that is gone adds nothing."""
    return _remaining(op, x, _reduced(x, dim), keepdim=keepdim)


@rule(aten.mean)
def mean(op: Op, x: Axes, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Result:
    """(.., C, ..) -> (..): taken over the channels that are left, or over all with zeros."""
    dims = _reduced(x, dim)
    op.statistic(x[d] for d in dims)
    return _remaining(op, x, dims, keepdim=keepdim)


@rule(aten.var, aten.std, aten.var_mean, aten.std_mean)
def variance(op: Op, x: Axes, dim: Any = None, *args: Any, keepdim: bool = False, **kwargs: Any) -> Result:
    """(.., C, ..) -> (..): taken over the channels that are left, or over all with zeros."""
    dims = _reduced(x, dim)
    op.statistic(x[d] for d in dims)
    return [_remaining(op, x, dims, keepdim=keepdim) for _ in op.shapes]


@rule(aten.linalg_vector_norm)
def vector_norm(op: Op, x: Axes, ord: float = 2, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Result:
    """(.., C, ..) -> (..): zeros add nothing to a norm of positive order."""
    dims = _reduced(x, dim)
    if ord <= 0:
        op.freeze((x[d] for d in dims), f"norm of order {ord} sees zeros")
    return _remaining(op, x, dims, keepdim=keepdim)


@rule(
    aten.amax,
    aten.amin,
    aten.aminmax,
    aten.all,
    aten.any,
    aten.logsumexp,
    aten.max,
    aten.median,
    aten.min,
    aten.nanmedian,
    aten.prod,
    aten.mode,
    aten.argmax,
    aten.argmin,
)
def extreme(op: Op, x: Axes, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Result:
    """(.., C, ..) -> (..): a zero in place of a removed channel would count."""
    if isinstance(dim, tuple):  # torch.max(x, other)
        op.freeze((*x, *dim), "pairwise extreme")
        return tuple(op.fixed(size, "pairwise extreme") for size in op.shape)
    dims = _reduced(x, dim)
    op.freeze((x[d] for d in dims), "a zero would count in it")
    return [_remaining(op, x, dims, keepdim=keepdim) for _ in op.shapes]


@rule(
    aten._softmax,
    aten._log_softmax,
    aten._safe_softmax,
    aten.cummax,
    aten.cummin,
    aten.cumprod,
    aten.cumsum,
    aten.cumsum_,
    aten.logcumsumexp,
)
def along(op: Op, x: Axes, dim: int, *args: Any, **kwargs: Any) -> Result:
    """(.., C, ..) -> the same shape: every channel depends on the others."""
    op.freeze([x[dim]] if x else [], "every place depends on the others along it")
    return [x for _ in op.shapes]


@rule(aten.topk, aten.kthvalue)
def selection(op: Op, x: Axes, k: int, dim: int = -1, *args: Any, **kwargs: Any) -> Result:
    """(.., C, ..) -> (.., K, ..): the order along one axis needs all of it."""
    return _ordered(op, x, dim)


@rule(aten.sort.default)
def sort(op: Op, x: Axes, dim: int = -1, descending: bool = False) -> Result:
    """(.., C, ..) -> the same, ordered along one axis."""
    return _ordered(op, x, dim)


@rule(aten.sort.stable)
def stable_sort(op: Op, x: Axes, *, stable: bool, dim: int = -1, descending: bool = False) -> Result:
    """(.., C, ..) -> the same, ordered along one axis."""
    return _ordered(op, x, dim)


def _ordered(op: Op, x: Axes, dim: int) -> Result:
    if not x:
        return [() for _ in op.shapes]
    op.freeze([x[dim]], "ordered along it")
    dim %= len(x)
    return [
        tuple(op.fixed(size, "ordered along it") if d == dim and size != axis.size else axis for d, (axis, size) in
              enumerate(zip(x, shape, strict=False)))
        if len(shape) == len(x) else replace(x, dim)
        for shape in op.shapes
    ]  # fmt: skip


@rule(aten._fft_r2c, aten._fft_c2c, aten._fft_c2r)
def fourier(op: Op, x: Axes, dim: Sequence[int], *args: Any) -> Result:
    """(.., L, ..) -> (.., L', ..): transformed along ``dim``."""
    op.freeze((x[d] for d in dim), "transformed along it")
    return tuple(
        axis if axis.size == size else op.fixed(size, "spatial axis", dynamic=True)
        for axis, size in zip(x, op.shape, strict=True)
    )


@rule(*optional("_weight_norm_interface"))
def weight_norm(op: Op, v: Axes, g: Axes, dim: int = 0) -> Result:
    """(O, I, ..), (O, 1, ..) -> (O, I, ..), norm of the rows: a weight of length g."""
    op.equal(v[dim], g[dim])
    return [v, g]
