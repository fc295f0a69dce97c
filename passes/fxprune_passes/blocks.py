"""A group whose channels may differ from block to block, seen as one of all channels of all blocks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fxprune_passes.axes import Axes, Dim, Term, prod
from fxprune_passes.digits import digits
from fxprune_passes.groups import ChannelGroup, Site

_Move = tuple[int, tuple[Tensor, ...]]  # a dim, and the positions along it of every block


@dataclass(frozen=True, slots=True)
class BlockSite(Site):
    """A site whose parameter numbers the blocks along another dim, laid out so that ``dim`` holds both.

    A grouped convolution's weight (groups * out, in, ..), read along its dim 1, is laid out as (out, groups * in, ..).
    """

    source: Site
    moves: tuple[_Move, ...]

    @property
    def original(self) -> Site:
        """The site as the parameter has it."""
        return self.source

    def like(self, values: Tensor) -> Tensor:
        """Values in the shape of the parameter, laid out as ``tensor`` is."""
        for dim, rows in self.moves:
            values = torch.cat([values.index_select(dim, row.to(values.device)) for row in rows], self.dim)
        return values


@dataclass(frozen=True, slots=True, eq=False)
class BlockGroup(ChannelGroup):
    """All channels of all blocks: channel ``c`` of block ``b`` is number ``b * width + c``."""

    outers: tuple[Dim, ...] = ()

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return math.prod(one.size for one in self.outers)

    def places(self, axis: Term) -> tuple[Tensor, Tensor]:
        """The positions of an axis that hold channels, and the channel of each.

        Where the axis does not tell blocks apart, a position is that of a channel in each of them.
        """
        found = digits(axis, self.dim)
        if not found:
            return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        channel = found[0].channel
        position = (channel >= 0).nonzero().flatten()
        number = torch.zeros(len(position), 1, dtype=torch.int64)
        for outer in self.outers:
            known = digits(axis, outer)
            row = known[0].channel[position][:, None] if known else torch.arange(outer.size)[None]
            number = (number[:, :, None] * outer.size + row[:, None]).flatten(1)
        number = number * self.width + channel[position][:, None]
        return position.repeat_interleave(number.shape[1]), number.flatten()


def by_block(group: ChannelGroup, outers: tuple[Dim, ...], parameters: Mapping[str, Axes]) -> ChannelGroup:
    """A group as one of all channels of all blocks.

    Args:
        group: The group.
        outers: What numbers its blocks.
        parameters: The axes of every parameter and buffer.
    """
    sites = tuple(_laid_out(site, outers, parameters[site.parameter]) for site in group.sites)
    size = group.size * math.prod(one.size for one in outers)
    return BlockGroup(group.name, size, sites, group.dim, outers)


def _laid_out(site: Site, outers: tuple[Dim, ...], axes: Axes) -> Site:
    """The site with all that numbers the blocks along its own dim."""
    moves, axis = list[_Move](), site.axis
    for outer in reversed(outers):
        if digits(axis, outer):
            continue
        dim, digit = next((dim, one) for dim, other in enumerate(axes) for one in digits(other, outer))
        moves.append((dim, tuple((digit.channel == row).nonzero().flatten() for row in range(outer.size))))
        axis = prod((outer, axis))
    if not moves:
        return site
    made = BlockSite(site.parameter, site.dim, axis, site.reads, site.tensor, site, tuple(moves))
    tensor = made.like(site.tensor.detach())
    if isinstance(site.tensor, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    return BlockSite(site.parameter, site.dim, axis, site.reads, tensor, site, tuple(moves))
