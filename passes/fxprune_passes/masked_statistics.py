"""Means and variances over the channels that are left, by the original op itself on tensors cut to those channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, slots=True)
class Statistic:
    """A call that takes statistics, every tensor in it cut to what is kept.

    Attributes:
        target: The function or method that is called; a module's class.
        args: Positional arguments, the tensor itself first where a method is called.
        kwargs: Keyword arguments.
        module: The module that is called, or None.
        affine: The module's parameters by name, cut as well.
        groups: How many of so many equal blocks of channels keep a channel.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    module: Any
    affine: Mapping[str, torch.Tensor]
    groups: Callable[[int], int]

    @property
    def x(self) -> torch.Tensor:
        """The tensor whose statistics are taken."""
        return self.argument(0, "input")  # type: ignore[no-any-return]

    def argument(self, position: int, name: str) -> Any:
        """An argument, positional or by keyword."""
        return self.args[position] if position < len(self.args) else self.kwargs[name]

    def with_argument(self, position: int, name: str, value: Any) -> Statistic:
        """The call with one argument replaced."""
        if position < len(self.args):
            return replace(self, args=(*self.args[:position], value, *self.args[position + 1 :]))
        return replace(self, kwargs={**self.kwargs, name: value})


aten = torch.ops.aten
_VARIANCES = ("default", "dim", "correction")
KEPT: dict[Any, Callable[[Statistic], Any]] = {}
"""By fx target, or class of leaf module: how to compute it over the kept channels."""


def over_kept(*targets: Any) -> Callable[[Callable[[Statistic], Any]], Callable[[Statistic], Any]]:
    """Register how a target is computed over the kept channels."""

    def register(function: Callable[[Statistic], Any]) -> Callable[[Statistic], Any]:
        KEPT.update(dict.fromkeys(targets, function))
        return function

    return register


@over_kept(torch.mean, "mean", torch.var, torch.std, "var", "std", torch.var_mean, torch.std_mean)
@over_kept(aten.mean.default, aten.mean.dim)
@over_kept(F.batch_norm, torch.batch_norm, aten.batch_norm.default, aten._native_batch_norm_legit.no_stats)
@over_kept(*(getattr(op, name) for op in (aten.var, aten.std, aten.var_mean, aten.std_mean) for name in _VARIANCES))
def same(call: Statistic) -> Any:
    """The call itself: fewer channels, and so a smaller denominator."""
    function = getattr(torch.Tensor, call.target) if isinstance(call.target, str) else call.target
    return function(*call.args, **call.kwargs)


@over_kept(F.layer_norm, torch.layer_norm, F.rms_norm, torch.rms_norm)
@over_kept(aten.layer_norm.default, aten.native_layer_norm.default)
@over_kept(aten.rms_norm.default, aten._fused_rms_norm.default)
def norm(call: Statistic) -> Any:
    """The same norm over as many last axes."""
    rank = len(call.argument(1, "normalized_shape"))
    return same(call.with_argument(1, "normalized_shape", call.x.shape[-rank:]))


@over_kept(nn.LayerNorm)
def layer_norm(call: Statistic) -> torch.Tensor:
    """The module's norm with its parameters cut."""
    shape = call.x.shape[-len(call.module.normalized_shape) :]
    return F.layer_norm(call.x, shape, call.affine.get("weight"), call.affine.get("bias"), call.module.eps)


@over_kept(nn.RMSNorm)
def rms_norm(call: Statistic) -> torch.Tensor:
    """The module's norm with its parameters cut."""
    shape = call.x.shape[-len(call.module.normalized_shape) :]
    return F.rms_norm(call.x, shape, call.affine.get("weight"), call.module.eps)


@over_kept(aten.native_group_norm.default)
def native_group_norm(call: Statistic) -> Any:
    """The same norm over the groups that keep a channel; (N, C, HxW, groups) are arguments 3 to 6."""
    n, channels, *spatial = call.x.shape
    numbers = (n, channels, math.prod(spatial), call.groups(call.args[6]))
    return same(replace(call, args=(*call.args[:3], *numbers, *call.args[7:])))


@over_kept(F.group_norm, torch.group_norm, aten.group_norm.default)
def group_norm(call: Statistic) -> Any:
    """The same norm over the groups that keep a channel."""
    return same(call.with_argument(1, "num_groups", call.groups(call.argument(1, "num_groups"))))


@over_kept(nn.GroupNorm)
def group_norm_module(call: Statistic) -> torch.Tensor:
    """The module's norm with its parameters cut."""
    groups, affine = call.groups(call.module.num_groups), call.affine
    return F.group_norm(call.x, groups, affine.get("weight"), affine.get("bias"), call.module.eps)
