"""The dispatch mode that knows the axes of every tensor and applies the rule of every op that runs under it."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fxprune_passes.axes import Axes, Term, Where
from fxprune_passes.index_values import is_index, value_of
from fxprune_passes.inferred import NO_RULE, Inferred, Prober, may_run, state
from fxprune_passes.mend import spoken_of
from fxprune_passes.propagation import Operation, Propagation, flat_axes
from fxprune_passes.replay import Ran, numbers
from fxprune_passes.rules import Op, find, is_pointwise, products

_RANK = 8  # numbers below those are of axes
# Fake kernels of these accept operands of different dtypes, real ones do not (torch 2.15).
_ONE_DTYPE = frozenset(getattr(torch.ops.aten, name) for name in ("convolution", "mm", "addmm", "bmm", "baddbmm", "mv"))
_RESHAPED_IN_PLACE = frozenset(
    getattr(torch.ops.aten, name) for name in ("unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "resize_")
)


class Ledger(TorchDispatchMode):
    """Knows the axes of every fake tensor, and applies each dispatched op's rule."""

    def __init__(self, result: Propagation) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.result = result
        self.equations = result.equations
        self.where = Where()
        self.operations: list[Operation] = []
        self.statistics: list[Term] = []
        self.unmended: frozenset[OpOverloadPacket] = frozenset()
        self.target: Any = None
        self.inferred: Inferred | None = None
        self.ran: list[Ran] = []
        self.prober = Prober(self.known)
        self._axes: dict[int, tuple[torch.Tensor, Axes]] = {}
        self._known: dict[int, torch.Tensor] = {}
        self._weights: set[int] = set()

    def begin(self, target: Any, where: Where, unmended: frozenset[OpOverloadPacket]) -> None:
        """Turn to a node.

        Args:
            target: What it calls.
            where: What errors and frozen axes say of it.
            unmended: Ops whose numbers no mend of this node writes anew.
        """
        self.target, self.where, self.unmended = target, where, unmended
        self.operations, self.statistics, self.ran, self.inferred = [], [], [], None

    def learn_weight(self, tensor: torch.Tensor, axes: Axes, value: torch.Tensor | None) -> Axes:
        """Give a parameter or buffer its axes."""
        self._weights.add(id(axes))
        return self.learn(tensor, axes, value)

    def learn(self, tensor: torch.Tensor, axes: Axes, value: torch.Tensor | None = None) -> Axes:
        """Give a tensor its axes (the tensor is kept alive, so that its id stays its own)."""
        self._axes[id(tensor)] = (tensor, axes)
        if value is not None and axes:
            self._known[id(axes)] = value
        return axes

    def axes(self, tensor: torch.Tensor) -> Axes:
        """The axes of a tensor; one that came from nowhere is a constant, and stays whole."""
        known = self._axes.get(id(tensor))
        if known is None:
            value = getattr(tensor, "constant", None) if isinstance(tensor, FakeTensor) else tensor
            axes = tuple(self.equations.fixed(size, "constant tensor") for size in tensor.shape)
            return self.learn(tensor, axes, value if is_index(value) else None)
        return known[1]

    def known(self, axes: Axes) -> torch.Tensor | None:
        """The values of an integer tensor, where they are known."""
        return self._known.get(id(axes))

    def tree(self, value: Any) -> Any:
        """A node's value with axes for tensors and None for the rest."""
        if isinstance(value, torch.Tensor):
            return self.axes(value)
        if isinstance(value, dict):
            return {key: self.tree(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
            return [self.tree(one) for one in value]
        return None

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an op, and state its equations."""
        kwargs = kwargs or {}
        if func.overloadpacket in _ONE_DTYPE:
            _check_dtypes(args)
        out = func(*args, **kwargs)
        outputs = [one for one in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(one, torch.Tensor)]
        ran = Ran(func, args, kwargs, outputs)
        if outputs:
            self.state(ran, tuple(numbers([list(args), kwargs])))
        elif func._schema.is_mutable:
            self._state_changes(func, args, kwargs)
        if outputs or func._schema.is_mutable:
            self.ran.append(ran)
        return out

    def state(self, ran: Ran, factors: tuple[float, ...]) -> None:
        """State the equations of an op, and note the numbers among its arguments."""
        func, args, kwargs, outputs = ran.func, ran.args, ran.kwargs, ran.outputs
        self.equations.where = Where(self.where.node, str(func.overloadpacket), self.where.module, self.where.source)
        raw = args, kwargs
        args, kwargs = self.as_axes(args), {key: self.as_axes(one) for key, one in kwargs.items()}
        results = self._apply(func, list(args), kwargs, raw, outputs)
        for tensor, axes in zip(outputs, results, strict=True):
            if id(tensor) not in self._axes or func.overloadpacket in _RESHAPED_IN_PLACE:
                self.learn(tensor, axes)
        if func.is_view and id(next(flat_axes(args), None)) in self._weights:
            self._weights.update(map(id, results))
        if (value := value_of(func, args, kwargs, outputs, self._known)) is not None:
            self._known[id(self.axes(outputs[0]))] = value
        costs = products(func, args, results)
        operation = Operation(str(func), results, factors, is_pointwise(func), costs, find(func), [args, kwargs])
        self.operations.append(operation)

    def _state_changes(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        """An op that gives nothing but changes its arguments: what it does to their axes is unknown."""
        self.equations.where = Where(self.where.node, str(func.overloadpacket), self.where.module, self.where.source)
        self._freeze_all(self.op(str(func), []), [self.as_axes(one) for one in (*args, *kwargs.values())], {}, NO_RULE)

    def as_axes(self, value: Any) -> Any:
        """An argument of an op with axes in place of tensors."""
        if isinstance(value, torch.Tensor):
            return self.axes(value)
        return [self.as_axes(one) for one in value] if isinstance(value, (list, tuple)) else value

    def is_weight(self, axes: Axes) -> bool:
        """Whether these are the axes of a parameter or buffer, or of a view of one."""
        return id(axes) in self._weights

    def op(self, name: str, outputs: list[torch.Tensor]) -> Op:
        """What a rule sees of an op."""
        return Op(name, [tuple(one.shape) for one in outputs], self.equations, self._known, self._weights)

    def _apply(
        self, func: OpOverload, args: list[Any], kwargs: dict[str, Any], raw: Any, outputs: list[torch.Tensor]
    ) -> list[Axes]:
        op = self.op(str(func), outputs)
        shapes = op.shapes
        if (rule := find(func)) is None:
            return self._infer(func, op, raw) or self._freeze_all(op, args, kwargs, NO_RULE)
        try:
            stated = rule(op, *args, **kwargs)
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            return self._freeze_all(op, args, kwargs, f"rule does not cover this call ({error})")
        results = stated if isinstance(stated, list) else [stated]
        if [tuple(axis.size for axis in axes) for axes in results[: len(shapes)]] != shapes[: len(results)]:
            return self._freeze_all(op, args, kwargs, "rule does not cover this call (shape)")
        if func.overloadpacket in self.unmended:
            op.freeze(spoken_of(func, [args, kwargs], results), "a number in the call that no mend writes anew")
        self.note_uses(op, [args, kwargs], is_view=func.is_view)
        self.statistics += op.statistics
        rest = [tuple(self.equations.fixed(size, "side output") for size in shape) for shape in shapes[len(results) :]]
        return results[: len(shapes)] + rest

    def _infer(self, func: OpOverload, op: Op, raw: Any) -> list[Axes] | None:
        """The output axes of an op that has no rule, as far as running it shows them."""
        axes = [self.axes(one) for one in tree_leaves(raw) if isinstance(one, torch.Tensor)]
        is_node = self.target in (func, func.overloadpacket)
        if not may_run(func) or not (is_node or _is_size_free(raw)):
            return None
        args, kwargs = raw
        if (found := self.prober.call(func, args, kwargs, axes, op)) is None:
            return None
        moves = is_node and len(axes) == 1
        results = state(op, found, axes, moves=moves)
        self.note_uses(op, axes, is_view=func.is_view)
        if found.alike or found.moved:
            self.inferred = Inferred(str(func), found.moved if moves else None)
        return results

    def note_uses(self, op: Op, arguments: Any, *, is_view: bool = False) -> None:
        """Tell a weight's axes that this op sums over from those that it uses in any other way."""
        read = set(map(id, op.contracted))
        self.result.readers |= read
        if not is_view:
            weights = (axes for axes in flat_axes(arguments) if id(axes) in self._weights)
            self.result.writers.update(id(axis) for axes in weights for axis in axes if id(axis) not in read)

    def _freeze_all(self, op: Op, args: list[Any], kwargs: dict[str, Any], reason: str) -> list[Axes]:
        for axes in flat_axes([args, kwargs]):
            op.freeze(axes, reason)
        return [tuple(op.fixed(size, reason) for size in shape) for shape in op.shapes]


def _check_dtypes(args: Any) -> None:
    tensors = [one for one in args if isinstance(one, torch.Tensor)]
    if len({tensor.dtype for tensor in tensors}) > 1:
        shown = " and ".join(str(tensor.dtype).removeprefix("torch.") for tensor in tensors[:2])
        raise TypeError(f"expected operands of one dtype, got {shown}")


def _is_size_free(arguments: Any) -> bool:
    """Whether the numbers among the arguments of an op are too small to be sizes, which a function may compute anew."""
    return all(abs(one) < _RANK for one in tree_leaves(arguments) if isinstance(one, int))
