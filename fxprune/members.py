"""Which elements of a model's parameters belong to each channel of a group, and sums over them that gradients pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxprune_passes.axes import Cat, Dim, Take, Term, resolve
from fxprune_passes.groups import ChannelGroup, Site


@dataclass(frozen=True, slots=True)
class Member:
    """An axis of a parameter that holds channels of a group.

    Attributes:
        parameter: The parameter's name.
        shape: Its shape.
        dim: Which axis.
        channel: (shape[dim],): the channel at every position, -1 for none.
        counted: Where else the parameter holds these channels: dims and what they hold. An element in row i and
            column j of a square weight belongs to i and to j, one on the diagonal to one channel, once.
    """

    parameter: str
    shape: tuple[int, ...]
    dim: int
    channel: Tensor
    counted: tuple[tuple[int, Tensor], ...] = ()

    def total(self, values: Tensor, size: int) -> Tensor:
        """(shape), of one number for each element -> (size,): the sum over the elements of each channel."""
        channel = self.channel.to(values.device)
        for dim, other in self.counted:
            new = self._along(dim, other.to(values.device)) != self._along(self.dim, channel)
            values = values * new
        values = values.sum([dim for dim in range(values.ndim) if dim != self.dim]) if values.ndim > 1 else values
        if len(channel) == size and bool((self.channel == torch.arange(size)).all()):
            return values
        return values.new_zeros(size + 1).index_add(0, channel.where(channel >= 0, size), values)[:size]

    def _along(self, dim: int, values: Tensor) -> Tensor:
        """Values of an axis, shaped to broadcast over the parameter."""
        return values.view([-1 if one == dim else 1 for one in range(len(self.shape))])


def members_of(group: ChannelGroup, wanted: Callable[[Site], bool]) -> tuple[Member, ...]:
    """The parameters' axes that hold channels of a group; tied and reused parameters are named once."""
    result: list[Member] = []
    for site in group.sites:
        tensor = site.tensor
        if not isinstance(tensor, nn.Parameter) or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        if wanted(site):
            for channel in places(site.axis, group.dim):
                counted = tuple((one.dim, one.channel) for one in result if one.parameter == site.parameter)
                result.append(Member(site.parameter, tuple(tensor.shape), site.dim, torch.tensor(channel), counted))
    return tuple(result)


def places(term: Term, dim: Dim) -> list[list[int]]:
    """For every time that an axis names ``dim``: for every position the channel that it is, or -1.

    More than once where channels are multiplied with each other: position ``i * n + j`` is that of i and of j.
    """
    term = resolve(term)
    if isinstance(term, Dim):
        return [list(range(term.size))] if term is dim else []
    if isinstance(term, Take):
        return [[one[place] for place in term.index] for one in places(term.base, dim)]
    if isinstance(term, Cat):
        return _joined([(places(part, dim), part.size) for part in term.parts])
    result, outer, inner = [], 1, term.size
    for factor in term.factors:
        inner //= factor.size
        result += [[one for one in found for _ in range(inner)] * outer for found in places(factor, dim)]
        outer *= factor.size
    return result


def _joined(parts: Sequence[tuple[list[list[int]], int]]) -> list[list[int]]:
    """One part behind the other: first times together, second times together."""
    times = max((len(found) for found, _ in parts), default=0)
    filled = [found + [[-1] * size] * (times - len(found)) for found, size in parts]
    return [[one for found in filled for one in found[time]] for time in range(times)]


def totals(members: Sequence[Member], values: Mapping[str, Tensor], size: int) -> Tensor:
    """(size,): for each channel the sum of values (one for each element, by parameter) over all of its elements."""
    parts = [one.total(values[one.parameter], size) for one in members]
    return torch.stack(parts).sum(0)


def counts(members: Sequence[Member], size: int) -> Tensor:
    """(size,), float64: how many elements belong to each channel."""
    return totals(members, {one.parameter: torch.ones(one.shape, dtype=torch.float64) for one in members}, size)
