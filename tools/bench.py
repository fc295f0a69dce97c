"""Measure the speed and the memory of plan + compile against their bounds.

    python tools/bench.py
    python tools/bench.py --repeats 15 --json figures.json

Three measurements, each against a bound, at half width by L2 norm:

* ResNet-50: seconds of plan + compile against twice those of ``copy.deepcopy(model)`` plus 0.3.
* A chain of N convolutions of width 16, N from 50 to 400: the exponent with which seconds grow, below 1.15.
* ResNet-50 and VGG-16: peak resident memory that plan + compile adds, against the bytes of the result plus 50 MB.

Times are medians of interleaved runs after one warm-up, on one thread. Memory is measured in a process of its own, in
which everything that PyTorch loads late has been loaded by a small model first (Linux only).
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import gc
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tabulate import tabulate
from torch import nn

import fxprune
from fxprune.arguments import load_model

LENGTHS = (50, 100, 200, 400)
MEMORY_MODELS = ("torchvision:resnet50", "torchvision:vgg16")
MEGABYTE = 10**6


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``bound`` is what it must not exceed, None where it is only told."""

    name: str
    value: float
    unit: str
    bound: float | None = None

    @property
    def row(self) -> tuple[str, str, str, str]:
        """As a row of the table."""
        if self.bound is None:
            return self.name, f"{self.value:.3f} {self.unit}", "", ""
        return (
            self.name,
            f"{self.value:.3f} {self.unit}",
            f"{self.bound:.3f}",
            "yes" if self.value <= self.bound else "NO",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every measurement and print one table; the exit status is 1 where a bound does not hold."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=9, help="runs that a median is taken over (default 9)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--memory-of", metavar="SPEC", help=argparse.SUPPRESS)  # what the process of its own runs
    options = parser.parse_args(arguments)
    if options.memory_of:
        print(json.dumps(added_memory(options.memory_of)))
        return 0
    torch.set_num_threads(1)
    figures = [*resnet(options.repeats), *chain(options.repeats), *memory()]
    print(tabulate([one.row for one in figures], headers=("", "measured", "bound", "holds"), disable_numparse=True))
    if options.json:
        options.json.write_text(json.dumps([asdict(one) for one in figures], indent=2) + "\n")
    return int(any(one.bound is not None and one.value > one.bound for one in figures))


def prune(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """The work that is measured."""
    return fxprune.compile(model, fxprune.plan(model, inputs, channels=0.5, criterion="l2"))


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


def resnet(repeats: int) -> list[Figure]:
    """ResNet-50 against a deep copy of it."""
    model, inputs = load_model("torchvision:resnet50").eval(), torch.zeros(1, 3, 224, 224)
    seconds = medians({"copy": lambda: copy.deepcopy(model), "prune": lambda: prune(model, inputs)}, repeats)
    return [
        Figure("ResNet-50, copy.deepcopy", seconds["copy"], "s"),
        Figure("ResNet-50, plan + compile", seconds["prune"], "s", 2 * seconds["copy"] + 0.3),
        Figure("ResNet-50, plan + compile / deepcopy", seconds["prune"] / seconds["copy"], "x"),
    ]


def chain(repeats: int) -> list[Figure]:
    """Chains of convolutions: seconds, and the slope of a straight line through their logarithms."""
    models = {f"{length}": convolutions(length) for length in LENGTHS}
    inputs = torch.zeros(1, 16, 8, 8)
    seconds = medians({name: lambda model=model: prune(model, inputs) for name, model in models.items()}, repeats)
    slope, _ = statistics.linear_regression([math.log(n) for n in LENGTHS], [math.log(one) for one in seconds.values()])
    rows = [Figure(f"chain of {name} convolutions", value, "s") for name, value in seconds.items()]
    return [*rows, Figure("chain, exponent of growth", slope, "", 1.15)]


def convolutions(length: int) -> nn.Sequential:
    """A chain of 3x3 convolutions of width 16."""
    layers: list[nn.Module] = []
    for _ in range(length):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers).eval()


def memory() -> list[Figure]:
    """Peak memory that plan + compile adds, each model in a process of its own."""
    figures = []
    for spec in MEMORY_MODELS:
        command = [sys.executable, __file__, "--memory-of", spec]
        added, kept = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        figures.append(Figure(f"{spec}, peak memory added", added / MEGABYTE, "MB", kept / MEGABYTE + 50))
    return figures


def added_memory(spec: str) -> tuple[int, int]:
    """Bytes by which plan + compile raise the peak of the resident set, and bytes of the result."""
    torch.set_num_threads(1)
    model, inputs = load_model(spec).eval(), torch.zeros(1, 3, 224, 224)
    prune(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 3, 3)).eval(), inputs)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident set counts from here
    before = resident("VmRSS")
    small = prune(model, inputs)
    tensors = [*small.parameters(), *small.buffers()]
    return resident("VmHWM") - before, sum(one.numel() * one.element_size() for one in tensors)


def resident(field: str) -> int:
    """Bytes of a field of the process's status: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    sys.exit(main())
