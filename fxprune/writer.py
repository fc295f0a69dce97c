"""Writes the nodes of a recorded graph: knows the node of every tensor and of every recorded number."""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Container, Hashable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.rnn import PackedSequence

from fxprune.frames import current_globals, current_line
from fxprune.sizes import Recipe, RecordedFloat, RecordedInt, RecordedSize, map_values
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.nodes import make_node
from fxprune_passes.refusals import KEEP_CODE, described

Where = tuple[str, str]  # the model's line, and the module whose forward is running

_LITERALS = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format, range)
_PYTHON_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


class ConversionMet(BaseException):
    """A recording must begin anew, with conversions in one more module seen; no model is to catch this."""


class GraphWriter:
    """A graph in the making.

    Attributes:
        graph: The graph so far.
        path: Dotted name of the module whose forward is running.
        baked: (line, what, value) of every recorded number that became a literal; a dict for its order.
        converted: Globals of the functions in which Python made a recorded number a plain int, by id.
        keeps_code: The graph serves to analyse a model whose code stays, and is never run in its place.
        quiet: Inside a node, where nothing is noted.
        decisions: What Python went on with, by the node that computes it (where the code stays).
        strangers: Tensors of unknown origin that the graph reads as constants (where the code stays), by name.
    """

    def __init__(self, model: nn.Module, seen: Container[int] = (), *, keeps_code: bool = False) -> None:
        self.seen = seen
        self.graph = fx.Graph()
        self.keeps_code = keeps_code
        self.quiet = False
        self.decisions: dict[fx.Node, Any] = {}
        self.strangers: dict[str, Tensor] = {}
        self.path = ""
        self.baked: dict[tuple[str, str, float], None] = {}
        self.converted: dict[int, dict[str, Any]] = {}
        self._reads: set[fx.Node] = set()
        self._computed: dict[Hashable, Recipe] = {}
        # By id; the tensor is kept alive, so that its id stays its own.
        self._recipes: dict[int, tuple[Tensor, Recipe]] = {}
        for name, tensor in named_tensors(model):
            trained = isinstance(tensor, nn.Parameter)
            self._recipes.setdefault(id(tensor), (tensor, self._get_attr(name, trained=trained)))

    def write(self, op: str, target: Any, args: Any = (), kwargs: Any = None, where: Where | None = None) -> fx.Node:
        """Write a node at the end of the graph; its arguments may hold tensors and recorded numbers."""
        node = make_node(self.graph.create_node, op, target, self.written(args), self.written(kwargs or {}))
        node.meta["source"], node.meta["module"] = where or self.where()
        return node

    def read(self, whole: Recipe, op: str, target: Any, *args: Any) -> Recipe:
        """A recipe for a part of a node's value: an item, a size.

        It is written right behind the whole, since a later in-place op could change what is read.
        """
        if (target, args) not in whole.reads:
            where = self.where()

            def write() -> fx.Node:
                with self.graph.inserting_after(self._behind(whole.node)):
                    node = self.write(op, target, (whole.node, *args), where=where)
                self._reads.add(node)
                return node

            whole.reads[target, args] = Recipe(self, write, trained=whole.trained, detached=whole.detached)
        return whole.reads[target, args]

    def _behind(self, node: fx.Node) -> fx.Node:
        """What a read of a node is written behind: its earlier reads, and all placeholders."""
        while node.next in self._reads or node.op == node.next.op == "placeholder":
            node = node.next
        return node

    def compute(self, target: Callable[..., Any], args: tuple[Any, ...]) -> Recipe:
        """A recipe for arithmetic on recorded numbers: the same sum twice is one node."""
        key = target, *((type(one), getattr(one, "recipe", one)) for one in args)
        if key not in self._computed:
            where = self.where()
            self._computed[key] = Recipe(self, lambda: self.write("call_function", target, args, where=where))
        return self._computed[key]

    def bake(self, what: str, value: float, recipe: Recipe) -> None:
        """Note a recorded number that becomes a literal.

        Raises:
            ConversionMet: It does so in a module in which that could be seen.
        """
        if self.quiet:
            return
        self.baked[current_line(), what, value] = None
        if self.keeps_code and what != "comparison":
            self.decisions[recipe.node] = bool(value) if what == "bool()" else value
        if what in ("int()", "len()") and (space := current_globals()) is not None:
            self.converted[id(space)] = space
            if id(space) not in self.seen:
                raise ConversionMet

    def decide(self, target: Callable[..., Any], args: tuple[Any, ...], outcome: bool) -> None:
        """Note a comparison that Python went on with, where the model's code will run again."""
        if self.keeps_code and not self.quiet:
            self.decisions[self.compute(target, args).node] = outcome

    def bind(self, value: Any, recipe: Recipe, mutated: Iterable[int] = ()) -> Any:
        """Say which node a value comes from.

        Args:
            value: A tensor, or nested tuples, lists and dicts of them.
            recipe: Its node.
            mutated: The ids of tensors that the node changed in place: from now on, their readers read this node.

        Returns:
            The value. A tensor that came from another node and merely passed through this one is another object,
            so that the two can be told apart (``x + dropout(x)`` in eval mode).
        """
        if isinstance(value, Tensor):
            if id(value) in self._recipes and id(value) not in mutated:
                value = torch.ops.aten.alias.default(value)
            self._recipes[id(value)] = (value, recipe)
            return value
        if not isinstance(value, (tuple, list, dict)):
            return value
        parts = dict(value) if isinstance(value, dict) else dict(enumerate(value))
        for key, part in parts.items():
            parts[key] = self.bind(part, self.read(recipe, "call_function", operator.getitem, key), mutated)
        if all(parts[key] is value[key] for key in parts):
            return value
        if isinstance(value, dict):
            return parts
        return value._make(parts.values()) if hasattr(value, "_make") else type(value)(parts.values())

    def recipe(self, tensor: Tensor) -> Recipe:
        """Where a tensor comes from.

        Raises:
            CaptureError: From nowhere that the graph knows.
        """
        if id(tensor) not in self._recipes:
            if self.keeps_code:
                return self._stranger(tensor)
            raise CaptureError(
                explain(
                    f"a tensor {described(tensor)} is neither an input, a parameter, a buffer nor "
                    "an attribute of a module of the model, nor the result of a recorded op.",
                    at=current_line(),
                    mend=f"register it: self.register_buffer(name, tensor, persistent=False),\nor {KEEP_CODE}",
                )
            )
        return self._recipes[id(tensor)][1]

    def written(self, value: Any) -> Any:
        """A value as an argument of a node; a packed sequence is made by a node of its own, as fx takes none."""
        if isinstance(value, PackedSequence):
            return self.write("call_function", PackedSequence, tuple(value))
        if type(value) in (tuple, list):
            return type(value)(self.written(one) for one in value)
        return map_values(value, self._written)

    def _written(self, value: Any) -> Any:
        if isinstance(value, fx.Node) or value is None or value is Ellipsis:
            return value
        if isinstance(value, Tensor):
            return self._read_tensor(self.recipe(value)).node
        if isinstance(value, RecordedSize):
            whole = value.recipe
            return whole.node if whole and whole.book is self else tuple(map(self._written, value))
        if isinstance(value, (RecordedInt, RecordedFloat)):
            return value.recipe.node if value.recipe.book is self else self._stale(value.plain())
        return _literal(value)

    def _read_tensor(self, recipe: Recipe) -> Recipe:
        """A tensor as an argument: outside of the region without gradients that it comes from, it is detached."""
        if not (recipe.detached and torch.is_grad_enabled()):
            return recipe
        detached = self.read(recipe, "call_method", "detach")
        detached.detached = detached.trained = False
        return detached

    def _stale(self, value: float) -> float:
        """A number that the model kept from an earlier recording, whose graph is not this one."""
        self.baked[current_line(), "kept by the model", value] = None
        return value

    def output(self, value: Any) -> None:
        """Write what the model returns."""
        self.graph.output(self.written(_writable(value)))

    def _stranger(self, tensor: Tensor) -> Recipe:
        """A tensor that the model keeps where no graph could read it: a constant of this graph."""
        name = f"_constant_{len(self.strangers)}"
        self.strangers[name] = tensor
        self._recipes[id(tensor)] = (tensor, recipe := self._get_attr(name, trained=False))
        return recipe

    def number(self, name: str, value: int | tuple[int, ...]) -> RecordedInt | RecordedSize:
        """An attribute that holds a number or several, recorded as a read of it."""
        whole = self._get_attr(name, trained=False)
        if isinstance(value, int):
            return RecordedInt(value, whole)
        items = (
            RecordedInt(one, self.read(whole, "call_function", operator.getitem, i)) for i, one in enumerate(value)
        )
        return RecordedSize(items, whole)

    def _get_attr(self, name: str, *, trained: bool) -> Recipe:
        return Recipe(self, lambda: self.write("get_attr", name), trained=trained)

    def where(self) -> Where:
        """Where the model is."""
        return current_line(), self.path


