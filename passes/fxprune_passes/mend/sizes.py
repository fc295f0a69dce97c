"""Mends of literal sizes: reshapes, expands, repeats, paddings, factories, functional norms and convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx
from torch._ops import OpOverload

from fxprune_passes.axes import Axes
from fxprune_passes.mend.registry import Call, mend, new_sizes, rescale

aten = torch.ops.aten


_ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
)


def _with(call: Call, position: int, names: tuple[str, ...], sizes: Any) -> fx.Node:
    """Write the node with its sizes replaced, in the form (sequence, separate or keyword) that they had."""
    node = call.node
    kwargs = {name: call.data(value) for name, value in node.kwargs.items()}
    for name in names:
        if name in node.kwargs:
            return call.emit(node.op, node.target, call.data(node.args), {**kwargs, name: sizes})
    separate = isinstance(sizes, tuple) and len(node.args) > position and isinstance(call.old(node.args[position]), int)
    rest = sizes if separate else (sizes,)
    tail = () if separate else call.data(node.args[position + 1 :])
    return call.emit(node.op, node.target, (*call.data(node.args[:position]), *rest, *tail), kwargs)


@mend("view", "reshape", torch.reshape)
@mend(aten.view.default, aten._unsafe_view.default, aten.reshape.default)
def view(call: Call) -> fx.Node:
    """``x.view(n, 400)`` -> ``x.view(n, 200)``; -1 and sizes that come out right by themselves stay."""
    if isinstance(call.argument(1, "dtype"), torch.dtype):
        return call.copy()
    names = ("shape", "size")
    return _with(call, 1, names, new_sizes(call, call.variadic(1, *names), call.axes()))


@mend(aten.as_strided.default)
def restride(call: Call) -> fx.Node:
    """``aten.as_strided(x, (n, 64, 1, 1), (64, 1, 64, 64))``: how a pooled map marks its memory format."""
    sizes = new_sizes(call, call.argument(1, "size"), call.axes())
    old, new = call.axes()[1].size, call.kept.size(call.axes()[1])
    strides = [new if call.old(one) == old else one for one in call.argument(2, "stride")]
    return call.emit(call.node.op, call.node.target, (call.tensors[call.input], sizes, strides))


@mend("expand", aten.expand.default)
def expand(call: Call) -> fx.Node:
    """``x.expand(-1, 16, -1, -1)`` -> ``x.expand(-1, 8, -1, -1)``."""
    names = ("size", "sizes")
    return _with(call, 1, names, new_sizes(call, call.variadic(1, *names), call.axes()))


@mend(torch.broadcast_to, "broadcast_to", aten.broadcast_to.default)
def broadcast_to(call: Call) -> fx.Node:
    """As expand."""
    return _with(call, 1, ("size", "shape"), new_sizes(call, call.variadic(1, "size", "shape"), call.axes()))


@mend("new_zeros", "new_ones", "new_empty")
@mend(aten.new_zeros.default, aten.new_ones.default, aten.new_empty.default)
def new_uniform(call: Call) -> fx.Node:
    """``x.new_zeros(n, 16)`` -> ``x.new_zeros(n, 8)``."""
    return _with(call, 1, ("size",), new_sizes(call, call.variadic(1, "size"), call.axes()))


@mend(torch.zeros, torch.ones, torch.empty)
@mend(aten.zeros.default, aten.ones.default, aten.empty.memory_format)
def uniform(call: Call) -> fx.Node:
    """``torch.zeros(n, 16)`` -> ``torch.zeros(n, 8)``."""
    return _with(call, 0, ("size",), new_sizes(call, call.variadic(0, "size"), call.axes()))


@mend(torch.full, "new_full", aten.full.default, aten.new_full.default)
def full(call: Call) -> fx.Node:
    """``torch.full((n, 16), v)`` -> ``torch.full((n, 8), v)``."""
    position = 1 if call.node.target in ("new_full", aten.new_full.default) else 0
    sizes = new_sizes(call, call.argument(position, "size"), call.axes())
    return _with(call, position, ("size",), sizes)


@mend("squeeze", torch.squeeze, "squeeze_")
@mend(aten.squeeze.default, aten.squeeze.dim, aten.squeeze.dims)
def squeeze(call: Call) -> fx.Node:
    """A pruned axis of which one channel is left stays an axis; only those that were of width 1 go."""
    x: Axes = call.axes(call.input)
    dims = call.old(call.argument(1, "dim"))
    listed = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = tuple(dim for dim in listed if x[dim].size == 1)
    if all(call.kept.size(x[dim]) > 1 or x[dim].size == 1 for dim in listed):
        return call.copy()
    target = aten.squeeze.dims if isinstance(call.node.target, OpOverload) else call.node.target
    return call.emit(call.node.op, target, (call.tensors[call.input], gone))


@mend("unflatten", torch.unflatten, aten.unflatten.int)
def unflatten(call: Call) -> fx.Node:
    """``x.unflatten(1, (4, 5))``: the sizes of the axes that result."""
    x, dim = call.axes(call.input), call.old(call.argument(1, "dim"))
    dim %= len(x)
    entries = call.variadic(2, "sizes")
    count = len(call.old(entries))
    return _with(call, 2, ("sizes",), new_sizes(call, entries, call.axes()[dim : dim + count]))


@mend("repeat", "tile", torch.tile, aten.repeat.default, aten.tile.default)
def repeat(call: Call) -> fx.Node:
    """``x.repeat(1, 16)`` over an axis of width 1 makes 16 free channels; other repeats stay."""
    x: Axes = call.axes(call.input)
    entries = call.variadic(1, "repeats", "dims")
    if isinstance(entries, fx.Node):
        return call.copy()
    lead = len(call.axes()) - len(entries)
    sizes = tuple(
        _repeats(call, entry, x, len(x) - len(call.axes()) + lead + number, lead + number)
        for number, entry in enumerate(entries)
    )
    return _with(call, 1, ("repeats", "dims"), sizes)


def _repeats(call: Call, entry: Any, x: Axes, old_dim: int, new_dim: int) -> Any:
    axis = call.axes()[new_dim]
    if old_dim < 0 or x[old_dim].size == 1:
        return call.scaled(call.shape(entry), call.new(entry), axis)
    return call.shape(entry)


@mend(torch.repeat_interleave, "repeat_interleave", aten.repeat_interleave.self_int)
def repeat_interleave(call: Call) -> fx.Node:
    """``x.repeat_interleave(4, 1)``: as many copies of each channel as are kept."""
    x: Axes = call.axes(call.input)
    repeats, dim = call.old(call.argument(1, "repeats")), call.old(call.argument(2, "dim"))
    if not isinstance(repeats, int):
        return call.copy()
    old = call.kept.size(x[dim]) if dim is not None else math.prod(call.kept.shape(x))
    new = call.kept.size(call.axes()[dim if dim is not None else 0])
    total = call.node.kwargs.get("output_size")
    named = {} if total is None else {"output_size": _count(call, total, new)}
    return _replace(call, 1, "repeats", _count(call, call.argument(1, "repeats"), new // old), **named)


@mend(F.pad, torch.constant_pad_nd, aten.constant_pad_nd.default, aten.pad.default)
def pad(call: Call) -> fx.Node:
    """``F.pad(x, (0, 0, 0, 0, 8, 8))`` over channels -> as many as are kept on either side."""
    x: Axes = call.axes(call.input)
    widths = call.argument(1, "pad")
    always = (torch.constant_pad_nd, aten.constant_pad_nd.default)
    is_constant = call.node.target in always or call.argument(2, "mode", "constant") == "constant"
    if isinstance(widths, fx.Node) or not is_constant:
        return call.copy()
    result = list(call.data(widths))
    for number in range(len(widths) // 2):
        dim = len(x) - 1 - number
        for side in (0, 1):
            result[2 * number + side] = _pad_width(
                call, x, dim, side, call.old(widths[2 * number + side]), result[2 * number + side]
            )
    return _with(call, 1, ("pad",), type(widths)(result) if isinstance(widths, (list, tuple)) else result)


def _pad_width(call: Call, x: Axes, dim: int, side: int, width: int, written: Any) -> Any:
    """Padding keeps what the result keeps of it; cutting (a negative width) cuts what the input keeps there."""
    mask = call.kept.mask(call.axes()[dim] if width > 0 else x[dim])
    if mask is None or width == 0:
        return written
    part = mask[: abs(width)] if side == 0 else mask[len(mask) - abs(width) :]
    return int(part.sum()) * (1 if width > 0 else -1)


@mend(F.layer_norm, torch.layer_norm, torch.rms_norm, F.rms_norm)
@mend(aten.layer_norm.default, aten.native_layer_norm.default, aten.rms_norm.default, aten._fused_rms_norm.default)
def layer_norm(call: Call) -> fx.Node:
    """``F.layer_norm(x, (64,))`` -> ``F.layer_norm(x, (32,))``."""
    entries = call.argument(1, "normalized_shape")
    count = len(call.old(entries))
    axes = call.axes(call.input)
    return _with(call, 1, ("normalized_shape",), new_sizes(call, entries, axes[len(axes) - count :]))


@mend(F.group_norm, torch.group_norm, aten.group_norm.default)
def group_norm(call: Call) -> fx.Node:
    """``F.group_norm(x, 8)`` -> as many groups as keep a channel."""
    x: Axes = call.axes(call.input)
    entry = call.argument(1, "num_groups")
    return _replace(call, 1, "num_groups", _count(call, entry, call.kept.groups(x[1], call.old(entry))))


@mend(aten.native_group_norm.default)
def native_group_norm(call: Call) -> fx.Node:
    """``aten.native_group_norm(x, w, b, N, 64, HxW, 8, eps)`` -> channels and groups that are left."""
    x: Axes = call.axes(call.input)
    args = list(call.data(call.node.args))
    entry = call.argument(6, "group")
    args[3] = call.scaled(call.shape(call.node.args[3]), call.new(call.node.args[3]), x[0])
    args[5] = call.shape(call.node.args[5])
    args[4] = call.kept.size(x[1])
    args[6] = _count(call, entry, call.kept.groups(x[1], call.old(entry)))
    return call.emit(call.node.op, call.node.target, args, call.data(call.node.kwargs))


@mend(F.channel_shuffle, F.native_channel_shuffle)
@mend(aten.channel_shuffle.default, aten.native_channel_shuffle.default)
def channel_shuffle(call: Call) -> fx.Node:
    """``F.channel_shuffle(x, 4)`` -> as many groups as keep a channel."""
    x: Axes = call.axes(call.input)
    entry = call.argument(1, "groups")
    return _replace(call, 1, "groups", _count(call, entry, call.kept.groups(x[1], call.old(entry))))


@mend(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
@mend(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
@mend(aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
@mend(aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding)
@mend(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
@mend(aten.convolution.default)
def convolution(call: Call) -> fx.Node:
    """A grouped convolution keeps the groups that keep a channel (``groups`` is argument 6 of all but the core op)."""
    place = 8 if call.node.target is aten.convolution.default else 6
    entry = call.argument(place, "groups", 1)
    groups = call.old(entry)
    if groups == 1:
        return call.copy()
    x: Axes = call.axes(call.argument(0, "input"))
    weight: Axes = call.axes(call.argument(1, "weight"))
    channels = x[-len(weight) + 1]
    return _replace(call, place, "groups", _count(call, entry, call.kept.groups(channels, groups)))


def _count(call: Call, entry: Any, wanted: int) -> Any:
    """A number of groups or copies: computed where it was (a batch may be folded into it), else literal."""
    if not isinstance(entry, fx.Node):
        return wanted
    value = call.new(entry)
    return call.shape(entry) if value == wanted else rescale(call, call.shape(entry), wanted, value)


def _replace(call: Call, position: int, name: str, value: Any, **named: Any) -> fx.Node:
    """Write the node with one argument replaced, and perhaps some that are given by name alone."""
    args, kwargs = list(call.data(call.node.args)), {**call.data(call.node.kwargs), **named}
    if position < len(args):
        args[position] = value
    else:
        kwargs = {**kwargs, name: value}
    return call.emit(call.node.op, call.node.target, args, kwargs)


@mend(F.scaled_dot_product_attention, aten.scaled_dot_product_attention.default)
@mend(*(getattr(aten, name).default for name in _ATTENTION if hasattr(aten, name)))
def attention(call: Call) -> fx.Node:
    """The default scale is that of the trained head width, written out where the width changes."""
    query: Axes = call.axes(call.argument(0, "query"))
    scale = call.node.kwargs.get("scale")
    if scale is not None or call.kept.mask(query[-1]) is None:
        return call.copy()
    return call.emit(
        call.node.op,
        call.node.target,
        call.data(call.node.args),
        {**call.data(call.node.kwargs), "scale": query[-1].size ** -0.5},
    )
