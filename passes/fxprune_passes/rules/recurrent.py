"""Recurrent modules: the features that they read can be pruned, their hidden sizes stay.

They are stated as modules: which ATen ops they run depends on the device and the dtype.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from fxprune_passes.axes import Axes
from fxprune_passes.rules.registry import Op

RECURRENT = (nn.LSTM, nn.GRU, nn.RNN)
_REASON = "inside a recurrent module"


def is_recurrent(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node calls a recurrent module."""
    return node.op == "call_module" and type(modules[str(node.target)]) in RECURRENT


def recurrent(op: Op, x: Axes, parameters: Mapping[str, Axes]) -> list[Axes]:
    """(.., L, I) -> (.., L, D*H) and the last states; weight_ih_l0 is (gates*H, I) in each of D directions."""
    op.freeze(x[:-1], _REASON)
    for name, axes in parameters.items():
        if name.startswith("weight_ih_l0"):
            op.contract(x, -1, axes, 1)
        op.freeze(axes[:1] if name.startswith("weight_ih_l0") else axes, _REASON)
    states = [tuple(op.fixed(size, _REASON, dynamic=True) for size in shape) for shape in op.shapes[1:]]
    return [(*x[:-1], op.fixed(op.shape[-1], _REASON)), *states]
