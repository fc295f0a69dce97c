"""What is left where a plan removes all channels that an op reads: its bias, or nothing at all.

A tensor without channels is not written. A join drops it, a slice assignment of it is left out, and an op that sums
over it yields its bias, a constant per channel. The constant is written with width 1 along the batch and spatial axes
and broadcast where it meets a full tensor; zeros vanish from sums. Anything else is refused before anything is built.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxprune_passes.axes import Axes
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.mend import Call
from fxprune_passes.propagate import Operation


class Nothing:
    """A tensor that is not written: one without channels, or zeros."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        """The name."""
        return self.name


EMPTY = Nothing("EMPTY")
ZERO = Nothing("ZERO")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FUNCTIONAL = {
    F.linear: -1, F.conv1d: -2, F.conv2d: -3, F.conv3d: -4,
    F.conv_transpose1d: -2, F.conv_transpose2d: -3, F.conv_transpose3d: -4,
}  # fmt: skip
_SUMS = (
    torch.matmul, operator.matmul, torch.mm, torch.bmm, torch.mv, torch.einsum, torch.functional.einsum, torch.sum,
    torch.dot, "matmul", "mm", "bmm", "mv", "sum",
)  # fmt: skip
_JOINS = (torch.cat, torch.concat, torch.concatenate)
_ADDS = (operator.add, operator.iadd, torch.add, "add", "add_")


@dataclass(slots=True)
class Vanish:
    """Knows which new nodes stand for a larger tensor that repeats them, and along which axes they are full."""

    present: dict[Any, tuple[bool, ...]] = field(default_factory=dict)

    def touches(self, call: Call) -> bool:
        """Whether some input of a node is not written, or is written smaller than it is."""
        inputs = [call.tensors[one] for one in call.node.all_input_nodes if one in call.tensors]
        return any(
            isinstance(one, Nothing) or one in self.present for one in inputs if isinstance(one, (Nothing, fx.Node))
        )

    def write(self, call: Call, module: nn.Module | None, operations: Sequence[Operation], plain: Any) -> Any:
        """Write a node that such an input reaches.

        Args:
            call: The node.
            module: Its leaf module, if it calls one.
            operations: The ATen ops that it ran.
            plain: Writes the node as if nothing were special.

        Raises:
            PlanError: The function without those channels cannot be written.
        """
        node = call.node
        if node.target in _JOINS:
            return self._join(call)
        if node.target in (operator.setitem, "__setitem__"):
            return self._assign(call, plain)
        if any(call.tensors.get(one) is EMPTY for one in node.all_input_nodes):
            return self._sum_of_nothing(call, module)
        if node.target in _ADDS and (other := self._other_side(call)) is not None:
            return other
        if isinstance(module, _BATCH_NORMS) and not module.training and module.running_mean is not None:
            return self._batch_norm(call, plain)
        if all(operation.pointwise for operation in operations):
            return self._pointwise(call)
        raise refusal(call)

    def _join(self, call: Call) -> Any:
        """The parts that are left; a constant takes batch and spatial sizes from a part that is full."""
        dim = call.old(call.argument(1, "dim", 0))
        left = [one for one in call.argument(0, "tensors") if call.tensors[one] is not EMPTY]
        full = next((call.tensors[one] for one in left if not self._is_small(call.tensors[one])), None)
        if full is None:
            raise refusal(call)
        parts = [self._grown(call, one, full, dim) for one in left]
        return parts[0] if len(parts) == 1 else call.emit("call_function", torch.cat, (parts, dim))

    def _is_small(self, written: Any) -> bool:
        return written is ZERO or written in self.present

    def _grown(self, call: Call, node: fx.Node, full: fx.Node, dim: int) -> fx.Node:
        """A constant repeated to the batch and spatial sizes of another tensor."""
        if call.tensors[node] is ZERO:
            call.tensors[node] = self._zeros(call, node)
        written: fx.Node = call.tensors[node]
        if written not in self.present:
            return written
        like = call.function(torch.zeros_like, call.function(torch.narrow, full, dim, 0, 1))
        return call.function(operator.add, written, like)

    def _assign(self, call: Call, plain: Any) -> Any:
        """Nothing is assigned where nothing is left; a constant is broadcast by the assignment itself."""
        value = call.node.args[2]
        written = call.tensors.get(value) if isinstance(value, fx.Node) else None
        if written is EMPTY:
            return EMPTY
        if written is ZERO or call.tensors.get(call.node.args[0]) in self.present:
            raise refusal(call)
        return plain()

    def _sum_of_nothing(self, call: Call, module: nn.Module | None) -> Any:
        """An op whose summed channels are all gone: its bias, or zeros."""
        axis: int | None = None
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            axis = -1 if isinstance(module, nn.Linear) else -len(module.kernel_size) - 1
            bias = None if module.bias is None else call.emit("get_attr", f"{call.node.target}.bias", final=False)
        elif call.node.target in _FUNCTIONAL:
            axis = _FUNCTIONAL[call.node.target]
            given = call.argument(2, "bias")
            bias = None if given is None else call.data(given)
        elif call.node.target in _SUMS:
            bias = None
        else:
            raise refusal(call)
        return ZERO if bias is None or axis is None else self._constant(call, bias, axis)

    def _constant(self, call: Call, bias: fx.Node, axis: int) -> fx.Node:
        """A bias as a tensor of width 1 along every other axis, on its own, so that in-place ops may change it."""
        axes: Axes = call.axes()
        flags = tuple(dim == len(axes) + axis for dim in range(len(axes)))
        shape = tuple(call.kept.size(one) if flag else 1 for one, flag in zip(axes, flags, strict=True))
        result = call.function(torch.clone, call.function(torch.reshape, bias, shape))
        return self._note(call, result, flags)

    def _other_side(self, call: Call) -> Any:
        """``x + 0``: x, where x has the sum's shape."""
        for one, other in ((0, 1), (1, 0)):
            node, rest = (call.argument(i, ("input", "other")[i]) for i in (one, other))
            both = isinstance(node, fx.Node) and isinstance(rest, fx.Node)
            if (
                both
                and call.tensors.get(node) is ZERO
                and call.kept.shape(call.axes(rest)) == call.kept.shape(call.axes())
            ):
                return call.tensors[rest]
        return None

    def _pointwise(self, call: Call) -> Any:
        """A pointwise op broadcasts its constants by itself; in place it cannot grow them."""
        node = call.node
        inputs = [one for one in node.all_input_nodes if isinstance(call.axes(one), tuple)]
        for one in inputs:
            if call.tensors[one] is ZERO:
                call.tensors[one] = self._zeros(call, one)
        flags = self._flags(call, inputs)
        first = call.tensors.get(node.args[0]) if node.args and isinstance(node.args[0], fx.Node) else None
        target: Any = node.target
        if first in self.present and self.present[first] != flags:
            if target not in _OUT_OF_PLACE and str(target).endswith("_"):
                raise refusal(call)
            target = _OUT_OF_PLACE.get(target, target)
        result = call.emit(node.op, target, call.data(node.args), call.data(node.kwargs), final=all(flags))
        return self._note(call, result, flags)

    def _zeros(self, call: Call, node: fx.Node) -> fx.Node:
        axes: Axes = call.axes(node)
        flags = tuple(not call.kept.is_dynamic(axis) for axis in axes)
        shape = [call.kept.size(axis) if flag else 1 for axis, flag in zip(axes, flags, strict=True)]
        written = call.constant(torch.zeros(shape, dtype=call.source.values[node].dtype), "zeros")
        self.present[written] = flags
        return written

    def _flags(self, call: Call, inputs: Sequence[fx.Node]) -> tuple[bool, ...]:
        """Along which axes of the result some input is full."""
        axes: Axes = call.axes()
        flags = [axis.size == 1 for axis in axes]
        for one in inputs:
            own: Axes = call.axes(one)
            full = self.present.get(call.tensors[one], (True,) * len(own))
            for dim in range(1, len(own) + 1):
                flags[-dim] |= full[-dim] and own[-dim].size == axes[-dim].size
        return tuple(flags)

    def _batch_norm(self, call: Call, plain: Any) -> fx.Node:
        """Batch norm with fixed statistics turns one constant per channel into another."""
        source = call.node.args[0]
        assert isinstance(source, fx.Node)
        if call.tensors[source] is ZERO:
            call.tensors[source] = self._zeros(call, source)
        return self._note(call, plain(), self.present[call.tensors[source]])

    def _note(self, call: Call, written: fx.Node, flags: tuple[bool, ...]) -> fx.Node:
        if not all(flag or axis.size == 1 for flag, axis in zip(flags, call.axes(), strict=False)) or len(flags) == 0:
            self.present[written] = flags
            written.meta.pop("origin", None)
        return written


_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, "add_": "add", "sub_": "sub", "mul_": "mul", "div_": "div",
}  # fmt: skip


def is_empty(tree: Any, call: Call) -> bool:
    """Whether every tensor in a node's value loses all its channels."""
    if isinstance(tree, tuple):
        return any(call.kept.size(axis) == 0 and axis.size > 0 for axis in tree)
    if isinstance(tree, (list, dict)):
        parts = list(tree.values() if isinstance(tree, dict) else tree)
        return bool(parts) and all(is_empty(part, call) for part in parts)
    return False


def refusal(call: Call) -> PlanError:
    """The error for a node that cannot do without all of its channels."""
    node = call.node
    first = f"the plan removes every channel that {node.name} ({node.op} {node.target}) reads, which cannot be written."
    gone = [name for name in call.kept.emptied() if name]
    groups = (
        f"keep a channel of {', '.join(repr(name) for name in gone)}" if gone else "keep one of the channels it reads"
    )
    return PlanError(
        explain(first, at=f"{node.meta.get('module', '')} {node.meta.get('source', '')}".strip(), mend=groups)
    )
