"""Weights and inputs that show a wrong slice: every element another number, of a size that keeps signals around 1."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from fxprune.specs import from_spec

_GOLDEN = 0.6180339887498949
_SHIFT = 0.7548776662466927
Units = Callable[[torch.Size, int], torch.Tensor]
"""Shape and number of a tensor -> values in (-1, 1)."""


def addresses(shape: torch.Size, number: int) -> torch.Tensor:
    """Element i of tensor k is the fractional part of i golden ratios, shifted by k: no two elements are alike.

    Example:
        >>> addresses(torch.Size([3]), 0)
        tensor([ 0.2361, -0.5279,  0.7082], dtype=torch.float64)
    """
    index = torch.arange(1, shape.numel() + 1, dtype=torch.float64)
    fraction: torch.Tensor = (index * _GOLDEN + number * _SHIFT) % 1
    return (fraction * 2 - 1).view(shape)


def random_units(seed: int) -> Units:
    """Uniform random values, the same for the same seed and number."""

    def units(shape: torch.Size, number: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed * 1_000_003 + number)
        return torch.rand(shape, dtype=torch.float64, generator=generator) * 2 - 1

    return units


def fill(module: nn.Module, units: Units) -> None:
    """Overwrite the floating-point parameters and buffers of a module.

    What must be positive stays so: variances, norm scales, single numbers, and whatever was positive throughout.
    Masks with infinities, integers and complex numbers stay as they are.

    Args:
        module: Changed in place.
        units: Values in (-1, 1) for every element.
    """
    for number, (name, tensor) in enumerate([*module.named_parameters(), *module.named_buffers()]):
        if tensor.is_floating_point() and tensor.numel() and bool(tensor.isfinite().all()):
            tensor.data.copy_(_scaled(name.rpartition(".")[2], tensor, units(tensor.shape, number)))


def _scaled(name: str, tensor: torch.Tensor, units: torch.Tensor) -> torch.Tensor:
    """Values around 1 for scales, within a quarter for shifts, and of He's deviation, sqrt(2 / fan_in), for weights."""
    is_scale = tensor.ndim == 0 or (tensor.ndim == 1 and name == "weight")
    if is_scale or "var" in name or bool((tensor > 0).all()):
        return 1 + units / 2
    if tensor.ndim == 1:
        return units / 4
    return units * math.sqrt(6 / tensor[0].numel())


def draw(spec: Any, seed: int) -> Any:
    """Example inputs for an input specification: normal floats, integers and booleans of 0 and 1."""
    with torch.random.fork_rng(devices=[]):
        inputs = from_spec(spec)
    generator = torch.Generator().manual_seed(seed)

    def drawn(tensor: torch.Tensor) -> torch.Tensor:
        values: torch.Tensor
        if tensor.is_floating_point() or tensor.is_complex():
            values = torch.randn(tensor.shape, dtype=tensor.dtype, generator=generator)
        else:
            values = torch.randint(2, tensor.shape, generator=generator).to(tensor.dtype)
        return values.to(tensor.device)

    return tree_map_only(torch.Tensor, drawn, inputs)


def rebatched(inputs: Any, batch: int) -> Any:
    """Inputs of another batch size: examples in turn, each repetition scaled by another factor.

    The batch is dim 0 of the first tensor, and of every other tensor that is as long there.
    """
    tensors: list[torch.Tensor] = []
    tree_map_only(torch.Tensor, tensors.append, inputs)
    size = next((tensor.shape[0] for tensor in tensors if tensor.ndim and tensor.shape[0]), None)

    def stretched(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.ndim or tensor.shape[0] != size:
            return tensor
        order = torch.arange(batch, device=tensor.device)
        picked = tensor[order % size]
        if not picked.is_floating_point():
            return picked
        return picked * (1 + 0.25 * (order // size)).to(picked.dtype).view(-1, *(1 for _ in tensor.shape[1:]))

    return tree_map_only(torch.Tensor, stretched, inputs)
