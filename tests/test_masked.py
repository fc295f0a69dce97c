"""The oracle keeps removed channels at zero in every tensor; masks follow views and batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from networks import NETWORKS, Network
from torch import Tensor, fx

import fxprune
from fxprune.choices import kept_of
from fxprune.coded import draw
from fxprune_passes.axes import Dim, Frozen, Prod
from fxprune_passes.kept import Kept
from fxprune_passes.masked import Masked
from fxprune_passes.masks import cut, mask_at, put_back, zero_removed
from fxprune_passes.wide import widened

ALIASING = ("in place", "slice assignment", "stack and unbind", "chunk", "fused attention", "repeat", "layer norm")


@pytest.mark.parametrize(
    "network",
    [one for one in NETWORKS if one.construct in ALIASING and one.prunable],
    ids=lambda network: network.name,
)
@pytest.mark.parametrize("statistics", ["kept", "full"])
def test_the_oracle_holds_zeros_in_every_removed_place_of_every_tensor(network: Network, statistics: str) -> None:
    model, inputs = network.build().eval(), network.inputs()
    plan = fxprune.plan(model, inputs, channels=0.5, criterion="random")
    analysis = plan.analysis_of(model)
    kept, axes = kept_of(analysis, plan.keep), analysis.propagation.axes
    seen: list[str] = []

    def look(node: fx.Node, value: Any) -> None:
        if isinstance(value, Tensor) and isinstance(axes[node], tuple) and kept.changes(axes[node]):
            seen.append(node.name)
            assert torch.equal(put_back(cut(value, axes[node], kept), axes[node], kept), value)

    bound = dict(zip(analysis.capture.inputs, draw(plan.inputs, 0), strict=True))
    double = {name: one.double() if one.is_floating_point() else one for name, one in bound.items()}
    Masked(widened(model), analysis.propagation, kept, double, statistics=statistics, epsilon=1e-7, watch=look).result()
    assert seen


def kept_half() -> tuple[Kept, Dim, Dim]:
    channels, batch = Dim(4), Dim(2, Frozen("model input", dynamic=True))
    return Kept({channels: torch.tensor([True, False, False, True])}), channels, batch


def test_a_mask_follows_the_batch_of_the_call() -> None:
    kept, channels, batch = kept_half()
    mask = torch.tensor([True, False, False, True])
    assert torch.equal(mask_at(kept, channels, 4), mask)  # type: ignore[arg-type]
    outer, inner = Prod((batch, channels), 8), Prod((channels, batch), 8)
    assert torch.equal(mask_at(kept, outer, 12), mask.repeat(3))  # type: ignore[arg-type]
    assert torch.equal(mask_at(kept, inner, 12), mask.repeat_interleave(3))  # type: ignore[arg-type]
    assert torch.equal(mask_at(kept, channels, 8), mask.repeat(2))  # type: ignore[arg-type]
    assert mask_at(kept, channels, 6) is None
    assert mask_at(kept, batch, 3) is None


def test_zeros_are_written_into_views_and_beside_expanded_tensors() -> None:
    kept, channels, batch = kept_half()
    base = torch.ones(2, 8)
    zero_removed(base[:, 4:], (batch, channels), kept)
    assert torch.equal(base, torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 1]).expand(2, 8))
    one = torch.tensor([float("nan")])
    masked = zero_removed(one.expand(2, 4), (batch, channels), kept)
    assert torch.equal(masked.isnan(), torch.tensor([[True, False, False, True]]).expand(2, 4))
    assert one.isnan()


def test_put_back_is_the_inverse_of_cut() -> None:
    kept, channels, batch = kept_half()
    axes = (channels, Prod((batch, channels), 8))
    value = zero_removed(torch.randn(4, 12), axes, kept)
    part = cut(value, axes, kept)
    assert part.shape == (2, 6)
    assert torch.equal(put_back(part, axes, kept), value)
