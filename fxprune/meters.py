"""What a target is measured by: an estimate that a search can ask thousands of times, and the exact value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fxprune.costs import METRICS, Costs
from fxprune.units import scaled
from fxprune_passes.kept import Kept


class Meter(Protocol):
    """Tells what a choice of channels costs.

    Attributes:
        whole: What the model costs as it is.
        close: What share of a bound is near enough to it.
        aim: What share of a bound to aim at.
        trials: How many choices to look at, at most; twice as many while all exceed the bound.
        short: What to say where nothing near the bound was found.
    """

    whole: float
    close: float
    aim: float
    trials: int
    short: str

    def estimate(self, counts: Mapping[str, int]) -> float:
        """What numbers of channels cost, quickly; groups that are not named stay whole."""

    def exact(self, kept: Kept) -> float:
        """What one choice costs."""

    def saved(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """What each group that keeps more than one channel would save with a single one."""

    def shown(self, value: float) -> str:
        """A value as text."""

    def said(self, reached: float) -> str:
        """What was reached, as the end of a note."""


class Counted:
    """Parameters, multiply-accumulate operations or bytes, from the terms.

    Args:
        costs: Of the model.
        metric: One of ``METRICS``.
        whole: What the model costs as it is.
    """

    close = 0.995
    aim = 1.0
    trials = 8  # where picks by index make the estimate differ from the exact cost
    short = "the nearest below that the widths allow"

    def __init__(self, costs: Costs, metric: str, whole: float) -> None:
        self.costs, self.metric, self.whole = costs, metric, whole
        self._place = METRICS.index(metric)
        self._places = {name: place for place, name in enumerate(costs.names)}

    def estimate(self, counts: Mapping[str, int]) -> float:
        """From the numbers of channels alone."""
        vector = self.costs.widths.clone()
        for name, count in counts.items():
            vector[self._places[name]] = count
        return float(self.costs.of_counts(vector)[self._place])

    def exact(self, kept: Kept) -> float:
        """From the kept channels."""
        return self.costs.of_kept(kept)[self.metric]

    def saved(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """The difference that a single channel makes."""
        here, widths = self.estimate(counts), zip(self.costs.names, self.costs.widths.tolist(), strict=True)
        wide = [name for name, width in widths if counts.get(name, width) > 1]
        return {name: here - self.estimate({**counts, name: 1}) for name in wide}

    def shown(self, value: float) -> str:
        """With a decimal prefix."""
        return scaled(value)

    def said(self, reached: float) -> str:
        """Read as ``35 of 68 params stay (51.5%)``."""
        share = f"{reached / self.whole:.1%}" if self.whole else "all"
        return f"{scaled(reached)} of {scaled(self.whole)} {self.metric} stay ({share})"
