"""Normalisation: affine parameters and running statistics follow the channels, other statistics are noted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes, prod
from fxprune_passes.rules.registry import Op, Result, optional, rule

aten = torch.ops.aten


@rule(
    aten.native_batch_norm,
    aten._native_batch_norm_legit,
    *optional("_native_batch_norm_legit_functional"),
    aten._native_batch_norm_legit_no_training,
    aten.cudnn_batch_norm,
    aten.miopen_batch_norm,
    *optional("_batch_norm_with_update"),
    *optional("_batch_norm_no_update"),
)
def batch_norm(op: Op, x: Axes, *args: Any, **kwargs: Any) -> Result:
    """(N, C, ..), four of (C,) -> (N, C, ..), (C,), ..: every channel on its own.

    Without running statistics it standardises: a weight as (1, O, I * kernel), whose axes may well be pruned.
    """
    for one in args:
        if isinstance(one, tuple):
            op.equal(x[1], one[0])
    if "with_update" in op.name or any(one is True for one in args):
        rest = (x[0], *x[2:])
        if any(isinstance(one, tuple) for one in args[2:]):
            op.freeze(rest, "a statistic of the batch runs over it")
        else:
            op.statistic(rest)
    return [x, *((x[1],) for shape in op.shapes[1:] if shape == (x[1].size,))]


@rule(aten.native_layer_norm)
def layer_norm(
    op: Op, x: Axes, normalized_shape: Sequence[int], weight: Axes | None, bias: Axes | None, eps: float
) -> Result:
    """(.., *S), (*S), (*S) -> (.., *S)."""
    return _norm_over_last(op, x, normalized_shape, weight, bias)


@rule(*optional("_fused_rms_norm"))
def rms_norm(op: Op, x: Axes, normalized_shape: Sequence[int], weight: Axes | None, eps: float | None) -> Result:
    """(.., *S), (*S) -> (.., *S)."""
    return _norm_over_last(op, x, normalized_shape, weight)


def _norm_over_last(op: Op, x: Axes, normalized_shape: Sequence[int], *affine: Axes | None) -> Result:
    normalized = x[len(x) - len(normalized_shape) :]
    for one in affine:
        if one is not None:
            op.equal_all(normalized, one)
    op.statistic(normalized)
    statistics = (*x[: len(x) - len(normalized_shape)], *(op.fixed(1, "axis of width 1") for _ in normalized))
    return [x, *(statistics[: len(shape)] for shape in op.shapes[1:])]


@rule(aten.native_group_norm)
def group_norm(
    op: Op, x: Axes, weight: Axes | None, bias: Axes | None, n: int, c: int, hxw: int, group: int, eps: float
) -> Result:
    """(N, G*C, ..), (G*C,), (G*C,) -> (N, G*C, ..): statistics over C and the spatial axes of each group."""
    groups, width = op.equations.factor(x[1], (group, c // group))
    op.statistic([width])
    op.freeze(x[2:], "a statistic of every group runs over it")
    for one in (weight, bias):
        if one is not None:
            op.equal(x[1], one[0])
    statistics = (x[0], groups)
    return [(x[0], prod((groups, width)), *x[2:]), *(statistics for _ in op.shapes[1:])]
