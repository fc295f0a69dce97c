"""Every criterion of weights is its formula, computed anew by loops over channels; what does not work is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from scored import BATCHES, IMAGES, Chain, Residual, randomized, same, scored, state
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.analysis import analyse
from fxprune.criteria import (
    FPGM,
    LAMP,
    NAMES,
    BatchNormScale,
    Evidence,
    GroupNorm,
    Magnitude,
    Scorer,
    Taylor,
)
from fxprune.criteria.scoring import options_of


@pytest.fixture
def model() -> nn.Module:
    return randomized(Residual())


def _layers(model: Any, over: str, k: int) -> list[Tensor]:
    """The weights of channel k of the residual network, layer by layer, in the order of the model."""
    stem, norm, inner, head = model.stem, model.norm, model.inner, model.head
    layers = {
        "producers": [stem.weight[k], inner.weight[k]],
        "writers": [stem.weight[k], stem.bias[k], norm.weight[k], norm.bias[k], inner.weight[k]],
        "readers": [inner.weight[:, k], head.weight[:, 16 * k : 16 * k + 16]],
    }
    layers["group"] = [*layers["writers"], *layers["readers"]]
    return [one.detach().double().flatten() for one in layers[over]]


_REDUCE: dict[str, Callable[[list[float]], float]] = {
    "sum": sum,
    "mean": lambda powers: sum(powers) / len(powers),
    "max": max,
    "product": math.prod,
    "first": lambda powers: powers[0],
}


@pytest.mark.parametrize("p", [1, 2, 3.5])
@pytest.mark.parametrize("over", ["producers", "writers", "readers", "group"])
@pytest.mark.parametrize("reduce", list(_REDUCE))
def test_magnitude_is_the_norm_of_a_channels_weights(p: float, over: str, reduce: str, model: nn.Module) -> None:
    if (over, reduce) == ("group", "first"):
        over = "writers"
    got = scored(model, IMAGES, Magnitude(p, over, reduce))["stem"]
    powers = [[float((one.abs() ** p).sum()) for one in _layers(model, over, k)] for k in range(6)]
    same(got, [_REDUCE[reduce](one) ** (1 / p) for one in powers])


@pytest.mark.parametrize(("how", "total"), [("sum", sum), ("mean", lambda s: sum(s) / len(s)), ("max", max)])
def test_magnitudes_are_made_relative_to_their_group(how: str, total: Callable[..., float], model: nn.Module) -> None:
    plain = scored(model, IMAGES, "l2")["stem"].tolist()
    same(scored(model, IMAGES, Magnitude(normalize=how))["stem"], [one / total(plain) for one in plain])


@pytest.mark.parametrize(("name", "p"), [("l1", 1), ("l2", 2)])
def test_magnitudes_by_name_are_over_producers(name: str, p: float, model: nn.Module) -> None:
    assert torch.equal(scored(model, IMAGES, name)["stem"], scored(model, IMAGES, Magnitude(p, "producers"))["stem"])


def test_batch_norm_scale_is_the_mean_of_the_scales_of_a_channel() -> None:
    model: Any = randomized(Chain())
    got = scored(model, IMAGES, "bn_scale")
    inner, outer = model.inner.weight.detach().abs(), model.outer.weight.detach().abs()
    same(got["left"], [(inner[k] + outer[k]) / 2 for k in range(4)])
    same(got["right"], [outer[4 + k] for k in range(5)])
    assert got["wide"] is None
    same(scored(model, IMAGES, BatchNormScale("max"))["left"], torch.maximum(inner, outer[:4]))


def test_groups_without_a_score_stay_whole_and_that_is_said() -> None:
    model = randomized(Chain())
    plan = fxprune.plan(model, IMAGES, channels=0.5, criterion="bn_scale")
    assert list(plan.keep) == ["left", "right"]
    assert plan.left_out == {"wide": "criterion bn_scale has no score for it"}
    assert "left out: wide, since criterion bn_scale has no score for it" in str(plan)


def test_batch_norms_that_are_functions_are_found() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(3, 4), nn.Linear(4, 2)
            self.scale, self.shift = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))

        def forward(self, x: Tensor) -> Tensor:
            x = F.batch_norm(self.stem(x), torch.zeros(4), torch.ones(4), weight=self.scale, bias=self.shift)
            return self.head(x)

    model = Functional().eval()
    same(scored(model, torch.randn(2, 3), "bn_scale")["stem"], model.scale.detach().abs())


@pytest.mark.parametrize("top", [None, 2, 100])
@pytest.mark.parametrize("bias", [False, True])
def test_group_norm_is_relative_to_the_mean_of_the_largest(top: int | None, bias: bool, model: nn.Module) -> None:
    sums = [sum(float(one.square().sum()) for one in _layers(model, "group", k)) for k in range(6)]
    if not bias:
        sums = [s - float((model.stem.bias[k] ** 2 + model.norm.bias[k] ** 2).detach()) for k, s in enumerate(sums)]
    largest = sorted(sums)[-min(top or 6, 6) :]
    got = scored(model, IMAGES, GroupNorm(top, bias))["stem"]
    same(got, [one / (sum(largest) / len(largest)) for one in sums])
    if (top, bias) == (None, False):
        assert torch.equal(scored(model, IMAGES, "group_norm")["stem"], got)


def test_lamp_divides_by_what_is_not_smaller(model: nn.Module) -> None:
    squares = [sum(float(one.square().sum()) for one in _layers(model, "producers", k)) for k in range(6)]
    same(scored(model, IMAGES, "lamp")["stem"], [s / sum(other for other in squares if other >= s) for s in squares])


def test_lamp_does_not_see_the_scale_of_a_layer(model: nn.Module) -> None:
    before = scored(model, IMAGES, LAMP())["stem"]
    for layer in (model.stem, model.inner):
        layer.weight.data *= 8
    assert torch.equal(scored(model, IMAGES, LAMP())["stem"], before)
    assert before.max() == 1


def test_fpgm_is_the_sum_of_distances_to_all_other_filters(model: nn.Module) -> None:
    filters = [torch.cat(_layers(model, "producers", k)) for k in range(6)]
    same(scored(model, IMAGES, "fpgm")["stem"], [sum((a - b).norm() for b in filters) for a in filters])


@pytest.mark.parametrize("over", ["producers", "readers", "group"])
def test_fpgm_is_the_same_in_blocks(over: str, model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    filters = [torch.cat(_layers(model, over, k)) for k in range(6)]
    want = [sum((a - b).norm() for b in filters) for a in filters]
    monkeypatch.setattr("fxprune.criteria.median._CHANNELS", 4)
    monkeypatch.setattr("fxprune.criteria.median._COLUMNS", 5)
    same(scored(model, IMAGES, FPGM(over))["stem"], want)
    same(scored(model.double(), IMAGES.double(), FPGM(over))["stem"], want)


def test_filters_that_are_all_alike_are_at_the_geometric_median(model: nn.Module) -> None:
    for layer in (model.stem, model.inner):
        layer.weight.data[:] = layer.weight.data[:1].clone()
    assert scored(model, IMAGES, FPGM())["stem"].tolist() == [0.0] * 6


def test_random_depends_on_seed_and_group_alone(model: nn.Module) -> None:
    first, again = (scored(model, IMAGES, "random")["stem"] for _ in range(2))
    assert torch.equal(first, again)
    other = scored(randomized(Chain()), IMAGES, "random")
    assert not torch.equal(other["left"], first[:4])


def _nan(group: fxprune.ChannelGroup) -> Tensor:
    return torch.full((group.size,), torch.nan)


@dataclass(frozen=True)
class Declared:
    """A criterion of one's own that says what it reads."""

    reads: Any

    def __call__(self, group: fxprune.ChannelGroup) -> Tensor:
        return torch.ones(group.size)


