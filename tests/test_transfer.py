"""Transfer: after it, training goes on as it would with removed channels at zero, whatever the optimizer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn, optim
from torch.nn.utils import parametrizations, prune
from torch.optim import lr_scheduler

import fxprune
from fxprune import Plan, PlanError, transfer

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = torch.randn(16, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
Make = Callable[[Any], optim.Optimizer]


class Net(nn.Module):
    """A residual pair, a norm that works channel by channel, and a head that is square."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.middle = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 8)
        self.second, self.last = nn.Linear(8, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x)).relu()
        return self.last(self.second(x + self.middle(x)).relu())


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Net().double()


class Lion(optim.Optimizer):
    """A user's own: Chen et al. 2023, Symbolic Discovery of Optimization Algorithms."""

    def __init__(self, params: Any, lr: float, *, momentum: float) -> None:
        self.decay = momentum  # not among the defaults
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for one in group["params"]:
                if one.grad is not None:
                    state = self.state[one]
                    average = state.setdefault("average", torch.zeros_like(one))
                    state["calls"] = state.get("calls", 0) + 1
                    one.sub_((0.9 * average + 0.1 * one.grad).sign(), alpha=group["lr"])
                    average.lerp_(one.grad, 1 - self.decay)


ELEMENTWISE: dict[str, Make] = {
    "sgd": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    "plain sgd": lambda p: optim.SGD(p, 0.05),
    "adam": lambda p: optim.Adam(p, 0.01, weight_decay=0.01),
    "adam, fused": lambda p: optim.Adam(p, 0.01, fused=True),
    "adam, foreach": lambda p: optim.Adam(p, 0.01, foreach=True),
    "adamw": lambda p: optim.AdamW(p, 0.01),
    "amsgrad": lambda p: optim.AdamW(p, 0.01, amsgrad=True),
    "nadam": lambda p: optim.NAdam(p, 0.01),
    "radam": lambda p: optim.RAdam(p, 0.01),
    "adamax": lambda p: optim.Adamax(p, 0.01),
    "adagrad": lambda p: optim.Adagrad(p, 0.01, initial_accumulator_value=0.1),
    "adadelta": lambda p: optim.Adadelta(p, 0.5),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.9, centered=True),
    "rprop": lambda p: optim.Rprop(p, 0.01),
    "asgd": lambda p: optim.ASGD(p, 0.01),
    "lion": lambda p: Lion(p, 0.01, momentum=0.99),
}


def train(model: nn.Module, optimizer: optim.Optimizer, steps: int, masks: dict[str, Tensor] | None = None) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(X), Y).backward()
        for name, mask in (masks or {}).items():
            gradient = model.get_parameter(name).grad
            assert gradient is not None
            gradient.mul_(mask)
        optimizer.step()
        put(model, masks or {})


