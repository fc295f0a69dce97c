"""Pointwise ops: every axis of the output is the like axis of every input that is not broadcast along it."""

from __future__ import annotations

from typing import Any

import torch

from fxprune_passes.axes import Axes, Term
from fxprune_passes.rules.registry import Op, Result, optional, rule

aten = torch.ops.aten

_UNTAGGED = (
    aten._to_copy,
    aten.alias,
    aten.bernoulli,
    aten.bernoulli_,
    aten.cauchy_,
    aten.clone,
    aten.complex,
    aten.copy,
    aten.copy_,
    aten.detach,
    aten.exponential_,
    aten.fill_,
    aten.floor_divide,
    aten.geometric_,
    aten.hardswish,
    aten.hardswish_,
    aten.leaky_relu_,
    aten.lift_fresh,
    aten.lift_fresh_copy,
    aten.log_normal_,
    aten.normal_,
    aten.poisson,
    aten.polar,
    aten.random_,
    aten.rrelu_with_noise,
    aten.rrelu_with_noise_,
    aten.rsub,
    aten.uniform_,
    aten.zero_,
    *optional("_prelu_kernel"),
)


def tensors(arguments: Any) -> list[Axes]:
    """All axes tuples among the arguments of an op, in order."""
    return [one for one in arguments if isinstance(one, tuple)]


@rule(aten.add, *_UNTAGGED)
def pointwise(op: Op, *args: Any, **kwargs: Any) -> Result:
    """(..., C, ...), (..., C or 1, ...), .. -> (..., C, ...), aligned on the right."""
    inputs = [*tensors(args), *tensors(kwargs.values())]
    rank = len(op.shape)
    result: list[Term] = []
    for dim in range(rank):
        like = [
            axes[dim - rank] for axes in inputs if len(axes) >= rank - dim and axes[dim - rank].size == op.shape[dim]
        ]
        for other in like[1:]:
            op.equal(like[0], other)
        result.append(like[0])
    return tuple(result)


@rule(aten.log_sigmoid_forward)
def log_sigmoid(op: Op, x: Axes) -> Result:
    """(...) -> (...), and a buffer for the backward pass that some devices leave empty."""
    return [x]


@rule(aten.native_dropout)
def dropout(op: Op, x: Axes, p: float, train: bool | None) -> Result:
    """(...) -> (...), mask (...)."""
    return [x, x]


@rule(aten.glu)
def glu(op: Op, x: Axes, dim: int = -1) -> Result:
    """(..., 2C, ...) -> (..., C, ...): value channels, then their gates."""
    half = op.shape[dim]
    value, gate = op.equations.split(x[dim], half)
    op.equal(value, gate)
    return replace(x, dim, value)


def replace(axes: Axes, dim: int, *new: Term) -> Axes:
    """The axes with the one at ``dim`` replaced by ``new`` (none to drop it)."""
    dim %= len(axes)
    return (*axes[:dim], *new, *axes[dim + 1 :])


@rule(aten.zeros_like, aten.ones_like, aten.full_like, aten.empty_like, aten.rand_like, aten.randn_like)
def like(op: Op, x: Axes, *args: Any, **kwargs: Any) -> Result:
    """(...) -> (...)."""
    return x
