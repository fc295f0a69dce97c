"""Latency as a target: layers say how to search, and the compiled model says what came of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map_only

from fxprune.analysis import Analysis
from fxprune.choices import kept_of
from fxprune.clock import by_turns, device_name, how, quick
from fxprune.costs import Costs
from fxprune.inputs import bind
from fxprune.measure import Call, device_of, ready, timeable
from fxprune.meters import Counted
from fxprune.modules import compile_module
from fxprune.ranks import failing_together, mean_over_ranks
from fxprune.stored import Stored
from fxprune.table import Table
from fxprune.units import duration
from fxprune_passes.errors import CaptureError, PlanError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.rewrite import rewrite

TIMINGS = ("eager", "compiled")
_SECONDS = 0.16  # of each model in one comparison
_ROUNDS = 8
_MOST = 16  # where the machine is busy


def check_timing(timing: str, metric: str) -> None:
    """Refuse a way to measure that is unknown, or asked for where nothing is measured.

    Raises:
        PlanError: By name.
    """
    if timing not in TIMINGS:
        raise PlanError(explain(f"timing={timing!r}, expected one of {', '.join(map(repr, TIMINGS))}."))
    if timing != "eager" and metric != "latency":
        first = f"timing={timing!r} and {metric}= do not go together: nothing is timed."
        raise PlanError(explain(first, mend="latency= instead, or leave timing out"))


class Stopwatch:
    """Times models against the original, by turns; under ``torch.distributed`` in all processes, which get the means.

    Args:
        model: The original; a private copy of it runs.
        call: Arguments of a call.
        timing: ``"eager"``, or ``"compiled"`` for what ``torch.compile`` makes of a model.

    Attributes:
        threads: Of the CPU, those that PyTorch is set to.
        device: Where the model runs.
        whole: Seconds of one call of the original.
    """

    def __init__(self, model: nn.Module, call: Call, timing: str) -> None:
        self.threads, self.timing = torch.get_num_threads(), timing
        self.device = device_of(model, call)
        self._call = tree_map_only(torch.Tensor, torch.clone, call)  # a model may write into its inputs
        with failing_together("time the model"):
            try:
                self._original = deepcopy(model)
            except Exception as error:
                raise CaptureError(explain(f"{type(model).__name__} cannot be copied: {error}")) from error
            with timeable([self._original]):
                self._run = ready(self._original, self._call, timing == "compiled")
                (seconds,) = self._timed([self._run])
        (self.whole,) = mean_over_ranks([statistics.median(seconds)])

    def against(self, model: nn.Module) -> tuple[float, float]:
        """Seconds of one call of a model, and their share in those of the original."""
        with failing_together("time the compiled model"), timeable([self._original, model]):
            run = ready(model, self._call, self.timing == "compiled")
            pair = self._timed([run, self._run])
        seconds, share = mean_over_ranks([statistics.median(pair[0]), quick(pair[0]) / quick(pair[1])])
        return seconds, share

    def _timed(self, calls: Sequence[Callable[[], object]]) -> list[tuple[float, ...]]:
        devices = [self.device]
        return by_turns(calls, seconds=_SECONDS, rounds=_ROUNDS, threads=self.threads, devices=devices, most=_MOST)

    def bound(self) -> dict[str, Any]:
        """The inputs by the names of the placeholders of a captured graph."""
        return bind(self._original, *self._call)

    def stored(self) -> Stored:
        """The measurements of layers that were made in this way."""
        facts = {"device": device_name(self.device), "torch": torch.__version__, "threads": str(self.threads)}
        return Stored({**facts, "precision": torch.get_float32_matmul_precision()})

    def said(self) -> str:
        """Read as ``eager on 2 threads``."""
        return how(self.timing, self.threads, str(self.device))


class Guess(Protocol):
    """What numbers of channels cost, about in proportion to the time."""

    def seconds(self, counts: Mapping[str, int]) -> float:
        """Of these numbers of channels; groups that are not named stay whole."""

    def whole(self) -> float:
        """Of the model as it is."""

    def saved(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """About what each group would save with a single channel."""


class Operations:
    """Multiply-accumulate operations, where layers cannot run at other widths.

    Args:
        analysis: Of the model.
        model: Its weights; only read.
    """

    def __init__(self, analysis: Analysis, model: nn.Module) -> None:
        costs = Costs(analysis, model)
        self._counted = Counted(costs, "macs", costs.of_kept(kept_of(analysis, {}))["macs"])

    def seconds(self, counts: Mapping[str, int]) -> float:
        """Not in seconds: in proportion."""
        return self._counted.estimate(counts)

    def whole(self) -> float:
        """Of the model as it is."""
        return self._counted.whole

    def saved(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """What a single channel would save."""
        return self._counted.saved(counts)


class Latency:
    """A meter of seconds: a guess while searching, the compiled model against the original in the end.

    Args:
        stopwatch: Times models.
        table: Times of layers, taken eagerly, or another guess; scaled to the measured whole.
        build: The compiled model of some kept channels.
        relative: A fraction is asked for: seconds are those of the original times the measured share, so that a
            machine that changes its speed meanwhile changes nothing.
    """

    close = 0.95
    aim = 0.97
    short = "the nearest below that was measured"

    def __init__(
        self, stopwatch: Stopwatch, table: Guess, build: Callable[[Kept], nn.Module], *, relative: bool
    ) -> None:
        self.whole, self.trials = stopwatch.whole, 6 if stopwatch.timing == "eager" else 4
        self._stopwatch, self._table, self._build, self._relative = stopwatch, table, build, relative
        self._scale = self.whole / max(table.whole(), 1e-12)
        self._exact: dict[tuple[tuple[bool, ...], ...], float] = {}

    def estimate(self, counts: Mapping[str, int]) -> float:
        """From the table."""
        return self._scale * self._table.seconds(counts)

    def exact(self, kept: Kept) -> float:
        """Measured, once for each choice."""
        key = tuple(tuple(mask.tolist()) for mask in kept.dims.values())
        if key not in self._exact:
            seconds, share = self._stopwatch.against(self._build(kept))
            self._exact[key] = share * self.whole if self._relative else seconds
        return self._exact[key]

    def saved(self, counts: Mapping[str, int]) -> Mapping[str, float]:
        """About what a single channel would save."""
        return self._table.saved(counts)

    def shown(self, value: float) -> str:
        """With a unit."""
        return duration(value)

    def said(self, reached: float) -> str:
        """Read as ``3.1 ms of 6.4 ms (48.4%), measured eager on 2 threads``."""
        share = f"{duration(reached)} of {duration(self.whole)} ({reached / self.whole:.1%})"
        return f"{share}, measured {self._stopwatch.said()}"


def latency_meter(
    analysis: Analysis,
    model: nn.Module,
    stopwatch: Stopwatch,
    allowed: Mapping[str, Sequence[int]],
    settle: Callable[[Mapping[str, int]], Kept],
    *,
    relative: bool,
) -> Latency:
    """Time the layers of a model, as far as no file of measurements knows them.

    Args:
        analysis: Of the model. It says whether graphs are timed against the original, or modules of its class.
        model: Its weights; only read.
        stopwatch: Of the model.
        allowed: The numbers of channels that groups may keep; others stay whole.
        settle: Turns numbers of channels into kept ones.
        relative: As for :class:`Latency`.
    """
    constants = {**analysis.capture.constants, **analysis.capture.strangers}

    def graph(kept: Kept) -> fx.GraphModule:
        return rewrite(analysis.propagation, model, kept, constants=constants)

    def module(kept: Kept) -> nn.Module:
        return compile_module(model, analysis, kept, "kept")

    def sample(counts: Mapping[str, int]) -> fx.GraphModule:
        return graph(settle({name: count for name, count in counts.items() if name in allowed}))

    build = module if analysis.emit == "module" else graph
    if analysis.capture.fake_mode is None:
        return Latency(stopwatch, Operations(analysis, model), build, relative=relative)
    table = Table(analysis, model, allowed, stopwatch.stored())
    table.measure(sample, stopwatch.bound(), stopwatch.threads)
    return Latency(stopwatch, table, build, relative=relative)
