"""Which numbers of channels a group may keep."""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from itertools import pairwise

from fxprune_passes.errors import PlanError, explain

_STEPS = ((64, 16), (32, 8), (0, 1))  # from which width on, multiples of what: kernels like them


@dataclass(frozen=True, slots=True)
class Widths:
    """The rule.

    Attributes:
        round_to: Kept channels are a multiple of this, where the group is wide enough; ``"auto"`` for what kernels
            like: multiples of 16 from 64 on, of 8 from 32 on; None for any number.
        min_channels: At least so many stay.
        max_drop: At most this fraction goes.
    """

    round_to: int | str | None = None
    min_channels: int = 1
    max_drop: float = 1.0

    def check(self) -> None:
        """Refuse what is out of range.

        Raises:
            PlanError: By name.
        """
        rounds = self.round_to
        if rounds not in (None, "auto") and (isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1):
            raise PlanError(explain(f"round_to={rounds!r}, expected None, 'auto' or a positive integer."))
        least = self.min_channels
        if isinstance(least, bool) or not isinstance(least, int) or least < 1:
            raise PlanError(explain(f"min_channels={least!r}, expected a positive integer."))
        if isinstance(self.max_drop, bool) or not 0 <= self.max_drop <= 1:
            raise PlanError(explain(f"max_drop={self.max_drop!r}, expected a fraction in [0, 1]."))

    def allowed(self, size: int) -> list[int]:
        """The numbers of channels that a group of this size may keep, ascending; the last one is all of them."""
        least = min(size, max(1, self.min_channels, math.ceil(size * (1 - self.max_drop) - 1e-9)))
        bounds = [*(width for width, _ in _STEPS), size] if self.round_to == "auto" else [0, size]
        counts: list[int] = []
        for low, high in pairwise(sorted(bounds)):
            step = self._step(low)
            first = -(-max(low, least) // step) * step
            counts += range(first, min(high, size), step)
        return [*counts, size]

    def _step(self, count: int) -> int:
        if self.round_to == "auto":
            return next(step for width, step in _STEPS if count >= width)
        return self.round_to if isinstance(self.round_to, int) else 1


def nearest(allowed: list[int], wanted: float) -> int:
    """The allowed number that is nearest to a wanted one; all channels only where no fewer are wanted."""
    if wanted >= allowed[-1] or len(allowed) == 1:
        return allowed[-1]
    counts = allowed[:-1]
    place = bisect_left(counts, wanted)
    around = counts[max(0, place - 1) : place + 1]
    return min(around, key=lambda count: (abs(count - wanted), -count))
