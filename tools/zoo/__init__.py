"""Zoos: models to try, each with a function that builds it with random weights and the inputs that go with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Entry:
    """One model of a zoo.

    Attributes:
        name: As its library calls it.
        kind: What the model is for, such as ``"classification"`` or ``"decoder"``.
        build: Gives the model in eval mode and its example inputs.
        others: Further inputs that the compiled model must be exact on.
    """

    name: str
    kind: str
    build: Callable[[], tuple[nn.Module, Any]]
    others: tuple[Any, ...] = ()


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Fill every float parameter, and every buffer of a norm, with random values.

    Weights are scaled by their fan-in so that outputs stay around 1, scales of norms are positive, shifts and means
    are not zero, variances are positive: no channel is like another, none is neutral. Other buffers stay: they are
    tables (positions, frequencies, masks) that a model computed.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *_running_statistics(model)]:
            if tensor.is_floating_point():
                tensor.copy_(_random_values(name.rpartition(".")[2], tensor.shape, generator))


def _running_statistics(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [(name, one) for name, one in model.named_buffers() if name.endswith(("running_mean", "running_var"))]


def _random_values(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    if "var" in name or (len(shape) <= 1 and name == "weight"):
        return 0.5 + torch.rand(shape, generator=generator)
    fan_in = shape[1:].numel() if len(shape) > 1 else 4
    return torch.randn(shape, generator=generator) / max(fan_in, 2) ** 0.5