_DATA: dict[str, Any] = {"batches": BATCHES, "loss": F.cross_entropy}
_REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown": (
        {"criterion": "l3"},
        "criterion 'l3' is unknown, expected one of l1, l2, bn_scale,",
    ),
    "class": ({"criterion": Taylor}, "criterion <class 'fxprune.criteria.sensitivity.Taylor'> is unknown"),
    "number": ({"criterion": 3}, "criterion 3 is unknown"),
    "nan": ({"criterion": _nan}, "criterion _nan gave NaN for 6 of 6 channels."),
    "shape": (
        {"criterion": lambda group: torch.ones(1)},
        "criterion <lambda> gave scores of shape (1,), expected (6,).",
    ),
    "text": ({"criterion": lambda group: "high"}, "criterion <lambda> gave a str, expected scores of shape (6,)."),
    "nothing": ({"criterion": lambda group: None}, "criterion <lambda> has no score for any of the 1 channel groups."),
    "no data": ({"criterion": "wanda"}, "criterion wanda needs data, got batches=None."),
    "no data either": (
        {"criterion": "taylor", "loss": F.cross_entropy},
        "criterion taylor needs data, got batches=None.",
    ),
    "data for weights": (
        {"criterion": "l2", **_DATA},
        "criterion l2 reads no batches, expected batches=None.\n  mend    leave out batches and loss, or",
    ),
    "data for scales": ({"criterion": "bn_scale", "batches": BATCHES}, "criterion bn_scale reads no batches, expected"),
    "loss for activations": (
        {"criterion": "wanda", **_DATA},
        "criterion wanda reads no loss, expected loss=None.\n  mend    leave out loss, or a criterion that reads",
    ),
    "loss alone": ({"criterion": "random", "loss": F.cross_entropy}, "criterion random reads no loss, expected"),
    "loss for ones own": (
        {"criterion": lambda group: torch.ones(6), "loss": F.cross_entropy},
        "criterion <lambda> reads no loss, expected loss=None.",
    ),
    "loss for ones own that says so": (
        {"criterion": Declared(("activations",)), **_DATA},
        "criterion Declared(reads=('activations',)) reads no loss, expected loss=None.",
    ),
    "unknown reading": (
        {"criterion": Declared(("weights", "labels"))},
        "criterion Declared(reads=('weights', 'labels')) has reads=('weights', 'labels'), expected a tuple of ",
    ),
    "reading of text": (
        {"criterion": Declared("weights")},
        "criterion Declared(reads='weights') has reads='weights', ",
    ),
    "no loss": ({"criterion": "hessian", "batches": BATCHES}, "criterion hessian needs a loss, got loss=None."),
    "empty": ({"criterion": "taylor", **_DATA, "batches": []}, "batches is empty, expected at least one batch."),
    "number of batches": ({"criterion": "wanda", "batches": 3}, "batches is a int, expected an iterable of inputs or"),
    "triple": (
        {"criterion": "wanda", "batches": [(IMAGES, IMAGES, IMAGES)]},
        "batch 0 is a tuple of 3 (Tensor, Tensor, Tensor), expected the model's inputs (1 argument) or (inputs,",
    ),
    "wrong size": ({"criterion": "wanda", "batches": [IMAGES, IMAGES[:, :2]]}, "the model does not run on batch 1: "),
    "vector": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: F.cross_entropy(out, y, reduction="none")},
        "loss gave a tensor of shape (2,), expected a scalar tensor.",
    ),
    "float": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: 3.0},
        "loss gave 3.0, expected a scalar",
    ),
    "detached": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: out.detach().sum()},
        "the loss does not depend on the weights",
    ),
    "infinite": (
        {"criterion": "taylor", "batches": BATCHES, "loss": lambda out, y: out.sum() * torch.inf},
        "loss gave ",
    ),
    "raises": (
        {"criterion": "taylor", "batches": BATCHES, "loss": F.mse_loss},
        "loss(output, targets) raises RuntimeError on batch 0: The size of tensor a",
    ),
}


