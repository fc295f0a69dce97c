"""Plans from zeros: the compiled network is smaller and computes the very function of the masked one."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import randomize
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize, prune

import fxprune
from fxprune import Plan

EXACT = 1e-12


def built(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and evaluation, random statistics and affine parameters included."""
    model = model.double().eval()
    randomize(model, seed)
    return model


def images(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def error(model: nn.Module, small: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        want, got = model(x), small(x)
    return float((want - got).abs().max() / want.abs().max())


def compiled(model: nn.Module, x: Tensor, *others: Tensor) -> tuple[Plan, fx.GraphModule]:
    """The plan and the compiled model, which is exact on the example and on inputs of other sizes."""
    plan = Plan.from_zeros(model, x)
    small = fxprune.compile(model, plan)
    for one in (x, *others):
        assert error(model, small, one) < EXACT
    assert fxprune.verify(model, plan, small).ok
    return plan, small


def widths(plan: Plan) -> dict[str, int]:
    """Kept channels of the groups that lose some."""
    return {name: len(kept) for name, kept in plan.keep.items()}


def convolutions(second: nn.Module, between: nn.Module | None = None, channels: int = 6) -> nn.Module:
    """A convolution of which filter 2 is zero, and what reads it."""
    model = built(nn.Sequential(nn.Conv2d(3, channels, 3), between or nn.ReLU(), second))
    model[0].weight.data[2] = 0
    model[0].bias.data[2] = 0.7
    return model


def test_a_zero_filter_leaves_its_bias_to_the_reader() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3))
    plan, small = compiled(model, images(2, 3, 9, 9), images(1, 3, 12, 7))
    assert widths(plan) == {"0": 5}
    want = model[2].bias + model[2].weight[:, 2].sum((1, 2)) * 0.7
    torch.testing.assert_close(small.get_parameter("2.bias"), want)
    assert [node.op for node in small.graph.nodes].count("call_function") == 0


def test_a_reader_without_a_bias_gets_one() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3, bias=False))
    _, small = compiled(model, images(2, 3, 9, 9), images(1, 3, 12, 7))
    assert isinstance(small.get_parameter("2.bias"), nn.Parameter)
    assert set(small.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_that_repeats_keeps_a_constant_even(mode: str) -> None:
    _, small = compiled(
        convolutions(nn.Conv2d(6, 4, 3, padding=1, padding_mode=mode)), images(2, 3, 9, 9), images(1, 3, 12, 7)
    )
    assert "border" not in small.code


READERS = {
    "padded": nn.Conv2d(6, 4, 3, padding=1),
    "strided": nn.Conv2d(6, 4, 3, padding=1, stride=2),
    "dilated": nn.Conv2d(6, 4, 3, padding=2, dilation=2),
    "same": nn.Conv2d(6, 4, 3, padding="same"),
    "grouped": nn.Conv2d(6, 4, 3, padding=1, groups=2),
    "without bias": nn.Conv2d(6, 4, 3, padding=1, bias=False),
    "transposed": nn.ConvTranspose2d(6, 4, 3, stride=2, padding=1, output_padding=1),
    "transposed, grouped": nn.ConvTranspose2d(6, 4, 3, groups=2, bias=False),
}


@pytest.mark.parametrize("kind", READERS)
def test_zero_padding_takes_one_map(kind: str) -> None:
    channels = 6
    model = convolutions(copy.deepcopy(READERS[kind]), channels=channels)
    if "grouped" in kind:
        for weight, bias in ((model[0].weight, model[0].bias),):
            weight.data[5], bias.data[5] = 0, -0.3  # one of each group; groups lose channels alike
    plan, small = compiled(model, images(2, 3, 9, 9), images(1, 3, 12, 7), images(3, 3, 5, 5))
    assert small.code.count("ones_like(") == (1 if widths(plan) else 0)
    if "grouped" not in kind:
        assert widths(plan) == {"0": 5}


def test_unbatched_images() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3, padding=1))
    plan, _ = compiled(model, images(3, 9, 9), images(3, 12, 7))
    assert widths(plan) == {"0": 5}


