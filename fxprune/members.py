"""Which elements of a model's parameters belong to each channel of a group, and sums over them that gradients pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxprune_passes.axes import Axes
from fxprune_passes.blocks import BlockGroup
from fxprune_passes.digits import digits
from fxprune_passes.groups import ChannelGroup, Site
from fxprune_passes.kept import along, block_numbers


@dataclass(frozen=True, slots=True)
class Member:
    """An axis of a parameter that holds channels of a group.

    Attributes:
        parameter: The parameter's name.
        shape: Its shape.
        channel: The channel at every place, -1 for none; broadcasts to the parameter: along its axis alone, or along
            another too that tells in which block a channel is.
        counted: Where else the parameter holds these channels, likewise. An element in row i and column j of a square
            weight belongs to i and to j, one on the diagonal to one channel, once.
    """

    parameter: str
    shape: tuple[int, ...]
    channel: Tensor
    counted: tuple[Tensor, ...] = ()

    def total(self, values: Tensor, size: int) -> Tensor:
        """(shape), of one number for each element -> (size,): the sum over the elements of each channel."""
        channel = self.channel.to(values.device)
        for other in self.counted:
            values = values * (other.to(values.device) != channel)
        others = [dim for dim in range(values.ndim) if channel.shape[dim] == 1]
        values = (values.sum(others, keepdim=True) if others else values).flatten()
        channel = channel.expand(self._held()).flatten()
        if len(channel) == size and bool((channel.cpu() == torch.arange(size)).all()):
            return values
        return values.new_zeros(size + 1).index_add(0, channel.where(channel >= 0, size), values)[:size]

    def _held(self) -> list[int]:
        """The sizes of the axes that say which channel an element belongs to, 1 for the others."""
        return [1 if one == 1 else size for one, size in zip(self.channel.shape, self.shape, strict=True)]


def members_of(
    group: ChannelGroup, wanted: Callable[[Site], bool], parameters: Mapping[str, Axes]
) -> tuple[Member, ...]:
    """The parameters' axes that hold channels of a group; tied and reused parameters are named once.

    Args:
        group: The group; seen by block, if its channels are to count by block.
        wanted: Which sites count.
        parameters: The axes of every parameter and buffer.
    """
    result: list[Member] = []
    for site in (one.original for one in group.sites):
        tensor = site.tensor
        if not isinstance(tensor, nn.Parameter) or not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        if wanted(site):
            for channel in _channels(group, site, parameters[site.parameter]):
                counted = tuple(one.channel for one in result if one.parameter == site.parameter)
                result.append(Member(site.parameter, tuple(tensor.shape), channel, counted))
    return tuple(result)


def _channels(group: ChannelGroup, site: Site, axes: Axes) -> list[Tensor]:
    """For every time that a site's axis names the group: the channel at every place, -1 for none."""
    result = []
    for digit in digits(site.axis, group.dim):
        channel = along(digit.channel, site.dim, len(axes))
        if isinstance(group, BlockGroup):
            row = block_numbers(axes, group.outers, site.dim, digit)
            channel = torch.where(channel >= 0, row * group.width + channel, -1)
        result.append(channel)
    return result


def totals(members: Sequence[Member], values: Mapping[str, Tensor], size: int) -> Tensor:
    """(size,): for each channel the sum of values (one for each element, by parameter) over all of its elements."""
    parts = [one.total(values[one.parameter], size) for one in members]
    return torch.stack(parts).sum(0)


def counts(members: Sequence[Member], size: int) -> Tensor:
    """(size,), float64: how many elements belong to each channel."""
    return totals(members, {one.parameter: torch.ones(one.shape, dtype=torch.float64) for one in members}, size)
