"""Plans from zeros remove every channel that can go, and no other: compared with what numbers say, on tiny networks.

A channel can go if in every activation that has it, it is one and the same number whatever the inputs are, or the
outputs stay what they are whatever it is. Two runs say which elements change; those that do become noise in the second
run, so that no activation hides a change by the range of its argument.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_networks import Tiny
from torch import Tensor, fx

import fxprune
from fxprune import Plan
from fxprune_passes.groups import channels

_CHUNKS = range(4)
_NETWORKS = 20  # in each chunk
_RUNS = 3


class Watched(fx.Interpreter):
    """Runs a graph and keeps every value."""

    def __init__(self, model: Tiny, graph: fx.Graph) -> None:
        super().__init__(model, graph=graph)
        self.extra_traceback = False
        self.values: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.values[n] = value = self.replaced(n, super().run_node(n))
        return value

    def replaced(self, node: fx.Node, value: Any) -> Any:
        return value


class Shaken(Watched):
    """Some elements of one node are other numbers; whatever differs from the first run becomes noise."""

    def __init__(self, first: Watched, model: Tiny, node: fx.Node, elements: Tensor, seed: int) -> None:
        super().__init__(model, first.graph)
        self.first, self.node, self.elements = first, node, elements
        self.generator = torch.Generator().manual_seed(seed)
        self.changed: dict[fx.Node, Tensor] = {}

    def replaced(self, node: fx.Node, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        want = self.first.values[node]
        changed = (value - want).abs() > 1e-10 * (1 + want.abs())
        if node is self.node:
            changed = changed | self.elements
        if self.node.op == "placeholder" and value.ndim == 4:  # what differs at the border may be any number elsewhere
            low, high = want.amin((0, 2, 3), keepdim=True), want.amax((0, 2, 3), keepdim=True)
            changed = changed | (high - low > 1e-10)
        self.changed[node] = changed
        noise = 5 * torch.randn(value.shape, dtype=value.dtype, generator=self.generator)
        return torch.where(changed, noise, want)


def shaken(first: Watched, model: Tiny, node: fx.Node, elements: Tensor, x: Tensor) -> dict[fx.Node, Tensor]:
    """Which elements of each node change in some run where these elements of a node are other numbers."""
    result: dict[fx.Node, Tensor] = {}
    for seed in range(_RUNS):
        run = Shaken(first, model, node, elements, seed)
        run.run(x)
        result = {one: mask | result.get(one, mask) for one, mask in run.changed.items()}
    return result


class Numbers:
    """What one size of inputs says of single positions along the axes of activations."""

    def __init__(self, model: Tiny, graph: fx.Graph, x: Tensor) -> None:
        self.model, self.x, self.first = model, x, Watched(model, graph)
        self.first.run(x)
        self.output = next(one for one in graph.nodes if one.op == "output").args[0]
        source = next(one for one in graph.nodes if one.op == "placeholder")
        self.alive = shaken(self.first, model, source, torch.ones_like(x, dtype=torch.bool), x)

    def constant(self, node: fx.Node, dim: int, position: int) -> float:
        """The one number that every element there is, NaN if they are not."""
        values = self.first.values[node].select(dim, position)
        even = float(values.max() - values.min()) <= 1e-10
        return math.nan if bool(self.alive[node].select(dim, position).any()) or not even else float(values.mean())

    def is_read(self, node: fx.Node, dim: int, position: int) -> bool:
        """Whether the outputs change with the elements there."""
        elements = torch.zeros(self.first.values[node].shape, dtype=torch.bool)
        elements.select(dim, position)[...] = True
        return bool(shaken(self.first, self.model, node, elements, self.x)[self.output].any())


def by_force(model: Tiny, plan: Plan, inputs: list[Tensor]) -> dict[str, set[int]]:
    """The channels of each group that can go, by what inputs of several sizes say together."""
    analysis = plan.analysis_of(model)
    graph, axes = analysis.capture.graph_module.graph, analysis.propagation.axes
    nodes = [one for one in graph.nodes if one.op not in ("get_attr", "output") and isinstance(axes[one], tuple)]
    said = [Numbers(model, graph, x) for x in inputs]

    def can_go(node: fx.Node, dim: int, position: int) -> bool:
        constants = [one.constant(node, dim, position) for one in said]
        if not any(map(math.isnan, constants)) and max(constants) - min(constants) <= 1e-10:
            return True
        return not any(one.is_read(node, dim, position) for one in said)

    result = {}
    for group in analysis.groups:
        stays = {
            channel
            for node in nodes
            for dim, axis in enumerate(axes[node])
            for position, channel in enumerate(channels(axis, group.dim).tolist())
            if channel >= 0 and not can_go(node, dim, position)
        }
        result[group.name] = set(range(group.size)) - stays
    return result


def differing(number: int) -> str:
    """How the plan and brute force differ, or nothing."""
    model = Tiny(number)
    x = model.example()
    plan = Plan.from_zeros(model, x)
    small = fxprune.compile(model, plan)
    for one in (x, model.example(5, 7)):
        with torch.no_grad():
            want, got = model(one), small(one)
        if not float((want - got).abs().max()) <= 1e-12 * float(want.abs().max()):
            return f"{number}: outputs differ"
    with torch.no_grad():
        found = by_force(model, plan, [model.example(3, side) for side in ((1, 2, 5) if model.image else (1,))])
    for name, gone in found.items():
        width = plan.widths[name]
        removed = set(range(width)) - set(plan.keep.get(name, range(width)))
        if removed != gone and not (len(gone) == width and len(removed) == width - 1):  # some node needs a channel
            return (
                f"{number}: of {name}, {width} channels, the plan removes {sorted(removed)}, brute force {sorted(gone)}"
            )
    return ""


@pytest.mark.parametrize("chunk", _CHUNKS)
def test_no_removable_channel_is_left_and_no_other_goes(chunk: int) -> None:
    found = [differing(chunk * _NETWORKS + one) for one in range(_NETWORKS)]
    assert [one for one in found if one] == []
