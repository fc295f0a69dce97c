"""Positions of an axis taken apart: which channel of a Dim each one is, and where it would be as another channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune_passes.axes import Cat, Dim, Prod, Take, Term, fixed, is_dynamic, resolve


@dataclass(frozen=True, slots=True)
class Digit:
    """One time that an axis names a Dim, as the hundreds are one digit of a number.

    Attributes:
        channel: ``(n,)`` int64: for every position the channel that it is, -1 for none.
        step: ``(n,)`` int64: how many positions further the next channel is, all else being the same.
    """

    channel: Tensor
    step: Tensor


def digits(term: Term, dim: Dim) -> list[Digit]:
    """Every time that an axis names ``dim``; a join names it once if each part does."""
    term = resolve(term)
    if isinstance(term, Dim):
        return [Digit(torch.arange(term.size), torch.ones(term.size, dtype=torch.int64))] if term is dim else []
    if isinstance(term, Take):
        index = torch.tensor(term.index)
        return [Digit(one.channel[index], torch.zeros_like(index)) for one in digits(term.base, dim)]
    if isinstance(term, Cat):
        return _joined([(digits(part, dim), part.size) for part in term.parts])
    result, outer, inner = list[Digit](), 1, term.size
    for factor in term.factors:
        inner //= factor.size
        for one in digits(factor, dim):
            channel, step = (tensor.repeat_interleave(inner).repeat(outer) for tensor in (one.channel, one.step))
            result.append(Digit(channel, step * inner))
        outer *= factor.size
    return result


def _joined(parts: Sequence[tuple[list[Digit], int]]) -> list[Digit]:
    """One part behind the other: first times together, second times together."""
    result = []
    for time in range(max((len(found) for found, _ in parts), default=0)):
        channels, steps = list[Tensor](), list[Tensor]()
        for found, size in parts:
            channels.append(found[time].channel if time < len(found) else torch.full((size,), -1))
            steps.append(found[time].step if time < len(found) else torch.zeros(size, dtype=torch.int64))
        result.append(Digit(torch.cat(channels), torch.cat(steps)))
    return result


def resized(axis: Term, size: int) -> Term | None:
    """The axis in a call in which it has ``size`` positions.

    A batch factor may differ from the example's (``flatten(0, 1)`` of (N, C, ..)). A batch of 1 is no factor at all,
    and is taken to be the outermost.

    Returns:
        The axis with another batch, or None if no batch explains the size.
    """
    if axis.size == size:
        return axis
    term = resolve(axis)
    factors = list(term.factors) if isinstance(term, Prod) else [term]
    batch = next((place for place, factor in enumerate(factors) if is_dynamic(factor)), None)
    if batch is None:
        factors.insert(0, fixed(1, "batch", dynamic=True))
        batch = 0
    rest = math.prod(factor.size for place, factor in enumerate(factors) if place != batch)
    if rest == 0 or size % rest:
        return None
    factors[batch] = fixed(size // rest, "batch", dynamic=True)
    return Prod(tuple(factors), size)
