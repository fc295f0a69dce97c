"""Schedules: targets relative to the original, met at every step, from the model that was trained before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

import fxprune

X = torch.zeros(2, 8)


def built() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))


SHARES = {
    "linear": [0.85, 0.7, 0.55, 0.4],
    "cubic": [0.653125, 0.475, 0.409375, 0.4],
    "geometric": [0.7952707, 0.6324555, 0.5029734, 0.4],
}


@pytest.mark.parametrize("pace", SHARES)
@pytest.mark.parametrize("metric", ["params", "macs", "bytes"])
def test_every_step_meets_its_share_of_the_original(metric: str, pace: str) -> None:
    model = built()
    whole = getattr(fxprune.count(model, X), metric)
    steps = fxprune.schedule(model, X, **{metric: 0.4}, steps=4, pace=pace, round_to=None)
    for share, (_, small) in zip(SHARES[pace], steps, strict=True):
        assert 0.97 * share * whole < getattr(fxprune.count(small, X), metric) <= share * whole


def test_a_bound_is_relative_to_nothing() -> None:
    *_, (_, small) = fxprune.schedule(built(), X, params=1500, steps=3, round_to=None)
    assert 1450 < fxprune.count(small, X).params <= 1500


def test_channels_of_the_original() -> None:
    widths = [
        small.get_parameter("0.weight").shape[0]
        for _, small in fxprune.schedule(built(), X, channels=0.25, steps=2, pace="linear")
    ]
    assert widths == [40, 16]


def test_the_next_step_prunes_what_training_made() -> None:
    model = built()
    before = [parameter.clone() for parameter in model.parameters()]
    for step, (plan, small) in enumerate(fxprune.schedule(model, X, channels=0.25, steps=2, pace="geometric")):
        if step == 0:
            small.get_parameter("0.weight").data[:16] = 0  # what training might do
        else:
            assert plan.keep["0"] == tuple(range(16, 32))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_every_step_reads_the_batches() -> None:
    read = []

    class Loader:
        def __iter__(self) -> Iterator[torch.Tensor]:
            read.append(1)
            yield torch.ones(2, 8)

    options = {"channels": 0.5, "criterion": "wanda"}
    assert len(list(fxprune.schedule(built(), X, steps=3, batches=Loader(), **options))) == len(read) == 3
    assert len(list(fxprune.schedule(built(), X, steps=1, batches=iter([torch.ones(2, 8)]), **options))) == 1


def test_modules_whose_code_takes_its_way_by_values_are_pruned_step_by_step() -> None:
    class ByValues(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = built()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.body(x)
            return out if out.sum() > 0 else -out

    model = ByValues()
    whole = fxprune.count(model.body, X).params
    for share, (_, small) in zip(
        (0.8, 0.6), fxprune.schedule(model, X, params=0.6, steps=2, emit="module"), strict=True
    ):
        assert type(small) is ByValues
        assert 0.7 * share * whole < sum(one.numel() for one in small.parameters()) <= share * whole


def test_options_go_to_the_plan() -> None:
    *_, (plan, _) = fxprune.schedule(built(), X, channels=0.5, steps=2, ignore=("2",), criterion="l1")
    assert list(plan.keep) == ["0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"macs": 0.5, "steps": 0}, "steps=0, expected a positive integer"),
        ({"macs": 0.5, "pace": "fast"}, "pace='fast', expected one of 'linear', 'cubic', 'geometric'"),
        ({}, "expected exactly one of"),
        ({"macs": 0.5, "batches": iter([X])}, "batches is a list_iterator, expected an iterable that every step reads"),
    ],
    ids=lambda value: value if isinstance(value, str) else "_".join(value),
)
def test_options_out_of_range_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(fxprune.PlanError, match=message):
        fxprune.schedule(built(), X, **options)
