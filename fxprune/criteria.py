"""Criteria: which channels of a group matter least."""

from __future__ import annotations

from collections.abc import Callable

import torch

from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup

Criterion = Callable[[ChannelGroup], torch.Tensor]


def magnitude(group: ChannelGroup, order: float) -> torch.Tensor:
    """The norm of all weights that write a channel: filters of every layer that shares it.

    Args:
        group: The channel group.
        order: 1 for the sum of absolute values, 2 for the Euclidean norm.

    Returns:
        ``(group.size,)``.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1, summed over coupled layers.
    """
    weights = [site for site in group.writers if site.tensor.ndim > 1 and site.tensor.is_floating_point()]
    total = torch.zeros(group.size)
    for site in weights or [one for one in group.writers if one.tensor.is_floating_point()]:
        tensor = site.tensor.detach()
        others = [dim for dim in range(tensor.ndim) if dim != site.dim]
        dtype = torch.promote_types(tensor.dtype, torch.float32)
        norms = torch.linalg.vector_norm(tensor, order, dim=others, dtype=dtype) if others else tensor.abs().to(dtype)
        total += group.per_channel(site, norms**order).float().cpu()
    return total ** (1 / order)


def l1(group: ChannelGroup) -> torch.Tensor:
    """Sum of absolute weights that write each channel, ``(group.size,)``."""
    return magnitude(group, 1)


def l2(group: ChannelGroup) -> torch.Tensor:
    """Euclidean norm of the weights that write each channel, ``(group.size,)``."""
    return magnitude(group, 2)


def random(seed: int) -> Criterion:
    """Scores drawn uniformly, the same for the same seed and model."""
    generator = torch.Generator().manual_seed(seed)
    return lambda group: torch.rand(group.size, generator=generator)


def find_criterion(criterion: str | Criterion, seed: int) -> Criterion:
    """A criterion by name, or a user's own.

    Raises:
        PlanError: The name is unknown.
    """
    if callable(criterion):
        return criterion
    known = {"l1": l1, "l2": l2, "random": random(seed)}
    if criterion not in known:
        first = f"criterion {criterion!r} is unknown, expected one of {', '.join(known)} or a function."
        raise PlanError(explain(first))
    return known[criterion]


def scores(group: ChannelGroup, criterion: Criterion) -> torch.Tensor:
    """Score a group's channels and check what came back.

    Raises:
        PlanError: The scores have the wrong shape, or hold NaN.
    """
    result = torch.as_tensor(criterion(group)).detach().float().cpu()
    name = getattr(criterion, "__name__", repr(criterion))
    if tuple(result.shape) != (group.size,):
        first = f"criterion {name} gave scores of shape {tuple(result.shape)}, expected ({group.size},)."
        raise PlanError(explain(first, at=f"channel group {group.name!r}"))
    if result.isnan().any():
        count = int(result.isnan().sum())
        first = f"criterion {name} gave NaN for {count} of {group.size} channels."
        raise PlanError(explain(first, at=f"channel group {group.name!r}", mend="check the weights for NaN"))
    return result
