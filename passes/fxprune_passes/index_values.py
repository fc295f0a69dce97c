"""Integer tensors that may index an axis: which ones are followed by value, and what an op makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily

from fxprune_passes.propagation import flat_axes

_UP_TO = 1 << 16  # elements
_VALUE_OPS = frozenset(
    getattr(torch.ops.aten, name)
    for name in (
        "arange",
        "add",
        "sub",
        "mul",
        "_to_copy",
        "clone",
        "flip",
        "remainder",
        "lift_fresh",
        "lift_fresh_copy",
        "view",
        "alias",
        "detach",
        "slice",
        "unsqueeze",
        "squeeze",
        "permute",
        "roll",
    )
)


def is_index(value: Any) -> TypeGuard[Tensor]:
    """Whether a tensor may index an axis and is small enough to be followed by value."""
    if not isinstance(value, Tensor) or value.dtype != torch.int64:
        return False
    return value.device.type != "meta" and value.numel() <= _UP_TO


def value_of(
    func: OpOverload, args: Sequence[Any], kwargs: Any, outputs: Sequence[Tensor], known: Mapping[int, Tensor]
) -> Tensor | None:
    """Compute the output of an op that makes a small integer tensor out of known ones alone.

    Args:
        func: The op.
        args: Its arguments, with axes in place of tensors.
        kwargs: Its keyword arguments, likewise.
        outputs: The tensors that it gave.
        known: The values of integer tensors, by the ids of their axes.

    Returns:
        The values; None for any other op.
    """
    out = outputs[0]
    if len(outputs) != 1 or out.dtype != torch.int64 or out.ndim == 0 or out.numel() > _UP_TO:
        return None
    if func.overloadpacket not in _VALUE_OPS or func._schema.is_mutable or any(True for _ in flat_axes(kwargs)):
        return None
    if any(id(axes) not in known for axes in flat_axes(args)):
        return None
    with unset_fake_temporarily():
        real = [known[id(one)] if isinstance(one, tuple) else one for one in args]
        if "device" in kwargs:
            kwargs = {**kwargs, "device": "cpu"}
        value: Tensor = func(*real, **kwargs)
    return value