def put(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Zeros in the place of removed channels."""
    for name, mask in masks.items():
        model.get_parameter(name).data.mul_(mask)


def masks_of(plan: Plan, model: nn.Module) -> dict[str, Tensor]:
    result = {}
    for name, parameter in model.named_parameters():
        result[name] = mask = torch.zeros_like(parameter)
        mask[torch.meshgrid(*plan.kept(name), indexing="ij")] = 1
    return result


def part(plan: Plan, name: str, tensor: Tensor) -> Tensor:
    return tensor[torch.meshgrid(*plan.kept(name), indexing="ij")]


def assert_goes_on_alike(model: nn.Module, make: Make, plan: Plan, **options: Any) -> None:
    """The law: masked original and compiled model, each with its optimizer, have the same kept weights."""
    optimizer = make(model.parameters())
    train(model, optimizer, 4)
    small = fxprune.compile(model, plan, **options)
    smaller = transfer(optimizer, plan, model, small)
    assert type(smaller) is type(optimizer)
    masks = masks_of(plan, model)
    put(model, masks)
    train(model, optimizer, 5, masks)
    train(small, smaller, 5)
    for name, parameter in small.named_parameters():
        torch.testing.assert_close(parameter, part(plan, name, model.get_parameter(name)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_training_goes_on_as_the_masked_original_would(model: nn.Module, name: str) -> None:
    plan = fxprune.plan(model, X, channels=0.5, criterion="random")
    assert_goes_on_alike(model, ELEMENTWISE[name], plan)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_module_of_the_models_own_class_goes_on_too(model: nn.Module, name: str) -> None:
    plan = fxprune.plan(model, X, channels=0.5, emit="module")
    assert_goes_on_alike(model, ELEMENTWISE[name], plan)


def test_statistics_over_all_channels_go_on_too() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 3)).double()
    plan = fxprune.plan(model, X, channels=0.5)
    assert_goes_on_alike(model, ELEMENTWISE["adamw"], plan, statistics="full")


def test_attention_goes_on_with_its_heads() -> None:
    torch.manual_seed(0)

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.last = nn.MultiheadAttention(8, 4, batch_first=True), nn.Linear(8, 3)
            self.first = nn.Linear(3, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.view(-1, 2, 3))
            return self.last(self.attention(x, x, x, need_weights=False)[0]).mean(1)

    model = Attention().double()
    assert_goes_on_alike(model, ELEMENTWISE["sgd"], fxprune.plan(model, X, channels=0.5))


def halved(model: nn.Module, make: Make, steps: int = 3) -> tuple[optim.Optimizer, Plan, Any, optim.Optimizer]:
    optimizer = make(model.parameters())
    train(model, optimizer, steps)
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    return optimizer, plan, small, transfer(optimizer, plan, model, small)


@pytest.mark.parametrize("make", [optim.Adafactor, transformers.Adafactor], ids=["torch", "transformers"])
def test_factored_moments_are_cut_along_the_axes_that_they_have(model: nn.Module, make: Make) -> None:
    optimizer, plan, small, smaller = halved(model, make)
    rows, columns = plan.kept("middle.weight")
    keys = ("row_var", "col_var") if make is optim.Adafactor else ("exp_avg_sq_row", "exp_avg_sq_col")
    before, after = optimizer.state[model.middle.weight], smaller.state[small.middle.weight]
    assert model.middle.weight.shape == (8, 8)
    assert len(rows) == len(columns) == 4
    for key, kept, dim in zip(keys, (rows, columns), (0, -1), strict=True):
        torch.testing.assert_close(after[key], before[key].index_select(dim, kept), rtol=0, atol=0)
    train(small, smaller, 2)


def test_groups_keep_their_options_order_and_names(model: nn.Module) -> None:
    named = [(f"my {name}", one) for name, one in model.named_parameters()]
    groups = [{"params": named[5:], "lr": 0.5}, {"params": named[:4], "weight_decay": 0.1, "mine": [1]}]
    optimizer = optim.SGD(groups, 0.1, momentum=0.5)  # second.weight, third of the named, is not trained
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    smaller = transfer(optimizer, plan, model, small)
    for old, new in zip(optimizer.param_groups, smaller.param_groups, strict=True):
        names = [name.removeprefix("my ") for name in old["param_names"]]
        assert [id(one) for one in new["params"]] == [id(small.get_parameter(name)) for name in names]
        assert {**old, "params": 0} == {**new, "params": 0}
    assert smaller.param_groups[1]["mine"] is not optimizer.param_groups[1]["mine"]
    assert smaller.defaults == optimizer.defaults


def test_nothing_is_shared_and_the_old_optimizer_is_as_it_was(model: nn.Module) -> None:
    optimizer, _, small, smaller = halved(model, ELEMENTWISE["adam"])
    before = copy.deepcopy(optimizer.state_dict())
    train(small, smaller, 3)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    whole = Plan.from_keep(model, X, {})
    same = fxprune.compile(model, whole)
    untouched = transfer(optimizer, whole, model, same)
    train(same, untouched, 3)
    torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)


def test_state_dicts_go_on_loading(model: nn.Module) -> None:
    _, _, small, smaller = halved(model, ELEMENTWISE["adamw"])
    twin = copy.deepcopy(small)
    loaded = ELEMENTWISE["adamw"](twin.parameters())
    loaded.load_state_dict(copy.deepcopy(smaller.state_dict()))
    train(small, smaller, 3)
    train(twin, loaded, 3)
    torch.testing.assert_close(dict(twin.state_dict()), dict(small.state_dict()), rtol=0, atol=1e-10)


def test_parameters_that_are_lost_leave_a_group_empty(model: nn.Module) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer, self.last = nn.Linear(6, 4), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x + self.outer(self.inner(x)))

    model = Branch().double()
    optimizer = optim.Adam(
        [{"params": model.inner.parameters()}, {"params": [*model.outer.parameters(), *model.last.parameters()]}]
    )
    train(model, optimizer, 2)
    plan = Plan.from_keep(model, X, {"inner": []})
    small = fxprune.compile(model, plan)
    smaller = transfer(optimizer, plan, model, small)
    assert [len(group["params"]) for group in smaller.param_groups] == [0, len(list(small.parameters()))]
    train(small, smaller, 2)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adagrad"])
def test_a_gained_bias_joins_the_group_of_its_weight(name: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)).double()
    model[0].weight.data[:4] = 0
    model[0].bias.data[:4] = 1
    optimizer = ELEMENTWISE[name]([{"params": model[2].parameters()}, {"params": model[0].parameters()}])
    optimizer.zero_grad()
    (model(X) * 0).sum().backward()
    optimizer.step() if name != "sgd" else None
    model[0].weight.data[:4] = 0
    plan = Plan.from_zeros(model, X)
    small = fxprune.compile(model, plan)
    assert "2.bias" in dict(small.named_parameters())
    smaller = transfer(optimizer, plan, model, small)
    assert [id(one) for one in smaller.param_groups[0]["params"]] == [
        id(small.get_parameter("2.weight")),
        id(small.get_parameter("2.bias")),
    ]
    assert not smaller.state.get(small.get_parameter("2.bias"), {}).get("step", 0)
    train(small, smaller, 2)


def test_shifted_biases_keep_their_state() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, 2)
    model[0].weight.data[:4] = 0
    model[0].bias.data[:4] = 1
    plan = Plan.from_zeros(model, X)
    small = fxprune.compile(model, plan)
    assert not torch.equal(small.get_parameter("2.bias"), model[2].bias)
    smaller = transfer(optimizer, plan, model, small)
    old, new = optimizer.state[model[2].bias], smaller.state[small.get_parameter("2.bias")]
    torch.testing.assert_close(new["momentum_buffer"], old["momentum_buffer"], rtol=0, atol=0)


def test_a_masked_model_gives_the_state_of_what_lies_under_its_masks(model: nn.Module) -> None:
    prune.ln_structured(model.second, "weight", 0.5, 2, dim=0)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    train(model, optimizer, 2)
    model.second.bias.data[model.second.weight_mask.sum(1) == 0] = 0
    plan = Plan.from_zeros(model, X)
    small = fxprune.compile(model, plan)
    smaller = transfer(optimizer, plan, model, small)
    old = optimizer.state[model.second.weight_orig]["momentum_buffer"]
    new = smaller.state[small.second.weight]["momentum_buffer"]
    assert new.shape == small.second.weight.shape == (3, 8)
    torch.testing.assert_close(new, part(plan, "second.weight", old), rtol=0, atol=0)


@pytest.mark.parametrize("emit", ["exported", "unflattened"])
def test_exported_programs_go_on(model: nn.Module, emit: str) -> None:
    optimizer = optim.Adam(model.eval().parameters())
    train(model, optimizer, 2)
    program = torch.export.export(model, (X,))
    plan = fxprune.plan(program, channels=0.5)
    small = fxprune.compile(program, plan, emit=emit)
    smaller = transfer(optimizer, plan, model, small)
    again = transfer(optimizer, plan, program, small)
    for one in (smaller, again):
        held = [id(parameter) for parameter in one.param_groups[0]["params"]]
        assert held == [id(parameter) for parameter in small.parameters()]
    runs = small.module() if emit == "exported" else small
    before = [parameter.clone() for parameter in small.parameters()]
    train(runs, smaller, 2)
    assert not any(map(torch.equal, before, small.parameters()))


def test_wrapped_and_tied_models_go_on() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
            self.second, self.third = nn.Linear(8, 8), nn.Linear(8, 8)
            self.third.weight = self.second.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.third(self.second(self.first(x)).relu()).relu())

    model = nn.DataParallel(Tied().double())
    optimizer = optim.Adam(model.parameters())
    train(model.module, optimizer, 2)
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    smaller = transfer(optimizer, plan, model, torch.compile(small))
    assert small.second.weight is small.third.weight
    held = [id(one) for one in smaller.param_groups[0]["params"]]
    assert sorted(held) == sorted(map(id, small.parameters()))
    assert len(smaller.state) == len(held)


def test_memory_formats_devices_and_dtypes_follow_the_parameter() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).to(memory_format=torch.channels_last)
    images = torch.randn(2, 3, 8, 8)
    optimizer = optim.Adam(model.parameters())
    model(images).sum().backward()
    optimizer.step()
    plan = fxprune.plan(model, images, channels=0.5)
    small = fxprune.compile(model, plan).bfloat16()
    state = transfer(optimizer, plan, model, small).state[small.get_parameter("2.weight")]
    assert state["exp_avg"].is_contiguous(memory_format=torch.channels_last)
    assert (state["exp_avg"].dtype, state["step"].dtype) == (torch.bfloat16, torch.float32)


SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "warm-up": lambda o: lr_scheduler.LinearLR(o, 0.1, total_iters=8),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=12),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)], [5]
    ),
    "chain": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.LinearLR(o, 0.1, total_iters=5), lr_scheduler.ExponentialLR(o, 0.9)]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_learning_rates_go_on(name: str) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()
    optimizer = optim.SGD([{"params": model[0].parameters(), "lr": 0.2}, {"params": model[2].parameters()}], 0.1, 0.9)
    scheduler = SCHEDULERS[name](optimizer)
    arguments = (1.0,) if name == "plateau" else ()
    for _ in range(4):
        optimizer.step()
        scheduler.step(*arguments)
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    smaller = transfer(optimizer, plan, model, small)
    following = copy.deepcopy(scheduler, {id(optimizer): smaller})
    assert following.optimizer is smaller
    rates: list[list[tuple[float, ...]]] = [[], []]
    for rate, (one, its) in zip(rates, ((optimizer, scheduler), (smaller, following)), strict=True):
        for _ in range(6):
            one.step()
            its.step(*arguments)
            rate.append(tuple((group["lr"], group["momentum"]) for group in one.param_groups))
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


def refused(optimizer: Any, plan: Plan, model: Any, small: Any, **options: Any) -> str:
    before = copy.deepcopy(optimizer.state_dict()) if isinstance(optimizer, optim.Optimizer) else None
    with pytest.raises(PlanError) as caught:
        transfer(optimizer, plan, model, small, **options)
    if before is not None:
        torch.testing.assert_close(optimizer.state_dict(), before, rtol=0, atol=0)
    return str(caught.value)


def test_an_optimizer_of_another_model_is_refused(model: nn.Module) -> None:
    optimizer, plan, small, smaller = halved(model, ELEMENTWISE["adam"])
    text = refused(optim.Adam(copy.deepcopy(model).parameters()), plan, model, small)
    assert text.startswith("Adam holds 10 parameters, none of them of the Net that was passed.")
    assert "none of them" in refused(smaller, plan, model, small)
    assert refused(None, plan, model, small) == "optimizer is a NoneType, expected a torch.optim.Optimizer."
    temperature = nn.Parameter(torch.ones(2))
    optimizer.add_param_group({"params": [temperature]})
    text = refused(optimizer, plan, model, small)
    assert text.startswith("Adam holds a parameter of shape (2,) in group 1 that is not the model's.")
    assert "others=" in text


def test_other_parameters_go_on_as_they_are(model: nn.Module) -> None:
    temperature = nn.Parameter(torch.ones(()).double())
    optimizer = optim.Adam([*model.parameters(), temperature])
    (model(X).sum() * temperature).backward()
    optimizer.step()
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    smaller = transfer(optimizer, plan, model, small, others=[temperature])
    assert smaller.param_groups[0]["params"][-1] is temperature
    assert smaller.state[temperature] == optimizer.state[temperature]
    assert smaller.state[temperature]["exp_avg"] is not optimizer.state[temperature]["exp_avg"]


def test_a_plan_or_model_that_does_not_fit_is_refused(model: nn.Module) -> None:
    optimizer, plan, small, _ = halved(model, ELEMENTWISE["adam"])
    text = refused(optimizer, fxprune.plan(model, X, channels=0.25), model, small)
    assert text.startswith("'first.weight' of the compiled model has shape (4, 6), the plan gives (2, 6).")
    assert "'first.weight' of the compiled model has shape (8, 6)" in refused(optimizer, plan, model, model)
    other = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3)).double()
    text = refused(optimizer, fxprune.plan(other, X, channels=0.5), model, small)
    assert text.startswith("plan was made for another model: this one has no parameter or buffer '0.weight'")
    stranger = fxprune.compile(other, fxprune.plan(other, X, channels=0.5))
    text = refused(optimizer, plan, model, stranger)
    assert text.startswith("the compiled model has a parameter '0.weight', and the Net has nothing in '0'.")


def test_states_with_other_axes_are_refused_by_name(model: nn.Module) -> None:
    optimizer, plan, small, _ = halved(model, ELEMENTWISE["adam"])
    state = optimizer.state[model.middle.weight]
    for value, fact in (
        (torch.zeros(64), "has shape (64,), for a parameter of shape (8, 8)"),
        (torch.zeros(8), "has shape (8,), for a parameter of shape (8, 8)"),
        ([torch.zeros(8, 8)], "is a list of tensors"),
        (torch.zeros(8, 8).to_sparse(), "is a Tensor of layout torch.sparse_coo"),
    ):
        state["mine"] = value
        text = refused(optimizer, plan, model, small)
        assert text.startswith(f"state 'mine' that Adam holds of 'middle.weight' {fact}.")
        assert "optimizer.state[parameter].pop('mine')" in text
    state["mine"] = torch.zeros(8, 1)
    after = transfer(optimizer, plan, model, small).state[small.middle.weight]
    assert after["mine"].shape == (4, 1)


def test_optimizers_that_keep_tensors_elsewhere_are_refused(model: nn.Module) -> None:
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    text = refused(optim.LBFGS(model.parameters()), plan, model, small)
    assert text.startswith("LBFGS keeps a Parameter in '_params', not by parameter.")
    optimizer = ELEMENTWISE["lion"](model.parameters())
    optimizer.base = optim.SGD(model.parameters())  # type: ignore[attr-defined]
    assert "transfer the optimizer inside" in refused(optimizer, plan, model, small)


def test_originals_of_parametrizations_are_refused() -> None:
    model = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3)).double()
    plan = fxprune.plan(model, X, channels=0.5)
    text = refused(optim.SGD(model.parameters()), plan, model, fxprune.compile(model, plan))
    assert text.startswith("SGD holds '0.parametrizations.weight.original0'")
    assert "remove_parametrizations" in text
    head = optim.SGD(model[2].parameters())
    small = fxprune.compile(model, plan)
    assert len(transfer(head, plan, model, small).param_groups[0]["params"]) == 2


def test_hooks_and_the_step_of_a_scheduler_stay_behind(model: nn.Module) -> None:
    optimizer = optim.SGD(model.parameters(), 0.1)
    optimizer.register_step_pre_hook(lambda *_: pytest.fail("the old optimizer's hook ran"))
    lr_scheduler.StepLR(optimizer, 1)
    plan = fxprune.plan(model, X, channels=0.5)
    small = fxprune.compile(model, plan)
    smaller = transfer(optimizer, plan, model, small)
    before = small.first.weight.clone()
    with warnings.catch_warnings():
        train(small, smaller, 1)
    assert not torch.equal(before, small.first.weight)
