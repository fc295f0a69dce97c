"""A model whose channels stand in another order in each block: the same function, as its channels are free to."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import nn

from fxprune.analysis import Analysis
from fxprune_passes.axes import Dim, leaves
from fxprune_passes.emit import in_order
from fxprune_passes.kept import Blocks, Kept
from fxprune_passes.lossless import Lossless


def ordered(model: nn.Module, analysis: Analysis, kept: Kept) -> nn.Module:
    """A copy of a model in which the channels of every block stand in its order, kept ones first.

    Args:
        model: Only read; the copy shares the tensors that stay as they are.
        analysis: Of the model.
        kept: Says the order.
    """
    memo: dict[int, Any] = {}
    for named in (model.named_parameters, model.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            axes = analysis.groups.parameters.get(name, ())
            if id(tensor) in memo:
                continue
            memo[id(tensor)] = tensor
            if any(leaf in kept.blocks for axis in axes for leaf in leaves(axis)):
                part = in_order(tensor.detach(), axes, kept)
                if isinstance(tensor, nn.Parameter):
                    part = nn.Parameter(part, requires_grad=tensor.requires_grad)
                memo[id(tensor)] = part
    return deepcopy(model, memo)


def idle_last(analysis: Analysis, facts: Lossless) -> Kept:
    """An order in which the channels that can go are the last ones of each block, where more of them can go so.

    Args:
        analysis: Of the model.
        facts: What of its channels can go.

    Returns:
        By Dim its blocks, of which each has given up as many channels as the one with the fewest to give.
    """
    outers = dict[Dim, tuple[Dim, ...]]()
    inside = {leaf for name in analysis.capture.constants for leaf in _leaves(analysis, name)}
    for group in analysis.groups:
        found = analysis.freedom(group).outers
        taken = {one for some in outers.values() for one in some}
        if found and group.dim not in inside | taken and not set(found) & outers.keys():
            outers[group.dim] = found
    blocks = dict[Dim, Blocks]()
    for dim, needed in facts.needed_by_block(outers).items() if outers else ():
        stay = int(needed.sum(1).max())
        if stay < int(needed.any(0).sum()):
            order = needed.logical_not().int().argsort(dim=1, stable=True)
            blocks[dim] = Blocks(outers[dim], order.argsort(dim=1) < stay)
    dims = {dim: torch.arange(dim.size) < int(one.mask[0].sum()) for dim, one in blocks.items()}
    return Kept(dims, analysis.groups.names, blocks)


def _leaves(analysis: Analysis, name: str) -> set[Dim]:
    return {leaf for axis in analysis.groups.parameters.get(name, ()) for leaf in leaves(axis)}
