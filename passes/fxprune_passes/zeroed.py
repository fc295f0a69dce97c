"""A second oracle, for models that no graph can stand for: the model itself, with zeros in its removed weights.

Where every reader's weights for a channel are zero, nothing that the channel carries can matter, so that this is the
function in which the channel is zero. It does not hold where a mean or variance runs over the channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from fxprune_passes.kept import Kept
from fxprune_passes.masks import zero_removed
from fxprune_passes.propagation import Propagation
from fxprune_passes.wide import in_float64, widen, widened


def zeroed(model: nn.Module, propagation: Propagation, kept: Kept) -> nn.Module:
    """A float64 copy of a model whose removed weights are zero.

    Args:
        model: Only read.
        propagation: Its graph with the axes of every parameter and buffer.
        kept: The kept channels.
    """
    result = widened(model)
    for tensors in (result.named_parameters, result.named_buffers):
        for name, tensor in tensors(remove_duplicate=False):
            if name in propagation.parameters and (tensor.is_floating_point() or tensor.is_complex()):
                zero_removed(tensor.data, propagation.parameters[name], kept)
    return result


def holds(propagation: Propagation, kept: Kept) -> bool:
    """Whether zero weights make zero channels: no mean or variance runs over a pruned axis."""
    return not any(kept.mask(axis) is not None for axes in propagation.statistics.values() for axis in axes)


def run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, seed: int) -> Any:
    """Call a widened model on widened inputs, random numbers drawn from a seed."""
    args, kwargs = tree_map(widen, (args, kwargs))
    with torch.random.fork_rng(devices=[]), in_float64():
        torch.default_generator.manual_seed(seed)
        return model(*args, **kwargs)
