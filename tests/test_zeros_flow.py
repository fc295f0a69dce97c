"""What may depend on what: a law each for the analysis behind plans from zeros, and for how it is verified."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import randomize
from torch import Tensor, fx, nn

import fxprune
from fxprune import Plan


def built(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64 and evaluation, random statistics and affine parameters included."""
    model = model.double().eval()
    randomize(model, seed)
    return model


def images(*sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def compiled(model: nn.Module, x: Tensor, *others: Tensor) -> tuple[Plan, fx.GraphModule]:
    """The plan and the compiled model, which is exact on the example and on inputs of other sizes."""
    plan = Plan.from_zeros(model, x)
    small = fxprune.compile(model, plan)
    for one in (x, *others):
        with torch.no_grad():
            want, got = model(one), small(one)
        assert float((want - got).abs().max()) <= 1e-12 * float(want.abs().max())
    report = fxprune.verify(model, plan, small, batch_sizes=(5,), tolerance=1e-12)
    assert report.ok, str(report)
    return plan, small


class Standardised(nn.Module):
    """A convolution whose weights are centred before they are used, behind one with a dead filter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.second.weight
        return F.conv2d(self.first(x).relu(), weight - weight.mean((1, 2, 3), keepdim=True))


@pytest.mark.parametrize(("columns", "kept"), [("numbers", 6), ("zeros", 5)])
def test_a_column_goes_only_where_what_is_computed_from_the_weight_stays(columns: str, kept: int) -> None:
    model = built(Standardised())
    model.first.weight.data[2] = 0
    if columns == "zeros":
        model.second.weight.data[:, 2] = 0
    plan, _ = compiled(model, images(2, 3, 8, 8))
    assert len(plan.keep.get("second", range(6))) == kept


@pytest.mark.parametrize("move", [lambda x: x.unsqueeze_(1).squeeze_(1), lambda x: x.t_().t_()])
def test_views_in_place_leave_what_is_known_in_its_shape(move: Callable[[Tensor], Tensor]) -> None:
    class Moved(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Any:
            return self.second(move(self.first(x)))

    model = built(Moved())
    model.first.weight.data[2] = 0
    compiled(model, images(4, 5))


@pytest.mark.parametrize("padding", [0, 1], ids=["bias", "border"])
@pytest.mark.parametrize("bias", [False, True])
def test_constants_that_are_rounded_to_the_dtype_of_the_model_verify(padding: int, bias: bool) -> None:
    first, second = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 3, padding=padding, bias=bias)
    model = nn.Sequential(first, nn.Sigmoid(), second)
    randomize(model, 0)
    first.weight.data[2] = 0
    plan = Plan.from_zeros(model, images(2, 3, 8, 8).float())
    small = fxprune.compile(model, plan)
    assert fxprune.verify(model, plan, small, tolerance=1e-12).ok
    changed = copy.deepcopy(small)
    for name, tensor in [*changed.named_parameters(), *changed.named_buffers()]:
        if name in small.meta["fxprune"]["given"]:
            tensor.data += 1e-6
    assert not fxprune.verify(model, plan, changed).ok


class Counting(nn.Module):
    """Scales by a buffer that every call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        return self.second(self.first(x) * self.calls)


def test_a_buffer_that_calls_change_is_no_constant() -> None:
    model = built(Counting())
    model.first.weight.data[2] = 0
    x = images(4, 5)
    small = fxprune.compile(model, Plan.from_zeros(model, x))
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(small(x), model(x), rtol=1e-12, atol=1e-12)


class Expanded(nn.Module):
    """Sums a parameter over as many places as the input has."""

    def __init__(self, expand: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.shift, self.second, self.expand = nn.Parameter(torch.ones(1, 1, 6)), nn.Linear(6, 3), expand

    def forward(self, x: Tensor) -> Any:
        return self.second(self.expand(self.shift, x).sum(1)) + x.mean()


@pytest.mark.parametrize(
    "expand",
    [
        lambda shift, x: shift.expand(-1, x.shape[1], -1),
        lambda shift, x: shift.expand_as(x),
        lambda shift, x: torch.broadcast_tensors(shift, x)[0],
        lambda shift, x: shift.repeat(1, x.size(1), 1),
    ],
)
def test_a_parameter_that_takes_its_size_from_the_input_is_no_constant(
    expand: Callable[[Tensor, Tensor], Tensor],
) -> None:
    model = built(Expanded(expand))
    compiled(model, images(4, 5, 6), images(4, 7, 6))


def test_an_output_that_is_constant_follows_the_batch() -> None:
    model = built(nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.LayerNorm(6), nn.Linear(6, 3)))
    model[1].weight.data.zero_()
    compiled(model, images(2, 5), images(7, 5))


class Unread(nn.Module):
    """Ties the channels of a layer two by two, for nobody."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        x.unflatten(1, (3, 2)).amax(2)
        return self.second(x)


def test_what_nobody_reads_ties_no_channels() -> None:
    model = built(Unread())
    model.first.weight.data[2] = 0
    plan, _ = compiled(model, images(4, 5))
    assert plan.keep == {"first": (0, 1, 3, 4, 5)}


class EverySecond(nn.Module):
    """Reads every second channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Any:
        return self.second(self.first(x)[:, 1::2])


def test_the_channel_that_a_constant_output_keeps_is_one_that_it_reads() -> None:
    model = built(EverySecond())
    model.first.weight.data.zero_()
    plan, _ = compiled(model, images(4, 5), images(7, 5))
    assert plan.keep == {"first": (1,)}


class Pooled(nn.Module):
    """Averages with a divisor of its own over windows that images of odd sizes cut off."""

    def __init__(self, ceil_mode: bool) -> None:
        super().__init__()
        self.first, self.second, self.ceil_mode = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 3, 1), ceil_mode

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(self.first(x), 2, ceil_mode=self.ceil_mode, divisor_override=3)
        return self.second(x)


@pytest.mark.parametrize(("ceil_mode", "kept"), [(False, 5), (True, 6)])
def test_windows_that_are_cut_off_average_to_less_under_a_fixed_divisor(ceil_mode: bool, kept: int) -> None:
    model = built(Pooled(ceil_mode))
    model.first.weight.data[2] = 0
    plan, _ = compiled(model, images(2, 3, 8, 8), images(2, 3, 9, 9))
    assert len(plan.keep.get("first", range(6))) == kept
