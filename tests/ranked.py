"""What a process of ``torch.distributed`` plans by its own measurements, which have little to do with those of others.

A module of its own, since every process that is started imports it.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import fxprune
from fxprune import latency, layers

X = torch.zeros(2, 3, 8, 8)
SECONDS = (1e-6, 3e-6)
"""Of every layer, as the processes measure it at first."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.Flatten(), nn.Linear(48 * 16, 4))


def plan_as_a_rank(rank: int, folder: str) -> None:
    """Write down what this process plans, and the errors that it gets."""
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    os.environ["FXPRUNE_CACHE"] = f"{folder}/{rank}"
    try:
        with pytest.MonkeyPatch.context() as patch:
            torch.save(_found(rank, Path(folder), patch), f"{folder}/found-{rank}")
    finally:
        dist.destroy_process_group()


def _found(rank: int, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    draw = random.Random(rank)

    def by_turns(calls: Sequence[Callable[[], object]], **options: Any) -> list[tuple[float, ...]]:
        share = draw.uniform(0.3, 1.0)  # of the original, which comes last
        return [(share,) * 4, (1.0,) * 4][: len(calls)]

    patch.setattr(latency, "by_turns", by_turns)
    patch.setattr(layers, "seconds_of", lambda *_: SECONDS[rank])
    model, found = network(), dict[str, Any]()
    found["first"] = _outcome(model, X)
    (file,) = (folder / str(rank)).iterdir()
    found["table"] = json.loads(file.read_text())["seconds"]
    if rank == 1:  # the first process knows them still, and all go by what it knows
        file.unlink()
    patch.setattr(layers, "seconds_of", lambda *_: draw.uniform(1e-6, 1e-4))
    found["again"] = _outcome(model, X, scope="global")
    for batch in range(3, 9):
        images = torch.zeros(batch, 3, 8, 8)
        found[f"batch {batch}"] = _outcome(model, images, emit=("graph", "module")[batch % 2])
    found["schedule"] = _outcomes(model)

    found["other inputs"] = _outcome(model[:3], torch.zeros(1, 3, 8 + rank, 8))
    if rank == 1:
        patch.setattr(latency, "ready", _fail)
    found["failure"] = _outcome(model, X)
    return found


def _outcome(model: nn.Module, inputs: torch.Tensor, **options: Any) -> Any:
    """What stays, or why nothing is planned."""
    try:
        return dict(fxprune.plan(model, inputs, latency=0.9, **options).keep)
    except fxprune.FxPruneError as error:
        return str(error)


def _outcomes(model: nn.Module) -> list[Any]:
    found: list[Any] = []
    try:
        found.extend(dict(plan.keep) for plan, _ in fxprune.schedule(model, X, latency=0.8, steps=2, round_to=None))
    except fxprune.FxPruneError as error:
        found.append(str(error))
    return found


def _fail(*_: object) -> object:
    raise fxprune.CaptureError("no memory is left.")
