"""Seconds of analysis, plan and compile against those of a plain copy of the model."""

from __future__ import annotations

import copy
import gc
import statistics
import time
from collections.abc import Callable, Mapping

import torch

from benchmark.contest import OURS, ours
from benchmark.figures import Figure, Section
from benchmark.settings import Settings
from fxprune.arguments import load_model

TEXT = "Seconds of plan + compile of ResNet-50 at half width, and of `copy.deepcopy`, in turns; medians of {repeats}."


def medians(works: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each work; the works take turns, so that a busy machine slows all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            gc.collect()
            start = time.perf_counter()
            work()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def copying(settings: Settings) -> Section:
    """ResNet-50 against a deep copy of it."""
    model, inputs = load_model("torchvision:resnet50").eval(), torch.zeros(1, 3, settings.image, settings.image)
    works = {"copy.deepcopy": lambda: copy.deepcopy(model), OURS: lambda: ours(model, inputs)}
    seconds = medians(works, settings.repeats)
    bound = 2 * seconds["copy.deepcopy"] + 0.3
    return Section(
        "copying",
        "Against a copy",
        TEXT.format(repeats=settings.repeats),
        ("", "median"),
        [(name, f"{value:.3f} s") for name, value in seconds.items()],
        [Figure("ResNet-50, against twice a deep copy and 0.3 s", seconds[OURS], " s", bound)],
        seconds,
    )