@pytest.mark.parametrize(
    ("between", "constant"),
    [(nn.Sigmoid(), 0.5), (nn.Tanh(), 0.0), (nn.Softplus(), 0.6931471805599453), (nn.Identity(), 0.0)],
    ids=lambda one: type(one).__name__,
)
def test_activations_turn_one_constant_into_another(between: nn.Module, constant: float) -> None:
    model = built(nn.Sequential(nn.Linear(5, 6, bias=False), between, nn.Linear(6, 3)))
    model[0].weight.data[4] = 0
    plan, small = compiled(model, images(2, 5))
    assert widths(plan) == {"0": 5}
    torch.testing.assert_close(small.get_parameter("2.bias"), model[2].bias + constant * model[2].weight[:, 4])


def test_batch_norm_turns_one_constant_into_another() -> None:
    model = convolutions(nn.Conv2d(6, 4, 1), nn.Sequential(nn.BatchNorm2d(6), nn.Hardswish(), nn.MaxPool2d(2)))
    plan, _ = compiled(model, images(2, 3, 9, 9), images(1, 3, 12, 8))
    assert widths(plan) == {"0": 5}


def test_training_statistics_keep_the_channel_and_that_is_said() -> None:
    model = convolutions(nn.Conv2d(6, 4, 1), nn.BatchNorm2d(6)).train()
    plan = Plan.from_zeros(model, images(2, 3, 9, 9))
    assert plan.keep == {}
    assert "stays: 1 zero filter of 0.weight, held by 1 (BatchNorm2d)" in str(plan)
    assert "no channel can go" not in str(plan)


def test_dropout_of_a_constant_keeps_the_channel_and_of_zero_does_not() -> None:
    model = convolutions(nn.Conv2d(6, 4, 1), nn.Dropout(0.3)).train()
    assert Plan.from_zeros(model, images(2, 3, 9, 9)).keep == {}
    model[0].bias.data[2] = 0
    assert widths(Plan.from_zeros(model, images(2, 3, 9, 9))) == {"0": 5}


class Joined(nn.Module):
    """Branches whose channels are summed, joined and gated."""

    def __init__(self, join: str) -> None:
        super().__init__()
        self.join = join
        self.a, self.b = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.out = nn.Conv2d(12 if join == "cat" else 6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        if self.join == "add":
            return self.out(F.relu(a + b))
        return self.out(torch.cat((a, b), 1) if self.join == "cat" else a * torch.sigmoid(b.mean((2, 3), keepdim=True)))


@pytest.mark.parametrize("join", ["add", "cat", "gate"])
def test_constants_are_added_joined_and_multiplied(join: str) -> None:
    model = built(Joined(join))
    for one in (model.a, model.b):
        one.weight.data[3] = 0
    plan, _ = compiled(model, images(2, 3, 9, 9), images(1, 3, 7, 12))
    assert widths(plan) == ({"a": 5, "b": 5} if join == "cat" else {"a": 5})


def test_one_of_two_summands_is_not_enough() -> None:
    model = built(Joined("add"))
    model.a.weight.data[3] = 0
    plan, _ = compiled(model, images(2, 3, 9, 9))
    assert plan.keep == {}


def test_a_factor_that_is_zero_hides_the_other() -> None:
    model = built(Joined("gate"))
    model.a.weight.data[3], model.a.bias.data[3] = 0, 0
    plan, _ = compiled(model, images(2, 3, 9, 9))
    assert widths(plan) == {"a": 5}


def test_what_nobody_reads_goes_and_so_does_what_only_that_reads() -> None:
    model = built(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)))
    model[4].weight.data[:, [1, 2]] = 0
    model[2].weight.data[:, 0] = 0
    model[2].weight.data[[0, 3, 4, 5, 6], 4] = 0  # read by the two that nobody reads
    plan, _ = compiled(model, images(2, 5))
    assert plan.keep == {"0": (1, 2, 3, 5), "2": (0, 3, 4, 5, 6)}
    assert plan.report is not None
    rows = {layer.name: layer.removed for layer in plan.report.layers}
    assert rows["0.weight"] == rows["2.weight"] == (0, 2, 0)


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


