"""One model of every timm family: the smallest variant, at the size that it was made for."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import timm
import torch
from torch import nn

from zoo import Entry, randomize


def entries() -> Iterator[Entry]:
    """The smallest variant of each family, by parameters."""
    for family in timm.list_modules():
        if names := timm.list_models(module=family):
            yield Entry(_smallest(tuple(names)), family, partial(_build, tuple(names)))


@cache
def _smallest(names: tuple[str, ...]) -> str:
    """The variant with the fewest parameters; built on the meta device, which takes no memory."""

    def parameters(name: str) -> int:
        with torch.device("meta"):
            return sum(one.numel() for one in timm.create_model(name).parameters())

    return min(names, key=parameters)


def _build(names: tuple[str, ...]) -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model = timm.create_model(_smallest(names))
    randomize(model)
    channels, height, width = model.default_cfg["input_size"]
    return model.eval(), torch.randn(2, channels, height, width)
