"""Gradients of a compiled model are the original's: where the forward turns them off, and where it defines them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import assert_exact
from torch import Tensor, nn
from torch.autograd import Function

import fxprune

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    """Three layers that a test connects."""

    def __init__(self, run: Callable[[Body, Tensor], Tensor], *, recorded: bool) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.scale = nn.Parameter(torch.rand(8))
        self.register_buffer("average", torch.zeros(8))
        self.run, self.recorded = run, recorded

    def forward(self, x: Tensor) -> Tensor:
        if self.recorded and x.shape[1] == 0:  # symbolic tracing stops here
            return x
        return self.run(self, x)


def frozen_front(body: Body, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = body.first(x).relu()
    return body.last(body.middle(x) + x)


def stopped_gate(body: Body, x: Tensor) -> Tensor:
    x = body.first(x)
    with torch.no_grad():
        gate = x.sigmoid()
        twice = gate * 2
    return body.last(x * twice + gate)


def nested_regions(body: Body, x: Tensor) -> Tensor:
    x = body.first(x)
    with torch.no_grad():
        target = body.middle(x)
        with torch.enable_grad():
            x = x + body.middle(target)
    return body.last(x)


def running_average(body: Body, x: Tensor) -> Tensor:
    x = body.first(x)
    with torch.no_grad():
        body.average.mul_(0.9).add_(x.mean(0), alpha=0.1)
    return body.last(x + body.average)


def parts(body: Body, x: Tensor) -> Tensor:
    with torch.no_grad():
        left, right = body.first(x).chunk(2, 1)
    return body.last(torch.cat([left * 2, right], 1))


@torch.no_grad()
def everything(body: Body, x: Tensor) -> Tensor:
    return body.last(body.first(x))


def switched(body: Body, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    x = body.first(x)
    torch.set_grad_enabled(True)
    return body.last(x)


def written(body: Body, x: Tensor) -> Tensor:
    x = body.first(x)
    with torch.no_grad():
        canvas = torch.zeros_like(x)
        canvas[:, :4] = x[:, :4]
    return body.last(canvas + x)


class Rounded(Function):
    """Straight through: the gradient of the identity."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class Scaled(Function):
    """Two tensors and a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, factor: float) -> Tensor:
        ctx.save_for_backward(x, scale)
        ctx.factor = factor
        return x * scale * factor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale = ctx.saved_tensors
        return gradient * scale * ctx.factor, (gradient * x).sum(0) * ctx.factor, None


class Split(Function):
    """Two results."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        return x + 1, x * 2

    @staticmethod
    def backward(ctx: Any, first: Tensor, second: Tensor) -> Tensor:
        return first + 3 * second


def rounded(body: Body, x: Tensor) -> Tensor:
    return body.last(Rounded.apply(body.first(x)))


def scaled(body: Body, x: Tensor) -> Tensor:
    return body.last(Scaled.apply(body.first(x), body.scale, 2.0))


def split(body: Body, x: Tensor) -> Tensor:
    first, second = Split.apply(body.first(x))
    return body.last(first * second)


def checkpointed(body: Body, x: Tensor) -> Tensor:
    return body.last(torch.utils.checkpoint.checkpoint(body.middle, body.first(x), use_reentrant=False))


RUNS = (
    frozen_front, stopped_gate, nested_regions, running_average, parts, everything, switched, written,
    rounded, scaled, split, checkpointed,
)  # fmt: skip


def gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients of the weights of two rounds of training; parameters without one are left out."""
    for _ in range(2):
        out = model(X)
        if out.requires_grad:
            (out**2).sum().backward()
    return {name: one.grad for name, one in model.named_parameters() if one.grad is not None}


@pytest.mark.parametrize("recorded", [False, True])
@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.__name__)
def test_gradients_are_those_of_the_original(run: Callable[[Body, Tensor], Tensor], recorded: bool) -> None:
    torch.manual_seed(0)
    model = Body(run, recorded=recorded)
    small = fxprune.compile(model, fxprune.Plan.from_keep(model, X, {}))
    torch.testing.assert_close(copy.deepcopy(small)(X), copy.deepcopy(model)(X))
    torch.testing.assert_close(gradients(small), gradients(copy.deepcopy(model)))

    plan = fxprune.plan(model, X, channels=0.5)
    assert_exact(model, plan, fxprune.compile(model, plan), X, batch_sizes=(5,))


def test_regions_without_gradients_leave_nothing_where_none_would_flow() -> None:
    def positions(body: Body, x: Tensor) -> Tensor:
        with torch.no_grad():
            angles = torch.arange(8, dtype=torch.float32) / 8 + body.average
        return body.last(body.first(x) * angles.cos())

    model = Body(positions, recorded=True)
    small = fxprune.compile(model, fxprune.plan(model, X, channels=0.5))
    assert "detach" not in small.code


def test_autograd_functions_are_called_as_before_after_a_capture() -> None:
    before = vars(Function)["apply"]
    fxprune.analyze(Body(rounded, recorded=True), X)
    assert vars(Function)["apply"] is before
