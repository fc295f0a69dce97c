"""New nodes of a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx


def make_node(create: Callable[..., fx.Node], op: str, target: Any, args: Any, kwargs: Any, *more: Any) -> fx.Node:
    """Create a node, and then give it its arguments.

    ``fx.Graph.create_node`` looks for symbolic numbers among the arguments that it is given, by pytree in Python, which
    takes as long as all else that it does (torch 2.15); no graph here has any.

    Args:
        create: ``create_node`` of a graph or a tracer.
        op: What kind of node it is.
        target: What it calls.
        args: Positional arguments.
        kwargs: Keyword arguments.
        more: Its name, and the type of its value.
    """
    if op not in ("call_function", "call_method", "call_module"):
        return create(op, target, args, kwargs, *more)
    node = create(op, target, (), {}, *more)
    if args:
        node.args = tuple(args)
    if kwargs:
        node.kwargs = kwargs
    return node
