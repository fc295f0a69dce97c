"""Sparse training: each penalty is its formula over the plan's groups, and drives whole channels to zero."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from networks import randomize
from torch import Tensor, nn
from torch.nn.utils import prune

import fxprune
from fxprune import CaptureError, Plan, PlanError, Regularizer

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))
WIDE = X.double()


class Residual(nn.Module):
    """A square convolution within one group, a join, heads-like blocks, a tied and a reused layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.inner, self.side = nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)
        self.depthwise = nn.Conv2d(10, 10, 3, groups=10)
        self.tie, self.tied = nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False)
        self.tied.weight = self.tie.weight
        self.last = nn.Linear(10, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.inner(self.inner(x))
        x = self.depthwise(torch.cat([x, self.side(x)], 1)).mean((2, 3))
        return self.last(self.tied(self.tie(x)))


class Attention(nn.Module):
    """An axis that is a product of heads and their width, of which a plan prunes one."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.last = nn.MultiheadAttention(6, 3, batch_first=True), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(2)[:, :, :6]
        return self.last(self.attention(x, x, x, need_weights=False)[0])


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).tanh()).relu())


class Pairs(nn.Module):
    """Channels multiplied with each other: a column of the head belongs to two of them, or to one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 4), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).flatten(1, 2)
        return self.last((x.transpose(1, 2) @ x).flatten(1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "residual": Residual,
    "attention": Attention,
    "plain": Plain,
    "pairs": Pairs,
}


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    result = MODELS[request.param]()
    randomize(result, 0)
    return result.double().eval()


def channel_elements(model: nn.Module, whole: Plan, group: str, channel: int) -> list[Tensor]:
    """The elements of all parameters that go when this channel goes alone: what a plan without it does not keep."""
    others = tuple(one for one in range(whole.widths[group]) if one != channel)
    plan, result = replace(whole, keep={group: others}), []
    for name, parameter in model.named_parameters():
        if name in plan.axes:
            gone = torch.ones_like(parameter, dtype=torch.bool)
            gone[torch.meshgrid(*plan.kept(name), indexing="ij")] = False
            result.append(parameter[gone])
    return result


def looped(model: nn.Module, of: Callable[[Tensor, str, int], Tensor], plan: Plan) -> Tensor:
    """A sum over the channels of every pruned group, one by one."""
    total = torch.zeros((), dtype=torch.float64)
    for group in plan.keep:
        for channel in range(plan.widths[group]):
            total = total + of(torch.cat(channel_elements(model, plan, group, channel)), group, channel)
    return total


def test_group_lasso_is_its_formula(model: nn.Module) -> None:
    plan = fxprune.plan(model, WIDE, channels=0.01)
    expected = looped(model, lambda one, *_: math.sqrt(len(one)) * one.norm(), plan)
    actual = Regularizer(model, WIDE, strength=0.5).penalty()
    torch.testing.assert_close(actual, 0.5 * expected, rtol=1e-12, atol=0)


def test_growing_is_its_formula(model: nn.Module) -> None:
    plan = fxprune.plan(model, WIDE, channels=0.5, criterion="l1")
    regularizer = Regularizer(model, WIDE, "growing", strength=0.1, every=2, limit=0.25)
    assert regularizer.plan is not None
    assert regularizer.plan.keep == plan.keep
    gone = looped(model, lambda one, group, at: one.square().sum() * (at not in plan.keep[group]), plan)
    for expected in (0.1, 0.1, 0.2, 0.2, 0.25, 0.25):
        torch.testing.assert_close(regularizer.penalty(), expected / 2 * gone, rtol=1e-12, atol=0)
        regularizer.step_()
    assert regularizer.steps == 6


def test_bn_scale_is_its_formula() -> None:
    model = Residual().double().eval()
    randomize(model, 0)
    actual = Regularizer(model, WIDE, "bn_scale", strength=0.5).penalty()
    torch.testing.assert_close(actual, 0.5 * model.norm.weight.abs().sum(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", ["group_lasso", "bn_scale", "growing"])
def test_gradients_are_those_of_the_penalty_in_both_spellings(kind: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2)).double()
    randomize(model, 0)
    regularizer = Regularizer(model, WIDE, kind, strength=0.5)
    parameters = tuple(model.parameters())
    assert torch.autograd.gradcheck(lambda *_: regularizer.penalty(), parameters)
    other = copy.deepcopy(model)
    twin = Regularizer(other, WIDE, kind, strength=0.5, plan=regularizer.plan)
    (model(WIDE).square().sum() + regularizer.penalty()).backward()
    other(WIDE).square().sum().backward()
    twin.step_()
    for one, its in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(its.grad, one.grad, rtol=1e-12, atol=1e-12)


def test_a_zero_channel_has_a_zero_gradient() -> None:
    model = Plain()
    for parameter in model.parameters():
        parameter.data.zero_()
    regularizer = Regularizer(model, X)
    regularizer.step_()
    assert regularizer.penalty() == 0
    assert all(one.grad is None or bool((one.grad == 0).all()) for one in model.parameters())
    assert model.first.weight.grad is not None


def test_the_groups_are_those_of_a_plan(model: nn.Module) -> None:
    whole = fxprune.plan(model, WIDE, channels=0.01)
    for ignore in ((), tuple(whole.keep)[1:]):
        plan = fxprune.plan(model, WIDE, channels=0.01, ignore=ignore)
        assert list(Regularizer(model, WIDE, ignore=ignore).norms()) == list(plan.keep)


def test_the_model_is_not_changed_by_making_or_asking(model: nn.Module) -> None:
    before = copy.deepcopy(model.state_dict())
    text, ids = repr(model), list(map(id, model.parameters()))
    for kind in ("group_lasso", "growing"):
        regularizer = Regularizer(model, WIDE, kind)
        regularizer.penalty()
        regularizer.norms()
    torch.testing.assert_close(dict(model.state_dict()), dict(before), rtol=0, atol=0)
    assert (repr(model), list(map(id, model.parameters()))) == (text, ids)
    assert all(one.grad is None for one in model.parameters())


def test_parameters_are_looked_up_at_every_call() -> None:
    model = Plain()
    regularizer = Regularizer(nn.DataParallel(model), X)
    before = regularizer.penalty()
    model.first.weight = nn.Parameter(torch.zeros(5, 6))
    assert regularizer.penalty() < before
    model.double()
    assert regularizer.penalty().dtype == torch.float64
    model.half()
    assert regularizer.penalty().dtype == torch.float32
    regularizer.step_()
    assert model.first.weight.grad is not None
    assert model.first.weight.grad.dtype == torch.float16
    model.first = nn.Linear(6, 7)
    with pytest.raises(PlanError, match=r"^'first.weight' has shape \(7, 6\), expected \(5, 6\)\."):
        regularizer.penalty()
    del model.first
    with pytest.raises(PlanError, match=r"^the Plain has no parameter 'first.weight' any more\."):
        regularizer.step_()


def test_frozen_parameters_and_sparse_gradients_are_served() -> None:
    model = nn.Sequential(nn.Embedding(10, 6, sparse=True), nn.Linear(6, 5), nn.Linear(5, 2))
    tokens = torch.tensor([[1, 2]])
    model[1].weight.requires_grad_(False)
    regularizer = Regularizer(model, tokens)
    model(tokens).sum().backward()
    regularizer.step_()
    assert model[1].weight.grad is None
    assert model[0].weight.grad is not None
    assert bool((model[0].weight.grad != 0).all())
    model.requires_grad_(False)
    regularizer.step_()


def refused(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(PlanError) as caught:
        Regularizer(*args, **kwargs)
    return str(caught.value)


def test_what_does_not_go_together_is_refused() -> None:
    model = Plain()
    plan = fxprune.plan(model, X, channels=0.5)
    assert refused(model, X, "lasso") == "kind='lasso', expected one of 'group_lasso', 'bn_scale', 'growing'."
    assert refused(model, X, every=3).startswith("kind='group_lasso' takes no every=3.")
    assert refused(model, X, "bn_scale", channels=0.5).startswith("kind='bn_scale' takes no channels=0.5.")
    text = refused(model, X, "growing", plan=plan, ignore=("first",))
    assert text.startswith("ignore=('first',) and plan were both given, expected one of them.")
    assert refused(model, X, strength=0.0) == "strength=0.0, expected a number above 0."
    assert refused(model, X, strength=math.nan) == "strength=nan, expected a number above 0."
    assert refused(model, X, "growing", every=1.5) == "every=1.5, expected a positive integer."
    assert refused(model, X, "growing", channels=0.0).startswith("channels=0.0")
    assert "matches no module" in refused(model, X, ignore=("nobody",))
    assert "is a string" in refused(model, X, ignore="first")
    text = refused(model, X, "bn_scale")
    assert text.startswith("kind='bn_scale' finds no scale of a norm to work on in 2 channel groups.")
    assert refused(model, X, ignore=("*",)).startswith("kind='group_lasso' finds no channel to work on")
    other = fxprune.plan(nn.Linear(6, 2), X, channels=0.5)
    assert "plan was made for another model" in refused(model, X, "growing", plan=other)
    with pytest.raises(CaptureError):
        Regularizer(model, torch.zeros(1, 7))


def test_masked_models_and_programs_are_refused() -> None:
    model = Plain()
    text = refused(torch.export.export(model, (X,)), None)
    assert text.startswith("an exported program is not trained itself, expected a module.")
    prune.l1_unstructured(model.first, "weight", 0.5)
    text = refused(model, X)
    assert text.startswith("the Plain has masked or parametrized tensors, expected plain parameters.")
    assert "first.weight" in text
    assert "torch.nn.utils.prune.remove" in text


# What training does


def points(seed: int) -> tuple[Tensor, Tensor]:
    """Points of a plane among six coordinates, and whether they are in a ring."""
    x = torch.randn(256, 6, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, :2].norm(dim=1) > 1.1).long()


def fit(
    model: nn.Module, data: tuple[Tensor, Tensor], regularizer: Regularizer | None, steps: int, lr: float = 0.02
) -> float:
    """Train with a falling rate; the accuracy on the data."""
    x, y = data
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: (1 - step / steps) ** 2)
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        if regularizer is not None:
            regularizer.step_()
        optimizer.step()
        scheduler.step()
    return accuracy(model, data)


def accuracy(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    model.eval()
    with torch.no_grad():
        return float((model(data[0]).argmax(1) == data[1]).float().mean())


def dense() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))


