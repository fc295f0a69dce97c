"""Which node of the original graph a node of the compiled one stands for."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx


def origin_of(node: fx.Node) -> str:
    """The original node that a node stands for, or nothing."""
    return "output" if node.op == "output" else str(node.meta.get("origin", ""))


def reads_another(node: fx.Node, originals: Mapping[str, fx.Node]) -> str:
    """Say if a node reads what its original does not: a node between them is gone."""
    original = originals.get(origin_of(node))
    if original is None:
        return ""
    wanted = {one.name for one in original.all_input_nodes}
    reads = _origins_read(node)
    if not (extra := reads - wanted) or not (missing := wanted - reads):
        return ""
    return f"; it reads {', '.join(sorted(extra))} where the original reads {', '.join(sorted(missing))}"


def _origins_read(node: fx.Node) -> set[str]:
    """Original nodes behind a node's inputs, through nodes that the rewrite put between."""
    result: set[str] = set()
    for one in node.all_input_nodes:
        origin = origin_of(one)
        result |= {origin} if origin else _origins_read(one)
    return result
