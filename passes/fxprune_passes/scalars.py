"""Numbers and sizes in the rewritten graph: the new size where it feeds a shape, the original where it feeds data."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from fxprune_passes.axes import Axes, Term
from fxprune_passes.mend.registry import Call, rescale


def write_scalar(call: Call) -> None:
    """Write a node that gives no tensor, in both readings, and note its new value."""
    node, scalars = call.node, call.scalars
    scalars.values[node] = _evaluate(call)
    scalars.shape[node] = call.emit(node.op, node.target, call.shape(node.args), call.shape(node.kwargs))
    if node.op == "get_attr":
        before = call.source.values[node]
        scalars.data[node] = scalars.shape[node] if scalars.values[node] == before else before
        return
    reads = [one for one in node.all_input_nodes if isinstance(call.axes(one), tuple)]
    if reads:
        scalars.data[node] = _original_size(call, reads[0])
    else:
        scalars.data[node] = _original_arithmetic(call)


def _evaluate(call: Call) -> Any:
    """The node's value after pruning; tensors are stood in for by empty ones of the new shape."""
    node = call.node
    if node.op == "get_attr":
        return call.scalars.attributes.get(str(node.target), call.source.values[node])

    def value(one: fx.Node) -> Any:
        axes = call.axes(one)
        if isinstance(axes, tuple):
            like = call.source.values[one]
            return torch.empty(call.kept.shape(axes), dtype=like.dtype, device="meta")
        return call.new(one)

    args, kwargs = fx.node.map_arg(node.args, value), fx.node.map_arg(node.kwargs, value)
    try:
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return node.target(*args, **kwargs) if callable(node.target) else call.source.values[node]
    except Exception:  # a read that only the real value can answer (a device, a storage): it does not change
        return call.source.values[node]


def _original_size(call: Call, tensor: fx.Node) -> Any:
    """A size read as the trained function knows it: literals for pruned axes, the rest as it was."""
    node, axes = call.node, call.axes(tensor)
    written, before, after = call.scalars.shape[node], call.source.values[node], call.scalars.values[node]
    if before == after or not isinstance(before, (int, torch.Size)):
        return written
    if isinstance(before, torch.Size):
        return tuple(
            _original_axis(call, axis, call.function(operator.getitem, written, i)) for i, axis in enumerate(axes)
        )
    dim = call.argument(1, "dim") if node.target in ("size", torch.ops.aten.sym_size.int) else None
    if isinstance(dim, int):
        return _original_axis(call, axes[dim], written)
    return rescale(call, written, before, after)


def _original_axis(call: Call, axis: Term, written: fx.Node) -> Any:
    size = call.kept.size(axis)
    if size == axis.size:
        return written
    return rescale(call, written, axis.size, size) if call.kept.is_dynamic(axis) else axis.size


def _original_arithmetic(call: Call) -> Any:
    """Arithmetic on original sizes; computed at once where all of it is literal."""
    node = call.node
    args, kwargs = call.data(node.args), call.data(node.kwargs)
    if (args, kwargs) == (call.shape(node.args), call.shape(node.kwargs)):
        return call.scalars.shape[node]
    if node.target is operator.getitem and isinstance(args[0], tuple) and not isinstance(args[1], fx.Node):
        item = args[0][args[1]]
        return call.scalars.shape[node] if _reads_size(item) else item
    if callable(node.target) and not _holds_node((args, kwargs)):
        return node.target(*args, **kwargs)
    return call.emit(node.op, node.target, args, kwargs, final=False)


def _reads_size(item: Any) -> bool:
    """Whether an item of a size is written as the read that it was: its axis is not pruned."""
    return isinstance(item, fx.Node) and item.target is operator.getitem


def _holds_node(value: Any) -> bool:
    found: list[fx.Node] = []
    fx.node.map_arg(value, lambda node: found.append(node) or node)  # type: ignore[func-returns-value]
    return bool(found)


def is_scalar(axes: Any) -> bool:
    """Whether a node's value holds no tensor."""
    if isinstance(axes, (list, dict)):
        return all(is_scalar(one) for one in (axes.values() if isinstance(axes, dict) else axes))
    return axes is None


def changes(call: Call, trees: list[Any]) -> bool:
    """Whether some tensor among the values loses a channel."""
    return any(call.kept.changes(axes) for tree in trees for axes in _flat(tree))


def _flat(tree: Any) -> list[Axes]:
    if isinstance(tree, tuple):
        return [tree]
    if isinstance(tree, (list, dict)):
        return [axes for one in (tree.values() if isinstance(tree, dict) else tree) for axes in _flat(one)]
    return []
