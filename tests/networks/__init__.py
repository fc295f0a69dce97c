"""The table of small test networks: every construct that a plan must survive, in the spellings that users write."""

from __future__ import annotations

import torch
from torch import nn

from . import (
    architectures,
    attention,
    chains,
    concatenation,
    dynamic,
    fused,
    gates,
    grouped,
    indexing,
    inplace,
    language,
    norms,
    outputs,
    positions,
    raw,
    recurrent,
    reductions,
    reshaping,
    residuals,
    sequences,
    sharing,
    shuffles,
    slicing,
    transformers,
)
from .entry import Inputs, Network, output_dim, rebatched

__all__ = ["NETWORKS", "Inputs", "Network", "output_dim", "randomize", "rebatched"]

FAMILIES = (
    chains, residuals, concatenation, slicing, indexing, reshaping, grouped, shuffles, norms, reductions, gates,
    attention, fused, positions, transformers, language, sequences, recurrent, sharing, raw, outputs, inplace,
    architectures, dynamic,
)  # fmt: skip
NETWORKS: tuple[Network, ...] = tuple(network for module in FAMILIES for network in module.family.networks)


def randomize(model: nn.Module, seed: int) -> None:
    """Fill every float parameter and buffer with random values; integers and booleans stay.

    Weights are scaled by their fan-in so that outputs stay around 1, scales of norms are positive, shifts and
    means are not zero, variances are positive: no channel is like another, none is neutral.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point():
            values = _random_values(name.rpartition(".")[2], tensor.shape, generator)
            tensor.data.copy_(values)


def _random_values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if "var" in name or (len(shape) <= 1 and name == "weight"):
        return 0.5 + torch.rand(shape, generator=generator)
    values = torch.randn(shape, generator=generator)
    fan_in = shape[1:].numel() if len(shape) > 1 else 4
    return values / max(fan_in, 2) ** 0.5
