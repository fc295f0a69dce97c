"""Small compiled networks, and what verify says of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from networks import randomize
from torch import Tensor, fx, nn

import fxprune
from fxprune.report import Report

OWN, CODED, RANDOM = "numbers, own weights", "numbers, address-coded weights", "numbers, random weights"
NUMBERS = {OWN, CODED, RANDOM}
SHAPES, CODE, WEIGHTS = "shapes and factors", "code is the graph's", "weights are kept slices"
ROUNDING = 1e-12


class Shifted(nn.Module):
    """Convolution, batch norm and activation, then channels rolled and sliced."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.conv2(torch.roll(x, 3, 1))[:, 3:9]
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    """Two heads of width 8 over a sequence (N, L, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(6, 16) for _ in range(3))
        self.out = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        heads = [layer(x).unflatten(2, (2, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v)]
        return self.out(F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2))


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(5, 8)
        self.first, self.second = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.body(x))
        return {"first": self.first(x), "second": self.second(x)}


def compiled(model: nn.Module, inputs: Any, **options: Any) -> tuple[nn.Module, fxprune.Plan, fx.GraphModule]:
    randomize(model, 0)
    plan = fxprune.plan(model, inputs, channels=0.5, criterion="random")
    return model, plan, fxprune.compile(model, plan, **options)


def shifted() -> tuple[nn.Module, fxprune.Plan, fx.GraphModule]:
    return compiled(Shifted().eval(), torch.randn(2, 3, 6, 6))


def find(small: fx.GraphModule, origin: str) -> fx.Node:
    return next(node for node in small.graph.nodes if node.meta.get("origin") == origin)


def failing(report: Report) -> set[str]:
    return {case.name for case in report.cases if case.ok is False}


def first_wrong(report: Report) -> tuple[str, str]:
    assert report.first_wrong is not None
    return report.first_wrong.name, report.first_wrong.detail
