"""Mends of literal sizes: reshapes, expands, repeats, paddings, factories, functional norms and convolutions."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from fxprune_passes.axes import Axes
from fxprune_passes.mend.registry import Call, mend, new_sizes, rescale


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
def view(call: Call) -> fx.Node:
    """``x.view(n, 400)`` -> ``x.view(n, 200)``; -1 and sizes that come out right by themselves stay."""
    if isinstance(call.argument(1, "dtype"), torch.dtype):
        return call.copy()
    names = ("shape", "size")
    return _with(call, 1, names, new_sizes(call, call.variadic(1, *names), call.axes()))


@mend("expand")
def expand(call: Call) -> fx.Node:
    """``x.expand(-1, 16, -1, -1)`` -> ``x.expand(-1, 8, -1, -1)``."""
    names = ("size", "sizes")
    return _with(call, 1, names, new_sizes(call, call.variadic(1, *names), call.axes()))


@mend(torch.broadcast_to, "broadcast_to")
def broadcast_to(call: Call) -> fx.Node:
    """As expand."""
    return _with(call, 1, ("size", "shape"), new_sizes(call, call.variadic(1, "size", "shape"), call.axes()))


@mend("new_zeros", "new_ones", "new_empty")
def new_uniform(call: Call) -> fx.Node:
    """``x.new_zeros(n, 16)`` -> ``x.new_zeros(n, 8)``."""
    return _with(call, 1, ("size",), new_sizes(call, call.variadic(1, "size"), call.axes()))


@mend(torch.zeros, torch.ones, torch.empty)
def uniform(call: Call) -> fx.Node:
    """``torch.zeros(n, 16)`` -> ``torch.zeros(n, 8)``."""
    return _with(call, 0, ("size",), new_sizes(call, call.variadic(0, "size"), call.axes()))


@mend(torch.full, "new_full")
def full(call: Call) -> fx.Node:
    """``torch.full((n, 16), v)`` -> ``torch.full((n, 8), v)``."""
    position = 1 if call.node.op == "call_method" else 0
    sizes = new_sizes(call, call.argument(position, "size"), call.axes())
    return _with(call, position, ("size",), sizes)


@mend("squeeze", torch.squeeze, "squeeze_")
def squeeze(call: Call) -> fx.Node:
    """A pruned axis of which one channel is left stays an axis; only those that were of width 1 go."""
    x: Axes = call.axes(call.input)
    dims = call.old(call.argument(1, "dim"))
    listed = range(len(x)) if dims is None else [dims] if isinstance(dims, int) else dims
    gone = tuple(dim for dim in listed if x[dim].size == 1)
    if all(call.kept.size(x[dim]) > 1 or x[dim].size == 1 for dim in listed):
        return call.copy()
    return call.emit(call.node.op, call.node.target, (call.tensors[call.input], gone))


@mend("unflatten", torch.unflatten)
def unflatten(call: Call) -> fx.Node:
    """``x.unflatten(1, (4, 5))``: the sizes of the axes that result."""
    x, dim = call.axes(call.input), call.old(call.argument(1, "dim"))
    dim %= len(x)
    entries = call.variadic(2, "sizes")
    count = len(call.old(entries))
    return _with(call, 2, ("sizes",), new_sizes(call, entries, call.axes()[dim : dim + count]))


@mend("repeat", "tile", torch.tile)
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


@mend(torch.repeat_interleave, "repeat_interleave")
def repeat_interleave(call: Call) -> fx.Node:
    """``x.repeat_interleave(4, 1)``: as many copies of each channel as are kept."""
    x: Axes = call.axes(call.input)
    repeats, dim = call.old(call.argument(1, "repeats")), call.old(call.argument(2, "dim"))
    if not isinstance(repeats, int):
        return call.copy()
    old = call.kept.size(x[dim]) if dim is not None else math.prod(call.kept.shape(x))
    new = call.kept.size(call.axes()[dim if dim is not None else 0])
    return _replace(call, 1, "repeats", _count(call, call.argument(1, "repeats"), new // old))


@mend(F.pad, torch.constant_pad_nd)
def pad(call: Call) -> fx.Node:
    """``F.pad(x, (0, 0, 0, 0, 8, 8))`` over channels -> as many as are kept on either side."""
    x: Axes = call.axes(call.input)
    widths = call.argument(1, "pad")
    is_constant = call.node.target is torch.constant_pad_nd or call.argument(2, "mode", "constant") == "constant"
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
def layer_norm(call: Call) -> fx.Node:
    """``F.layer_norm(x, (64,))`` -> ``F.layer_norm(x, (32,))``."""
    entries = call.argument(1, "normalized_shape")
    count = len(call.old(entries))
    axes = call.axes()
    return _with(call, 1, ("normalized_shape",), new_sizes(call, entries, axes[len(axes) - count :]))


@mend(F.group_norm, torch.group_norm)
def group_norm(call: Call) -> fx.Node:
    """``F.group_norm(x, 8)`` -> as many groups as keep a channel."""
    x: Axes = call.axes(call.input)
    entry = call.argument(1, "num_groups")
    return _replace(call, 1, "num_groups", _count(call, entry, call.kept.groups(x[1], call.old(entry))))


@mend(F.channel_shuffle, F.native_channel_shuffle)
def channel_shuffle(call: Call) -> fx.Node:
    """``F.channel_shuffle(x, 4)`` -> as many groups as keep a channel."""
    x: Axes = call.axes(call.input)
    entry = call.argument(1, "groups")
    return _replace(call, 1, "groups", _count(call, entry, call.kept.groups(x[1], call.old(entry))))


@mend(F.conv1d, F.conv2d, F.conv3d, torch.conv1d, torch.conv2d, torch.conv3d)
@mend(F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)
def convolution(call: Call) -> fx.Node:
    """A grouped convolution keeps the groups that keep a channel (``groups`` is argument 6 of all of them)."""
    entry = call.argument(6, "groups", 1)
    groups = call.old(entry)
    if groups == 1:
        return call.copy()
    x: Axes = call.axes(call.argument(0, "input"))
    weight: Axes = call.axes(call.argument(1, "weight"))
    channels = x[-len(weight) + 1]
    return _replace(call, 6, "groups", _count(call, entry, call.kept.groups(channels, groups)))


def _count(call: Call, entry: Any, wanted: int) -> Any:
    """A number of groups or copies: computed where it was (a batch may be folded into it), else literal."""
    if not isinstance(entry, fx.Node):
        return wanted
    value = call.new(entry)
    return call.shape(entry) if value == wanted else rescale(call, call.shape(entry), wanted, value)


def _replace(call: Call, position: int, name: str, value: Any) -> fx.Node:
    """Write the node with one argument replaced."""
    args, kwargs = list(call.data(call.node.args)), call.data(call.node.kwargs)
    if position < len(args):
        args[position] = value
    else:
        kwargs = {**kwargs, name: value}
    return call.emit(call.node.op, call.node.target, args, kwargs)


@mend(F.scaled_dot_product_attention)
def attention(call: Call) -> fx.Node:
    """The default scale is that of the trained head width, written out where the width changes."""
    query: Axes = call.axes(call.argument(0, "query"))
    scale = call.argument(6, "scale")
    if scale is not None or call.kept.mask(query[-1]) is None:
        return call.copy()
    return call.emit(
        call.node.op,
        call.node.target,
        call.data(call.node.args[:6]),
        {**call.data(call.node.kwargs), "scale": query[-1].size ** -0.5},
    )
