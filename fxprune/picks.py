"""Sizes of a pick, read from what it was picked out of: ``x[:, :, -1].shape[1]`` is ``x.shape[1]``.

Read off the pick, they would keep the axis whole of which one place is picked, though nobody uses the value there.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import fx


def read_sizes_at_source(graph: fx.Graph) -> None:
    """Rewrite the size reads of picks at fixed places that serve nothing else.

    Args:
        graph: Changed in place; the new reads stand where the pick stood, before a later op can change a shape.
    """
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target is operator.getitem and isinstance(node.args[0], fx.Node):
            picked, reads = _places(node.args[1]), _reads(node)
            if picked is not None and reads:
                _move(graph, node, picked, reads)


def _places(index: Any) -> list[int] | None:
    """The dims that an index of whole slices and fixed places takes away, but for the last ones; None for any other."""
    entries = list(index) if isinstance(index, tuple) else [index]
    first = next((place for place, entry in enumerate(entries) if entry is Ellipsis), len(entries))
    front, back = entries[:first], entries[first + 1 :]
    if all(_is_place(entry) or _is_all(entry) for entry in front) and all(map(_is_place, back)):
        return [dim for dim, entry in enumerate(front) if _is_place(entry)]
    return None


def _is_place(entry: Any) -> bool:
    return type(entry) is int


def _is_all(entry: Any) -> bool:
    return isinstance(entry, slice) and entry.start is entry.stop is entry.step is None


def _reads(node: fx.Node) -> list[tuple[fx.Node, int]] | None:
    """The reads of single sizes of a node, and of which dim; None if it has any other use."""
    found = []
    for user in node.users:
        if _is_size_of(user, node) and len(user.args) == 2:
            found.append((user, user.args[1]))
        elif _is_shape_of(user, node):
            found += [(one, one.args[1] if one.target is operator.getitem else None) for one in user.users]
        else:
            return None
    if not all(type(dim) is int and dim >= 0 for _, dim in found):
        return None
    return found  # type: ignore[return-value]


def _is_size_of(user: fx.Node, node: fx.Node) -> bool:
    return user.op == "call_method" and user.target == "size" and user.args[0] is node and not user.kwargs


def _is_shape_of(user: fx.Node, node: fx.Node) -> bool:
    if user.op == "call_function" and user.target is getattr:
        return user.args[1:] == ("shape",)
    return _is_size_of(user, node) and len(user.args) == 1


def _move(graph: fx.Graph, node: fx.Node, picked: list[int], reads: list[tuple[fx.Node, int]]) -> None:
    source = node.args[0]
    with graph.inserting_before(node):
        for read, dim in reads:
            for place in picked:  # in ascending order
                dim += place <= dim
            size = graph.call_method("size", (source, dim))
            size.meta.update(read.meta)
            read.replace_all_uses_with(size)
    for one in (*(read for read, _ in reads), *list(node.users), node):
        if not one.users and one in graph.nodes:
            graph.erase_node(one)
