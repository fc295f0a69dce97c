"""Coded weights, drawn inputs, and the difference of two values."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from fxprune.coded import addresses, draw, fill, random_units, rebatched
from fxprune.difference import difference


@pytest.mark.parametrize(
    ("want", "got", "expected"),
    [
        (torch.tensor([1.0, -4.0]), torch.tensor([2.0, -4.0]), 0.25),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), math.inf),
        (torch.tensor([True]), torch.tensor([True]), 0.0),
        (torch.zeros(2), torch.zeros(2), 0.0),
        (torch.zeros(2), torch.full((2,), 1e-30), math.inf),
        (torch.zeros(2), torch.zeros(3), math.inf),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64), math.inf),
        (torch.tensor([math.nan, 2.0]), torch.tensor([math.nan, 2.0]), 0.0),
        (torch.tensor([math.inf, 2.0]), torch.tensor([-math.inf, 2.0]), math.inf),
        (torch.tensor([math.inf, 2.0]), torch.tensor([2.0, math.inf]), math.inf),
        (torch.tensor([1.0, 2.0]), torch.tensor([math.nan, 2.0]), math.inf),
        ({"a": torch.ones(1), "b": 3}, {"a": torch.ones(1), "b": 3}, 0.0),
        ([torch.ones(1), 3], [torch.ones(1), 4], math.inf),
        ([torch.ones(1)], [torch.ones(1), torch.ones(1)], math.inf),
        ([torch.full((1,), 1e9), torch.ones(1)], [torch.full((1,), 1e9), torch.zeros(1)], 1.0),
        (torch.tensor([2 + 2j]), torch.tensor([2 + 1j]), 1 / math.sqrt(8)),
    ],
)
def test_difference(want: Any, got: Any, expected: float) -> None:
    assert difference(want, got) == pytest.approx(expected, rel=1e-6, abs=0)


def test_address_coded_weights_are_all_different_and_keep_what_must_be_positive() -> None:
    model = nn.Sequential(nn.Conv2d(4, 16, 3), nn.BatchNorm2d(16), nn.Linear(16, 32), nn.PReLU())
    model.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    model.register_buffer("deviation", torch.rand(3) + 0.1)
    before = copy.deepcopy(model)
    fill(model, addresses)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if name in ("mask", "1.num_batches_tracked"):
            assert torch.equal(tensor, before.get_buffer(name))
        else:
            assert tensor.unique().numel() == tensor.numel()
    for tensor in (model[1].running_var, model[1].weight, model[3].weight, model.deviation):
        assert tensor.min() > 0
    assert model[2].weight.std().item() == pytest.approx(math.sqrt(2 / 16), rel=0.05)
    assert not torch.equal(model[1].bias, model[1].running_mean)


def test_random_weights_follow_the_seed_alone() -> None:
    shape = torch.Size([50])
    assert torch.equal(random_units(1)(shape, 2), random_units(1)(shape, 2))
    assert not torch.equal(random_units(1)(shape, 2), random_units(2)(shape, 2))
    assert not torch.equal(random_units(1)(shape, 2), random_units(1)(shape, 3))
    assert random_units(1)(shape, 2).abs().max() < 1


def test_drawn_inputs_have_the_shapes_and_values_of_their_types() -> None:
    spec = {"dict": {
        "x": {"tensor": [40, 3], "dtype": "float32", "device": "cpu"},
        "tokens": {"tensor": [40], "dtype": "int64", "device": "cpu"},
        "mask": {"tensor": [40], "dtype": "bool", "device": "cpu"},
        "flag": {"value": True},
    }}  # fmt: skip
    inputs = draw(spec, 0)
    assert {name: (one.shape, one.dtype) for name, one in inputs.items() if name != "flag"} == {
        "x": ((40, 3), torch.float32),
        "tokens": ((40,), torch.int64),
        "mask": ((40,), torch.bool),
    }
    assert inputs["flag"] is True
    assert inputs["tokens"].unique().tolist() == [0, 1]
    assert inputs["mask"].unique().tolist() == [False, True]
    assert torch.equal(inputs["x"], draw(spec, 0)["x"])
    assert not torch.equal(inputs["x"], draw(spec, 1)["x"])


def test_another_batch_repeats_no_example_as_it_is() -> None:
    x, tokens, table = torch.randn(2, 3), torch.tensor([[4], [5]]), torch.randn(7, 3)
    inputs = rebatched((x, tokens, table, "mean"), 5)
    assert torch.equal(inputs[0], torch.stack([x[0], x[1], 1.25 * x[0], 1.25 * x[1], 1.5 * x[0]]))
    assert inputs[1].tolist() == [[4], [5], [4], [5], [4]]
    assert inputs[2] is table
    assert inputs[3] == "mean"
