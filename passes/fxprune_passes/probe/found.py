"""What running an op shows of its axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from fxprune_passes.probe.alike import Alike, commutes, linked_axes
from fxprune_passes.probe.movement import Moved, movement
from fxprune_passes.probe.runs import Like, Run, Runs, Stop, wide

_ELEMENTS = 1 << 21  # of all tensors of one run


@dataclass(frozen=True, slots=True)
class Found:
    """What running an op showed."""

    alike: tuple[Alike, ...]
    moved: Moved | None


def probe(run: Run, inputs: Sequence[Like], shapes: Sequence[tuple[int, ...]], *, seed: int = 0) -> Found | None:
    """Run an op on made-up tensors.

    Args:
        run: The op on a list of tensors.
        inputs: What to make up.
        shapes: The shapes of its outputs.
        seed: Of the made-up numbers; the random state of PyTorch is left as it is.

    Returns:
        Which axes go together, or None if nothing can be concluded.
    """
    elements = sum(torch.Size(shape).numel() for shape in (*shapes, *(one.shape for one in inputs)))
    if elements > _ELEMENTS or not all(0 not in one.shape for one in inputs):
        return None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for widen in (True, False):
            runs = Runs(run, [wide(one) if widen else one for one in inputs], list(shapes), elements)
            try:
                return _found(runs)
            except Stop:
                return None
            except Exception:  # an op may fail in any way on tensors that nobody meant for it
                continue
    return None


def _found(runs: Runs) -> Found:
    tensors = runs.drawn()
    outputs = runs.first(tensors)
    return Found(tuple(one for one in linked_axes(runs, tensors, outputs) if commutes(runs, one)), movement(runs))
