"""What a plan is to reach: one target, as a fraction that stays or as a bound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxprune.units import duration, parsed_duration, scaled
from fxprune_passes.errors import PlanError, explain

TARGETS = ("channels", "params", "macs", "bytes", "latency")


@dataclass(frozen=True, slots=True)
class Target:
    """One target.

    Attributes:
        metric: One of ``TARGETS``.
        value: A fraction that stays, or a bound in units of the metric (latency: seconds).
        is_fraction: Which of the two.
    """

    metric: str
    value: float
    is_fraction: bool

    def bound(self, whole: float) -> float:
        """The largest value that meets the target, of a model that has ``whole``."""
        return self.value * whole if self.is_fraction else self.value

    def __str__(self) -> str:
        """Read as ``macs=0.5``, ``params=10M`` or ``latency=5 ms``."""
        shown = duration if self.metric == "latency" else scaled
        return f"{self.metric}={self.value:g}" if self.is_fraction else f"{self.metric}={shown(self.value)}"


def target_of(given: Mapping[str, float | str | None]) -> Target:
    """The one target among the options.

    Args:
        given: The value of each target, None for those that were not named. A float up to 1 is a fraction that stays,
            anything else a bound; that of the latency is a text with a unit.

    Raises:
        PlanError: None or several are given, or the value is out of range.
    """
    named = {name: value for name, value in given.items() if value is not None}
    if len(named) != 1:
        listed = ", ".join(f"{name}={value!r}" for name, value in named.items()) or "none"
        first = f"expected exactly one of {', '.join(f'{name}=' for name in given)}, got {listed}."
        raise PlanError(explain(first, mend="drop the others" if named else "such as macs=0.5"))
    ((metric, value),) = named.items()
    if metric == "latency":
        return _of_latency(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or value == float("inf"):
        raise PlanError(explain(f"{metric}={value!r} is out of range, expected a fraction in (0, 1] or a bound."))
    is_fraction = metric == "channels" or (isinstance(value, float) and value <= 1)
    if metric == "channels" and value > 1:
        first = f"channels={value!r} is out of range, expected a fraction in (0, 1] that stays."
        raise PlanError(explain(first))
    return Target(metric, float(value), is_fraction)


def _of_latency(value: object) -> Target:
    """A fraction, or a duration such as ``"5ms"``."""
    seconds = parsed_duration(value) if isinstance(value, str) else None
    if seconds is not None and 0 < seconds < float("inf"):
        return Target("latency", seconds, is_fraction=False)
    if isinstance(value, float) and 0 < value <= 1:
        return Target("latency", value, is_fraction=True)
    first = f"latency={value!r}, expected a float in (0, 1] that stays or a duration such as '5ms', '300us' or '0.01s'."
    raise PlanError(explain(first))
