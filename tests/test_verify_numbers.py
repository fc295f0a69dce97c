"""Verify compares the right numbers: in the model's mode and precision, both meanings of statistics, other batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import randomize
from torch import Tensor, nn
from verified import (
    NUMBERS,
    OWN,
    ROUNDING,
    WEIGHTS,
    TwoHeads,
    compiled,
    failing,
    find,
    first_wrong,
    shifted,
)

import fxprune
from fxprune import verify
from fxprune_passes.masked_statistics import KEPT
from fxprune_passes.mend import FULL

aten = torch.ops.aten


def reduction(function: Callable[..., Tensor]) -> type[nn.Module]:
    """A network in which ``function(network, x)`` reduces or normalises a convolution's channels (N, 8, L)."""

    class Reduced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(3, 8, 1)
            self.scale = nn.Parameter(torch.rand(8))
            self.shift = nn.Parameter(torch.rand(8))
            self.last, self.group = nn.LayerNorm(8), nn.GroupNorm(2, 8)
            self.root = nn.RMSNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return function(self, torch.tanh(self.conv(x))).sum((1, 2))

    return Reduced


PAIRS = (aten.var_mean, aten.std_mean)
STATISTICS: dict[Any, list[Callable[..., Tensor]]] = {
    nn.LayerNorm: [lambda net, x: net.last(x.mT)],
    nn.RMSNorm: [lambda net, x: net.root(x.mT)],
    nn.GroupNorm: [lambda net, x: net.group(x)],
    F.layer_norm: [lambda net, x: F.layer_norm(x.mT, (8,), net.scale, net.shift)],
    torch.layer_norm: [lambda net, x: torch.layer_norm(x.mT, (x.shape[1],), bias=net.shift)],
    F.rms_norm: [lambda net, x: F.rms_norm(x.mT, (8,), net.scale)],
    torch.rms_norm: [lambda net, x: torch.rms_norm(x.mT, normalized_shape=(8,), weight=net.scale, eps=0.1)],
    F.group_norm: [lambda net, x: F.group_norm(x, 2, net.scale, net.shift)],
    torch.group_norm: [lambda net, x: torch.group_norm(x, num_groups=2, weight=net.scale)],
    torch.mean: [lambda net, x: torch.mean(x * 2, (1, 2), keepdim=True) + x],
    "mean": [lambda net, x: x.mean(1, keepdim=True) * x, lambda net, x: x.mean(dim=1)[:, None]],
    torch.var: [lambda net, x: torch.var(x, 1)[:, None], lambda net, x: torch.var(x, dim=(1, 2), keepdim=True) + x],
    torch.std: [lambda net, x: torch.std(x, (1,), keepdim=True) + x],
    "var": [lambda net, x: x.var(1, correction=0)[:, None]],
    "std": [lambda net, x: x.std(1, unbiased=False, keepdim=True) + x],
    torch.var_mean: [lambda net, x: sum(torch.var_mean(x, 1, keepdim=True)) + x],
    torch.std_mean: [lambda net, x: torch.std_mean(x, 1, keepdim=True)[1] + x],
    F.batch_norm: [lambda net, x: F.batch_norm(x.mT, None, None, training=True)],
    torch.batch_norm: [lambda net, x: torch.batch_norm(x.mT, None, None, None, None, True, 0.1, 1e-5, False)],
    aten.batch_norm.default: [
        lambda net, x: aten.batch_norm.default(x.mT, None, None, None, None, True, 0.1, 1e-5, False)
    ],
    aten._native_batch_norm_legit.no_stats: [
        lambda net, x: aten._native_batch_norm_legit.no_stats(x.mT, None, None, True, 0.1, 1e-5)[0]
    ],
    aten.layer_norm.default: [lambda net, x: aten.layer_norm.default(x.mT, [8], net.scale, net.shift)],
    aten.native_layer_norm.default: [lambda net, x: aten.native_layer_norm.default(x.mT, [8], net.scale, None, 0.1)[0]],
    aten.rms_norm.default: [lambda net, x: aten.rms_norm.default(x.mT, [8], net.scale)],
    aten._fused_rms_norm.default: [lambda net, x: aten._fused_rms_norm.default(x.mT, [8], net.scale, None)[0]],
    aten.group_norm.default: [lambda net, x: aten.group_norm.default(x, 2, net.scale, net.shift)],
    aten.native_group_norm.default: [
        lambda net, x: aten.native_group_norm.default(x, net.scale, None, x.shape[0], 8, 5, 2, 1e-5)[0]
    ],
    aten.mean.default: [lambda net, x: aten.mean.default(x) * x],
    aten.mean.dim: [lambda net, x: aten.mean.dim(x, [1], True) * x],
    **{op.default: [lambda net, x, op=op: op.default(x)[None] * x] for op in (aten.var, aten.std)},
    **{op.dim: [lambda net, x, op=op: op.dim(x, [1], False, True) + x] for op in (aten.var, aten.std)},
    **{op.correction: [lambda net, x, op=op: op.correction(x, [1])[:, None]] for op in (aten.var, aten.std)},
    **{op.default: [lambda net, x, op=op: op.default(x)[1] * x] for op in PAIRS},
    **{op.dim: [lambda net, x, op=op: op.dim(x, [1], True, True)[0] + x] for op in PAIRS},
    **{op.correction: [lambda net, x, op=op: sum(op.correction(x, [1], keepdim=True)) + x] for op in PAIRS},
}


