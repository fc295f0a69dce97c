"""New tensors: a uniform one has free axes, one that counts or draws numbers has fixed ones."""

from __future__ import annotations

from typing import Any

import torch

from fxprune_passes.rules.registry import Op, Result, rule

aten = torch.ops.aten


@rule(
    aten.zeros,
    aten.ones,
    aten.full,
    aten.empty,
    aten.new_zeros,
    aten.new_ones,
    aten.new_full,
    aten.new_empty,
)
def uniform(op: Op, *args: Any, **kwargs: Any) -> Result:
    """() -> (A, B, ..): one value everywhere, so any part of it can go."""
    return tuple(op.dim(size) for size in op.shape)


@rule(
    aten.arange,
    aten.eye,
    aten.linspace,
    aten.logspace,
    aten.rand,
    aten.randint,
    aten.randn,
    aten.randperm,
    aten.scalar_tensor,
)
def positional(op: Op, *args: Any, **kwargs: Any) -> Result:
    """() -> (A, B, ..): values by position."""
    return tuple(op.fixed(size, "numbers by position") for size in op.shape)