@pytest.mark.parametrize("case", list(_REFUSALS))
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_criterion_that_does_not_work_is_refused(case: str, model: nn.Module) -> None:
    options, first = _REFUSALS[case]
    before = state(model)
    with pytest.raises(fxprune.FxPruneError) as caught:
        fxprune.plan(model, IMAGES, channels=0.5, **options)
    assert str(caught.value).startswith(first)
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
    if case in ("nan", "shape", "text"):
        assert "at      channel group 'stem'" in str(caught.value)


@pytest.mark.parametrize("criterion", list(NAMES))
def test_what_a_criterion_reads_is_what_it_declares(criterion: str, model: nn.Module) -> None:
    analysis = analyse(model, IMAGES)
    evidence = Evidence(analysis, model, IMAGES, **_DATA)
    Scorer(criterion, evidence)(analysis.groups["stem"])
    assert set(evidence.unread) == _DATA.keys() - options_of(NAMES[criterion])


@pytest.mark.parametrize("criterion", ["l2", "wanda", Declared(("activations",)), Declared(())])
def test_data_that_will_not_be_read_is_refused_before_any_runs(criterion: Any, model: nn.Module) -> None:
    def loader() -> Iterator[Any]:
        raise AssertionError("a batch was asked for")
        yield

    with pytest.raises(fxprune.PlanError, match=r"reads no (batches|loss), expected (batches|loss)=None"):
        fxprune.plan(model, IMAGES, channels=0.5, criterion=criterion, batches=loader(), loss=F.cross_entropy)


def test_data_for_a_criterion_that_says_it_reads_activations_is_taken(model: nn.Module) -> None:
    fxprune.plan(model, IMAGES, channels=0.5, criterion=Declared(("activations",)))
    with pytest.raises(fxprune.PlanError, match="reads no batches, expected batches=None"):  # it said so, and did not
        fxprune.plan(model, IMAGES, channels=0.5, criterion=Declared(("activations",)), batches=BATCHES)


@pytest.mark.parametrize(
    ("make", "first"),
    [
        (lambda: Magnitude(p=0), "p=0, expected a positive number."),
        (lambda: Magnitude(over="all"), "over='all', expected one of 'producers', 'writers', 'readers', 'group'."),
        (lambda: Magnitude(reduce="min"), "reduce='min', expected one of 'sum', 'mean', 'max', 'product', 'first'."),
        (lambda: Magnitude(normalize="l2"), "normalize='l2', expected one of None, 'sum', 'mean', 'max', 'lamp'."),
        (lambda: GroupNorm(top=0), "top=0, expected None or a positive integer."),
        (lambda: Taylor("all"), "over='all', expected one of"),
    ],
)
def test_an_option_out_of_range_is_refused(make: Callable[[], Any], first: str) -> None:
    with pytest.raises(fxprune.PlanError) as caught:
        make()
    assert str(caught.value).startswith(first)


def test_weights_without_values_are_refused() -> None:
    with torch.device("meta"):
        model = Residual().eval()
    with pytest.raises(fxprune.PlanError, match=r"'stem.weight' is a meta tensor, expected weights with values"):
        fxprune.plan(model, IMAGES.to("meta"), channels=0.5)