def test_group_lasso_leaves_channels_that_nobody_misses() -> None:
    data, model = points(0), dense()
    reached = fit(model, data, Regularizer(model, data[0], strength=2e-3), 250)
    plan = Plan.from_zeros(model, data[0], tolerance=1e-3)
    small = fxprune.compile(model, plan)
    kept = [len(plan.keep[name]) for name in ("0", "2")]
    assert reached > 0.95
    assert sum(kept) < 32
    assert abs(accuracy(small, data) - reached) < 0.005
    unpenalized = dense()
    fit(unpenalized, data, None, 100)
    without = Plan.from_zeros(unpenalized, data[0], tolerance=1e-3)
    assert sum(len(without.keep.get(name, range(32))) for name in ("0", "2")) > 50


def images(seed: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright or a dark bar."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 2, (64,), generator=generator)
    x = 0.5 * torch.randn(64, 1, 8, 8, generator=generator)
    x[:, 0, 3] += (2 * y - 1)[:, None]
    return x, y


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 12, 3), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2))


def test_bn_scales_fall_to_zero_and_their_channels_go() -> None:
    data, model = images(0), convolutional()
    regularizer = Regularizer(model, data[0], "bn_scale", strength=0.02)
    before = regularizer.norms()
    reached = fit(model, data, regularizer, 100, lr=0.05)
    small_ones = {name: int((norms < 1e-3).sum()) for name, norms in regularizer.norms().items()}
    plan = Plan.from_zeros(model, data[0], tolerance=1e-3)
    assert plan.keep.keys() == small_ones.keys()
    assert all(bool((norms > 0.5).all()) for norms in before.values())
    assert reached > 0.95
    assert min(small_ones.values()) >= 4
    assert max(map(len, plan.keep.values())) <= 9
    small = fxprune.compile(model, plan)
    assert abs(accuracy(small, data) - reached) < 0.02


