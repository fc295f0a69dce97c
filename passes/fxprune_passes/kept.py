"""What a choice of channels keeps of any axis: its mask, its positions and its new size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch

from fxprune_passes.axes import Axes, Dim, Term, is_dynamic, mask


@dataclass(slots=True)
class Kept:
    """The kept channels of every pruned Dim; axes that name none of them are whole."""

    dims: Mapping[Dim, torch.Tensor]
    names: Mapping[Dim, str] = field(default_factory=dict)
    _masks: dict[int, tuple[Term, torch.Tensor | None]] = field(default_factory=dict)

    def mask(self, axis: Term) -> torch.Tensor | None:
        """Bool ``(axis.size,)``, or None if every position is kept."""
        known = self._masks.get(id(axis))
        if known is None:
            found = mask(axis, self.dims)
            known = self._masks[id(axis)] = (axis, None if found is None or bool(found.all()) else found)
        return known[1]

    def index(self, axis: Term) -> torch.Tensor | None:
        """Kept positions in order, int64, or None if every position is kept."""
        found = self.mask(axis)
        return None if found is None else found.nonzero().flatten()

    def size(self, axis: Term) -> int:
        """How many positions are kept."""
        found = self.mask(axis)
        return axis.size if found is None else int(found.sum())

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
