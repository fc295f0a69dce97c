"""The work that is measured, by fxprune and by Torch-Pruning, in turns on fresh copies of the same models."""

from __future__ import annotations

import copy
import gc
import signal
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch import nn

import fxprune

try:
    import torch_pruning
except ImportError:  # a benchmark extra: without it fxprune is measured alone
    torch_pruning = None

OURS, THEIRS = "fxprune", "Torch-Pruning"
ENOUGH = 20.0  # seconds that repeats of one work on one model may take together
Work = Callable[[nn.Module, torch.Tensor], nn.Module]
Case = tuple[nn.Module, torch.Tensor]


def ours(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Analyse, plan and compile; the model stays."""
    return fxprune.compile(model, fxprune.plan(model, inputs, channels=0.5, criterion="l2"))


def theirs(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Prune a model in place, all but its outputs.

    Source: examples/torchvision_models/torchvision_pruning.py of github.com/VainF/Torch-Pruning.
    """
    heads = {one: one.num_heads for one in model.modules() if isinstance(one, nn.MultiheadAttention)}
    pruner = torch_pruning.pruner.BasePruner(
        model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[output_layer(model)],
        in_channel_groups={},  # the defaults are dicts that all pruners of a process share
        out_channel_groups=heads,
    )
    pruner.step()
    return model


def output_layer(model: nn.Module) -> nn.Module:
    """The last layer with weights in the order of the modules: the classifier of the models here."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [module for module in model.modules() if isinstance(module, kinds)][-1]


def works() -> dict[str, Work]:
    """What can be measured here."""
    return {OURS: ours, THEIRS: theirs} if torch_pruning else {OURS: ours}


class OutOfTimeError(BaseException):
    """Raised inside a work that runs too long; not an Exception, which the work itself might catch."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stop what runs inside after some seconds (main thread only)."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Outcome:
    """What came of one work on one model.

    Attributes:
        first: Seconds of the first run, which warms up.
        seconds: Of the runs after it.
        left: The fraction of the parameters that stays.
        failed: Why there is no result: "stopped" or the name of an error; "" where there is one.
    """

    first: float = 0.0
    seconds: list[float] = field(default_factory=list)
    left: float = 0.0
    failed: str = ""

    @property
    def value(self) -> float | None:
        """Median seconds; the limit for a run that was stopped, None for one that failed."""
        if self.failed:
            return self.first if self.failed == "stopped" else None
        return statistics.median(self.seconds or [self.first])

    @property
    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "value": self.value}


def take_turns(
    cases: Mapping[str, Case], *, limit: float, repeats: int, ascending: bool = False
) -> dict[str, dict[str, Outcome]]:
    """Let every work prune every model in turns, so that a busy machine slows all of them.

    The first turn warms up. Works that take long run less often.

    Args:
        cases: Models and inputs by name.
        limit: Seconds after which a run is stopped.
        repeats: Most runs after the first.
        ascending: A work that was stopped, or failed, on one model is spared the later ones.

    Returns:
        By case, then by work.
    """
    outcomes: dict[str, dict[str, Outcome]] = {name: {} for name in cases}
    for turn in range(repeats + 1):
        for name, (model, inputs) in cases.items():
            for who, work in works().items():
                if turn == 0:
                    if not (ascending and any(who in one and one[who].failed for one in outcomes.values())):
                        outcomes[name][who] = _run(work, model, inputs, limit)
                elif (outcome := outcomes[name].get(who)) and turn <= _runs(outcome, repeats):
                    again = _run(work, model, inputs, limit)
                    outcome.seconds.append(again.first if again.value is not None else limit)
    return outcomes


def _runs(outcome: Outcome, most: int) -> int:
    return 0 if outcome.failed else min(most, max(2, int(ENOUGH / outcome.first)))


def _run(work: Work, model: nn.Module, inputs: torch.Tensor, limit: float) -> Outcome:
    fresh = copy.deepcopy(model)
    gc.collect()
    try:
        with limited(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            start = time.perf_counter()
            result = work(fresh, inputs)
            seconds = time.perf_counter() - start
    except OutOfTimeError:
        return Outcome(limit, failed="stopped")
    except Exception as error:  # told in the table
        return Outcome(failed=type(error).__name__)
    return Outcome(seconds, left=_size(result) / _size(model))


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@cache
def warm_up() -> None:
    """Have PyTorch load what it loads late, by a small model."""
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 3))
    take_turns({"": (nn.Sequential(*layers).eval(), torch.zeros(1, 3, 8, 8))}, limit=60, repeats=1)
