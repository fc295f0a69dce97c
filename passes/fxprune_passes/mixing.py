"""What an op takes together: the axes that it sums, orders or normalizes over. All others it goes along in step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from fxprune_passes.axes import Axes, Prod, Term, resolve
from fxprune_passes.propagation import Operation
from fxprune_passes.rules import (
    Rule,
    contraction,
    factories,
    movement,
    normalization,
    pointwise,
    pooling,
    reduction,
    views,
    writing,
)

Together = Sequence[Sequence[Term]]
Mixing = Callable[[dict[str, Any]], Together | None]
_MIXING: dict[Rule, Mixing] = {}


def mixed(operation: Operation) -> Together | None:
    """The axes that an op takes together, each lot of them.

    An axis that is gone from the result need not be among them: the result tells.

    Returns:
        None for an op of which it is not known.
    """
    rule = operation.rule
    if rule is None:
        return None
    if rule in _MIXING:
        args, kwargs = operation.arguments
        names, defaults = _signature(rule)
        return _MIXING[rule]({**defaults, **dict(zip(names, args, strict=False)), **kwargs})
    return () if rule in _APART or rule.__module__ == pooling.__name__ else None


_APART = frozenset(
    {
        pointwise.pointwise, pointwise.log_sigmoid, pointwise.dropout, pointwise.glu, pointwise.like,
        views.view, views.unsqueeze, views.squeeze, views.permute, views.transpose, views.t, views.expand,
        views.repeat, views.view_as_real, views.view_as_complex, views.restride, views.channel_shuffle,
        views.pixel_shuffle, views.pixel_unshuffle,
        movement.slice_, movement.select, movement.unbind, movement.split, movement.concatenate, movement.stack,
        movement.flip, movement.roll, movement.constant_pad, movement.index_select, movement.index, movement.embedding,
        movement.embedding_bag, movement.unfold, movement.diagonal,
        reduction.total, reduction.mean, reduction.variance, reduction.vector_norm, reduction.extreme,
        reduction.weight_norm,
        writing.slice_scatter, writing.select_scatter, writing.index_write, writing.index_fill, writing.index_put,
        writing.scatter, factories.uniform, movement.triangle,
    }
)  # fmt: skip


@cache
def _signature(rule: Rule) -> tuple[list[str], dict[str, Any]]:
    """The names of a rule's arguments behind the op itself, and their defaults."""
    _, *rest = inspect.signature(rule).parameters.values()
    names = [one.name for one in rest if one.kind is one.POSITIONAL_OR_KEYWORD]
    return names, {one.name: one.default for one in rest if one.default is not one.empty}


def _mixing(*rules: Rule) -> Callable[[Mixing], Mixing]:
    """Register what ops of these rules take together."""

    def register(function: Mixing) -> Mixing:
        _MIXING.update(dict.fromkeys(rules, function))
        return function

    return register


@_mixing(reduction.along, reduction.selection, reduction.sort, reduction.stable_sort)
def _along(call: dict[str, Any]) -> Together:
    x: Axes = call["x"]
    return [[x[call["dim"]]]] if x else []


@_mixing(normalization.layer_norm, normalization.rms_norm)
def _over_last(call: dict[str, Any]) -> Together:
    x: Axes = call["x"]
    return [x[len(x) - len(call["normalized_shape"]) :]]


@_mixing(normalization.group_norm)
def _group_norm(call: dict[str, Any]) -> Together | None:
    x: Axes = call["x"]
    width = _inside(x[1], call["group"])
    return None if width is None else [[*width, *x[2:]]]


@_mixing(normalization.batch_norm)
def _batch_norm(call: dict[str, Any]) -> Together:
    x: Axes = call["x"]
    return [[x[0], *x[2:]]]


@_mixing(contraction.mm, contraction.bmm, contraction.mv, contraction.dot, contraction.addmm, contraction.distance)
def _product(call: dict[str, Any]) -> Together:
    return [[call["a"][-1]]]


@_mixing(contraction.linear)
def _linear(call: dict[str, Any]) -> Together:
    return [[call["x"][-1]]]


@_mixing(contraction.convolution)
def _convolution(call: dict[str, Any]) -> Together | None:
    x, weight, groups = call["x"], call["weight"], call["groups"]
    spatial = len(weight) - 2
    width = _inside(weight[0], groups) if call["transposed"] else [weight[1]]
    return None if width is None else [[*width, *x[-spatial:], *weight[2:]]]


@_mixing(contraction.attention)
def _attention(call: dict[str, Any]) -> Together:
    return [[call["query"][3]], [call["key"][2]]]


def _inside(axis: Term, blocks: int) -> list[Term] | None:
    """What an axis is made of inside each of so many equal blocks; None where its factors do not say."""
    term = resolve(axis)
    factors: list[Term] = list(term.factors) if isinstance(term, Prod) else [term]
    while blocks > 1 and factors and blocks % factors[0].size == 0:
        blocks //= factors.pop(0).size
    return factors if blocks == 1 else None
