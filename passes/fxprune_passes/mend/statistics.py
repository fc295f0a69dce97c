"""Mends for ``statistics="full"``: means and variances as if the removed channels were there as zeros.

With r = kept / all of the channels that a statistic runs over, and m, v taken over the kept ones:
mean = r m, and variance = r E[(x - mean)^2] + (1 - r) mean^2.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxprune_passes.axes import Axes, Term
from fxprune_passes.kept import Kept
from fxprune_passes.mend.registry import Call

aten = torch.ops.aten
FULL: dict[Any, Callable[[Call, Any], Any]] = {}


_VARIANCES = ("default", "dim", "correction")


def full_mend(*targets: Any) -> Callable[[Callable[[Call, Any], Any]], Callable[[Call, Any], Any]]:
    """Register how a target is written when its statistics count removed channels as zeros."""

    def register(function: Callable[[Call, Any], Any]) -> Callable[[Call, Any], Any]:
        FULL.update(dict.fromkeys(targets, function))
        return function

    return register


def share(kept: Kept, axes: list[Term]) -> float:
    """The kept share of the positions that a statistic runs over."""
    result = 1.0
    for axis in axes:
        result *= kept.size(axis) / axis.size
    return result


def _normalized(
    call: Call, x: fx.Node, dims: list[int], r: float, eps: float, *, centre: bool = True
) -> tuple[fx.Node, list[fx.Node]]:
    """(x - mean) / sqrt(variance + eps) over ``dims``, with zeros for the removed channels; and mean, 1 / sqrt(..)."""
    statistics = []
    if centre:
        mean = call.function(operator.mul, call.function(torch.mean, x, dims, keepdim=True), r)
        x = call.function(operator.sub, x, mean)
        statistics.append(mean)
    square = call.function(torch.mean, call.function(torch.square, x), dims, keepdim=True)
    variance = call.function(operator.mul, square, r)
    if centre:
        rest = call.function(operator.mul, call.function(torch.square, mean), 1 - r)
        variance = call.function(operator.add, variance, rest)
    scale = call.function(torch.rsqrt, call.function(operator.add, variance, eps))
    return call.function(operator.mul, x, scale), [*statistics, scale]


def _affine(call: Call, x: fx.Node, weight: Any, bias: Any, *, final: bool) -> fx.Node:
    """Weight and bias; the last node written is the final one, under the old node's name."""
    if weight is None and bias is None:
        return call.emit("call_function", torch.Tensor.contiguous, (x,), final=final)
    if weight is not None and bias is not None:
        return call.emit("call_function", torch.addcmul, (bias, x, weight), final=final)
    target, other = (operator.mul, weight) if weight is not None else (operator.add, bias)
    return call.emit("call_function", target, (x, other), final=final)


def _along_channels(call: Call, one: Any, x: Axes) -> Any:
    """A weight or bias (C,), or None, as it meets (N, C, ..)."""
    return one if one is None else call.function(torch.reshape, one, (call.kept.size(x[1]), *(1 for _ in x[2:])))


def _parameter(call: Call, module: Any, name: str) -> Any:
    """A read of a leaf module's parameter, or None if it has none."""
    if getattr(module, name, None) is None:
        return None
    return call.emit("get_attr", f"{call.node.target}.{name}", final=False)


_RMS = (F.rms_norm, torch.rms_norm, aten.rms_norm.default, aten._fused_rms_norm.default)
_NATIVE = (aten.native_layer_norm.default, aten._fused_rms_norm.default)  # these give their statistics as well


@full_mend(nn.LayerNorm, nn.RMSNorm, F.layer_norm, torch.layer_norm, aten.layer_norm.default, *_RMS, *_NATIVE)
def layer_norm(call: Call, module: Any) -> Any:
    """Layer and root-mean-square norm with the original denominators."""
    source = call.argument(0, "input")
    x: Axes = call.axes(source)
    if module is not None:
        shape, eps = module.normalized_shape, module.eps
        weight, bias = _parameter(call, module, "weight"), _parameter(call, module, "bias")
        rms = isinstance(module, nn.RMSNorm)
    else:
        rms = call.node.target in _RMS
        shape, weight = call.old(call.argument(1, "normalized_shape")), call.data(call.argument(2, "weight"))
        bias = None if rms else call.data(call.argument(3, "bias"))
        eps = call.argument(3, "eps") if rms else call.argument(4, "eps", 1e-5)
    eps = torch.finfo(call.source.values[source].dtype).eps if eps is None else eps
    axes = list(x[len(x) - len(shape) :])
    dims = list(range(-len(shape), 0))
    whole = call.tensors[source]
    if not call.source.values[source].is_contiguous():  # a layer norm's result is, and a view may rely on it
        whole = call.function(torch.Tensor.contiguous, whole)
    result, statistics = _normalized(call, whole, dims, share(call.kept, axes), eps, centre=not rms)
    if call.node.target in _NATIVE:
        return _affine(call, result, weight, bias, final=False), *statistics
    return _affine(call, result, weight, bias, final=True)


