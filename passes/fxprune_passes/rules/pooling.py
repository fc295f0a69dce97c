"""Pooling, padding and resampling: the last axes are spatial, the ones before them pass through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes
from fxprune_passes.rules.registry import Op, Result, optional, rule

aten = torch.ops.aten

_BY_RANK = {
    1: ("reflection_pad1d", "replication_pad1d", "upsample_nearest1d", "_upsample_nearest_exact1d",
        "upsample_linear1d"),
    2: ("avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "max_pool2d_with_indices", "reflection_pad2d",
        "replication_pad2d", "upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d",
        "upsample_bicubic2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"),
    3: ("avg_pool3d", "_adaptive_avg_pool3d", "adaptive_max_pool3d", "max_pool3d_with_indices", "reflection_pad3d",
        "replication_pad3d", "upsample_nearest3d", "_upsample_nearest_exact3d", "upsample_trilinear3d"),
}  # fmt: skip


def _spatial_rule(rank: int, names: Sequence[str]) -> None:
    @rule(*(op for name in names for op in optional(name)))
    def spatial(op: Op, x: Axes, *args: Any, **kwargs: Any) -> Result:
        """(.., C, *S) -> (.., C, *S')."""
        op.freeze(x[-rank:], "spatial axis")
        return [(*x[:-rank], *op.spatial(shape[-rank:])) for shape in op.shapes]


for _rank, _names in _BY_RANK.items():
    _spatial_rule(_rank, _names)


@rule(aten.fractional_max_pool2d, aten.fractional_max_pool3d)
def fractional_pool(op: Op, x: Axes, kernel_size: Sequence[int], output_size: Sequence[int], samples: Axes) -> Result:
    """(N, C, *S), (N, C, rank) -> (N, C, *S'): every channel has its own random places."""
    rank = len(output_size)
    op.freeze((*x[-rank:], samples[2]), "spatial axis")
    for one, other in zip(reversed(x[:-rank]), reversed(samples[:2]), strict=False):
        op.equal(one, other)
    return [(*x[:-rank], *op.spatial(shape[-rank:])) for shape in op.shapes]


@rule(aten.max_unpool2d, aten.max_unpool3d)
def max_unpool(op: Op, x: Axes, indices: Axes, output_size: Sequence[int], *args: Any) -> Result:
    """(.., C, *S), indices alike -> (.., C, *S')."""
    op.equal_all(x, indices)
    op.freeze(x[-len(output_size) :], "spatial axis")
    return (*x[: -len(output_size)], *op.spatial(output_size))


@rule(aten.grid_sampler_2d, aten.grid_sampler_3d)
def grid_sample(op: Op, x: Axes, grid: Axes, *args: Any) -> Result:
    """(N, C, H, W), (N, H', W', 2) -> (N, C, H', W')."""
    op.freeze((*x[2:], *grid[1:]), "spatial axis")
    return (op.equal(x[0], grid[0]), x[1], *op.spatial(op.shape[2:]))
