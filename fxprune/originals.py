"""The original in float64: a private copy with every tensor that its captured graph reads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from fxprune.capture import Capture
from fxprune_passes.wide import widen, widened


def original(model: nn.Module, capture: Capture) -> nn.Module:
    """A copy of a model in float64, with the tensors that capture found outside parameters and buffers."""
    result = widened(model)
    install(result, {**capture.constants, **capture.strangers})
    return result


def install(root: nn.Module, constants: Mapping[str, torch.Tensor]) -> None:
    """Make float64 copies of tensors readable under their dotted names."""
    for name, value in constants.items():
        *path, last = name.split(".")
        owner = root
        for part in path:
            if not hasattr(owner, part):
                owner.add_module(part, nn.Module())
            owner = getattr(owner, part)
        setattr(owner, last, widen(value))
