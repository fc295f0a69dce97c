"""Mends of leaf modules: attributes that follow the sizes of sliced parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from fxprune_passes.mend.registry import Call

Attributes = dict[str, Any]
ModuleMend = Callable[[Call, nn.Module], Attributes]
MODULES: dict[type[nn.Module], ModuleMend] = {}


def module_mend(*classes: type[nn.Module]) -> Callable[[ModuleMend], ModuleMend]:
    """Register a function that gives the new attributes of a module class."""

    def register(function: ModuleMend) -> ModuleMend:
        for one in classes:
            if one in MODULES:
                raise ValueError(f"{one.__name__} already has the mend {MODULES[one].__name__}")
            MODULES[one] = function
        return function

    return register


def opaque_module(module: nn.Module) -> str | None:
    """Why a leaf module's inside cannot be rewritten, or None."""
    if type(module) in MODULES:
        return None
    plain = (
        type(module).__module__.startswith("torch.nn.") and not list(module.parameters()) and not list(module.buffers())
    )
    return (
        None if plain and not list(module.children()) else f"{type(module).__name__} is rewritten whole or not at all"
    )


def _input(call: Call) -> Any:
    """The axes of the module's input."""
    argument = call.node.args[0] if call.node.args else next(iter(call.node.kwargs.values()))
    return call.axes(argument)


def _channels(call: Call, module: Any) -> int:
    """New width of axis 1, or of axis 0 where the input has no batch axis."""
    x = _input(call)
    return call.kept.size(x[1] if len(x) > 1 else x[0])


@module_mend(nn.Linear)
def linear(call: Call, module: Any) -> Attributes:
    """``weight`` (out, in)."""
    return {"in_features": call.kept.size(_input(call)[-1]), "out_features": call.kept.size(call.axes()[-1])}


@module_mend(nn.LSTM, nn.GRU, nn.RNN)
def recurrent(call: Call, module: Any) -> Attributes:
    """``weight_ih_l0`` (gates * hidden, input), ``weight_hr_l0`` (proj, hidden)."""
    x, last = _input(call), call.axes()[-1]
    last = last if isinstance(last, list) else [last]
    data = x[0] if isinstance(x, list) else x
    sizes = {"input_size": call.kept.size(data[-1]), "hidden_size": call.kept.size(last[-1][-1])}
    if module.proj_size:
        sizes["proj_size"] = call.kept.size(last[0][-1])
    return sizes


@module_mend(nn.LSTMCell, nn.GRUCell, nn.RNNCell)
def cell(call: Call, module: Any) -> Attributes:
    """``weight_ih`` (gates * hidden, input)."""
    out = call.axes()
    hidden = (out[0] if isinstance(out, list) else out)[-1]
    return {"input_size": call.kept.size(_input(call)[-1]), "hidden_size": call.kept.size(hidden)}


@module_mend(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
def convolution(call: Call, module: Any) -> Attributes:
    """``weight`` (out, in / groups, ..); transposed (in, out / groups, ..)."""
    axis = -len(module.kernel_size) - 1
    x, out = _input(call)[axis], call.axes()[axis]
    return {
        "in_channels": call.kept.size(x),
        "out_channels": call.kept.size(out),
        "groups": call.kept.groups(x, module.groups),
    }


@module_mend(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
def batch_norm(call: Call, module: Any) -> Attributes:
    """Every parameter is (num_features,)."""
    return {"num_features": _channels(call, module)}


@module_mend(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)
def instance_norm(call: Call, module: Any) -> Attributes:
    """As batch norm; the channel axis is counted from the spatial ones, since the batch axis may be absent."""
    spatial = int(type(module).__name__[-2])
    return {"num_features": call.kept.size(_input(call)[-spatial - 1])}


@module_mend(nn.LayerNorm, nn.RMSNorm)
def layer_norm(call: Call, module: Any) -> Attributes:
    """``weight`` has the normalised shape."""
    x = _input(call)
    return {"normalized_shape": call.kept.shape(x[len(x) - len(module.normalized_shape) :])}


@module_mend(nn.GroupNorm)
def group_norm(call: Call, module: Any) -> Attributes:
    """Groups that keep a channel are kept."""
    x = _input(call)
    return {"num_channels": call.kept.size(x[1]), "num_groups": call.kept.groups(x[1], module.num_groups)}


@module_mend(nn.PReLU)
def prelu(call: Call, module: Any) -> Attributes:
    """One slope for all, or one a channel."""
    return {"num_parameters": 1 if module.num_parameters == 1 else _channels(call, module)}


@module_mend(nn.Embedding)
def embedding(call: Call, module: Any) -> Attributes:
    """``weight`` (num_embeddings, embedding_dim)."""
    return {"embedding_dim": call.kept.size(call.axes()[-1])}


@module_mend(nn.EmbeddingBag)
def embedding_bag(call: Call, module: Any) -> Attributes:
    """``weight`` (num_embeddings, embedding_dim)."""
    return {"embedding_dim": call.kept.size(call.axes()[-1])}


@module_mend(nn.Bilinear)
def bilinear(call: Call, module: Any) -> Attributes:
    """``weight`` (out, in1, in2)."""
    first, second = (call.axes(call.argument(i, f"input{i + 1}"))[-1] for i in (0, 1))
    return {
        "in1_features": call.kept.size(first),
        "in2_features": call.kept.size(second),
        "out_features": call.kept.size(call.axes()[-1]),
    }


@module_mend(nn.ChannelShuffle)
def channel_shuffle(call: Call, module: Any) -> Attributes:
    """Groups that keep a channel are kept."""
    return {"groups": call.kept.groups(_input(call)[1], module.groups)}


@module_mend(nn.Unflatten)
def unflatten(call: Call, module: Any) -> Attributes:
    """The sizes of the axes that result; -1 stays."""
    dim = module.dim % len(_input(call))
    sizes = module.unflattened_size
    axes = call.axes()[dim : dim + len(sizes)]
    return {"unflattened_size": tuple(s if s == -1 else call.kept.size(a) for s, a in zip(sizes, axes, strict=True))}


@module_mend(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
def constant_pad(call: Call, module: Any) -> Attributes:
    """Padding of the last axes; channels are padded only where one of them is the channel axis."""
    x, out, padding = _input(call), call.axes(), list(module.padding)
    for number in range(len(padding) // 2):
        dim = len(x) - 1 - number
        for side in (0, 1):
            width = padding[2 * number + side]
            mask = call.kept.mask(out[dim] if width > 0 else x[dim])
            if mask is not None and width:
                part = mask[: abs(width)] if side == 0 else mask[len(mask) - abs(width) :]
                padding[2 * number + side] = int(part.sum()) * (1 if width > 0 else -1)
    return {"padding": tuple(padding)}
