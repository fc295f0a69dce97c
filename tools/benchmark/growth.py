"""How time grows with depth and width: the slope of its logarithm over that of the size."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from benchmark.contest import OURS, THEIRS, Outcome, take_turns, warm_up
from benchmark.figures import Figure, Section
from benchmark.settings import Settings

TEXT = """\
Seconds of the same work on networks that grow: chains of 3x3 convolutions of width 16 with ReLU, chains of residual
blocks of two of them, dense blocks in which every layer reads the concatenation of all before (n layers have a graph
with n^2/2 edges), and chains of {depth} convolutions that grow in width (and in parameters with its square). The
exponent is the slope of a straight line through the logarithms of time and size, "against edges" of time and the number
of edges of the captured graph. Torch-Pruning is stopped after {limit:.0f} s, and then spared the larger networks.\
"""
BOUND = 1.1
DEPTH = 6  # of the chains that grow in width
WIDTH = 16  # of the networks that grow in depth


@dataclass(frozen=True)
class Series:
    """Networks of one kind that grow.

    Attributes:
        name: What they are.
        axis: What grows.
        sizes: How large they are.
        build: Makes one of a size.
        inputs: Channels of the input of one of a size.
    """

    name: str
    axis: str
    sizes: tuple[int, ...]
    build: Callable[[int], nn.Module]
    inputs: Callable[[int], int] = lambda size: WIDTH


def chain(depth: int, width: int = WIDTH) -> nn.Module:
    """A chain of 3x3 convolutions."""
    layers = [layer for _ in range(depth) for layer in (nn.Conv2d(width, width, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*layers).eval()


class Residual(nn.Module):
    """A block of two convolutions that adds what it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = chain(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to the same."""
        return x + self.body(x)


def residual(depth: int) -> nn.Module:
    """Residual blocks between two convolutions."""
    return nn.Sequential(chain(1), *(Residual() for _ in range(depth // 2)), chain(1)).eval()


class Dense(nn.Module):
    """Layers that each read all before."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        layers = (nn.Conv2d(WIDTH * (place + 1), WIDTH, 3, padding=1) for place in range(depth))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Conv2d(WIDTH * (depth + 1), WIDTH, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, C, H, W)`` to the same."""
        found = [x]
        for layer in self.layers:
            found.append(layer(torch.cat(found, 1)).relu())
        return self.head(torch.cat(found, 1))


def series(settings: Settings) -> list[Series]:
    """What grows."""
    return [
        Series("chain", "layers", settings.depths, chain),
        Series("residual chain", "layers", settings.depths, residual),
        Series("dense block", "layers", settings.dense, lambda depth: Dense(depth).eval()),
        Series("wide chain", "width", settings.widths, lambda width: chain(DEPTH, width), lambda width: width),
    ]


def growth(settings: Settings) -> Section:
    """Every series."""
    warm_up()
    limit, most = settings.limit[1], settings.repeats
    data: dict[str, Any] = {}
    rows, figures = [], []
    for one in series(settings):
        cases = {str(size): (one.build(size), torch.zeros(1, one.inputs(size), 8, 8)) for size in one.sizes}
        edges = [_edges(model) for model, _ in cases.values()]
        outcomes = take_turns(cases, limit=limit, repeats=most, ascending=True)
        found = _plain(one, edges, list(outcomes.values()))
        data[one.name] = found
        rows.append(_row(one, found, list(outcomes.values())))
        figures.append(Figure(f"{one.name}, exponent of growth with {one.axis}", found["exponents"][OURS], "", BOUND))
    headers = ("networks", "sizes", "edges", OURS, THEIRS, "exponent", f"{THEIRS}'s", "against edges")
    text = TEXT.format(depth=DEPTH, limit=limit)
    return Section("growth", "Growth with depth and width", text, headers, rows, figures, data)


def _edges(model: nn.Module) -> int:
    """How often a node of the graph reads another."""
    return sum(len(node.all_input_nodes) for node in fx.symbolic_trace(model).graph.nodes)


def _plain(one: Series, edges: Sequence[int], outcomes: Sequence[dict[str, Outcome]]) -> dict[str, Any]:
    points = {
        who: [
            (size, edge, outcome[who].value)
            for size, edge, outcome in zip(one.sizes, edges, outcomes, strict=True)
            if who in outcome and not outcome[who].failed
        ]
        for who in (OURS, THEIRS)
    }
    seconds = {who: [(size, value) for size, _, value in found] for who, found in points.items()}
    exponents = {who: slope(found) for who, found in seconds.items()}
    against = slope([(edge, value) for _, edge, value in points[OURS]])
    return {
        "axis": one.axis,
        "edges": list(edges),
        "seconds": seconds,
        "exponents": exponents,
        "against edges": against,
    }


def slope(points: Sequence[tuple[float, float | None]]) -> float | None:
    """The exponent of the power law through some points; None of fewer than two sizes."""
    logs = [(math.log(x), math.log(y)) for x, y in points if y is not None]
    return statistics.linear_regression(*zip(*logs, strict=True)).slope if len({x for x, _ in logs}) > 1 else None


def _row(one: Series, found: dict[str, Any], outcomes: Sequence[dict[str, Outcome]]) -> tuple[str, ...]:
    def told(who: str) -> str:
        return ", ".join(_seconds(outcome[who]) for outcome in outcomes if who in outcome)

    exponents = [found["exponents"][OURS], found["exponents"][THEIRS], found["against edges"]]
    return (
        one.name,
        f"{', '.join(map(str, one.sizes))} {one.axis}",
        ", ".join(map(str, found["edges"])),
        told(OURS),
        told(THEIRS),
        *("" if value is None else f"{value:.2f}" for value in exponents),
    )


def _seconds(outcome: Outcome) -> str:
    if outcome.failed == "stopped":
        return f"> {outcome.first:.0f} s"
    return f"fails: {outcome.failed}" if outcome.failed else f"{outcome.value:.2g} s"
