"""Nodes of one kind: the same op on axes that are the same polynomials of what groups keep, so equally fast."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune.analysis import Analysis
from fxprune.costs import Polynomial, needed, polynomial
from fxprune_passes.axes import Axes, Dim, Term
from fxprune_passes.propagation import flat_axes

Shape = tuple["Formula", ...]
Formula = tuple[tuple[tuple[int, ...], float], ...]  # a polynomial as a value: monomials of groups, and factors
_SIZES = {"in_channels", "out_channels", "in_features", "out_features", "num_features", "normalized_shape"}
_SIZES |= {"num_channels", "embed_dim", "num_heads", "head_dim", "hidden_size", "input_size", "proj_size"}


@dataclass(frozen=True, slots=True)
class Kind:
    """Nodes that take equally long, whatever groups keep.

    Attributes:
        name: Of the first one, in the captured graph.
        op: What they call, and every argument that is no tensor.
        shapes: Of the tensors that they read, hold and give.
        times: How many they are.
    """

    name: str
    op: str
    shapes: tuple[Shape, ...]
    times: int

    def signature(self, counts: Sequence[int]) -> str:
        """What is the same for any two nodes that take equally long, where groups keep these numbers of channels."""
        sizes = [[round(value_of(axis, counts)) for axis in shape] for shape in self.shapes]
        return hashlib.sha256(f"{self.op} {sizes}".encode()).hexdigest()[:32]

    def elements(self, counts: Sequence[int]) -> float:
        """Elements of all its tensors."""
        return sum(math.prod(value_of(axis, counts) for axis in shape) for shape in self.shapes)

    def groups(self) -> set[int]:
        """Numbers of the groups that its tensors have axes of."""
        return {group for shape in self.shapes for axis in shape for monomial, _ in axis for group in monomial}

    def coordinates(self, active: Collection[int]) -> list[Formula]:
        """The different sizes that vary with some groups, without those that are parts of others."""
        found = dict.fromkeys(axis for shape in self.shapes for axis in shape if not groups_of(axis).isdisjoint(active))
        return [one for one in found if not any(_is_part(one, other) for other in found if other is not one)]


def value_of(formula: Formula, counts: Sequence[int]) -> float:
    """The size of an axis where groups keep these numbers of channels."""
    total = 0.0
    for monomial, factor in formula:
        for group in monomial:
            factor *= counts[group]
        total += factor
    return total


def groups_of(formula: Formula) -> set[int]:
    """Numbers of the groups that an axis is made of."""
    return {group for monomial, _ in formula for group in monomial}


def _is_part(one: Formula, other: Formula) -> bool:
    """Whether an axis holds another and more, or the same a number of times."""
    whole = dict(other)
    return one != other and all(factor <= whole.get(monomial, 0) for monomial, factor in one if monomial)


def kinds_of(analysis: Analysis, model: nn.Module) -> list[Kind]:
    """The kinds of nodes that give tensors.

    Args:
        analysis: Of the model.
        model: Its modules say how they compute.
    """
    numbers = {group.dim: number for number, group in enumerate(analysis.groups)}
    reader = _Reader(analysis, model, numbers)
    wanted, found = needed(analysis.capture.graph_module.graph), dict[tuple[str, tuple[Shape, ...]], list[str]]()
    for node in analysis.capture.graph_module.graph.nodes:
        if node in wanted and node.op.startswith("call_") and list(flat_axes(analysis.propagation.axes[node])):
            found.setdefault((reader.op(node), reader.shapes(node)), []).append(node.name)
    return [Kind(names[0], op, shapes, len(names)) for (op, shapes), names in found.items()]


class _Reader:
    """Reads nodes of a captured graph."""

    def __init__(self, analysis: Analysis, model: nn.Module, numbers: Mapping[Dim, int]) -> None:
        self.propagation, self.model, self.numbers = analysis.propagation, model, numbers
        self._formulas: dict[int, Formula] = {}

    def op(self, node: fx.Node) -> str:
        """What a node calls, with what arguments besides tensors, on what kinds of tensors."""
        values = self.propagation.values
        tensors = [_stored(one) for source in (*node.all_input_nodes, node) for one in _tensors(values.get(source))]
        if node.op != "call_module":
            name = node.target if isinstance(node.target, str) else _qualified(node.target)
            plain = fx.map_arg((node.args, dict(node.kwargs)), lambda one: _argument(values.get(one)))
            return f"{name}{plain} {tensors}"
        module = self.model.get_submodule(str(node.target))
        held = [_stored(one) for one in (*module.parameters(), *module.buffers())]
        return f"{_qualified(type(module))}{_settings(module)} {tensors} {held}"

    def shapes(self, node: fx.Node) -> tuple[Shape, ...]:
        """The shapes of the tensors that a node reads, holds and gives."""
        axes = self.propagation.axes
        trees = [one for source in node.all_input_nodes for one in flat_axes(axes[source])]
        if node.op == "call_module":
            inside = f"{node.target}."
            trees += [one for name, one in self.propagation.parameters.items() if name.startswith(inside)]
        return tuple(self._shape(one) for one in (*trees, *flat_axes(axes[node])))

    def _shape(self, axes: Axes) -> Shape:
        return tuple(self._formula(axis) for axis in axes)

    def _formula(self, axis: Term) -> Formula:
        if id(axis) not in self._formulas:
            found: Polynomial = polynomial(axis, self.numbers)
            self._formulas[id(axis)] = tuple(sorted(found.items()))
        return self._formulas[id(axis)]


def _settings(module: nn.Module) -> list[tuple[str, object]]:
    """Plain attributes that are no sizes; a module of modules is said by its text."""
    if any(True for _ in module.children()):
        return [("repr", repr(module))]
    own = ((name, value) for name, value in sorted(vars(module).items()) if not name.startswith("_"))
    plain = (bool, int, float, str, tuple, type(None))
    return [(name, value) for name, value in own if name not in _SIZES and isinstance(value, plain)]


def _argument(value: Any) -> Any:
    return "tensor" if any(True for _ in _tensors(value)) else str(value)


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors(one)


def _stored(tensor: torch.Tensor) -> str:
    """How a tensor is stored, whatever its sizes are."""
    last = tensor.ndim == 4 and not tensor.is_contiguous() and tensor.is_contiguous(memory_format=torch.channels_last)
    form = "last" if last else "dense" if tensor.is_contiguous() else "strided"
    return f"{str(tensor.dtype).removeprefix('torch.')}:{form}"


def _qualified(target: Any) -> str:
    return f"{getattr(target, '__module__', '')}.{getattr(target, '__qualname__', repr(target))}"
