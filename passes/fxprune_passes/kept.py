"""What a choice of channels keeps of any axis: its mask, its positions and its new size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fxprune_passes.axes import Axes, Dim, Term, is_dynamic, leaves, mask, resolve
from fxprune_passes.digits import Digit, digits


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Channels that differ from block to block: in each head, or each group of a convolution, as many.

    Attributes:
        outers: The Dims that number the blocks, the last one fastest; every tensor that holds the channels holds them.
        mask: Bool ``(blocks, channels)``, with as many True in every row.
    """

    outers: tuple[Dim, ...]
    mask: Tensor

    @property
    def order(self) -> Tensor:
        """Int64 ``(blocks, channels)``: the channels of each block, kept ones first, in ascending order."""
        return self.mask.logical_not().int().argsort(dim=1, stable=True)


class _Part:
    """What is kept of one axis: mask and positions, None if every position is."""

    __slots__ = ("alive", "index", "mask", "size")

    def __init__(self, term: Term, found: Tensor | None) -> None:
        self.alive = [term]  # so that ids stay their own
        self.index = None if found is None else found.nonzero().flatten()
        if self.index is not None and len(self.index) == term.size:
            self.index = None
        self.mask = None if self.index is None else found
        self.size = term.size if self.index is None else len(self.index)


@dataclass(slots=True)
class Kept:
    """The kept channels of every pruned Dim; axes that name none of them are whole.

    Channels that differ from block to block are brought in order first, those that stay before the others: ``dims``
    and all that follows from it is said of tensors in order. :meth:`places` says it of tensors as they are.
    """

    dims: Mapping[Dim, Tensor]
    names: Mapping[Dim, str] = field(default_factory=dict)
    blocks: Mapping[Dim, Blocks] = field(default_factory=dict)
    _parts: dict[int, _Part] = field(default_factory=dict)

    def mask(self, axis: Term) -> Tensor | None:
        """Bool ``(axis.size,)``, or None if every position is kept."""
        return self._part(axis).mask

    def _part(self, axis: Term) -> _Part:
        """What is kept of an axis; many axes are one once the equations are solved."""
        if (known := self._parts.get(id(axis))) is None:
            term = resolve(axis)
            if (known := self._parts.get(id(term))) is None:
                known = self._parts[id(term)] = _Part(term, mask(term, self.dims))
            self._parts[id(axis)] = known
            known.alive.append(axis)
        return known

    def places(self, axes: Axes) -> list[Tensor | None]:
        """Where every position of a tensor's axes comes to be when the tensor is brought in order.

        Returns:
            For each axis an int64 tensor that broadcasts to the tensor (what is kept may depend on the place along
            other axes), -1 for removed positions; None if every position is kept and stays where it is.

        Raises:
            LookupError: No axis says which block some channels are in.
        """
        plain = {dim: one for dim, one in self.dims.items() if dim not in self.blocks}
        result: list[Tensor | None] = []
        for number, axis in enumerate(axes):
            inside = [leaf for leaf in dict.fromkeys(leaves(axis)) if leaf in self.dims]
            if not inside:
                result.append(None)
                continue
            found = mask(axis, plain)
            place = along(torch.arange(axis.size), number, len(axes))
            kept = torch.ones_like(place, dtype=torch.bool) if found is None else along(found, number, len(axes))
            for dim in (leaf for leaf in inside if leaf in self.blocks):
                for digit in digits(axis, dim):
                    row = block_numbers(axes, self.blocks[dim].outers, number, digit).clamp_min(0)
                    channel, step = (along(one, number, len(axes)) for one in (digit.channel, digit.step))
                    held, chosen = channel >= 0, self.blocks[dim].mask
                    rank = (chosen.cumsum(1) - 1)[row, channel.clamp_min(0)]
                    place = place + torch.where(held, (rank - channel) * step, 0)
                    kept = kept & (chosen[row, channel.clamp_min(0)] | ~held)
            result.append(None if bool(kept.all()) else torch.where(kept, place, -1))
        return result

    def index(self, axis: Term) -> Tensor | None:
        """Kept positions in order, int64, or None if every position is kept."""
        return self._part(axis).index

    def size(self, axis: Term) -> int:
        """How many positions are kept."""
        return self._part(axis).size

    def is_empty(self, axis: Term) -> bool:
        """Whether an axis loses all its positions; one without any loses none."""
        if isinstance(axis, Dim) and axis.bound is None and axis not in self.dims:
            return False
        return axis.size > 0 and self.size(axis) == 0

    def shape(self, axes: Iterable[Term]) -> tuple[int, ...]:
        """The new shape of a tensor."""
        return tuple(self.size(axis) for axis in axes)

    def changes(self, axes: Axes) -> bool:
        """Whether some axis of a tensor loses a position."""
        return any(self.mask(axis) is not None for axis in axes)

    def emptied(self) -> list[str]:
        """Names of the groups of which no channel is kept."""
        return [self.names.get(dim, "") for dim, kept in self.dims.items() if not kept.any()]

    def is_dynamic(self, axis: Term) -> bool:
        """Whether an axis has a batch or spatial factor, so that its size is not the same in every call."""
        return is_dynamic(axis)

    def groups(self, axis: Term, groups: int) -> int:
        """How many of the axis's ``groups`` equal blocks keep a position."""
        found = self.mask(axis)
        return groups if found is None else int(found.view(groups, -1).any(1).sum())

    def moved(self, source: Term, target: Term, positions: Iterable[int]) -> list[int]:
        """Where the kept positions of ``target`` are read in the kept positions of ``source``.

        Args:
            source: The axis that is read.
            target: The axis that results, before pruning as long as ``positions``.
            positions: For each position of ``target`` the position of ``source`` that it reads, before pruning.
        """
        places, kept = torch.tensor(list(positions), dtype=torch.int64), self.mask(target)
        rank = self.mask(source)
        if kept is not None:
            places = places[kept]
        result = places if rank is None else (rank.cumsum(0) - 1)[places]
        return [int(place) for place in result]


def block_numbers(axes: Axes, outers: Sequence[Dim], number: int, digit: Digit) -> Tensor:
    """The block of every channel that one axis of a tensor holds, as far as its axes say.

    Args:
        axes: Of the tensor.
        outers: What numbers the blocks.
        number: The axis that holds channels.
        digit: Which positions of it do.

    Returns:
        Int64, broadcasts to the tensor.

    Raises:
        LookupError: The axes do not say.
    """
    held = along(digit.channel >= 0, number, len(axes))
    total = torch.zeros([1] * len(axes), dtype=torch.int64)
    for outer in outers:
        places = torch.full([1] * len(axes), -1)
        for other, axis in enumerate(axes):
            for one in digits(axis, outer):
                places = torch.maximum(places, along(one.channel, other, len(axes)))
        if bool(((places < 0) & held).any()):
            raise LookupError("no axis says which block it is")
        total = total * outer.size + places
    return total


def along(values: Tensor, number: int, rank: int) -> Tensor:
    """Values of one axis, shaped to broadcast over a tensor of ``rank`` axes."""
    return values.view([-1 if other == number else 1 for other in range(rank)])


def blocks_of(outers: Sequence[Dim]) -> int:
    """How many blocks these Dims number."""
    return math.prod(outer.size for outer in outers)
