"""Numbers that a call writes down about an axis: where no mend writes them anew, the axis stays whole.

``torch.fft.fftshift(x, 1)`` rolls by half of the channels: run again on fewer of them, it would roll by another number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload, OpOverloadPacket

from fxprune_passes.axes import Axes, Term, resolve
from fxprune_passes.mend.modules import MODULES
from fxprune_passes.mend.registry import MENDS

aten = torch.ops.aten
PLACES = frozenset(
    {
        aten.constant_pad_nd, aten.index, aten.index_select, aten.roll, aten.slice, aten.slice_scatter, aten.split,
        aten.split_with_sizes, aten.unsafe_split, aten.unsafe_split_with_sizes,
    }
)  # fmt: skip
SIZES = frozenset(
    {
        aten.as_strided, aten.channel_shuffle, aten.convolution, aten.empty, aten.expand, aten.full,
        aten.native_channel_shuffle, aten.native_group_norm, aten.native_layer_norm, aten.new_empty, aten.new_full,
        aten.new_ones, aten.new_zeros, aten.ones, aten.repeat, aten.view, aten.zeros, aten._unsafe_view,
    }
)  # fmt: skip

_INT_LISTS = ("List[int]", "List[int]]", "List[SymInt]", "List[SymInt]]")
_NO_SIZES = frozenset(
    {"destination", "dilation", "dim", "dims", "dims_other", "dims_self", "kernel_size", "output_padding", "pad",
     "padding", "path", "source", "stride"}
)  # fmt: skip


def unmended(node: fx.Node, modules: Mapping[str, nn.Module]) -> frozenset[OpOverloadPacket]:
    """The ATen ops whose numbers stay as they are when this node is written for fewer channels.

    A function of PyTorch computes the sizes that it hands on, and so does an ATen op that is given none; places it
    may know from anywhere. An ATen op that is given sizes has them written down.
    """
    if node.op == "call_module":
        return frozenset() if type(modules[str(node.target)]) in MODULES else PLACES
    if node.target in MENDS and not _is_periodic(node):
        return frozenset()
    return PLACES | SIZES if _is_given_sizes(node) else PLACES


def _is_given_sizes(node: fx.Node) -> bool:
    """Whether a node calls an ATen op with sizes among its arguments."""
    if isinstance(node.target, OpOverloadPacket):
        return True
    if not isinstance(node.target, OpOverload):
        return False
    if node.target.overloadpacket in SIZES:
        return True
    given = dict(zip((one.name for one in node.target._schema.arguments), node.args, strict=False)) | node.kwargs
    lists = (one for one in node.target._schema.arguments if str(one.type).removeprefix("Optional[") in _INT_LISTS)
    return any(given.get(one.name) for one in lists if one.name not in _NO_SIZES)


def _is_periodic(node: fx.Node) -> bool:
    """``F.pad(x, (1, 1), "circular")``: made of slices, and not said by other widths."""
    return "circular" in (*node.args, *node.kwargs.values())


def spoken_of(func: OpOverload, arguments: Any, results: Sequence[Axes]) -> Iterator[Term]:
    """The axes that an op's numbers speak of: those that change, or all where the numbers are sizes."""
    if func.overloadpacket in SIZES:
        yield from (axis for axes in (*results, *_tensors(arguments)) for axis in axes)
        return
    same = {id(resolve(axis)) for axes in results for axis in axes}
    yield from (axis for axes in _tensors(arguments) for axis in axes if id(resolve(axis)) not in same)


def _tensors(value: Any) -> Iterator[Axes]:
    if isinstance(value, tuple):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)
