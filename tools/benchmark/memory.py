"""Peak memory that pruning adds, against Torch-Pruning and against the size of the result (Linux only)."""

from __future__ import annotations

import ctypes
import gc
import warnings
from pathlib import Path
from typing import Any

import torch

from benchmark.children import in_a_process
from benchmark.contest import OURS, THEIRS, OutOfTimeError, limited, warm_up, works
from benchmark.figures import Figure, Section
from benchmark.settings import Settings
from fxprune.arguments import load_model

TEXT = """\
Megabytes by which the same work raises the peak of the process's resident memory, each tool and model in a process of
its own, in which a small model has been pruned by both tools before. fxprune leaves the original model as it is, so
that its result is part of what it adds; Torch-Pruning prunes in place.\
"""
MEGABYTE = 10**6
SLACK = 50  # megabytes that fxprune may add to those of its result
BOUNDED = ("resnet18", "resnet50", "vgg16_bn")  # the models for which that holds


def measure(who: str, name: str, image: str, limit: str, threads: str) -> dict[str, Any]:
    """One tool on one model, in this process."""
    torch.set_num_threads(int(threads))
    model, inputs = load_model(f"torchvision:{name}").eval(), torch.zeros(1, 3, int(image), int(image))
    warm_up()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak of the resident set counts from here
    before = resident("VmRSS")
    try:
        with limited(float(limit)), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            small = works()[who](model, inputs)
    except OutOfTimeError:
        return {"failed": "stopped"}
    except Exception as error:  # told in the table
        return {"failed": type(error).__name__}
    tensors = [*small.parameters(), *small.buffers()]
    kept = sum(one.numel() * one.element_size() for one in tensors)
    return {"added": (resident("VmHWM") - before) / MEGABYTE, "result": kept / MEGABYTE}


def resident(field: str) -> int:
    """Bytes of a field of the process's status: VmRSS now, VmHWM at its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def memory(settings: Settings) -> Section:
    """Every tool on every model, each in a process of its own."""
    arguments = (settings.image, settings.limit[0], settings.threads)
    data = {name: {who: in_a_process("memory", who, name, *arguments) for who in works()} for name in settings.memory}
    rows = [(name, *(_megabytes(one.get(who)) for who in (OURS, THEIRS)), _result(one)) for name, one in data.items()]
    figures = [figure for name, one in data.items() for figure in _figures(name, one)]
    title = "Against Torch-Pruning: memory"
    return Section("memory", title, TEXT, ("model", OURS, THEIRS, f"result of {OURS}"), rows, figures, data)


def _figures(name: str, one: dict[str, Any]) -> list[Figure]:
    added, result = one[OURS]["added"], one[OURS]["result"]
    figures = []
    if "added" in one.get(THEIRS, ()):
        bound = one[THEIRS]["added"]
        figures.append(Figure(f"{name}, memory added, against {THEIRS}", added, " MB", bound))
    if name in BOUNDED:
        figures.append(Figure(f"{name}, memory added, against the result", added, " MB", result + SLACK))
    return figures


def _megabytes(one: dict[str, Any] | None) -> str:
    if one is None:
        return ""
    return f"{one['added']:.1f} MB" if "added" in one else f"fails: {one['failed']}"


def _result(one: dict[str, Any]) -> str:
    return f"{one[OURS]['result']:.1f} MB"