def residual() -> nn.Module:
    return built(
        nn.Sequential(nn.Conv2d(3, 6, 3), Block(6), Block(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    )


def calls(small: fx.GraphModule) -> list[str]:
    return [str(node.target) for node in small.graph.nodes if node.op == "call_module"]


def test_a_dead_block_disappears_whole() -> None:
    model = residual()
    model[1].norm2.weight.data.zero_()
    model[1].norm2.bias.data.zero_()
    _, small = compiled(model, images(2, 3, 9, 9), images(1, 3, 12, 7))
    assert not any(call.startswith("1.") for call in calls(small))
    assert not any(name.startswith("1.") for name in small.state_dict())
    assert "zeros" not in small.code and "constant" not in small.code


@pytest.mark.parametrize("dead", ["norm2", "conv2"])
def test_a_block_that_gives_constants_leaves_these(dead: str) -> None:
    model = residual()
    getattr(model[1], dead).weight.data.zero_()
    _, small = compiled(model, images(2, 3, 9, 9), images(1, 3, 12, 7))
    assert not any(call.startswith("1.") for call in calls(small))
    assert [name for name, _ in small.named_buffers() if "constant" in name] == ["_1_norm2_constant"]


def test_a_dead_head_of_attention_goes() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Linear(5, 12), nn.Linear(12, 3)
            self.attention = nn.MultiheadAttention(12, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            return self.out(x + self.attention(x, x, x, need_weights=False)[0])

    model = built(Attention())
    for start in (4, 16, 28):
        model.attention.in_proj_weight.data[start : start + 4] = 0
    plan, _ = compiled(model, images(2, 7, 5), images(3, 4, 5))
    assert widths(plan) == {"attention:0": 2}


def masked(kind: str) -> nn.Module:
    """LeNet-like, masked by a method of torch.nn.utils.prune, with parameters of a training step."""
    model = built(
        nn.Sequential(
            nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2),
            nn.Flatten(), nn.Linear(256, 24), nn.ReLU(), nn.Linear(24, 10),
        )
    )  # fmt: skip
    first, second, third = model[0], model[3], model[7]
    if kind == "unstructured":
        prune.random_unstructured(second, "weight", 0.3)
        prune.l1_unstructured(third, "weight", 0.5)
    elif kind == "structured":
        prune.ln_structured(second, "weight", 0.5, n=2, dim=0)
        prune.random_structured(third, "weight", 0.25, dim=1)
    elif kind == "global":
        tensors = [(first, "weight"), (second, "weight"), (third, "weight")]
        prune.global_unstructured(tensors, prune.L1Unstructured, amount=0.9)
    elif kind == "stacked":
        prune.ln_structured(second, "weight", 0.25, n=2, dim=0)
        prune.l1_unstructured(second, "weight", 0.2)
        prune.ln_structured(second, "weight", 0.25, n=1, dim=0)
    elif kind == "bias":
        prune.ln_structured(second, "weight", 0.5, n=2, dim=0)
        prune.custom_from_mask(second, "bias", second.weight_mask.amax((1, 2, 3)))
    elif kind == "custom":
        EverySecond.apply(second, "weight")
    elif kind == "removed":
        prune.ln_structured(second, "weight", 0.5, n=2, dim=0)
        prune.remove(second, "weight")
    else:
        parametrize.register_parametrization(second, "weight", Halved())
    return model


class EverySecond(prune.BasePruningMethod):
    """Every second filter."""

    PRUNING_TYPE = "unstructured"

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        mask = default_mask.clone()
        mask[::2] = 0
        return mask

    @classmethod
    def apply(cls, module: nn.Module, name: str) -> prune.BasePruningMethod:
        """Mask a tensor of a module."""
        return super().apply(module, name)  # type: ignore[no-any-return]


class Halved(nn.Module):
    """Masks the second half of the filters."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight * (torch.arange(len(weight)) < len(weight) // 2).to(weight.dtype)[:, None, None, None]


EXPECTED = {"structured": 8, "stacked": 9, "bias": 8, "custom": 8, "removed": 8, "parametrized": 8}


@pytest.mark.parametrize(
    "kind", ["unstructured", "structured", "global", "stacked", "bias", "custom", "removed", "parametrized"]
)
def test_masks_of_every_kind_become_small_networks(kind: str) -> None:
    model = masked(kind)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan, small = compiled(model, images(2, 1, 28, 28))
    if kind in EXPECTED:
        assert widths(plan)["3"] == EXPECTED[kind]
    assert all(isinstance(one, nn.Parameter) for one in small.state_dict(keep_vars=True).values())
    assert not any("_orig" in name or "_mask" in name for name in small.state_dict())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_report_counts_zeros_and_arguments() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3))
    model[2].weight.data[:, 0] = 0
    model[2].weight.data[0, 1, 0, 0] = 0
    plan, _ = compiled(model, images(2, 3, 9, 9))
    assert plan.report is not None
    first, second = plan.report.layers
    assert (first.elements, first.zeros, first.channels, first.removed) == (162, 27, 6, (0, 1, 1))
    assert (first.left, first.left_zeros) == (108, 0)
    assert (second.elements, second.zeros, second.channels) == (216, 37, 0)
    assert (second.left, second.left_zeros) == (144, 1)
    assert plan.report.removed == 2
    lines = str(plan.report).splitlines()
    assert lines[2].split() == ["0.weight", "16.67%", "6", "0", "1", "1", "67%", "0.00%"]
    assert lines[-1].split()[:3] == ["all", "weights", "16.93%"]


def test_a_model_without_zeros_gives_an_unchanged_plan_and_says_so() -> None:
    model = built(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)))
    plan, small = compiled(model, images(2, 5))
    assert plan.keep == {}
    assert "no channel can go: the model has no zeros" in str(plan)
    assert all(torch.equal(small.get_parameter(name), one) for name, one in model.named_parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(value: float) -> None:
    model = built(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)))
    model[2].weight.data[1, 1] = value
    with pytest.raises(fxprune.PlanError, match=r"'2.weight' holds NaN or infinite values"):
        Plan.from_zeros(model, images(2, 5))


def test_a_plan_survives_a_file_and_serves_other_weights_with_the_same_zeros(tmp_path: Path) -> None:
    model = convolutions(nn.Conv2d(6, 4, 3, padding=1))
    Plan.from_zeros(model, images(2, 3, 9, 9)).save(tmp_path / "plan.json")
    plan = Plan.load(tmp_path / "plan.json")
    other = copy.deepcopy(model)
    other[0].bias.data[2] = -3.0
    other[2].weight.data.mul_(2)
    for one in (model, other):
        small = fxprune.compile(one, plan)
        assert error(one, small, images(1, 3, 8, 11)) < EXACT
        assert fxprune.verify(one, plan, small).ok
    assert str(plan.report) == str(Plan.from_zeros(model, images(2, 3, 9, 9)).report)


def test_weights_with_other_zeros_are_refused() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3))
    plan = Plan.from_zeros(model, images(2, 3, 9, 9))
    model[0].weight.data[2, 0, 0, 0] = 1
    with pytest.raises(fxprune.PlanError, match=r"channel 2 of group '0' is no constant with these weights"):
        fxprune.compile(model, plan)


def test_a_planted_error_is_caught_and_named() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3))
    plan, small = compiled(model, images(2, 3, 9, 9))
    with torch.no_grad():
        small.get_parameter("2.bias")[1] += 0.01
    report = fxprune.verify(model, plan, small)
    assert not report.ok
    assert report.first_wrong is not None
    assert "calls 2" in str(report)


def test_the_graph_may_be_exported() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3, padding=1))
    plan = Plan.from_zeros(model, images(2, 3, 9, 9))
    program = fxprune.compile(model, plan, emit="exported")
    assert error(model, program.module(), images(2, 3, 9, 9)) < EXACT


def test_code_that_stays_cannot_be_given_constants() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3))
    plan = Plan.from_zeros(model, images(2, 3, 9, 9))
    with pytest.raises(fxprune.PlanError, match="moves constants into biases"):
        fxprune.compile(model, plan, emit="module")


@pytest.mark.parametrize("tolerance", [1e-6, 1e-3, 1e-1])
def test_a_tolerance_bounds_what_small_weights_change(tolerance: float) -> None:
    model = built(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)))
    for channel in range(12):
        model[0].weight.data[channel] *= 10.0**-channel
    x = images(8, 5)
    plan = Plan.from_zeros(model, x, tolerance=tolerance)
    small = fxprune.compile(model, plan)
    assert plan.report is not None
    assert 0 < error(model, small, x) <= tolerance
    assert plan.report.error == pytest.approx(error(model, small, x), rel=1e-6)
    assert f"outputs change by {plan.report.error:.1e} at most" in str(plan)
    assert len(plan.keep["0"]) < 16


def test_a_larger_tolerance_removes_no_less() -> None:
    model = built(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)))
    for channel in range(12):
        model[0].weight.data[channel] *= 10.0**-channel
    left = [
        len(Plan.from_zeros(model, images(8, 5), tolerance=one).keep.get("0", range(16))) for one in (0.0, 1e-6, 1e-2)
    ]
    assert left[0] == 16 and left == sorted(left, reverse=True) and left[2] < left[1]


def test_verification_takes_small_weights_for_zeros_on_both_sides() -> None:
    model = built(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)))
    for channel in range(12):
        model[0].weight.data[channel] *= 10.0**-channel
    plan = Plan.from_zeros(model, images(8, 5), tolerance=1e-2)
    small = fxprune.compile(model, plan)
    report = fxprune.verify(model, plan, small)
    assert report.ok and report.max_error < EXACT
    assert "verified: the compiled graph is the original" in str(report)
    small.get_parameter("2.weight").data[0, 0] *= 1.01
    assert not fxprune.verify(model, plan, small).ok


def test_constants_that_are_rounded_to_the_models_dtype_are_no_error() -> None:
    model = convolutions(nn.Conv2d(6, 4, 3, padding=1), nn.Sigmoid()).float()
    plan = Plan.from_zeros(model, images(2, 3, 9, 9).float())
    assert widths(plan) == {"0": 5}
    assert fxprune.verify(model, plan, fxprune.compile(model, plan)).ok


def test_the_report_says_what_holds_a_channel() -> None:
    depthwise = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU())
    model = convolutions(nn.Conv2d(6, 4, 1), depthwise)
    report = Plan.from_zeros(model, images(2, 3, 9, 9)).report
    assert report is not None
    assert report.stays == ("1 zero filter of 0.weight, held by 1.0 (Conv2d)",)
    model = built(nn.Sequential(nn.Linear(5, 6), nn.Softmax(-1), nn.Linear(6, 3)))
    model[0].weight.data[2] = 0
    report = Plan.from_zeros(model, images(2, 5)).report
    assert report is not None and "held by aten._softmax" in report.stays[0]


def test_outputs_that_are_not_finite_measure_nothing() -> None:
    model = built(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)))
    with pytest.raises(fxprune.PlanError, match="are not finite, so that no change"):
        Plan.from_zeros(model, images(2, 5) * float("nan"), tolerance=0.1)
    assert Plan.from_zeros(nn.ReLU(), images(2, 5), tolerance=0.1).keep == {}


def test_statistics_that_are_no_numbers_are_refused_by_name() -> None:
    model = built(nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6)))
    model[1].running_var[2] = float("nan")
    with pytest.raises(fxprune.PlanError, match=r"'1.running_var' holds NaN"):
        Plan.from_zeros(model, images(2, 3, 9, 9))


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), "1%"])
def test_a_tolerance_must_be_a_number(tolerance: Any) -> None:
    with pytest.raises(fxprune.PlanError, match="expected a number of 0 or more"):
        Plan.from_zeros(nn.Linear(2, 2), torch.zeros(1, 2), tolerance=tolerance)
