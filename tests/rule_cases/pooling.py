"""Cases of pooling, padding and resampling: channels pass through."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from one_op import Case

_SPATIAL = {1: "L", 2: "HW", 3: "DHW"}


def _ranks(name: str, function: Callable[..., Any], *ranks: int) -> list[Case]:
    return [Case(name.format(rank), f"nc{_SPATIAL[rank]}", partial(function, rank)) for rank in ranks]


def _functional(rank: int, x: torch.Tensor, *, name: str, **kwargs: Any) -> Any:
    return getattr(F, name.format(rank))(x, **kwargs)


def _pool(name: str, *ranks: int, op: str = "", **kwargs: Any) -> list[Case]:
    return _ranks(op or name, partial(_functional, name=name, **kwargs), *ranks)


def _resize(op: str, mode: str, rank: int, **kwargs: Any) -> Case:
    return Case(op, f"nc{_SPATIAL[rank]}", lambda x: F.interpolate(x, scale_factor=2, mode=mode, **kwargs))


def _pad(op: str, mode: str, *ranks: int) -> list[Case]:
    return _ranks(op, lambda rank, x: F.pad(x, (1, 2) * rank, mode), *ranks)


def _fractional(name: str, *ranks: int) -> list[Case]:
    def pool(rank: int, x: torch.Tensor, samples: torch.Tensor) -> torch.Tensor:
        return getattr(F, name.format(rank))(x, 2, output_size=(2,) * rank, _random_samples=samples.sigmoid())

    return [Case(name.format(rank), f"nc{_SPATIAL[rank]} nc{rank}", partial(pool, rank)) for rank in ranks]


CASES = (
    *_pool("avg_pool{}d", 1, 2, 3, kernel_size=2),
    *_pool("max_pool{}d", 1, op="max_pool{}d_with_indices", kernel_size=2),
    *_pool("max_pool{}d", 2, 3, op="max_pool{}d_with_indices", kernel_size=2),
    *_pool("adaptive_avg_pool{}d", 1, 2, 3, op="_adaptive_avg_pool{}d", output_size=2),
    *_pool("adaptive_max_pool{}d", 1, 2, 3, output_size=2),
    *_pad("reflection_pad{}d", "reflect", 1, 2, 3),
    *_pad("replication_pad{}d", "replicate", 1, 2, 3),
    _resize("upsample_nearest1d", "nearest", 1),
    _resize("upsample_nearest2d", "nearest", 2),
    _resize("upsample_nearest3d", "nearest", 3),
    _resize("_upsample_nearest_exact1d", "nearest-exact", 1),
    _resize("_upsample_nearest_exact2d", "nearest-exact", 2),
    _resize("_upsample_nearest_exact3d", "nearest-exact", 3),
    _resize("upsample_linear1d", "linear", 1),
    _resize("upsample_bilinear2d", "bilinear", 2),
    _resize("upsample_bicubic2d", "bicubic", 2),
    _resize("_upsample_bilinear2d_aa", "bilinear", 2, antialias=True),
    _resize("_upsample_bicubic2d_aa", "bicubic", 2, antialias=True),
    _resize("upsample_trilinear3d", "trilinear", 3),
    Case("max_unpool2d", "ncHW", lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2)),
    Case("max_unpool3d", "ncDHW", lambda x: F.max_unpool3d(*F.max_pool3d(x, 2, return_indices=True), 2), {"D": 4}),
    Case("grid_sampler_2d", "ncHW nHW2", lambda x, g: F.grid_sample(x, g, align_corners=False)),
    Case("grid_sampler_3d", "ncDHW nDHW3", lambda x, g: F.grid_sample(x, g, align_corners=False)),
    *_fractional("fractional_max_pool{}d", 2, 3),
)
