"""Prune step by step: a smaller model each time, and training in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import fx

from fxprune.analysis import analyse
from fxprune.choices import kept_of
from fxprune.choose import plan
from fxprune.compiling import compile
from fxprune.costs import Costs
from fxprune.inputs import ExampleInputs, as_call
from fxprune.latency import Stopwatch, check_timing
from fxprune.plans import Plan
from fxprune.program import Model, inputs_of
from fxprune.targets import Target, target_of
from fxprune.wrappers import unwrap
from fxprune_passes.errors import PlanError, explain

PACES: dict[str, Callable[[float, float], float]] = {
    "linear": lambda target, done: 1 - (1 - target) * done,
    "cubic": lambda target, done: target + (1 - target) * (1 - done) ** 3,
    "geometric": lambda target, done: target**done,
}
"""Fraction that stays at the end, share of the steps that is done -> fraction that stays now."""


def schedule(
    model: Model,
    example_inputs: ExampleInputs | None = None,
    *,
    steps: int = 5,
    pace: str = "cubic",
    channels: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    bytes: float | None = None,
    latency: float | str | None = None,
    timing: str = "eager",
    **options: Any,
) -> Iterator[tuple[Plan, fx.GraphModule]]:
    """Prune a model in steps, each from the model that the step before gave.

    Train the compiled model in the loop, in place: the next step prunes what it has become.

    Args:
        model: Any module, or an exported program; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those that
            an exported program holds.
        steps: How many compiled models come.
        pace: ``"linear"``: the same amount goes in every step. ``"cubic"``: most of it goes in the first ones (Zhu and
            Gupta, To Prune, or Not to Prune, 2017). ``"geometric"``: the same fraction of what is left.
        channels: The target of the last step, one of these five as in :func:`fxprune.plan`; that of every step is
            relative to the original model.
        params: Parameters that stay.
        macs: Multiply-accumulate operations that stay.
        bytes: Bytes of parameters and buffers that stay.
        latency: Time of one call that stays, or a bound such as ``"5ms"``.
        timing: ``"eager"`` or ``"compiled"``: what is timed for ``latency``.
        options: Of :func:`fxprune.plan`: criterion, scope, ignore and so on; ``batches`` is read in every step.

    Yields:
        For every step the plan, which is one of the model before, and the compiled model.

    Raises:
        PlanError: An option is out of range, or a step cannot be met.

    Example:
        >>> from torch import nn, zeros
        >>> model, x = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)), zeros(1, 8)
        >>> for made, small in schedule(model, x, channels=0.25, steps=3, pace="geometric"):
        ...     print(small.get_parameter("0.weight").shape[0])
        20
        13
        8
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise PlanError(explain(f"steps={steps!r}, expected a positive integer."))
    if pace not in PACES:
        raise PlanError(explain(f"pace={pace!r}, expected one of {', '.join(map(repr, PACES))}."))
    if steps > 1 and isinstance(options.get("batches"), Iterator):
        first = f"batches is a {type(options['batches']).__name__}, expected an iterable that every step reads anew."
        raise PlanError(explain(first, why=f"it can be read once, and {steps} steps read it", mend="list(batches)"))
    target = target_of({"channels": channels, "params": params, "macs": macs, "bytes": bytes, "latency": latency})
    check_timing(timing, target.metric)
    return _steps(model, example_inputs, steps, PACES[pace], target, {"timing": timing, **options})


def _steps(
    model: Model,
    example_inputs: ExampleInputs | None,
    steps: int,
    pace: Callable[[float, float], float],
    target: Target,
    options: dict[str, Any],
) -> Iterator[tuple[Plan, fx.GraphModule]]:
    ask = _asker(model, example_inputs, target, options["timing"], options.get("emit", "graph"))
    last, before = target.bound(ask.whole) / ask.whole, 1.0
    for step in range(1, steps + 1):
        share = min(before, pace(last, step / steps))
        asked: dict[str, Any] = {target.metric: ask.value(model, share, before, step == steps), **options}
        made = plan(model, example_inputs, **asked)
        small = compile(model, made)
        yield made, small
        model, before = small, share


def _asker(
    model: Model, example_inputs: ExampleInputs | None, target: Target, timing: str, emit: str
) -> _Channels | _Cost | _Time:
    """What says the targets of the steps."""
    if target.metric == "channels":
        return _Channels()
    if target.metric == "latency":
        return _Time(Stopwatch(unwrap(model)[0], as_call(inputs_of(model, example_inputs)), timing), target)
    analysis = analyse(model, example_inputs, emit=emit)
    return _Cost(float(Costs(analysis, unwrap(model)[0]).of_kept(kept_of(analysis, {}))[target.metric]))


class _Channels:
    """A step asks for a fraction of the channels that the step before left."""

    whole = 1.0

    def value(self, model: Model, share: float, before: float, is_last: bool) -> float:
        return share / before


@dataclass(frozen=True, slots=True)
class _Cost:
    """A step asks for a bound, a share of what the original costs."""

    whole: float

    def value(self, model: Model, share: float, before: float, is_last: bool) -> int:
        return int(share * self.whole)


class _Time:
    """A step asks for a fraction of the time of the model before, which is timed by turns with the original.

    So it does not matter if the machine is slower at one step than at another. A bound in seconds is the last step's.
    """

    def __init__(self, stopwatch: Stopwatch, target: Target) -> None:
        self.whole = stopwatch.whole
        self._stopwatch, self._target = stopwatch, target

    def value(self, model: Model, share: float, before: float, is_last: bool) -> float | str:
        if is_last and not self._target.is_fraction:
            return f"{self._target.value * 1e9}ns"
        module = unwrap(model)[0]
        return min(1.0, share / (self._stopwatch.against(module)[1] if before < 1 else 1.0))


_Asker = _Channels | _Cost | _Time
