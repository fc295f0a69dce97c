"""What a node does beside its result: it writes into a tensor, or stops the run."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

_IN_PLACE = frozenset(
    getattr(operator, f"i{name}") for name in ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and", "or")
) | {operator.setitem, torch._assert}


def is_impure(node: fx.Node) -> bool:
    """Whether a node must stay though nobody reads it: assertions, and writes into a tensor."""
    if node.op in ("placeholder", "output") or node.meta.get("in_place") or node.kwargs.get("inplace"):
        return True
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    if node.op != "call_function":
        return False
    name = getattr(node.target, "__name__", "")
    in_place = name.endswith("_") and not name.endswith("__")
    return in_place or node.target in _IN_PLACE or node.is_impure()


def drop_dead(graph: fx.Graph, stays: Callable[[fx.Node], bool]) -> None:
    """Erase the nodes that nobody reads, last ones first, but for inputs, the output and what else ``stays``."""
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("placeholder", "output") and not stays(node):
            graph.erase_node(node)


def writes(node: fx.Node) -> bool:
    """Whether a node of a captured graph writes into a tensor that it is given."""
    if node.op == "call_module":
        module = node.graph.owning_module
        return module is not None and bool(getattr(module.get_submodule(str(node.target)), "inplace", False))
    positional = len(node.args) > 1 and node.args[-1] is True  # F.relu(x, True)
    return node.op not in ("placeholder", "output") and (is_impure(node) or positional or "out" in node.kwargs)


def aliases(node: fx.Node, values: Mapping[fx.Node, Any]) -> Iterator[fx.Node]:
    """The nodes whose values share memory with a node's, itself among them."""
    value = values.get(node)
    if isinstance(value, torch.Tensor):
        memory = value.untyped_storage()._cdata
        for other, one in values.items():
            if isinstance(one, torch.Tensor) and one.untyped_storage()._cdata == memory:
                yield other


def is_read_after(node: fx.Node, late: fx.Node) -> bool:
    """Whether a later node than ``late`` reads ``node``."""
    return any(late < user for user in node.users)
