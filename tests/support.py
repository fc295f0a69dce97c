"""What many tests need: a random plan over every group, and the law that a compiled model obeys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx, nn

import fxprune
from fxprune.analysis import analyse
from fxprune.choices import is_by_block
from fxprune.choose import cover
from fxprune.plans import Plan, make_plan


def random_plan(model: nn.Module, inputs: Any, *, fraction: float, seed: int = 0) -> Plan:
    """A plan that keeps a random part of every group, both factors of products included."""
    analysis = analyse(model, inputs)
    generator = torch.Generator().manual_seed(seed)
    ranked = {group.name: torch.randperm(group.size, generator=generator).tolist() for group in analysis.groups}
    keep = {name: order[: max(1, round(len(order) * fraction))] for name, order in ranked.items()}
    return make_plan(model, inputs, analysis, cover(analysis, keep, ranked))


def plan_by_block(model: nn.Module, inputs: Any, *, fraction: float, seed: int = 0, emit: str = "graph") -> Plan:
    """A random plan in which every group that is free to keeps other channels in each block."""
    analysis = analyse(model, inputs, emit=emit)
    generator = torch.Generator().manual_seed(seed)

    def drawn(size: int) -> list[int]:
        return torch.randperm(size, generator=generator).tolist()

    ranked = {group.name: drawn(group.size) for group in analysis.groups}
    keep: dict[str, Any] = {name: order[: max(1, round(len(order) * fraction))] for name, order in ranked.items()}
    taken: set[str] = set()
    for group in analysis.groups:
        outers = [analysis.groups.names[one] for one in analysis.freedom(group).outers]
        if outers and group.name not in taken and not any(is_by_block(keep[one]) for one in outers):
            taken.update(outers)
            count, blocks = len(keep[group.name]), math.prod(analysis.groups[one].size for one in outers)
            keep[group.name] = tuple(tuple(sorted(drawn(group.size)[:count])) for _ in range(blocks))
    return make_plan(model, inputs, analysis, cover(analysis, keep, ranked))


def assert_exact(
    model: nn.Module, plan: Plan, small: fx.GraphModule, inputs: Any, *, batch_sizes: tuple[int, ...] = ()
) -> None:
    """The law: shapes as predicted, weights the kept slices, numbers those of the masked original in float64."""
    report = fxprune.verify(model, plan, small, inputs=inputs, batch_sizes=batch_sizes, tolerance=1e-9)
    assert report.ok, str(report)
