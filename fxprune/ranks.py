"""Processes of ``torch.distributed`` that plan together: numbers they agree on, errors that none waits behind."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist

from fxprune_passes.errors import PlanError, explain


def rank() -> int:
    """The number of this process; 0 where there is only one."""
    return dist.get_rank() if _several() else 0


def sum_over_ranks(tensors: Sequence[torch.Tensor]) -> None:
    """Replace tensors by their sums over all processes, in place; all processes call this with the same shapes."""
    for tensor in tensors if _several() else ():
        moved = tensor.to(_device(tensor))
        dist.all_reduce(moved)
        tensor.copy_(moved)


def mean_over_ranks(values: Sequence[float]) -> list[float]:
    """The mean over all processes of each of some numbers: the same in all, so that all decide alike by them."""
    if not _several():
        return list(values)
    total = torch.tensor(values, dtype=torch.float64)
    sum_over_ranks([total])
    return [float(one) for one in total / dist.get_world_size()]


def first_of_ranks(values: Sequence[float]) -> list[float]:
    """What the first process has, in all of them."""
    if not _several():
        return list(values)
    first = torch.tensor(values if rank() == 0 else [0.0] * len(values), dtype=torch.float64)
    sum_over_ranks([first])
    return [float(one) for one in first]


def check_same(text: str, what: str) -> None:
    """Refuse to go on where processes differ in what they must have in common.

    Args:
        text: Says it all.
        what: It is called.

    Raises:
        PlanError: Another process has another one.
    """
    number = int(hashlib.sha256(text.encode()).hexdigest()[:12], 16)
    differs = first_of_ranks([float(number)]) != [float(number)]
    if mean_over_ranks([float(differs)]) != [0.0]:
        first = f"the processes of torch.distributed differ in {what}, expected the same in all."
        raise PlanError(explain(first, mend="plan with the same model, options and shapes of inputs in every process"))


@contextmanager
def failing_together(what: str) -> Iterator[None]:
    """Run something in all processes, and go on in none if it raises an error in one.

    Args:
        what: It does, for the message in the others: ``"evaluate their batches"``.

    Raises:
        PlanError: Another process failed.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as failure:
        error = failure
    failed = torch.tensor([0.0 if error is None else 1.0], dtype=torch.float64)
    sum_over_ranks([failed])
    if error is not None:
        raise error
    if failed.item():
        first = f"{failed.item():.0f} of {dist.get_world_size()} processes could not {what}."
        raise PlanError(explain(first, mend="see the error of that process"))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _device(tensor: torch.Tensor) -> torch.device:
    """Where the backend reduces: nccl knows no tensors in the memory of the host."""
    if dist.get_backend() == "nccl" and tensor.device.type == "cpu":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device