def test_every_target_with_statistics_has_an_oracle_and_a_case() -> None:
    assert KEPT.keys() == FULL.keys()
    assert STATISTICS.keys() == FULL.keys()


@pytest.mark.parametrize("statistics", ["kept", "full"])
@pytest.mark.parametrize(
    "function", [one for some in STATISTICS.values() for one in some],
    ids=[f"{getattr(key, '__name__', key)}-{i}" for key, some in STATISTICS.items() for i in range(len(some))],
)  # fmt: skip
def test_statistics_are_verified_in_both_meanings(function: Callable[..., Tensor], statistics: str) -> None:
    model, plan, small = compiled(reduction(function)(), torch.randn(2, 3, 5), statistics=statistics)
    assert len(plan.kept("conv.weight")[0]) == 4
    report = verify(model, plan, small, batch_sizes=(3,))
    report.raise_if_wrong()
    assert report.max_error < ROUNDING
    small.meta["fxprune"]["statistics"] = {"kept": "full", "full": "kept"}[statistics]
    assert failing(verify(model, plan, small)) == NUMBERS


@pytest.mark.parametrize("statistics", ["kept", "full"])
@pytest.mark.parametrize("norm", [lambda net, x: net.group(x), lambda net, x: F.group_norm(x, 2, bias=net.shift)])
def test_a_group_norm_that_loses_a_whole_group_is_verified(norm: Callable[..., Tensor], statistics: str) -> None:
    model, inputs = reduction(norm)(), torch.randn(2, 3, 5)
    randomize(model, 0)
    plan = fxprune.Plan.from_keep(model, inputs, {"conv": [5, 7]})
    verify(model, plan, fxprune.compile(model, plan, statistics=statistics)).raise_if_wrong()


def test_resnet18_is_verified_at_other_batch_sizes() -> None:
    report = verify(*compiled(torchvision.models.resnet18().eval(), torch.randn(2, 3, 32, 32)), batch_sizes=(1, 3))
    report.raise_if_wrong()
    assert [case.ok for case in report.cases] == [True] * 8
    assert report.max_error < ROUNDING


