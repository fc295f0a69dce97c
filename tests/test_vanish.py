"""A branch that loses all its channels, as a module and as programs: exact on every call, or the plan is refused."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxprune

INPUT = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


class Branch(nn.Module):
    """A trunk and a branch of it, whose inner width is to vanish, joined by a function."""

    def __init__(self, join: Callable[[Tensor, Tensor], Tensor], *, bias: bool) -> None:
        super().__init__()
        self.trunk, self.inner, self.outer = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 6, bias=bias)
        self.norm, self.head, self.join = nn.BatchNorm1d(6), nn.Linear(6, 3), join

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.join(self.norm(self.trunk(x)), self.outer(self.inner(x))))  # type: ignore[no-any-return]


def written_after_a_sum(x: Tensor, y: Tensor) -> Tensor:
    z = y + x
    z.relu_()
    return z + x


def written_after_a_sum_in_place(x: Tensor, y: Tensor) -> Tensor:
    y += x
    y.relu_()
    return y + x


def grown_in_place_and_read_again(x: Tensor, y: Tensor) -> Tensor:
    y.mul_(x)
    return x + y


def summed_in_place_and_read_again(x: Tensor, y: Tensor) -> Tensor:
    y.add_(x)
    return x + y


def raised_in_place(x: Tensor, y: Tensor) -> Tensor:
    y.add_(1)
    return x + y


def grown_under_another_name(x: Tensor, y: Tensor) -> Tensor:
    y.contiguous().mul_(x)
    return x + y


def raised_as_a_view(x: Tensor, y: Tensor) -> Tensor:
    y.view(-1).add_(1)
    return x + y


def bounded_by_a_full_tensor(x: Tensor, y: Tensor) -> Tensor:
    return torch.clamp_(y, min=x)


def written_in_part(x: Tensor, y: Tensor) -> Tensor:
    y[:, 2:4] = x[:, 2:4]
    return x + y


def a_part_written(x: Tensor, y: Tensor) -> Tensor:
    x = x.clone()
    x[:, 2:4] = y[:, 2:4]
    return x


def added_in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    z = x.relu_()
    return x * z


def a_slice_viewed(x: Tensor, y: Tensor) -> Tensor:
    pair = torch.cat([x, x.tanh()], 1)
    return (pair[:, :6] + y).view(-1).view(4, 6)


def a_transposed_sum_viewed(x: Tensor, y: Tensor) -> Tensor:
    square = x.view(2, 2, 6)
    return (y.view(2, 2, 6) + square.transpose(0, 1)).view(4, 6)


ALWAYS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda x, y: x + y,
    lambda x, y: torch.add(y, x, alpha=2),
    lambda x, y: torch.add(x, y, alpha=2),
    lambda x, y: F.gelu(y) * x.sigmoid(),
    lambda x, y: torch.cat([x, F.relu(y, inplace=True)], 1)[:, 3:9],
    written_after_a_sum,
    written_after_a_sum_in_place,
    raised_in_place,
    added_in_place,
    a_slice_viewed,
)
PERHAPS = (
    a_transposed_sum_viewed,
    grown_in_place_and_read_again,
    summed_in_place_and_read_again,
    grown_under_another_name,
    raised_as_a_view,
    bounded_by_a_full_tensor,
    written_in_part,
    a_part_written,
)


class Joined(Branch):
    """The branch is joined as it is, so that one part of the join is left, which is written into."""

    def __init__(self) -> None:
        super().__init__(torch.add, bias=True)
        self.outer = nn.Linear(11, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.trunk(x)
        z = torch.cat([self.inner(x), y], 1)
        return self.head(self.outer(z.relu_()) + y)  # type: ignore[no-any-return]


def form_of(model: nn.Module, form: str) -> Any:
    if form == "module":
        return model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.export.export(model, (INPUT,))
        return program.run_decompositions() if form == "core" else program


def assert_law(join: Callable[[Tensor, Tensor], Tensor], form: str, *, bias: bool) -> None:
    torch.manual_seed(0)
    assert_exact(form_of(Branch(join, bias=bias).eval(), form))


def assert_exact(model: Any) -> None:
    plan = fxprune.Plan.from_keep(model, INPUT, {"inner": []})
    small = fxprune.compile(model, plan)
    report = fxprune.verify(model, plan, small, inputs=INPUT, weights=("random",))
    assert report.ok, str(report)
    first = small(INPUT)
    assert torch.equal(first, small(INPUT))


@pytest.mark.parametrize("bias", [False, True], ids=["zeros", "constants"])
@pytest.mark.parametrize("form", ["module", "plain", "core"])
@pytest.mark.parametrize("join", ALWAYS, ids=lambda one: one.__name__)
def test_a_branch_without_channels_is_exact(join: Callable[[Tensor, Tensor], Tensor], form: str, bias: bool) -> None:
    assert_law(join, form, bias=bias)


@pytest.mark.parametrize("bias", [False, True], ids=["zeros", "constants"])
@pytest.mark.parametrize("form", ["module", "plain", "core"])
@pytest.mark.parametrize("join", PERHAPS, ids=lambda one: one.__name__)
def test_a_branch_without_channels_is_exact_or_refused(
    join: Callable[[Tensor, Tensor], Tensor], form: str, bias: bool
) -> None:
    try:
        assert_law(join, form, bias=bias)
    except fxprune.PlanError as error:
        assert "the plan removes every channel that" in str(error)


@pytest.mark.parametrize("form", ["module", "plain", "core"])
def test_the_part_that_is_left_of_a_join_is_a_tensor_of_its_own(form: str) -> None:
    torch.manual_seed(0)
    assert_exact(form_of(Joined().eval(), form))
