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
from fxprune_passes.effects import aliases, is_read_after, writes
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.mend import Call
from fxprune_passes.propagation import Operation, flat_axes


class Nothing:
    """A tensor that is not written: one without channels, or zeros."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        """The name."""
        return self.name


EMPTY = Nothing("EMPTY")
ZERO = Nothing("ZERO")

aten = torch.ops.aten
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_FUNCTIONAL = frozenset(
    {
        F.linear, F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d,
        aten.linear.default, aten.convolution.default, aten.conv1d.default, aten.conv2d.default, aten.conv3d.default,
        aten.conv1d.padding, aten.conv2d.padding, aten.conv3d.padding,
        aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input,
    }
)  # fmt: skip
_SUMS = frozenset(
    {
        torch.matmul, operator.matmul, torch.mm, torch.bmm, torch.mv, torch.einsum, torch.functional.einsum, torch.sum,
        torch.dot, "matmul", "mm", "bmm", "mv", "sum",
        aten.matmul.default, aten.mm.default, aten.bmm.default, aten.mv.default, aten.dot.default, aten.einsum.default,
        aten.sum.default, aten.sum.dim_IntList,
    }
)  # fmt: skip
_JOINS = frozenset({torch.cat, torch.concat, torch.concatenate, aten.cat.default, aten.concat.default})
_ADDS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_", aten.add.Tensor, aten.add_.Tensor})


@dataclass(slots=True)
class Vanish:
    """Knows which new nodes stand for a larger tensor that repeats them, and along which axes they are full."""

    present: dict[Any, tuple[bool, ...]] = field(default_factory=dict)
    in_place: bool | None = None

    def touches(self, call: Call) -> bool:
        """Whether some input of a node is not written, or is written smaller than it is."""
        inputs = [call.tensors[one] for one in call.node.all_input_nodes if one in call.tensors]
        if not self.present:
            inputs = [one for one in inputs if type(one) is not fx.Node]
        parts = [part for one in inputs for part in (one if isinstance(one, tuple) else (one,))]
        return any(
            isinstance(one, Nothing) or one in self.present for one in parts if isinstance(one, (Nothing, fx.Node))
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
        if node.target is operator.getitem and isinstance(parts := call.tensors[call.input], tuple):
            return parts[call.old(node.args[1])]
        if node.target is aten.slice_scatter.default and call.tensors[node.args[1]] is EMPTY:
            return call.tensors[node.args[0]]
        if any(call.tensors.get(one) is EMPTY for one in node.all_input_nodes):
            return self._sum_of_nothing(call, module)
        if node.target in _ADDS and (other := self._other_side(call)) is not None:
            return other
        if _has_fixed_statistics(call, module):
            return self._batch_norm(call, plain)
        if node.target is aten._native_batch_norm_legit_no_training.default:
            return (self._core_batch_norm(call), None, None)
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
        alone = len(left) == 1 and not self._may_be_written(call, left[0]) and call.old(left[0]).is_contiguous()
        return parts[0] if alone else call.emit("call_function", torch.cat, (parts, dim))

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
        if written is ZERO or self._is_small(call.tensors.get(call.node.args[0])):
            raise refusal(call)
        return plain()

    def _sum_of_nothing(self, call: Call, module: nn.Module | None) -> Any:
        """An op whose summed channels are all gone: its bias, or zeros."""
        axis: int | None = None
        if isinstance(module, (nn.Linear, *_CONVOLUTIONS)):
            axis = -1 if isinstance(module, nn.Linear) else -len(module.kernel_size) - 1
            bias = None if module.bias is None else call.emit("get_attr", f"{call.node.target}.bias", final=False)
        elif call.node.target in _FUNCTIONAL:
            weight: Axes = call.axes(call.argument(1, "weight"))
            axis = 1 - len(weight)
            given = call.argument(2, "bias")
            bias = None if given is None else call.data(given)
        elif call.node.target is aten.addmm.default and not call.node.kwargs and len(call.axes(call.input)) == 1:
            axis, bias = -1, call.data(call.input)
        elif call.node.target in _SUMS:
            bias = None
        else:
            raise refusal(call)
        return ZERO if bias is None or axis is None else self._constant(call, bias, axis)

    def given(self, call: Call, written: Any, added: fx.Node, axis: int) -> fx.Node:
        """A number for each channel, added to the constant that stands for a node."""
        constant = self._constant(call, added, axis)
        if written is ZERO:
            return constant
        return self._note(call, call.function(operator.add, written, constant), self.present[written])

    def _constant(self, call: Call, bias: fx.Node, axis: int) -> fx.Node:
        """A bias as a tensor of width 1 along every other axis, on its own, so that in-place ops may change it."""
        axes: Axes = call.axes()
        flags = tuple(dim == len(axes) + axis for dim in range(len(axes)))
        shape = tuple(call.kept.size(one) if flag else 1 for one, flag in zip(axes, flags, strict=True))
        result = call.function(torch.clone, call.function(torch.reshape, bias, shape))
        return self._note(call, result, flags)

    def _other_side(self, call: Call) -> Any:
        """``x + 0``: x, where x has the sum's shape and dtype."""
        first, second = (call.argument(i, ("input", "other")[i]) for i in (0, 1))
        if not isinstance(first, fx.Node) or not isinstance(second, fx.Node) or set(call.node.kwargs) - {"other"}:
            return None
        zeros = [call.tensors.get(one) is ZERO for one in (first, second)]
        if not any(zeros) or (writes(call.node) and zeros[0] and self._is_stale(call, first)):
            return None
        rest = second if zeros[0] else first
        if (
            call.kept.shape(call.axes(rest)) != call.kept.shape(call.axes())
            or call.old(rest).dtype != call.old(call.node).dtype
        ):
            return None
        if writes(call.node) and rest is first:
            return call.tensors[rest]
        return self._instead(call, rest)

    def _instead(self, call: Call, node: fx.Node) -> Any:
        """A tensor in the place of the node's result: a copy where its strides differ, or one may be written into."""
        found, old, new = call.tensors[node], call.old(node), call.old(call.node)
        if isinstance(found, Nothing) or (old.stride() == new.stride() and not self._may_be_written(call, node)):
            return found
        options = {"memory_format": torch.contiguous_format} if new.is_contiguous() else {}
        copy = call.function(torch.clone, found, **options)
        if found in self.present:
            self.present[copy] = self.present[found]
        return copy

    def _may_be_written(self, call: Call, node: fx.Node) -> bool:
        """Whether a tensor is not the graph's own, or some node writes in place."""
        if self.in_place is None:
            self.in_place = any(writes(one) for one in call.node.graph.nodes)
        return self.in_place or node.op in ("placeholder", "get_attr")

    def _is_stale(self, call: Call, written: fx.Node) -> bool:
        """Whether what a node writes in place is read later in any way but by the node's own result."""
        shared = (one for one in aliases(written, call.source.values) if one < call.node)
        return any(is_read_after(one, call.node) for one in shared)

    def _pointwise(self, call: Call) -> Any:
        """A pointwise op broadcasts its constants by itself; in place it cannot grow them."""
        node = call.node
        inputs = [one for one in node.all_input_nodes if isinstance(call.axes(one), tuple)]
        if "out" in node.kwargs:
            raise refusal(call)
        for one in inputs:
            if call.tensors[one] is ZERO:
                call.tensors[one] = self._zeros(call, one)
        flags = self._flags(call, inputs)
        first = node.args[0] if node.args and isinstance(node.args[0], fx.Node) else None
        target: Any = node.target
        if writes(node) and first is not None and self.present.get(call.tensors[first], flags) != flags:
            if target not in _OUT_OF_PLACE or self._is_stale(call, first):
                raise refusal(call)
            target = _OUT_OF_PLACE[target]
        result = call.emit(node.op, target, call.data(node.args), call.data(node.kwargs), final=all(flags))
        return self._note(call, result, flags)

    def _zeros(self, call: Call, node: fx.Node) -> fx.Node:
        axes: Axes = call.axes(node)
        flags = tuple(not call.kept.is_dynamic(axis) for axis in axes)
        shape = [call.kept.size(axis) if flag else 1 for axis, flag in zip(axes, flags, strict=True)]
        written = call.constant(torch.zeros(shape, dtype=call.source.values[node].dtype), "zeros")
        if self._may_be_written(call, node):
            written = call.function(torch.clone, written)
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

    def _core_batch_norm(self, call: Call) -> fx.Node:
        """The same of core ATen, whose other results are empty."""
        source = call.input
        if call.tensors[source] is ZERO:
            call.tensors[source] = self._zeros(call, source)
        x, weight, bias, mean, variance, momentum, eps = call.data(call.node.args)
        result = call.function(aten.batch_norm.default, x, weight, bias, mean, variance, False, momentum, eps, False)
        return self._note(call, result, self.present[call.tensors[source]])

    def _note(self, call: Call, written: fx.Node, flags: tuple[bool, ...]) -> fx.Node:
        axes: Axes = next(iter(flat_axes(call.axes())))
        if not all(flag or axis.size == 1 for flag, axis in zip(flags, axes, strict=False)) or len(flags) == 0:
            self.present[written] = flags
            written.meta.pop("origin", None)
        return written


_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul,
    operator.itruediv: operator.truediv, "add_": "add", "sub_": "sub", "mul_": "mul", "div_": "div",
    aten.add_.Tensor: aten.add.Tensor, aten.sub_.Tensor: aten.sub.Tensor,
    aten.mul_.Tensor: aten.mul.Tensor, aten.div_.Tensor: aten.div.Tensor,
}  # fmt: skip


def _has_fixed_statistics(call: Call, module: nn.Module | None) -> bool:
    """Whether a node is a batch norm by running statistics."""
    if isinstance(module, _BATCH_NORMS):
        return not module.training and module.running_mean is not None
    return call.node.target is aten.batch_norm.default and call.node.args[5] is False


def is_empty(tree: Any, call: Call) -> bool:
    """Whether every tensor in a node's value loses all its channels."""
    if isinstance(tree, tuple):
        return any(call.kept.is_empty(axis) for axis in tree)
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
