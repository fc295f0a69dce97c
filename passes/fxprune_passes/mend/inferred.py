"""The mend of calls whose rule was inferred: a movement of channels is written as what it is."""

from __future__ import annotations

import torch
from torch import fx

from fxprune_passes.mend.registry import Call
from fxprune_passes.probe import Moved


def moved(call: Call, movement: Moved) -> fx.Node:
    """An op that picks positions -> ``permute`` and ``index_select``, where what it picks from gets smaller."""
    (source,) = [one for one in call.node.all_input_nodes if isinstance(call.axes(one), tuple)]
    x, result = call.axes(source), call.axes()
    picked = [
        (dim, index, x[movement.order[dim]])
        for dim, index in enumerate(movement.index)
        if index != tuple(range(x[movement.order[dim]].size))
    ]
    if not any(call.kept.mask(axis) is not None for _, _, axis in picked):
        return call.copy()
    written: fx.Node = call.tensors[source]
    if movement.order != tuple(range(len(x))):
        written = call.function(torch.permute, written, movement.order)
    for number, (dim, index, axis) in enumerate(picked):
        places = call.constant(torch.tensor(call.kept.moved(axis, result[dim], index)))
        final = number == len(picked) - 1
        written = call.emit("call_function", torch.index_select, (written, dim, places), final=final)
    return written
