"""Run the captured graph on fake tensors and state every op's equations between axes."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, TypeGuard

import torch
from torch import fx
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fxprune_passes.axes import Axes, Term, Where, freezing, leaves
from fxprune_passes.equations import Equations
from fxprune_passes.errors import CaptureError
from fxprune_passes.inferred import NO_RULE, Inferred, Prober, may_run, state
from fxprune_passes.mend import knows_statistics, opaque, spoken_of, unmended
from fxprune_passes.probe import tensors_of
from fxprune_passes.refusals import VALUE_READS, described, does_not_run, needs_values
from fxprune_passes.rules import RULES, Op, Rule, find, is_pointwise, is_recurrent, recurrent, state_alike

_FAKE_LOG = logging.getLogger(FakeTensorMode.__module__)
_RANK = 8  # numbers below are those of axes
_KNOWN_VALUES_UP_TO = 1 << 16  # elements of an index vector that is followed by value


@dataclass(frozen=True, slots=True)
class Operation:
    """One dispatched ATen op: name, output axes, numbers that are not sizes, and whether it is pointwise."""

    name: str
    axes: list[Axes]
    numbers: tuple[float, ...]
    pointwise: bool


@dataclass(slots=True)
class Propagation:
    """What is known of a graph: the axes and the fake value of every node, and the equations between them."""

    graph_module: fx.GraphModule
    fake_mode: FakeTensorMode | None
    equations: Equations = field(default_factory=Equations)
    axes: dict[fx.Node, Any] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    parameters: dict[str, Axes] = field(default_factory=dict)
    operations: dict[fx.Node, list[Operation]] = field(default_factory=dict)
    statistics: dict[fx.Node, list[Term]] = field(default_factory=dict)
    readers: set[int] = field(default_factory=set)
    writers: set[int] = field(default_factory=set)
    constants: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    inferred: dict[fx.Node, Inferred] = field(default_factory=dict)


def propagate(
    graph_module: fx.GraphModule,
    inputs: Mapping[str, Any],
    fake_mode: FakeTensorMode | None,
    values: Mapping[str, torch.Tensor],
    *,
    freeze_outputs: bool = True,
) -> Propagation:
    """Solve every op's axis equations.

    Args:
        graph_module: Captured model whose parameters and buffers are fake; not modified.
        inputs: A fake tensor or plain value for each placeholder.
        fake_mode: The mode that made them; None for a graph of real tensors, which run.
        values: The real tensors by name; integer ones are followed by value where they index an axis.
        freeze_outputs: Keep the model's outputs whole.

    Returns:
        Axes of every tensor, fake values of every node, and the solved equations.

    Raises:
        CaptureError: The graph does not run on these inputs.
    """
    result = Propagation(graph_module, fake_mode)
    interpreter = _Interpreter(result, values)
    with quiet_run(fake_mode):
        interpreter.run_graph(inputs)
    if freeze_outputs:
        _freeze_outputs(result)
    _freeze_tables(result, values)
    _note_inferred(result)
    return result


@contextmanager
def quiet_run(fake_mode: FakeTensorMode | None) -> Iterator[None]:
    """No gradients, fake tensors (real ones: None), no log of failures, and no fused attention, which hides its ops."""
    fused, logged = torch.backends.mha.get_fastpath_enabled(), _FAKE_LOG.disabled
    torch.backends.mha.set_fastpath_enabled(False)
    _FAKE_LOG.disabled = True  # it prints a stack for every exception, which the errors that we raise tell in full
    try:
        with torch.no_grad(), fake_mode or nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        _FAKE_LOG.disabled = logged


def _freeze_outputs(result: Propagation) -> None:
    output = next(iter(reversed(result.graph_module.graph.nodes)))
    result.equations.where = Where("output", "model output")
    for axes in flat_axes(result.axes[output]):
        for axis in axes:
            result.equations.freeze(axis, "model output")


def _note_inferred(result: Propagation) -> None:
    """Keep and mark the inferred rules that carry channels which can go."""
    for node in list(result.inferred):
        if all(freezing(axis) for axes in flat_axes(result.axes[node]) for axis in axes):
            del result.inferred[node]
        else:
            node.meta["inferred"] = result.inferred[node].op


def _freeze_tables(result: Propagation, values: Mapping[str, torch.Tensor]) -> None:
    """Keep the axes that only integer tensors have, such as the positions behind a sequence: no weight is there."""
    integers = {name for name in result.parameters if name in values and not _is_weight(values[name])}
    weighty = {
        leaf
        for name in result.parameters.keys() - integers
        for axis in result.parameters[name]
        for leaf in leaves(axis)
    }
    for name in sorted(integers):
        result.equations.where = Where(name, name)
        for leaf in (leaf for axis in result.parameters[name] for leaf in leaves(axis)):
            if leaf not in weighty:
                result.equations.freeze(leaf, "no weights, a table of numbers")


def _is_weight(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def flat_axes(tree: Any) -> Iterator[Axes]:
    """Every tensor's axes in a node's value (lists and dicts hold several tensors, None stands for no tensor)."""
    if isinstance(tree, tuple):
        yield tree
    elif isinstance(tree, (list, dict)):
        for one in tree.values() if isinstance(tree, dict) else tree:
            yield from flat_axes(one)


class _Ledger(TorchDispatchMode):
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
        self.prober = Prober(self.known)
        self._axes: dict[int, tuple[torch.Tensor, Axes]] = {}
        self._known: dict[int, torch.Tensor] = {}
        self._weights: set[int] = set()

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
            return self.learn(tensor, axes, value if _is_index(value) else None)
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
        kwargs = kwargs or {}
        if func.overloadpacket in _ONE_DTYPE:
            _check_dtypes(args)
        out = func(*args, **kwargs)
        outputs = [one for one in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(one, torch.Tensor)]
        if outputs:
            self._state(func, args, kwargs, outputs)
        elif func._schema.is_mutable:
            self._state_changes(func, args, kwargs)
        return out

    def _state(self, func: OpOverload, args: Any, kwargs: Any, outputs: list[torch.Tensor]) -> None:
        self.equations.where = Where(self.where.node, str(func.overloadpacket), self.where.module, self.where.source)
        raw = args, kwargs
        args, kwargs = self.as_axes(args), {key: self.as_axes(one) for key, one in kwargs.items()}
        results = self._apply(func, list(args), kwargs, raw, outputs)
        for tensor, axes in zip(outputs, results, strict=True):
            if id(tensor) not in self._axes or func.overloadpacket in _RESHAPED_IN_PLACE:
                self.learn(tensor, axes)
        if func.is_view and id(next(flat_axes(args), None)) in self._weights:
            self._weights.update(map(id, results))
        self._follow_values(func, list(args), kwargs, outputs)
        self.operations.append(Operation(str(func), results, tuple(numbers([args, kwargs])), is_pointwise(func)))

    def _state_changes(self, func: OpOverload, args: Any, kwargs: Any) -> None:
        """An op that gives nothing but changes its arguments: what it does to their axes is unknown."""
        self.equations.where = Where(self.where.node, str(func.overloadpacket), self.where.module, self.where.source)
        self._freeze_all(self.op(str(func), []), [self.as_axes(one) for one in (*args, *kwargs.values())], {}, NO_RULE)

    def as_axes(self, value: Any) -> Any:
        """An argument of an op with axes in place of tensors."""
        if isinstance(value, torch.Tensor):
            return self.axes(value)
        return [self.as_axes(one) for one in value] if isinstance(value, (list, tuple)) else value

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

    def _follow_values(self, func: OpOverload, args: list[Any], kwargs: Any, outputs: list[torch.Tensor]) -> None:
        """Compute small integer tensors that depend on known ones alone, since they may index an axis."""
        out = outputs[0]
        if len(outputs) != 1 or out.dtype != torch.int64 or out.ndim == 0 or out.numel() > _KNOWN_VALUES_UP_TO:
            return
        if func._schema.is_mutable or any(True for _ in flat_axes(kwargs)):
            return
        flat = list(flat_axes(args))
        if func.overloadpacket not in _VALUE_OPS or any(id(axes) not in self._known for axes in flat):
            return
        with unset_fake_temporarily():
            real = [self._known[id(one)] if isinstance(one, tuple) else one for one in args]
            value = func(*real, **{**kwargs, "device": "cpu"}) if "device" in kwargs else func(*real, **kwargs)
        self._known[id(self.axes(out))] = value


# Fake kernels of these accept operands of different dtypes, real ones do not (torch 2.15).
_ONE_DTYPE = frozenset(getattr(torch.ops.aten, name) for name in ("convolution", "mm", "addmm", "bmm", "baddbmm", "mv"))


def _check_dtypes(args: Any) -> None:
    tensors = [one for one in args if isinstance(one, torch.Tensor)]
    if len({tensor.dtype for tensor in tensors}) > 1:
        shown = " and ".join(str(tensor.dtype).removeprefix("torch.") for tensor in tensors[:2])
        raise TypeError(f"expected operands of one dtype, got {shown}")


_RESHAPED_IN_PLACE = frozenset(
    getattr(torch.ops.aten, name) for name in ("unsqueeze_", "squeeze_", "transpose_", "t_", "swapaxes_", "resize_")
)
_VALUE_OPS = frozenset(
    getattr(torch.ops.aten, name)
    for name in (
        "arange",
        "add",
        "sub",
        "mul",
        "_to_copy",
        "clone",
        "flip",
        "remainder",
        "lift_fresh",
        "lift_fresh_copy",
        "view",
        "alias",
        "detach",
        "slice",
        "unsqueeze",
        "squeeze",
        "permute",
        "roll",
    )
)


def numbers(value: Any) -> Iterator[float]:
    """Floats among the arguments of an op: factors and offsets that a smaller shape must not change."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)


