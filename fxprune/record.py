"""The recording tracer: run a model on fake tensors and write down, as a torch.fx graph, what it does."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch._subclasses import fake_tensor
from torch.overrides import TorchFunctionMode

from fxprune.frames import call_model, current_line, failing_line
from fxprune.patches import attributes_kept, calls_seen
from fxprune.sizes import Recipe, RecordedInt, RecordedSize, map_values, plain
from fxprune.spelling import ASSERTIONS, OPENED, SIZE_READS, Call, attribute, is_conversion, spell
from fxprune.writer import GraphWriter
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.propagate import quiet_run

_TRACED_INTO = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)
_VALUE_READS = (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException)


def default_leaf(module: nn.Module, path: str) -> bool:
    """Whether a module is written as one ``call_module`` node: torch's own, but for containers and attention.

    Args:
        module: The module that is about to be called.
        path: Its dotted name in the model.
    """
    return module.__module__.startswith("torch.nn.") and not isinstance(module, _TRACED_INTO)


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    fake_mode: fake_tensor.FakeTensorMode | None = None,
    is_leaf: Callable[[nn.Module, str], bool] = default_leaf,
) -> fx.GraphModule:
    """Run a model's forward on fake tensors and record it.

    Python runs as it is: branches and loops go the way the example inputs take them. Sizes stay symbolic (see
    ``fxprune.sizes``), so that the graph takes other batch sizes. Arguments that hold no tensor become literals.

    Args:
        model: A private copy of the model whose parameters, buffers and tensor attributes are fake tensors.
        args: Positional arguments of the call: fake tensors, and plain values.
        kwargs: Keyword arguments of the call.
        fake_mode: The mode of those fake tensors; found in them by default.
        is_leaf: Says which modules are written as one ``call_module`` node.

    Returns:
        A graph module over ``model`` with one input for each argument that holds a tensor, under the name that the
        model gives it. Nodes have ``meta["source"]`` (the model's line) and ``meta["module"]`` (the module whose
        forward was running); ``graph_module.meta["baked"]`` lists (line, what, value) of each size that became a
        literal because the model asked Python for its value.

    Raises:
        CaptureError: The model fails on these inputs, reads the value of a tensor, or uses a tensor of unknown origin.
    """
    recorder = _Recorder(model, is_leaf)
    try:
        with quiet_run(fake_mode or _fake_mode_of(model, args, kwargs)), attributes_kept(model):
            recorder.run(model, args, kwargs)
    except CaptureError:
        raise
    except Exception as error:
        raise CaptureError(_failure(model, error)) from error
    return recorder.finish(model)


class _Recorder(TorchFunctionMode):
    """Sees every torch function and every module that is called, runs it, and has a node written for it."""

    def __init__(self, model: nn.Module, is_leaf: Callable[[nn.Module, str], bool]) -> None:
        super().__init__()
        self.writer = GraphWriter(model)
        self.is_leaf = is_leaf
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._inside = False  # a node, where nothing is recorded
        self._effects: set[fx.Node] = set()  # nodes that stay even if nobody reads them

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record one call of the model, from its inputs to its output."""
        args, kwargs = self._inputs(inspect.signature(model.forward), args, kwargs)
        with calls_seen(self._call_module), self:
            output = call_model(model.forward, *args, **kwargs)
        self.writer.graph.output(self.writer.written(_writable(output)))

    def finish(self, model: nn.Module) -> fx.GraphModule:
        """The graph without its dead nodes, over the model."""
        graph = self.writer.graph
        graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or node in self._effects)
        graph_module = fx.GraphModule(model, graph, class_name=type(model).__name__)
        graph.lint()
        graph_module.meta["baked"] = list(self.writer.baked)
        return graph_module

    def _inputs(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Write a placeholder for each argument that holds a tensor; those of ``*args`` are named ``args_0``, ..."""
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(self._input(f"{name}_{i}", one) for i, one in enumerate(value))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: self._input(key, one) for key, one in value.items()}
            else:
                bound.arguments[name] = self._input(name, value)
        return bound.args, bound.kwargs

    def _input(self, name: str, value: Any) -> Any:
        if not _tensors(value):
            return value
        node = self.writer.write("placeholder", name, where=("", ""))
        return self.writer.bind(value, Recipe(self.writer, lambda: node))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function that the model calls, and record it."""
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        if func in SIZE_READS:
            return self._size(func, args, kwargs)
        if func in OPENED:
            with self:
                return OPENED[func](*args, **kwargs)
        if func in ASSERTIONS and _tensors(args):  # not run: fake tensors have no values
            self._effects.add(self.writer.write("call_function", func, args, kwargs))
            return None
        if attribute(func, "__set__") in ("data", "grad"):
            raise CaptureError(explain("the model assigns to a tensor's .data or .grad.", at=current_line()))
        needless = is_conversion(func, args, kwargs) or attribute(func) is not None
        return self._node(lambda: func(*plain(args), **plain(kwargs)), spell(func, args, kwargs), needless=needless)

    def _size(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A read of sizes, which is written if somebody uses it."""
        args, kwargs = plain(args), plain(kwargs)
        op, target, (tensor, *rest), named = spell(func, args, kwargs)
        writer, value = self.writer, func(*args, **kwargs)
        recipe = writer.read(writer.recipe(tensor), op, target, *rest, *named.values())
        if isinstance(value, int):
            return RecordedInt(value, recipe)
        items = (
            RecordedInt(size, writer.read(recipe, "call_function", operator.getitem, dim))
            for dim, size in enumerate(value)
        )
        return RecordedSize(items, recipe)

    def _call_module(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        path = self._paths.get(id(module))
        if path is None or self._inside:
            return original(module, *args, **kwargs)
        if self.is_leaf(module, path):
            call: Call = ("call_module", path, args, kwargs)
            return self._node(lambda: original(module, *plain(args), **plain(kwargs)), call, list(module.buffers()))
        caller, self.writer.path = self.writer.path, path
        try:
            return original(module, *args, **kwargs)
        finally:
            self.writer.path = caller

    def _node(
        self, run: Callable[[], Any], call: Call, state: list[Tensor] | None = None, *, needless: bool = False
    ) -> Any:
        """Run a call and write its node, unless it neither gives a tensor nor changes one.

        Args:
            run: Makes the call on plain numbers.
            call: How it is written.
            state: Tensors that it may change besides its arguments.
            needless: Write nothing if the call returns its first argument.
        """
        tensors = _tensors(call[2:])
        for tensor in tensors:
            self.writer.recipe(tensor)
        with self._one_node():
            before = [(tensor, tensor._version) for tensor in (*tensors, *(state or ()))]
            result = run()
            mutated = {id(tensor) for tensor, version in before if tensor._version != version}
            if not mutated and (not _tensors(result) or (needless and result is call[2][0])):
                return result
            node = self.writer.write(*call)
            if mutated:
                self._effects.add(node)
            return self.writer.bind(result, Recipe(self.writer, lambda: node), mutated)

    @contextmanager
    def _one_node(self) -> Iterator[None]:
        self._inside = True
        try:
            yield
        finally:
            self._inside = False


def _tensors(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    map_values(value, lambda one: found.append(one) if isinstance(one, Tensor) else None)
    return found


def _fake_mode_of(model: nn.Module, args: Any, kwargs: Any) -> fake_tensor.FakeTensorMode:
    for tensor in (*_tensors((args, kwargs)), *model.parameters(), *model.buffers()):
        if isinstance(tensor, fake_tensor.FakeTensor):
            return tensor.fake_mode
    return fake_tensor.FakeTensorMode()


def _writable(output: Any, *, in_dict: bool = False) -> Any:
    """An output as fx can write it: a dataclass becomes a dict, and a named tuple inside a dict a plain tuple."""
    if is_dataclass(output) and not isinstance(output, (dict, type)):
        output = {one.name: getattr(output, one.name) for one in fields(output)}
    if isinstance(output, dict):
        return {key: _writable(one, in_dict=True) for key, one in output.items()}
    if isinstance(output, (list, tuple)) and not isinstance(output, RecordedSize):
        items = [_writable(one, in_dict=in_dict) for one in output]
        if isinstance(output, tuple):
            return type(output)(*items) if hasattr(output, "_fields") and not in_dict else tuple(items)
        return items
    return output


def _failure(model: nn.Module, error: Exception) -> str:
    name, line = type(model).__name__, failing_line(error) or "its forward"
    if isinstance(error, _VALUE_READS):
        return explain(
            f"{name} cannot be captured: {line} needs the values of a tensor, not its shape alone ({error}).",
            mend="make that line depend on shapes and constants, or prune the submodules around it",
        )
    shown = (str(error).strip() or "no message").splitlines()
    return explain(
        f"{name} does not run on the example inputs: {line} raises {type(error).__name__}: {shown[0]}",
        why="\n".join(shown[1:4]),
        mend="check the rank, the shape and the dtype of the example inputs",
    )
