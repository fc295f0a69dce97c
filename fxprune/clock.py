"""Time calls: warmed, in blocks, several by turns, and what came of it."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from timeit import default_timer
from typing import TYPE_CHECKING

import torch

from fxprune.units import duration

if TYPE_CHECKING:
    from torch.utils.benchmark import Timer

_BLOCK = 1e-3  # seconds of one block where single calls are timed
_BLOCKS = 3
_PRECISION = 0.02
_LAYERS_SHOWN = 12


@dataclass(frozen=True)
class Measured:
    """How long one call takes.

    Attributes:
        seconds: Of one call, in every round.
        mode: ``"eager"`` or ``"compiled"``.
        threads: Of the CPU.
        device: Where the model is.
        layers: Seconds of each layer timed by itself, in order; empty where they were not asked for.
    """

    seconds: tuple[float, ...]
    mode: str
    threads: int
    device: str
    layers: Mapping[str, float] = field(default_factory=dict, repr=False)

    @property
    def median(self) -> float:
        """Seconds of one call."""
        return statistics.median(self.seconds)

    @property
    def iqr(self) -> float:
        """The distance between the quartiles of the rounds, in seconds."""
        if len(self.seconds) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return high - low

    def __str__(self) -> str:
        """Read as one line, and one more for each of the slowest layers."""
        spread = f"{duration(self.median)} (IQR {duration(self.iqr)}, {len(self.seconds)} rounds)"
        slowest = sorted(self.layers.items(), key=lambda one: -one[1])[:_LAYERS_SHOWN]
        layers = [f"  {duration(seconds):>10}  {name}" for name, seconds in slowest]
        return "\n".join([f"{spread}, {how(self.mode, self.threads, self.device)}", *layers])


def how(mode: str, threads: int, device: str) -> str:
    """Say how something was measured."""
    where = f"{threads} thread{'s' if threads > 1 else ''}" if device == "cpu" else device
    return f"{mode} on {where}"


def by_turns(
    calls: Sequence[Callable[[], object]],
    *,
    seconds: float,
    rounds: int,
    threads: int,
    devices: Iterable[torch.device] = (),
    most: int | None = None,
) -> list[tuple[float, ...]]:
    """Time calls by turns, so that a machine that is busy for a while slows all of them alike.

    Args:
        calls: Each is called twice before every block.
        seconds: About how long each is run in all.
        rounds: Blocks of each.
        threads: Of the CPU.
        devices: Where they run.
        most: Go on up to so many rounds, until the share of the first call in the last one is known to two hundredths.

    Returns:
        For every call the seconds of one, in every round.
    """
    devices = list(devices)
    timers = [_timer(call, threads, devices) for call in calls]
    numbers = [max(1, int(seconds / rounds / max(timer.timeit(1).median, 1e-9))) for timer in timers]
    measured: list[list[float]] = []
    while len(measured) < rounds or (len(measured) < (most or rounds) and not _is_settled(measured)):
        measured.append([timer.timeit(number).median for timer, number in zip(timers, numbers, strict=True)])
    return list(zip(*measured, strict=True))


def _is_settled(rounds: Sequence[Sequence[float]]) -> bool:
    """Whether the median of a share is known: its standard error is 0.93 quartile distances / sqrt(rounds)."""
    shares = [one[0] / (one[-1] if len(one) > 1 else 1.0) for one in rounds]
    low, middle, high = statistics.quantiles(shares, n=4, method="inclusive")
    return bool(0.93 * (high - low) / len(shares) ** 0.5 < _PRECISION * middle)


def quick(seconds: Sequence[float]) -> float:
    """The lower quartile of rounds: what else runs on a machine adds to a time, and takes nothing off.

    Example:
        >>> quick([1.0, 2.0, 1.0, 9.0, 1.0])
        1.0
    """
    return statistics.quantiles(seconds, n=4, method="inclusive")[0]


def seconds_of(call: Callable[[], object], threads: int, devices: Iterable[torch.device] = ()) -> float:
    """Seconds of one short call, the quickest of a few blocks of about a millisecond."""
    timer = _timer(call, threads, devices)
    first = timer.timeit(1).median
    number = int(_BLOCK / max(first, 1e-9))
    if number <= 1:
        return min(timer.blocked_autorange(min_run_time=(_BLOCKS - 0.5) * first).times)
    return min(timer.timeit(number).median for _ in range(_BLOCKS))


def _timer(call: Callable[[], object], threads: int, devices: Iterable[torch.device]) -> Timer:
    """PyTorch's timer, on a clock that waits for the devices.

    Its module takes 0.3 s to import, and writes to stderr where there is CUDA but no GPU: only those who time pay that.
    """
    from torch.utils.benchmark import Timer

    return Timer("call()", timer=_clock(devices), globals={"call": call}, num_threads=threads)


def _clock(devices: Iterable[torch.device]) -> Callable[[], float]:
    """A clock that is read when these devices are done; PyTorch's own waits for the current one alone."""
    found = torch.accelerator.current_accelerator()
    waited = [one for one in dict.fromkeys(devices) if found is not None and one.type == found.type]

    def now() -> float:
        for one in waited:
            torch.accelerator.synchronize(one)
        return default_timer()

    return now


def device_name(device: torch.device) -> str:
    """What a device calls itself: measurements hold for devices of that name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
