"""Kept indices: checked, and brought from a module's output channels to the channel groups that they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fxprune_passes.axes import leaves, mask, resolve
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroups, channels


def resolve_keep(groups: ChannelGroups, member: str, indices: list[int]) -> dict[str, tuple[int, ...]]:
    """Kept indices by group, from indices of a group or of the axis that a member writes.

    Raises:
        PlanError: The member is unknown, ambiguous or frozen, or the indices cut channels that only go together.
    """
    names = {group.name for group in groups}
    axis = resolve(groups[member].dim if member in names else groups.axis(member))
    kept = check_indices(member, axis.size, indices)
    found = list(dict.fromkeys(leaf for leaf in leaves(axis) if leaf in groups.names))
    wanted = kept_mask(axis.size, kept)
    result = {}
    for leaf in found:
        channel = channels(axis, leaf)
        used = torch.zeros(leaf.size, dtype=torch.bool)
        used[channel[(channel >= 0) & wanted]] = True
        result[groups.names[leaf]] = tuple(used.nonzero().flatten().tolist())
    masks = {leaf: kept_mask(leaf.size, result[groups.names[leaf]]) for leaf in found}
    whole = mask(axis, masks)
    whole = torch.ones(axis.size, dtype=torch.bool) if whole is None else whole
    if not torch.equal(whole, wanted):
        missing = (whole & ~wanted).nonzero().flatten().tolist()[:8]
        first = f"{member!r} cannot keep exactly {_short(kept)}: these channels go together with {missing}."
        at = f"its axis is {groups.show(axis)}"
        raise PlanError(explain(first, at=at, mend=f"keep them too, or plan the groups {', '.join(result)}"))
    return result


def check_indices(name: str, size: int, indices: Sequence[int]) -> tuple[int, ...]:
    """Kept indices in ascending order.

    Raises:
        PlanError: One is no integer, out of range, or named twice.
    """
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise PlanError(explain(f"{name!r} keeps {index!r}, expected integers."))
        if not 0 <= index < size:
            first = f"{name!r} has {size} channels, the plan keeps index {index}."
            raise PlanError(explain(first, mend=f"indices run from 0 to {size - 1}"))
    if len(set(indices)) < len(indices):
        raise PlanError(explain(f"{name!r} keeps an index twice: {_short(indices)}.", mend="name every index once"))
    return tuple(sorted(indices))


def kept_mask(size: int, kept: Sequence[int] | None) -> torch.Tensor:
    """Bool ``(size,)``: True at kept indices, everywhere for None."""
    if kept is None:
        return torch.ones(size, dtype=torch.bool)
    result = torch.zeros(size, dtype=torch.bool)
    result[torch.tensor(kept, dtype=torch.int64)] = True
    return result


def _short(indices: Sequence[int]) -> str:
    shown = ", ".join(map(str, indices[:8]))
    return f"[{shown}{', ..' if len(indices) > 8 else ''}]"
