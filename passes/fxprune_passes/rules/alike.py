"""Calls that take the sizes of one tensor from another: ATen sees numbers, the graph knows whose axes they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes
from fxprune_passes.equations import Equations

_LIKE_THE_SECOND = frozenset({"expand_as", "view_as", "reshape_as"})
_LIKE_EACH_OTHER = frozenset({torch.functional.broadcast_tensors, torch.functional.meshgrid})


def state_alike(equations: Equations, target: Any, inputs: Sequence[Any], outputs: Any) -> None:
    """State that the tensors of such a call have the same axes."""
    if target in _LIKE_THE_SECOND:
        _equate_all(equations, [outputs, inputs[-1]])
    elif target in _LIKE_EACH_OTHER:
        _equate_all(equations, outputs)


def _equate_all(equations: Equations, tensors: Sequence[Axes]) -> None:
    for axes in tensors[1:]:
        for axis, other in zip(tensors[0], axes, strict=True):
            equations.equate(axis, other)
