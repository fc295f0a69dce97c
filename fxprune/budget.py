"""Meet a target: how many channels each group keeps, by one number that moves all groups together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxprune.choices import Keep
from fxprune.meters import Meter
from fxprune.targets import Target
from fxprune.widths import nearest
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup
from fxprune_passes.kept import Kept

SCOPES = ("local", "global", "isomorphic")
_CLOSE = 0.995  # of a bound: no more is added from here on
_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Choice:
    """A group that may lose channels.

    Attributes:
        group: The group.
        orders: The channels of each of its blocks, best first (there is one where all keep the same).
        scores: ``(width,)``: theirs in that order, the mean over blocks, such that they compare with those of other
            groups.
        allowed: The numbers of channels that it may keep.
        fixed: The fraction that an override asks for; None where the target decides.
    """

    group: ChannelGroup
    orders: tuple[tuple[int, ...], ...]
    scores: Tensor
    allowed: list[int]
    fixed: float | None = None

    def best(self, count: int) -> tuple[Any, ...]:
        """So many channels, of each block."""
        best = tuple(order[:count] for order in self.orders)
        return best if self.group.blocks > 1 else best[0]


class Planner:
    """Turns a level between 0 and 1 into numbers of channels, and finds the level that meets a target."""

    def __init__(self, choices: Sequence[Choice], scope: str) -> None:
        self.choices = choices
        self._classes = _classes(choices, scope)

    def counts(self, level: float) -> dict[str, int]:
        """How many channels each group keeps at a level: a share of each group, or of each class of groups."""
        result = {}
        for members in self._classes:
            wanted = _shares(members, level)
            for choice, count in zip(members, wanted, strict=True):
                ask = count if choice.fixed is None else choice.fixed * choice.group.width
                result[choice.group.name] = nearest(choice.allowed, ask)
        return result

    def allowed(self) -> dict[str, list[int]]:
        """The numbers of channels that each group may keep; one where an override says which."""
        fixed = self.counts(1.0)
        return {one.group.name: one.allowed if one.fixed is None else [fixed[one.group.name]] for one in self.choices}

    def meet(self, bound: float, meter: Meter) -> dict[str, int]:
        """The most channels that are estimated to cost no more than a bound; the fewest allowed, if all cost more."""
        low, high = 0.0, 1.0
        if meter.estimate(self.counts(1.0)) <= bound:
            return self.counts(1.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if meter.estimate(self.counts(middle)) <= bound else (low, middle)
        return self._filled(self.counts(low), bound, meter)

    def _filled(self, counts: dict[str, int], bound: float, meter: Meter) -> dict[str, int]:
        """Give back channels, the best first, as long as they fit."""
        open_choices = [one for one in self.choices if one.fixed is None]
        grown = True
        while grown and meter.estimate(counts) < _CLOSE * bound:
            grown = False
            for choice in sorted(open_choices, key=lambda one: -_next_score(one, counts[one.group.name])):
                name = choice.group.name
                larger = next((count for count in choice.allowed if count > counts[name]), None)
                if larger is not None and meter.estimate({**counts, name: larger}) <= bound:
                    counts[name], grown = larger, True
        return counts


def _classes(choices: Sequence[Choice], scope: str) -> list[list[Choice]]:
    """Groups that are ranked together."""
    if scope == "local":
        return [[one] for one in choices]
    if scope == "global":
        return [list(choices)] if choices else []
    found: dict[object, list[Choice]] = {}
    for one in choices:
        found.setdefault(_structure(one.group), []).append(one)
    return list(found.values())


def _structure(group: ChannelGroup) -> tuple[object, ...]:
    """What groups of like structure have in common: what kinds of weights write and read them, whatever the sizes."""
    kinds = ((site.tensor.ndim, site.dim, site.reads, tuple(site.tensor.shape[2:])) for site in group.sites)
    return tuple(sorted(kinds))


def _shares(members: Sequence[Choice], level: float) -> list[float]:
    """How many channels each group of a class keeps where a share of them all stays, those that score highest."""
    if len(members) == 1:
        return [level * members[0].group.width]
    ranked = torch.cat([one.scores for one in members]).sort(descending=True, stable=True).values
    stay = round(level * len(ranked))
    if stay == 0:
        return [0.0 for _ in members]
    return [float((one.scores >= ranked[stay - 1]).sum()) for one in members]


def _next_score(choice: Choice, count: int) -> float:
    """How much the best channel that goes matters."""
    return float(choice.scores[count]) if count < len(choice.scores) else 0.0


def met(
    planner: Planner, target: Target, meter: Meter, settle: Callable[[Mapping[str, int]], tuple[Keep, Kept]]
) -> tuple[Keep, str]:
    """Kept indices that meet a target, and a note that says how closely.

    Args:
        planner: Of the groups that may lose channels.
        target: What to reach: any but ``channels``.
        meter: What the target is measured by.
        settle: Turns numbers of channels into kept indices, and those into what is measured.

    Raises:
        PlanError: The target lies below what can be reached.
    """
    bound = target.bound(meter.whole)
    goal = aim = meter.aim * bound
    best: tuple[float, Keep] | None = None
    low, high, fewest = 0.0, float("inf"), planner.counts(0.0)
    for trial in range(2 * meter.trials):  # the second half where an estimate far too low let all exceed the bound
        if trial >= meter.trials and best is not None:
            break
        counts = planner.meet(aim, meter)
        keep, kept = settle(counts)
        exact = meter.exact(kept)
        if exact <= bound and (best is None or exact > best[0]):
            best = exact, keep
        if meter.close * bound <= exact <= bound or exact == 0 or (exact > bound and counts == fewest):
            break
        low, high = (aim, high) if exact <= bound else (low, aim)
        aim *= min(max(goal / exact, 0.6), 1.6) * (1 if exact < bound else 0.999)  # one wild measurement is not all
        if not low < aim < high:  # kernels have steps: what is in between is not in proportion
            aim = (low + min(high, meter.whole)) / 2
    if best is None:
        keep, kept = settle(fewest)
        if (floor := meter.exact(kept)) > bound:
            raise _unreachable(target, meter, floor, fewest)
        best = floor, keep
    short = "" if best[0] >= min(0.99, meter.close) * bound else f", {meter.short}"
    return best[1], f"{target}: {meter.said(best[0])}{short}"


def _unreachable(target: Target, meter: Meter, floor: float, fewest: Mapping[str, int]) -> PlanError:
    reached = f"{meter.shown(floor)} of {meter.shown(meter.whole)}"
    first = f"{target} cannot be met: the smallest value that can be reached is {reached}."
    held = _held(meter.saved(fewest))
    why = f"groups that stay whole and cost most: {', '.join(held)}" if held else "what is left is frozen"
    return PlanError(explain(first, why=why, mend="ask for more, ignore less, or lower min_channels and max_drop"))


def _held(saved: Mapping[str, float], most: int = 3) -> list[str]:
    """Groups that stay whole, or nearly, by what they would save with a single channel."""
    return [name for name, value in sorted(saved.items(), key=lambda one: -one[1])[:most] if value > 0]
