"""Meet a target: how many channels each group keeps, by one number that moves all groups together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune.costs import METRICS, Costs
from fxprune.targets import Target
from fxprune.units import scaled
from fxprune.widths import nearest
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup
from fxprune_passes.kept import Kept

SCOPES = ("local", "global", "isomorphic")
_CLOSE = 0.995  # of a bound: no more is added from here on
_HALVINGS = 40
_TRIALS = 8  # where picks by index make the estimate differ from the exact cost
Keep = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Choice:
    """A group that may lose channels.

    Attributes:
        group: The group.
        order: Its channels, best first.
        scores: Theirs, in that order, such that they compare with those of other groups.
        allowed: The numbers of channels that it may keep.
        fixed: The fraction that an override asks for; None where the target decides.
    """

    group: ChannelGroup
    order: tuple[int, ...]
    scores: Tensor
    allowed: list[int]
    fixed: float | None = None


class Planner:
    """Turns a level between 0 and 1 into numbers of channels, and finds the level that meets a target."""

    def __init__(self, choices: Sequence[Choice], costs: Costs, scope: str) -> None:
        self.choices = choices
        self.costs = costs
        self._classes = _classes(choices, scope)
        self._places = {name: place for place, name in enumerate(costs.names)}

    def counts(self, level: float) -> dict[str, int]:
        """How many channels each group keeps at a level: a share of each group, or of each class of groups."""
        result = {}
        for members in self._classes:
            wanted = _shares(members, level)
            for choice, count in zip(members, wanted, strict=True):
                ask = count if choice.fixed is None else choice.fixed * choice.group.size
                result[choice.group.name] = nearest(choice.allowed, ask)
        return result

    def cost(self, counts: Mapping[str, int], metric: str) -> float:
        """What these numbers of channels cost; groups that are not named stay whole."""
        vector = self.costs.widths.clone()
        for name, count in counts.items():
            vector[self._places[name]] = count
        return float(self.costs.of_counts(vector)[METRICS.index(metric)])

    def meet(self, bound: float, metric: str) -> dict[str, int]:
        """The most channels that cost no more than a bound; the fewest that are allowed, if all cost more."""
        low, high = 0.0, 1.0
        if self.cost(self.counts(1.0), metric) <= bound:
            return self.counts(1.0)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.cost(self.counts(middle), metric) <= bound else (low, middle)
        return self._filled(self.counts(low), bound, metric)

    def _filled(self, counts: dict[str, int], bound: float, metric: str) -> dict[str, int]:
        """Give back channels, the best first, as long as they fit."""
        open_choices = [one for one in self.choices if one.fixed is None]
        grown = True
        while grown and self.cost(counts, metric) < _CLOSE * bound:
            grown = False
            for choice in sorted(open_choices, key=lambda one: -_next_score(one, counts[one.group.name])):
                name = choice.group.name
                larger = next((count for count in choice.allowed if count > counts[name]), None)
                if larger is not None and self.cost({**counts, name: larger}, metric) <= bound:
                    counts[name], grown = larger, True
        return counts

    def floor(self, metric: str) -> float:
        """The smallest value that can be reached."""
        return self.cost(self.counts(0.0), metric)


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
        return [level * members[0].group.size]
    ranked = torch.cat([one.scores for one in members]).sort(descending=True, stable=True).values
    stay = round(level * len(ranked))
    if stay == 0:
        return [0.0 for _ in members]
    return [float((one.scores >= ranked[stay - 1]).sum()) for one in members]


def _next_score(choice: Choice, count: int) -> float:
    """How much the best channel that goes matters."""
    return float(choice.scores[count]) if count < len(choice.scores) else 0.0


def met(
    planner: Planner,
    target: Target,
    whole: float,
    settle: Callable[[Mapping[str, int]], tuple[Keep, Kept]],
) -> tuple[Keep, str]:
    """Kept indices that meet a target, and a note that says how closely.

    Args:
        planner: Of the groups that may lose channels.
        target: What to reach.
        whole: What the model costs as it is.
        settle: Turns numbers of channels into kept indices, and those into what the costs are taken of.

    Raises:
        PlanError: The target lies below what can be reached.
    """
    if target.metric == "channels":
        return settle(planner.counts(target.value))[0], ""
    bound, aim = target.bound(whole), target.bound(whole)
    best: tuple[float, Keep] | None = None
    for _ in range(_TRIALS):
        keep, kept = settle(planner.meet(aim, target.metric))
        exact = planner.costs.of_kept(kept)[target.metric]
        if exact <= bound and (best is None or exact > best[0]):
            best = exact, keep
        if _CLOSE * bound <= exact <= bound or exact == 0:
            break
        aim *= bound / exact * (1 if exact < bound else 0.999)
    if best is None:
        raise _unreachable(planner, target, bound, whole)
    return best[1], _note(target, best[0], bound, whole)


def _note(target: Target, reached: float, bound: float, whole: float) -> str:
    short = "" if reached >= 0.99 * bound else ", the nearest below that the widths allow"
    share = f"{reached / whole:.1%}" if whole else "all"
    return f"{target}: {scaled(reached)} of {scaled(whole)} {target.metric} stay ({share}){short}"


def _unreachable(planner: Planner, target: Target, bound: float, whole: float) -> PlanError:
    floor = planner.floor(target.metric)
    first = f"{target} cannot be met: the smallest value that can be reached is {scaled(floor)} of {scaled(whole)}."
    held = _held(planner, target.metric)
    why = f"groups that stay whole and cost most: {', '.join(held)}" if held else "what is left is frozen"
    return PlanError(explain(first, why=why, mend="ask for more, ignore less, or lower min_channels and max_drop"))


def _held(planner: Planner, metric: str, most: int = 3) -> list[str]:
    """Groups that stay whole, or nearly, by what they would save with a single channel."""
    counts = planner.counts(0.0)
    here, saved = planner.cost(counts, metric), dict[str, float]()
    for name, width in zip(planner.costs.names, planner.costs.widths.tolist(), strict=True):
        if counts.get(name, width) > 1:
            saved[name] = here - planner.cost({**counts, name: 1}, metric)
    return [name for name, value in sorted(saved.items(), key=lambda one: -one[1])[:most] if value > 0]
