"""Processes of ``torch.distributed`` that plan together: sums over all of them, errors that none waits behind."""

from __future__ import annotations

from collections.abc import Sequence

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


def fail_together(error: Exception | None) -> None:
    """Raise an error of this process, or tell of another's: nobody goes on to wait for one that has failed.

    Raises:
        PlanError: Another process failed.
    """
    failed = torch.tensor([0.0 if error is None else 1.0], dtype=torch.float64)
    sum_over_ranks([failed])
    if error is not None:
        raise error
    if failed.item():
        first = f"{failed.item():.0f} of {dist.get_world_size()} processes could not evaluate their batches."
        raise PlanError(explain(first, mend="see the error of that process"))


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def _device(tensor: torch.Tensor) -> torch.device:
    """Where the backend reduces: nccl knows no tensors in the memory of the host."""
    if dist.get_backend() == "nccl" and tensor.device.type == "cpu":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device
