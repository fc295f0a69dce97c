"""The surrogate of an op: a linear map with coefficients of zero or more, from its inputs to its outputs.

An output may depend on an input where the coefficient is not zero; zero weights make zero coefficients. On the elements
that depend on the model's inputs it gives those of the results that do. Backwards, it gives what the outputs read. On
differences, what they would change. An op without a surrogate depends on all of its inputs, and is no constant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from fxprune_passes.flow.values import Value, ones, zeros

Linear = Callable[[Sequence[Tensor]], list[Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Ref:
    """A tensor among the arguments of an op.

    Attributes:
        at: Its number among them.
        value: What is known of it.
        tensor: The tensor itself, which only index vectors may be asked for.
    """

    at: int
    value: Value
    tensor: Tensor

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.value.shape)


@dataclass(frozen=True, slots=True)
class Run:
    """One call of an op: tensors among its arguments are :class:`Ref`."""

    func: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: Sequence[Value]
    outputs: Sequence[Tensor]

    @property
    def shape(self) -> torch.Size:
        """The shape of the first output."""
        return self.outputs[0].shape


@dataclass(frozen=True, slots=True)
class Flow:
    """A surrogate: ``linear`` of it, and for each output where it is no constant all the same (None for nowhere)."""

    linear: Linear
    extra: Sequence[Tensor | None] = ()


Surrogate = Callable[[Run], Flow]
SURROGATES: dict[str, Surrogate] = {}
_SIZED: set[Surrogate] = set()


def surrogate(*names: str, sized: bool = False) -> Callable[[Surrogate], Surrogate]:
    """Register the surrogate of ATen ops, by the names of their packets; an in-place op has that of its plain form.

    Args:
        names: Of the ops, without ``aten.``.
        sized: The numbers among the arguments are sizes and places, so that no value comes from them.
    """

    def register(function: Surrogate) -> Surrogate:
        SURROGATES.update(dict.fromkeys(names, function))
        if sized:
            _SIZED.add(function)
        return function

    return register


def own(func: OpOverload) -> Surrogate | None:
    """The surrogate that is registered for an op, or for its plain form where it works in place."""
    name = func._schema.name.removeprefix("aten::")
    return SURROGATES.get(name) or SURROGATES.get(name.removesuffix("_"))


def takes_sizes(func: OpOverload) -> bool:
    """Whether the numbers among an op's arguments are sizes and places alone."""
    return own(func) in _SIZED


def flow_of(run: Run, pointwise: Surrogate | None) -> tuple[Flow, list[Tensor]]:
    """The surrogate of one call: its own, else the pointwise one where given, else that of an unknown op.

    Returns:
        The surrogate, and what it makes of the elements that depend on the model's inputs.
    """
    if (found := own(run.func) or pointwise) is None:
        return anything(run)
    try:
        flow = found(run)
        reached = flow.linear([one.unknown() for one in run.inputs])
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError):  # called in a form it does not cover
        return anything(run)
    return (flow, reached) if [one.shape for one in reached] == [one.shape for one in run.outputs] else anything(run)


def anything(run: Run) -> tuple[Flow, list[Tensor]]:
    """Every output may depend on every element of every input, and may be anything."""

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        total = sum_of(one.mean() for one in s if one.numel())
        return [total.expand(one.shape) for one in run.outputs]

    everywhere = [ones(one.shape) for one in run.outputs]
    return Flow(linear, everywhere), everywhere


def sum_of(parts: Iterable[Tensor]) -> Tensor:
    """The sum of numbers, of none if there are none."""
    return sum(parts, zeros(()))


def spread(shape: Sequence[int], parts: Iterable[Tensor]) -> Tensor:
    """The sum of tensors that broadcast to a shape."""
    total = zeros(shape)
    for part in parts:
        total = total + part
    return total


def along(value: Tensor, dim: int, ndim: int) -> Tensor:
    """A vector laid along one of ``ndim`` axes."""
    return value.reshape([-1 if axis == dim % ndim else 1 for axis in range(ndim)])
