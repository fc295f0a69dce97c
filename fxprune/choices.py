"""A choice of channels by group name: kept indices, the same in every block or those of each block."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import torch

from fxprune.analysis import Analysis
from fxprune.indices import check_indices, kept_mask
from fxprune_passes.axes import Dim, leaves, resolve
from fxprune_passes.digits import digits
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup
from fxprune_passes.kept import Blocks, Kept, block_numbers, blocks_of

ByBlock = tuple[tuple[int, ...], ...]
Indices = tuple[int, ...] | ByBlock
Keep = dict[str, Indices]


def is_by_block(kept: Sequence[Any]) -> TypeGuard[Sequence[Sequence[int]]]:
    """Whether kept indices are lists, one for each block."""
    return len(kept) > 0 and isinstance(kept[0], (list, tuple))


def count_of(kept: Sequence[Any]) -> int:
    """How many channels stay, of each block where it has blocks."""
    return len(kept[0]) if is_by_block(kept) else len(kept)


def lists_of(kept: Sequence[Any]) -> list[Sequence[int]]:
    """The kept indices of each block; one list where all keep the same."""
    return list(kept) if is_by_block(kept) else [kept]


def settled(kept: Sequence[Any]) -> Indices:
    """Kept indices in ascending order; one list where all blocks keep the same."""
    if not is_by_block(kept):
        return tuple(sorted(kept))
    lists = tuple(tuple(sorted(one)) for one in kept)
    return lists[0] if len(set(lists)) == 1 else lists


def check_blocks(name: str, size: int, kept: Sequence[Any], blocks: int) -> Indices:
    """Kept indices of each block, in ascending order.

    Raises:
        PlanError: Not one list a block, lists of different lengths, or an index is no integer, out of range or there
            twice.
    """
    if not all(isinstance(one, (list, tuple)) for one in kept):
        raise PlanError(explain(f"{name!r} keeps indices and lists of them, expected one list for each block."))
    if len(kept) != blocks:
        first = f"{name!r} has {blocks} blocks, the plan keeps channels of {len(kept)}."
        raise PlanError(explain(first, mend="one list for each block, or one for all"))
    lists = []
    for block, one in enumerate(kept):
        lists.append(check_indices(f"{name}, block {block}", size, one))
        if len(one) != len(kept[0]):
            first = f"{name!r} keeps {len(one)} channels in block {block}, expected {len(kept[0])} as in block 0."
            raise PlanError(explain(first, why="a reshape cuts all blocks to one size", mend="as many in each block"))
    return settled(lists)


def check_free(analysis: Analysis, group: ChannelGroup, kept: Sequence[Any]) -> Indices:
    """Kept indices of each block of a group.

    Raises:
        PlanError: The group keeps the same in all blocks, or the indices do not fit.
    """
    freedom = analysis.freedom(group)
    if not freedom.outers:
        first = f"channel group {group.name!r} keeps the same channels everywhere, got lists of {len(kept)} blocks."
        why = f"{freedom.reason}" if freedom.reason else "nothing multiplies it with groups or heads"
        raise PlanError(explain(first, why=why, mend="one list of indices"))
    return check_blocks(group.name, group.size, kept, math.prod(one.size for one in freedom.outers))


def kept_of(analysis: Analysis, keep: Mapping[str, Sequence[Any]]) -> Kept:
    """A choice of channels by group name, in terms of the analysis.

    Raises:
        PlanError: Blocks of a group that has none, or blocks in blocks.
    """
    groups = [group for group in analysis.groups if group.name in keep]
    outers = dict[str, tuple[str, ...]]()
    for group in groups:
        if is_by_block(keep[group.name]):
            check_free(analysis, group, keep[group.name])
            outers[group.name] = tuple(analysis.groups.names[one] for one in analysis.freedom(group).outers)
    dims = {name: dim for dim, name in analysis.groups.names.items()}
    return kept_from({group.name: keep[group.name] for group in groups}, dims, outers)


def kept_from(keep: Mapping[str, Sequence[Any]], dims: Mapping[str, Dim], outers: Mapping[str, Sequence[str]]) -> Kept:
    """A choice of channels in terms of Dims.

    Args:
        keep: Kept indices by group.
        dims: The Dim of every group.
        outers: What numbers the blocks of each group whose indices are by block.

    Raises:
        PlanError: What numbers the blocks of one group is chosen by block itself.
    """
    masks, blocks = dict[Dim, torch.Tensor](), dict[Dim, Blocks]()
    for name, kept in keep.items():
        dim = dims[name]
        if not is_by_block(kept):
            masks[dim] = kept_mask(dim.size, sorted(kept))
            continue
        if nested := [one for one in outers[name] if is_by_block(keep.get(one, ()))]:
            first = f"{name!r} and {nested[0]!r} both keep channels by block, and each numbers the other's blocks."
            raise PlanError(explain(first, mend=f"one list for all blocks of {nested[0]!r}"))
        masks[dim] = kept_mask(dim.size, range(count_of(kept)))
        rows = torch.stack([kept_mask(dim.size, one) for one in kept])
        blocks[dim] = Blocks(tuple(dims[one] for one in outers[name]), rows)
    return Kept(masks, {dim: name for name, dim in dims.items()}, blocks)


def blocks_of_member(analysis: Analysis, member: str, indices: Sequence[Any]) -> dict[str, Indices] | None:
    """Kept indices by group, from output channels of a member that keep as many in every block that stays.

    Args:
        analysis: The analysed model.
        member: A module or parameter whose axis is made of a group and its blocks.
        indices: Along that axis.

    Returns:
        None where all blocks keep the same, or the indices are to be seen in another way.
    """
    groups = analysis.groups
    if member in {group.name for group in groups} or not all(type(one) is int for one in indices):
        return None
    axis = resolve(groups.axis(member))
    inside = [leaf for leaf in dict.fromkeys(leaves(axis)) if leaf in groups.names]
    free = [dim for dim in inside if {dim, *analysis.freedom(groups[groups.names[dim]]).outers} == set(inside)]
    if len(inside) < 2 or len(free) != 1 or not all(0 <= one < axis.size for one in indices):
        return None
    (dim,) = free
    outers = analysis.freedom(groups[groups.names[dim]]).outers
    digit = digits(axis, dim)[0]
    rows, channel = block_numbers((axis,), outers, 0, digit), digit.channel
    chosen = torch.zeros(blocks_of(outers), dim.size, dtype=torch.bool)
    chosen[rows[list(indices)], channel[list(indices)]] = True
    stays = chosen.any(1)
    counts = chosen.sum(1)[stays]
    if not len(counts) or len(counts.unique()) > 1 or len(chosen[stays].unique(dim=0)) == 1:
        return None
    chosen[~stays] = chosen[stays][0]
    keep: dict[str, Indices] = {groups.names[dim]: tuple(tuple(row.nonzero().flatten().tolist()) for row in chosen)}
    if not stays.all():
        if len(outers) > 1:
            return None
        keep[groups.names[outers[0]]] = tuple(stays.nonzero().flatten().tolist())
    (places,) = kept_of(analysis, keep).places((axis,))
    exact = places is not None and sorted(indices) == (places >= 0).nonzero().flatten().tolist()
    return keep if exact else None
