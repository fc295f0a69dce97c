"""The outputs of the commonest ops on plain tensors: PyTorch takes up to 10 ms of Python for each new shape (2.15)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._prims_common import make_contiguous_strides_for

aten = torch.ops.aten
Shape = tuple[int, ...]
# Of one floating point tensor, whose shape and dtype they keep.
_ALIKE = frozenset(
    getattr(aten, name + ending).default
    for name in ("relu", "hardtanh", "silu", "sigmoid", "gelu", "hardswish", "hardsigmoid")
    for ending in ("", "_")
    if hasattr(aten, name + ending)
)


def plain_shapes(func: OpOverload, args: Sequence[Any], kwargs: Any) -> list[Shape] | None:
    """The shapes of an op's outputs, contiguous and of the dtype and device of the first tensor among its arguments.

    Args:
        func: The op.
        args: Its arguments; tensors may be fake.
        kwargs: Its keyword arguments.

    Returns:
        One shape an output; None where PyTorch is to be asked: for other ops, other devices than CPU, other dtypes than
        float32 and float64, and tensors that are not contiguous.
    """
    of = _SHAPES.get(func) or (_alike if func in _ALIKE else None)
    if of is None or not (tensors := tensors_among(args)) or not all(_is_plain(one, tensors[0]) for one in tensors):
        return None
    if any(isinstance(one, Tensor) for one in kwargs.values()):
        return None
    return of(*args)


def tensors_among(args: Sequence[Any]) -> list[Tensor]:
    """The tensors among an op's arguments; a join has a list of them, and no other."""
    return [one for one in (args[0] if type(args[0]) is list else args) if isinstance(one, Tensor)]


def _is_plain(tensor: Tensor, first: Any) -> bool:
    fits = tensor.dtype in (torch.float32, torch.float64) and tensor.device.type == "cpu"
    return fits and tensor.dtype is first.dtype and tensor.is_contiguous() and tensor.numel() > 0


def _alike(x: Tensor, *rest: Any) -> list[Shape]:
    return [tuple(x.shape)]


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> list[Shape] | None:
    if transposed or x.ndim != weight.ndim or x.ndim < 4 or x.shape[1] != weight.shape[1] * groups:
        return None
    rank = x.ndim - 2
    given = (one if len(one) == rank else [*one] * rank for one in (stride, padding, dilation))
    places = [
        (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, gap in zip(x.shape[2:], weight.shape[2:], *given, strict=True)
    ]
    return [(x.shape[0], weight.shape[0], *places)] if min(places) > 0 else None


def _batch_norm(
    x: Tensor, weight: Any, bias: Any, mean: Any, variance: Any, training: bool, *rest: Any
) -> list[Shape] | None:
    return None if training or mean is None or x.ndim < 2 else [tuple(x.shape), (0,), (0,)]


def _join(tensors: Sequence[Tensor], dim: int = 0) -> list[Shape] | None:
    shapes = [tuple(one.shape) for one in tensors]
    place = dim % len(shapes[0]) if shapes[0] else 0
    rest = {shape[:place] + shape[place + 1 :] for shape in shapes}
    settled = all(one.stride() == make_contiguous_strides_for(one.shape) for one in tensors)  # of axes of width 1 too
    if len(rest) > 1 or not shapes[0] or not settled or not -len(shapes[0]) <= dim < len(shapes[0]):
        return None
    return [(*shapes[0][:place], sum(shape[place] for shape in shapes), *shapes[0][place + 1 :])]


_SHAPES: dict[OpOverload, Callable[..., list[Shape] | None]] = {
    aten.cat.default: _join,
    aten.convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
}