@full_mend(nn.GroupNorm, F.group_norm, torch.group_norm, aten.group_norm.default, aten.native_group_norm.default)
def group_norm(call: Call, module: Any) -> Any:
    """Group norm with the original denominators: every group keeps the same share."""
    source = call.argument(0, "input")
    x: Axes = call.axes(source)
    is_native = call.node.target is aten.native_group_norm.default
    if module is not None:
        groups, eps = module.num_groups, module.eps
        weight, bias = _parameter(call, module, "weight"), _parameter(call, module, "bias")
    elif is_native:
        groups, eps = call.old(call.argument(6, "group")), call.argument(7, "eps")
        weight, bias = call.data(call.argument(1, "weight")), call.data(call.argument(2, "bias"))
    else:
        groups, eps = call.old(call.argument(1, "num_groups")), call.argument(4, "eps", 1e-5)
        weight, bias = call.data(call.argument(2, "weight")), call.data(call.argument(3, "bias"))
    channels, left = call.kept.size(x[1]), call.kept.groups(x[1], groups)
    grouped = call.function(torch.unflatten, call.tensors[source], 1, (left, channels // left))
    r = (channels // left) / (x[1].size // groups)
    result, statistics = _normalized(call, grouped, list(range(2, len(x) + 1)), r, eps)
    result = call.function(torch.flatten, result, 1, 2)
    weight, bias = (_along_channels(call, one, x) for one in (weight, bias))
    if is_native:
        flat = (call.function(torch.flatten, one, 1) for one in statistics)
        return _affine(call, result, weight, bias, final=False), *flat
    return _affine(call, result, weight, bias, final=True)


_NO_STATS = aten._native_batch_norm_legit.no_stats


@full_mend(F.batch_norm, torch.batch_norm, aten.batch_norm.default, _NO_STATS)
def batch_norm(call: Call, module: Any) -> Any:
    """Batch norm without running statistics (a weight that is standardised) with the original denominators."""
    source = call.argument(0, "input")
    x: Axes = call.axes(source)
    first = 3 if call.node.target is F.batch_norm else 1
    weight, bias = (call.data(call.argument(first + i, name)) for i, name in enumerate(("weight", "bias")))
    eps = call.argument(5 if call.node.target is _NO_STATS else 7, "eps", 1e-5)
    dims, rest = [0, *range(2, len(x))], [x[0], *x[2:]]
    result, statistics = _normalized(call, call.tensors[source], dims, share(call.kept, rest), eps)
    weight, bias = (_along_channels(call, one, x) for one in (weight, bias))
    if call.node.target is _NO_STATS:
        flat = (call.function(torch.flatten, one) for one in statistics)
        return _affine(call, result, weight, bias, final=False), *flat
    return _affine(call, result, weight, bias, final=True)


@full_mend(torch.mean, "mean", aten.mean.default, aten.mean.dim)
def mean(call: Call, module: Any) -> fx.Node:
    """A mean over all channels: the mean over the kept ones times their share."""
    written = call.emit(
        call.node.op, call.node.target, call.data(call.node.args), call.data(call.node.kwargs), final=False
    )
    r = share(call.kept, call.statistics_axes)
    return call.emit("call_function", operator.mul, (written, r))


@full_mend(torch.var, torch.std, "var", "std", torch.var_mean, torch.std_mean)
@full_mend(*(getattr(op, name) for op in (aten.var, aten.std, aten.var_mean, aten.std_mean) for name in _VARIANCES))
def variance(call: Call, module: Any) -> fx.Node:
    """A variance over all channels: zeros are put back for the removed ones before it is taken."""
    source = call.argument(0, "input")
    x: Axes = call.axes(source)
    widths = [0, 0] * len(x)
    for number, axis in enumerate(reversed(x)):
        if any(axis is one for one in call.statistics_axes):
            widths[2 * number + 1] = axis.size - call.kept.size(axis)
    padded = call.function(F.pad, call.tensors[source], widths)
    args = (padded, *call.data(call.node.args[1:]))
    kwargs = {key: value for key, value in call.data(call.node.kwargs).items() if key != "input"}
    return call.emit(call.node.op, call.node.target, args, kwargs)