def _is_size_free(arguments: Any) -> bool:
    """Whether the numbers among the arguments of an op are too small to be sizes, which a function may compute anew."""
    return all(abs(one) < _RANK for one in tree_leaves(arguments) if isinstance(one, int))


def _is_index(value: Any) -> TypeGuard[torch.Tensor]:
    """Whether a tensor may index an axis and is small enough to be followed by value."""
    if not isinstance(value, torch.Tensor) or value.device.type == "meta":
        return False
    return value.dtype == torch.int64 and value.numel() <= _KNOWN_VALUES_UP_TO


def _target_name(node: fx.Node) -> str:
    """What a node calls: a method's or a module's name, or a function's own."""
    return str(node.target) if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))


class _Interpreter(fx.Interpreter):
    """Runs the graph node by node under the ledger."""

    def __init__(self, result: Propagation, values: Mapping[str, torch.Tensor]) -> None:
        super().__init__(result.graph_module, garbage_collect_values=False)
        self.result = result
        self.real = values
        self.ledger = _Ledger(result)
        self.modules = dict(result.graph_module.named_modules())
        self._learn_parameters()

    def _learn_parameters(self) -> None:
        equations, known = self.result.equations, {}
        module = self.result.graph_module
        for kind in (module.named_parameters, module.named_buffers):
            for name, tensor in kind(remove_duplicate=False):
                equations.where = Where(name, name)
                if name not in self.real:
                    continue
                if id(tensor) not in known:
                    axes = tuple(equations.dim(size) for size in tensor.shape)
                    known[id(tensor)] = self.ledger.learn_weight(tensor, axes, self._integer(name))
                self.result.parameters[name] = known[id(tensor)]

    def _integer(self, name: str) -> torch.Tensor | None:
        value = self.real.get(name)
        if not _is_index(value):
            return None
        with unset_fake_temporarily():
            return value.detach().cpu()

    def run_graph(self, inputs: Mapping[str, Any]) -> None:
        """Run every node on the given placeholders."""
        for node in self.result.graph_module.graph.nodes:
            value = self._placeholder(node, inputs) if node.op == "placeholder" else self._run(node)
            self.env[node] = self.result.values[node] = value
            self.result.axes[node] = axes = self.ledger.tree(value)
            if isinstance(axes, tuple) and (constant := self.ledger.known(axes)) is not None:
                self.result.constants[node] = constant

    def _placeholder(self, node: fx.Node, inputs: Mapping[str, Any]) -> Any:
        name = str(node.target)
        value = inputs[name] if name in inputs else node.args[0]
        self.result.equations.where = Where(node.name, f"model input {name}")
        fixed = self.result.equations.fixed
        for tensor in tree_leaves(value):
            if isinstance(tensor, torch.Tensor):
                self.ledger.learn(tensor, tuple(fixed(size, "model input", dynamic=True) for size in tensor.shape))
        return value

    def _run(self, node: fx.Node) -> Any:
        where = Where(node.name, _target_name(node), node.meta.get("module", ""), node.meta.get("source", ""))
        self.ledger.where, self.ledger.operations, self.ledger.statistics = where, [], []
        self.ledger.unmended = unmended(node, self.modules)
        self.ledger.target, self.ledger.inferred = node.target, None
        own_rule = RULES.get(node.target) if isinstance(node.target, FunctionType) else None
        stated_whole = own_rule is not None or is_recurrent(node, self.modules)
        try:
            with nullcontext() if stated_whole else self.ledger:
                value = self.run_node(node)
        except Exception as error:
            raise CaptureError(self._failure(node, where, error)) from error
        self.result.operations[node] = self.ledger.operations
        if self.ledger.statistics and knows_statistics(node, self.modules):
            self.result.statistics[node] = self.ledger.statistics
        else:
            for axis in self.ledger.statistics:
                self.result.equations.freeze(axis, "a mean or variance inside it runs over the axis")
        self.result.equations.where = where
        inputs = [self.result.axes[one] for one in node.all_input_nodes]
        state_alike(self.result.equations, node.target, inputs, self.ledger.tree(value))
        if own_rule is not None:
            self._state_own(own_rule, node, value, where)
        elif stated_whole:
            self._state_recurrent(node, value, where)
        elif (reason := opaque(node, self.modules)) and not self._is_known(node, value, reason):
            self._freeze_around(node, value, where, reason)
        if self.ledger.inferred is not None:
            self.result.inferred[node] = self.ledger.inferred
        return value

    def _is_known(self, node: fx.Node, value: Any, reason: str) -> bool:
        """Whether equations of a node that is no torch op could be stated all the same."""
        return self._is_switch(node, value) or self._infer_function(node, value, reason)

    def _is_switch(self, node: fx.Node, value: Any) -> bool:
        """Whether a module hands on its very input in evaluation, and what it does in training is all pointwise.

        Such as dropped paths. The equations are stated for both modes.
        """
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if module is None or module._parameters or module._buffers or module._modules or not node.args:
            return False
        x = self.env[node.args[0]] if isinstance(node.args[0], fx.Node) else None
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        before, ledger = module.training, self.ledger
        operations, statistics = list(ledger.operations), list(ledger.statistics)
        try:
            outputs = []
            for module.training in (False, True):
                with ledger:
                    outputs.append(module(*args, **kwargs))
            same = outputs[0] is x and isinstance(outputs[1], torch.Tensor) and ledger.statistics == statistics
            if same and outputs[1].shape == outputs[0].shape:
                for one, other in zip(ledger.axes(outputs[1]), ledger.axes(value), strict=True):
                    self.result.equations.equate(one, other)
                return True
            return False
        except Exception:  # any Python may fail in a mode that nobody asked for
            return False
        finally:
            module.training = before
            ledger.operations, ledger.statistics = operations, statistics

    def _failure(self, node: fx.Node, where: Where, error: Exception) -> str:
        inputs = described([self.env.get(one) for one in node.all_input_nodes])
        if isinstance(error, VALUE_READS):
            return needs_values("the model", where.source or node.name, where.op, inputs, at=str(where))
        shown = str(error).strip().strip("'").splitlines()
        return does_not_run("the model", f"{node.name}: ", shown[0] if shown else repr(error), inputs, at=str(where))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fetch a parameter, a buffer, or a constant, which is sliced like a buffer if it can be found again."""
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, torch.Tensor) and target in self.real and target not in self.result.parameters:
            axes = tuple(self.result.equations.dim(size) for size in value.shape)
            self.ledger.learn_weight(value, axes, self._integer(target))
            self.result.parameters[target] = axes
        return value

    def _state_recurrent(self, node: fx.Node, value: Any, where: Where) -> None:
        """A recurrent module, cell or function: its equations are stated for it as a whole."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        arguments = [self.ledger.as_axes(one) for one in args]
        named = {key: self.ledger.as_axes(one) for key, one in kwargs.items()}
        outputs = [one for one in tree_leaves(value) if isinstance(one, torch.Tensor)]
        callee = self.modules[str(node.target)] if node.op == "call_module" else node.target
        parameters = {name.rpartition(".")[2]: axes for name, axes in self._inside(node)}
        op = self.ledger.op(where.op, outputs)
        try:
            results = recurrent(op, callee, parameters, arguments, named)
        except (LookupError, ValueError) as error:
            self._freeze_around(node, value, where, f"a recurrent call of another form ({error})")
            return
        for tensor, axes in zip(outputs, results, strict=True):
            self.ledger.learn(tensor, axes)
        self.ledger.note_uses(op, [arguments, named, parameters], is_view=False)
        self.result.operations[node] = [Operation(where.op, results, (), False)]

    def _state_own(self, rule: Rule, node: fx.Node, value: Any, where: Where) -> None:
        """A function of the user's own that has a rule."""
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        inputs = (
            [self.ledger.as_axes(one) for one in args],
            {key: self.ledger.as_axes(one) for key, one in kwargs.items()},
        )
        op, outputs = self.ledger.op(where.op, tensors_of(value)), tensors_of(value)
        self.result.equations.where = where
        try:
            stated = rule(op, *inputs[0], **inputs[1])
        except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
            self._freeze_around(node, value, where, f"rule does not cover this call ({error})")
            return
        results = stated if isinstance(stated, list) else [stated]
        if [tuple(axis.size for axis in axes) for axes in results] != op.shapes:
            self._freeze_around(node, value, where, "rule does not cover this call (shape)")
            return
        for tensor, axes in zip(outputs, results, strict=True):
            self.ledger.learn(tensor, axes)
        self.ledger.note_uses(op, list(inputs))
        self.result.operations[node] = [Operation(where.op, results, (), False)]

    def _infer_function(self, node: fx.Node, value: Any, reason: str) -> bool:
        """A function of the user's own: what running it whole shows, since a call of it is written as it is."""
        outputs = tensors_of(value)
        if isinstance(node.target, str) or not outputs:
            return False
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        axes = [self.ledger.axes(one) for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
        op = self.ledger.op(reason, outputs)
        found = self.ledger.prober.call(node.target, args, kwargs, axes, op)
        if found is None or not found.alike:
            return False
        for tensor, shown in zip(outputs, state(op, found, axes, moves=False, reason=reason), strict=True):
            op.equal_all(self.ledger.axes(tensor), shown)
        self.ledger.inferred = Inferred(_target_name(node), None)
        return True

    def _inside(self, node: fx.Node) -> list[tuple[str, Axes]]:
        """The parameters and buffers of the module that a node calls."""
        prefix = f"{node.target}."
        return [(name, axes) for name, axes in self.result.parameters.items() if name.startswith(prefix)]

    def _freeze_around(self, node: fx.Node, value: Any, where: Where, reason: str) -> None:
        """An opaque node: nothing that goes in, comes out or lies inside may change."""
        equations = self.result.equations
        equations.where = where
        trees = [self.result.axes[one] for one in node.all_input_nodes] + [self.ledger.tree(value)]
        if node.op == "call_module":
            trees += [axes for _, axes in self._inside(node)]
        for axes in flat_axes(trees):
            for axis in axes:
                equations.freeze(axis, reason)