def _literal(value: Any) -> Any:
    """A plain value whose repr is Python that gives it back; an enum's or NumPy's number becomes Python's own."""
    if type(value) in _LITERALS:
        return value
    if isinstance(value, enum.Enum):
        return _literal(value.value)
    if isinstance(value, type) and value in _PYTHON_DTYPES:
        return _PYTHON_DTYPES[value]
    for kind in (int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if hasattr(value, "item") and hasattr(value, "dtype") and not getattr(value, "shape", ()):  # a NumPy scalar
        return value.item()
    raise CaptureError(
        explain(
            f"an argument of type {type(value).__name__} cannot be written in a graph: {value!r:.60}.",
            at=current_line(),
            mend=KEEP_CODE,
        )
    )


def _writable(output: Any, *, in_dict: bool = False) -> Any:
    """An output as fx can write it: a dataclass becomes a dict, and a named tuple inside a dict a plain tuple."""
    if is_dataclass(output) and not isinstance(output, (dict, type)):
        output = {one.name: getattr(output, one.name) for one in fields(output)}
    if isinstance(output, dict):
        return {key: _writable(one, in_dict=True) for key, one in output.items()}
    if isinstance(output, (list, tuple)) and not isinstance(output, RecordedSize):
        items = [_writable(one, in_dict=in_dict) for one in output]
        if isinstance(output, tuple):
            return output._make(items) if hasattr(output, "_make") and not in_dict else tuple(items)
        return items
    return output


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and tensor attributes of all modules of a model, by dotted name."""
    yield from model.named_parameters()
    yield from model.named_buffers()
    for path, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor):
                yield f"{path}.{name}" if path else name, value
