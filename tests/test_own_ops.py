"""Rules and mends of the user's own ops: what they make prunable, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import assert_exact, random_plan
from torch import Tensor, nn
from torch.autograd import Function

import fxprune

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
pytestmark = pytest.mark.usefixtures("registries")


@torch.library.custom_op("fxprune_tests::project", mutates_args=())
def project(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight.T


@torch.library.custom_op("fxprune_tests::halves", mutates_args=())
def halves(x: Tensor, width: int) -> Tensor:
    return x[:, :width] * x[:, width:]


project.register_fake(lambda x, weight: x.new_empty(x.shape[0], weight.shape[0]))
halves.register_fake(lambda x, width: x.new_empty(x.shape[0], width))


class Projected(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return x @ weight.T

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        return gradient @ weight, gradient.T @ x


class Halved(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int) -> Tensor:
        return x[:, :width] * x[:, width:]


class Body(nn.Module):
    """Layers around the op that a test chooses."""

    def __init__(self, run: Callable[[Body, Tensor], Tensor], width: int = 6) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 8), nn.Linear(width, 2)
        self.weight = nn.Parameter(torch.randn(6, 8))
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.run(self, self.first(x)))


def contracted(op: fxprune.Op, x: fxprune.Axes, weight: fxprune.Axes) -> fxprune.Axes:
    op.contract(x, -1, weight, 1)
    return (*x[:-1], weight[0])


def paired(op: fxprune.Op, x: fxprune.Axes, width: int) -> fxprune.Axes:
    value, gate = op.equations.split(x[-1], width)
    return (*x[:-1], op.equal(value, gate))


def rewritten(call: fxprune.Call) -> torch.fx.Node:
    args = (call.data(call.node.args[0]), call.kept.size(call.axes()[-1]))
    return call.emit(call.node.op, call.node.target, args)


PROJECTIONS: dict[str, tuple[Any, Callable[[Body, Tensor], Tensor]]] = {
    "custom op": (project, lambda body, x: project(x, body.weight)),
    "overload": (torch.ops.fxprune_tests.project.default, lambda body, x: project(x, body.weight)),
    "packet": (torch.ops.fxprune_tests.project, lambda body, x: torch.ops.fxprune_tests.project(x, body.weight)),
    "autograd function": (Projected, lambda body, x: Projected.apply(x, body.weight)),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_rule_says_what_running_does_not_show(name: str) -> None:
    op, run = PROJECTIONS[name]
    model = Body(run).eval()
    assert [group.name for group in fxprune.analyze(model, X)] == ["weight"]
    fxprune.rule(op)(contracted)
    groups = fxprune.analyze(model, X)
    assert [group.name for group in groups] == ["first", "weight"]
    assert [site.parameter for site in groups["first"].writers] == ["first.weight", "first.bias"]
    assert not [note for note in groups.notes if "inferred" in note]
    plan = random_plan(model, X, fraction=0.5)
    assert_exact(model, plan, fxprune.compile(model, plan), X, batch_sizes=(5,))


HALVES: dict[str, tuple[Any, Callable[[Body, Tensor], Tensor]]] = {
    "custom op": (halves, lambda body, x: halves(x, 4)),
    "packet": (torch.ops.fxprune_tests.halves, lambda body, x: torch.ops.fxprune_tests.halves(x, 4)),
    "autograd function": (Halved, lambda body, x: Halved.apply(x, 4)),
}


@pytest.mark.parametrize("name", HALVES)
def test_a_mend_writes_sizes_anew(name: str) -> None:
    op, run = HALVES[name]
    model = Body(run, width=4).eval()
    fxprune.rule(op)(paired)
    fxprune.mend(op)(rewritten)
    plan = random_plan(model, X, fraction=0.5)
    small = fxprune.compile(model, plan)
    assert small.last.weight.shape == (2, 2)
    assert_exact(model, plan, small, X, batch_sizes=(5,))


@pytest.mark.parametrize("name", HALVES)
def test_without_its_mend_nothing_wrong_is_compiled(name: str) -> None:
    op, run = HALVES[name]
    model = Body(run, width=4).eval()
    fxprune.rule(op)(paired)
    with pytest.raises(fxprune.VerifyError, match=r"has shape|does not run"):
        fxprune.compile(model, random_plan(model, X, fraction=0.25))


@pytest.mark.parametrize("register", [fxprune.rule, fxprune.mend])
@pytest.mark.parametrize("op", [project, torch.ops.fxprune_tests.project, Projected], ids=["op", "packet", "function"])
def test_registering_an_op_twice_is_refused(op: Any, register: Any) -> None:
    register(op)(contracted)
    with pytest.raises(fxprune.RuleError, match=r"already has a (rule|mend), one is expected"):
        register(op)(contracted)


def test_an_op_that_has_a_rule_keeps_it() -> None:
    with pytest.raises(fxprune.RuleError, match=r"aten\.cat\.default already has a rule"):
        fxprune.rule(torch.ops.aten.cat)(contracted)


@pytest.mark.parametrize("op", [nn.Linear, 3, "project"])
def test_what_is_no_op_is_refused(op: Any) -> None:
    with pytest.raises(fxprune.RuleError, match=r"is no op, expected a torch\.library op"):
        fxprune.rule(op)(contracted)


@pytest.mark.parametrize("name", PROJECTIONS)
@pytest.mark.parametrize(
    "wrong",
    [lambda op, x: x, lambda op, x, weight: x[:1], lambda op, x, weight: (op.equal(x[1], weight[0]), x[0])],
    ids=["arguments", "rank", "sizes"],
)
def test_a_rule_that_does_not_cover_a_call_freezes_it(wrong: Any, name: str) -> None:
    op, run = PROJECTIONS[name]
    fxprune.rule(op)(wrong)
    groups = fxprune.analyze(Body(run).eval(), X)
    assert list(groups) == []
    assert any("rule does not cover this call" in axis.reason for axis in groups.frozen)