def test_a_model_is_verified_in_the_mode_that_it_is_in() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)).train()
    model, plan, small = compiled(model, torch.randn(2, 3, 6, 6))
    report = verify(model, plan, small)
    assert report.ok
    assert not report.notes
    small.get_submodule("1").running_mean += 1
    assert failing(verify(model, plan, small)) == {WEIGHTS}
    assert failing(verify(model.eval(), plan, small)) == {WEIGHTS, OWN}


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.rrelu, self.fc = nn.Conv1d(3, 8, 1), nn.Dropout(0.4), nn.RReLU(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout1d(self.drop(torch.tanh(self.conv(x))), 0.3, self.training)
        x = self.rrelu(x) + 0.1 * torch.rand_like(x) * torch.empty_like(x).normal_()
        x = x * torch.empty_like(x).bernoulli_(0.7)
        return self.fc(F.alpha_dropout(x.sum(2), 0.2, self.training))


def test_a_training_network_with_dropout_is_verified_and_the_report_says_how() -> None:
    model, plan, small = compiled(Noisy().train(), torch.randn(2, 3, 5))
    assert len(plan.kept("conv.weight")[0]) == 4
    report = verify(model, plan, small)
    report.raise_if_wrong()
    assert report.notes == ("random numbers are replaced by constants on both sides",)
    assert "note: random numbers" in str(report)
    small.conv.weight.data *= 2
    assert failing(verify(model, plan, small)) == {WEIGHTS, OWN}


class Casting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x).float()).to(torch.float32)
        return self.second(x + torch.full((8,), 0.1, dtype=torch.float32))


def test_casts_to_narrow_types_do_not_spoil_the_comparison() -> None:
    report = verify(*compiled(Casting(), torch.randn(2, 5)))
    report.raise_if_wrong()
    assert report.max_error < ROUNDING


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_models_of_every_precision_are_compared_in_float64(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.RMSNorm(8), nn.Linear(8, 3)).to(dtype)
    report = verify(*compiled(model, torch.randn(2, 5, dtype=dtype), statistics="full"))
    report.raise_if_wrong()
    assert report.max_error < ROUNDING


class Odd(nn.Module):
    """Outputs that are infinite, not a number, integer and boolean; ``log`` gives no number for removed channels."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = self.body(x).abs()
        out = self.head(hidden.log() / hidden)
        return out, (out - out) / (out - out), out / 0, out > 0, (hidden > 0.1).sum(1)


def test_outputs_that_are_no_numbers_are_compared_place_by_place() -> None:
    model, plan, small = compiled(Odd(), torch.randn(4, 5))
    verify(model, plan, small).raise_if_wrong()
    find(small, "truediv_2").update_arg(1, -0.0)
    small.recompile()
    report = verify(model, plan, small)
    assert failing(report) >= NUMBERS
    assert first_wrong(report)[0] == "truediv_2"


def test_a_batch_size_that_the_original_does_not_take_is_told_and_not_held_against_it() -> None:
    class Fixed(TwoHeads):
        def forward(self, x: Tensor) -> Tensor:
            return self.first(torch.relu(self.body(x)).view(3, 8))

    report = verify(*compiled(Fixed(), torch.randn(3, 5)), batch_sizes=(3, 4))
    assert report.ok
    assert [case.ok for case in report.cases[-2:]] == [True, None]
    assert report.cases[-1].note.startswith("the original does not take it: shape '[3, 8]' is invalid")
    assert "not asked" in str(report)


def test_given_inputs_are_used_and_left_as_they_are() -> None:
    class Doubled(TwoHeads):
        def forward(self, x: Tensor, *, shift: Tensor) -> Tensor:
            return self.first(torch.relu(self.body(x.mul_(2)) + shift))

    inputs = {"x": torch.randn(3, 5), "shift": torch.randn(3, 1)}
    before = {name: value.clone() for name, value in inputs.items()}
    model, plan, small = compiled(Doubled(), {name: value.clone() for name, value in inputs.items()})
    verify(model, plan, small, inputs=inputs).raise_if_wrong()
    assert all(torch.equal(before[name], inputs[name]) for name in inputs)
    with pytest.raises(fxprune.CaptureError, match=r"^inputs do not fit Doubled\.forward"):
        verify(model, plan, small, inputs={"x": inputs["x"]})
    with pytest.raises(fxprune.CaptureError, match=r"^the original does not run at"):
        verify(model, plan, small, inputs={"x": torch.randn(3, 4), "shift": torch.randn(3, 1)})


def test_a_compiled_model_pruned_again_is_verified() -> None:
    _, _, small = shifted()
    verify(*compiled(small, torch.randn(2, 3, 6, 6)), batch_sizes=(3,)).raise_if_wrong()
