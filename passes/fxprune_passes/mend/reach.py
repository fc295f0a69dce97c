"""What mends can reach: nodes whose inside cannot be rewritten, and statistics that cannot be taken in full."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx, nn

from fxprune_passes.mend.modules import opaque_module
from fxprune_passes.mend.statistics import FULL

_PLAIN = ("torch", "_operator", "operator", "math", "builtins")


def opaque(node: fx.Node, modules: Mapping[str, nn.Module]) -> str | None:
    """Why a node's inside cannot be rewritten, or None."""
    if node.op == "call_module":
        return opaque_module(modules[str(node.target)])
    if node.op == "call_function":
        home = (getattr(node.target, "__module__", None) or "torch").split(".")[0]
        name = getattr(node.target, "__name__", str(node.target))
        if home not in _PLAIN:
            return f"{name} is a function of its own, not traced into"
        if name == "multi_head_attention_forward":
            return "multi_head_attention_forward is rewritten whole or not at all"
    return None


def knows_statistics(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node's means and variances can be taken as if removed channels were there as zeros."""
    return (type(modules[str(node.target)]) if node.op == "call_module" else node.target) in FULL
