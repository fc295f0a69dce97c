"""Ops of torchvision by name, since it need not be installed: regions are spatial, channels pass through."""

from __future__ import annotations

from typing import Any

from fxprune_passes.axes import Axes
from fxprune_passes.rules.registry import Op, Result, rule


@rule("torchvision.roi_align", "torchvision.roi_pool")
def region_pool(op: Op, x: Axes, regions: Axes, *args: Any) -> Result:
    """(N, C, H, W), (K, 5) -> (K, C, h, w)."""
    op.freeze((x[0], *x[2:], *regions), "regions of an image")
    return [(regions[0], x[1], *op.spatial(shape[2:])) for shape in op.shapes]
