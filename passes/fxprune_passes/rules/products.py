"""What an op costs: the axes whose sizes, multiplied, are its multiply-accumulate operations.

The ops that :mod:`torch.utils.flop_counter` counts, and recurrent calls, which it counts by the products inside them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch._ops import OpOverload

from fxprune_passes.axes import Axes, Term

Product = tuple[Term, ...]


def products(func: OpOverload, args: Sequence[Any], outputs: Sequence[Axes]) -> list[Product]:
    """The products of one call: its multiply-accumulate operations are the sum of the products of their sizes.

    Args:
        func: The op.
        args: Its arguments, with axes for tensors.
        outputs: The axes of its outputs.

    Returns:
        One product for most ops, two for attention (scores, and what they weigh); none for an op that costs nothing.
    """
    name = func._schema.name.removeprefix("aten::")
    if name in ("mm", "bmm"):
        return [(*args[0], args[1][-1])]
    if name in ("addmm", "baddbmm", "addmm_", "baddbmm_"):
        return [(*args[1], args[2][-1])]
    if name == "linear":
        return [(*args[0], args[1][0])]
    if name in ("convolution", "convolution_overrideable", "conv1d", "conv2d", "conv3d"):
        return [_convolution(args, outputs[0])]
    if name.startswith("_scaled_dot_product"):
        query, key, value = args[:3]
        return [(*query, key[2]), (*query[:3], key[2], value[3])]
    return []


def _convolution(args: Sequence[Any], output: Axes) -> Product:
    """Every element of the kernel at every place: those of the input for a transposed one."""
    x, weight = args[0], args[1]
    transposed = bool(args[6]) if len(args) > 6 else False
    spatial = len(weight) - 2
    places = (x if transposed else output)[-spatial:]
    return (*output[: -spatial - 1], *places, *weight)


def recurrent_products(weights: Iterable[Axes], outputs: Sequence[Axes]) -> list[Product]:
    """Every weight at every step of every sequence, whose axes all but the last one of the output are.

    Args:
        weights: The axes of the matrices of all layers and directions.
        outputs: The axes of the outputs.
    """
    steps = outputs[0][:-1]
    return [(*steps, *axes) for axes in weights if len(axes) == 2]
