"""Grouped matrix products, whose kernels take rows of whole 16 bytes only."""

from __future__ import annotations

import operator

import torch
import torch.nn.functional as F
from torch import fx

from fxprune_passes.axes import Axes
from fxprune_passes.mend.registry import Call, mend
from fxprune_passes.rules.registry import optional

_ROW_BYTES = 16


@mend(*optional("_grouped_mm", torch))  # F.grouped_mm calls it
def grouped_mm(call: Call) -> fx.Node:
    """A width that fills no whole row is padded with zeros, and cut off the result again."""
    names = [call.argument(0, "mat_a"), call.argument(1, "mat_b")]
    x, w = (call.tensors[name] for name in names)
    rows: Axes = call.axes(names[0])
    matrices: Axes = call.axes(names[1])
    target = call.node.target
    assert callable(target)
    unit = _ROW_BYTES // call.source.values[names[0]].element_size()
    inner, outer = call.kept.size(rows[1]), call.kept.size(matrices[2])
    more_inner, more_outer = -inner % unit, -outer % unit
    if not more_inner and not more_outer:
        return call.copy()
    x = call.function(F.pad, x, (0, more_inner)) if more_inner else x
    w = call.function(F.pad, w, (0, more_outer, 0, more_inner))
    rest, named = call.data(call.node.args[2:]), call.data(call.node.kwargs)
    named = {key: one for key, one in named.items() if key not in ("mat_a", "mat_b")}
    if not more_outer:
        return call.emit("call_function", target, (x, w, *rest), named)
    product = call.function(target, x, w, *rest, **named)
    return call.emit("call_function", operator.getitem, (product, (slice(None), slice(None, outer))))