def test_growing_drives_the_chosen_channels_to_zero_while_the_others_stay() -> None:
    data, model = images(0), convolutional()
    fit(model, data, None, 40)
    regularizer = Regularizer(model, data[0], "growing", strength=0.2, every=5, limit=4.0, channels=0.5)
    plan = regularizer.plan
    assert plan is not None
    reached = fit(model, data, regularizer, 120, lr=0.05)
    for name, norms in regularizer.norms().items():
        stays = torch.zeros(len(norms), dtype=torch.bool)
        stays[list(plan.keep[name])] = True
        assert float(norms[~stays].max()) < 1e-2 < 0.5 < float(norms[stays].min())
    assert reached > 0.95
    assert abs(accuracy(fxprune.compile(model, plan), data) - reached) < 0.02


def test_training_is_the_same_on_every_run() -> None:
    weights = []
    for _ in range(2):
        data, model = points(0), dense()
        fit(model, data, Regularizer(model, data[0], strength=1e-3), 20)
        weights.append(dict(model.state_dict()))
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=0)


def test_its_state_is_the_number_of_steps() -> None:
    model = dense()
    one = Regularizer(model, points(0)[0], "growing", every=1)
    for _ in range(3):
        one.step_()
    other = Regularizer(model, points(0)[0], "growing", every=1, plan=one.plan)
    other.steps = one.steps
    assert other.penalty() == one.penalty()
    assert repr(other) == "Regularizer(growing, strength=0.0001, 2 groups, 32 channels)"
