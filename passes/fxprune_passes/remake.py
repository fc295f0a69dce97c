"""Make a module itself smaller: its class and its code stay, its tensors are sliced, its attributes follow.

What the code would compute is read off the rewritten graph. Where a node comes out as it was, on smaller tensors, the
code needs no change. Where a number in it must change, either the number is an attribute of some module, which then
gets the new value, or the code would have to be written anew, and the node is a conflict.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxprune_passes.axes import leaves
from fxprune_passes.emit import Emitter
from fxprune_passes.errors import FxPruneError
from fxprune_passes.fold import Folds
from fxprune_passes.kept import Kept
from fxprune_passes.mode import mode_of
from fxprune_passes.propagation import Propagation, flat_axes
from fxprune_passes.rewrite import Rewriter
from fxprune_passes.tensors import tensors_of

_ROUNDS = 8  # of attributes that follow from attributes


@dataclass(frozen=True, slots=True)
class Conflict:
    """A node that the module's code would have to compute in another way.

    Attributes:
        node: Its name in the captured graph.
        source: The line of the model's code.
        groups: The channel groups whose removed channels ask for it.
        detail: What it is and what it would have to be.
    """

    node: str
    source: str
    groups: tuple[str, ...]
    detail: str


@dataclass(slots=True)
class Needs:
    """What a module needs so that its own code computes the smaller function.

    Attributes:
        attributes: New values of numbers that modules hold, by dotted name.
        conflicts: What no attribute can give.
    """

    attributes: dict[str, Any] = field(default_factory=dict)
    conflicts: list[Conflict] = field(default_factory=list)


def needs(
    propagation: Propagation, model: nn.Module, kept: Kept, *, statistics: str, constants: Mapping[str, torch.Tensor]
) -> Needs:
    """Find the attributes that follow the kept channels, and where the code stands in the way.

    Args:
        propagation: A graph captured for analysis alone: attributes that hold numbers are read in it.
        model: The real model; only read.
        kept: The kept channels.
        statistics: ``"kept"`` or ``"full"``: over which channels means and variances run.
        constants: Real tensors that the capture found outside parameters and buffers, by name.
    """
    result, askers = Needs(), dict[str, tuple[str, ...]]()
    for _ in range(_ROUNDS):
        comparison = _Comparison(propagation, _Notes(model, constants, propagation.parameters, kept), statistics)
        comparison.scalars.attributes, comparison.askers = result.attributes, askers
        comparison.compare()
        result.conflicts = comparison.conflicts
        found = {**comparison.notes.attributes, **comparison.asked}
        changed = {name: value for name, value in found.items() if operator.attrgetter(name)(model) != value}
        if all(result.attributes.get(name) == value for name, value in changed.items()):
            return result
        result.attributes = {**result.attributes, **changed}
    return result


@dataclass(slots=True)
class _Notes(Emitter):
    """Writes no tensor and no module: notes the attributes of leaf modules."""

    attributes: dict[str, Any] = field(default_factory=dict)

    def module(self, target: str, attributes: dict[str, Any]) -> str:
        """Note what must change; a module that would need two different values is called by another name."""
        same = [self.attributes.setdefault(f"{target}.{name}", value) == value for name, value in attributes.items()]
        return target if all(same) else f"{target}_twice"

    def constant(self, name: str, value: torch.Tensor, *, saved: bool = False) -> str:
        """A constant that the code does not have."""
        return name


class _Comparison(Rewriter):
    """Rewrites the graph, and compares each new node with its old one."""

    def __init__(self, propagation: Propagation, notes: _Notes, statistics: str) -> None:
        super().__init__(propagation, notes, statistics, Folds())
        self.notes = notes
        self.asked: dict[str, Any] = {}
        self.askers: dict[str, tuple[str, ...]] = {}
        self.conflicts: list[Conflict] = []

    def compare(self) -> None:
        """Write all nodes and note attributes and conflicts."""
        for node in self.propagation.graph_module.graph.nodes:
            try:
                self._write(node, self._call(node))
            except FxPruneError as error:
                self.conflicts.append(self._conflict(node, str(error).splitlines()[0]))
                return
            if node.op == "output":
                self._compare(node, next(iter(reversed(self.graph.nodes))))
            elif node.op != "placeholder" and mode_of(node) is None:
                self._compare(node, self.scalars.shape.get(node, self.tensors.get(node)))

    def _compare(self, old: fx.Node, new: Any) -> None:
        if "decided" in old.meta and not self._decides_as_before(old):
            detail = f"the code went on with {old.meta['decided']} here, and would get {self.scalars.values[old]}"
            self.conflicts.append(self._conflict(old, detail))
        if not isinstance(new, fx.Node) or (old.op, old.target) != (new.op, new.target):
            self.conflicts.append(self._conflict(old, "another call would have to stand here"))
            return
        for before, after in _pairs((old.args, dict(old.kwargs)), (new.args, dict(new.kwargs))):
            if not self._agrees(before, after) and not self._ask(old, before, after):
                self.conflicts.append(self._conflict(old, self._difference(before, after), before))

    def _decides_as_before(self, node: fx.Node) -> bool:
        """Whether Python goes on with the same; an attribute that was equal to a size follows it."""
        before, now = node.meta["decided"], self.scalars.values[node]
        if (bool(now) if isinstance(before, bool) else now) == before:
            return True
        if (node.target, before) not in ((operator.eq, True), (operator.ne, False)):
            return False
        values = [self.scalars.values[one] if isinstance(one, fx.Node) else one for one in node.args]
        pairs = zip(node.args, reversed(values), strict=True)
        return any(
            isinstance(one, fx.Node) and one.op == "get_attr" and self._ask(node, one, other) for one, other in pairs
        )

    def _difference(self, before: Any, after: Any) -> str:
        shown = self.scalars.values.get(before, before) if isinstance(before, fx.Node) else before
        is_now = "an argument is missing" if shown is _Missing else f"an argument would be {shown}"
        return f"{is_now}, and must be {'computed anew' if isinstance(after, fx.Node) else after}"

    def _agrees(self, before: Any, after: Any) -> bool:
        """Whether an argument comes out of the unchanged code as it must."""
        if isinstance(before, fx.Node):
            expected = self.scalars.shape.get(before, self.tensors.get(before))
            return expected is after or (before in self.scalars.values and _same(self.scalars.values[before], after))
        return _same(before, after)

    def _ask(self, node: fx.Node, before: Any, after: Any) -> bool:
        """Have an attribute changed so that the argument comes out right."""
        if not isinstance(before, fx.Node) or isinstance(after, fx.Node) or self._is_data(before, after):
            return False
        if before.op == "get_attr":
            return self._set(node, before, after)
        return self._ask_factor(node, before, after)

    def _set(self, node: fx.Node, attribute: fx.Node, value: Any) -> bool:
        name = str(attribute.target)
        self.askers.setdefault(name, tuple(dict.fromkeys(self._groups(node))))
        return bool(self.asked.setdefault(name, value) == value)

    def _is_data(self, before: fx.Node, after: Any) -> bool:
        """Whether the argument has its original value: it feeds data, where a changed attribute would be wrong."""
        return _same(self.propagation.values[before], after)

    def _ask_factor(self, node: fx.Node, before: fx.Node, after: Any) -> bool:
        """``attribute * 3`` and ``attribute // 3`` say what the attribute must be."""
        if before.target not in (operator.mul, operator.floordiv) or not isinstance(after, int):
            return False
        one, other = before.args
        if before.target is operator.mul and not isinstance(one, fx.Node):
            one, other = other, one
        factor = self.scalars.values.get(other) if isinstance(other, fx.Node) else other
        if not isinstance(one, fx.Node) or one.op != "get_attr" or not isinstance(factor, int) or not factor:
            return False
        wanted = after * factor if before.target is operator.floordiv else after // factor
        again = wanted // factor if before.target is operator.floordiv else wanted * factor
        return bool(again == after) and self._set(node, one, wanted)

    def _conflict(self, node: fx.Node, detail: str, argument: Any = None) -> Conflict:
        sources = [argument] if isinstance(argument, fx.Node) and argument in self.scalars.values else [node]
        found = list(dict.fromkeys(name for one in (*sources, node) for name in self._groups(one)))
        return Conflict(node.name, str(node.meta.get("source", "")), tuple(found), f"{_shown(node)}: {detail}")

    def _groups(self, node: fx.Node) -> Iterator[str]:
        """The pruned groups in the axes of a node and of what it reads, through numbers back to tensors."""
        axes, kept = self.propagation.axes, self.emitter.kept
        yield from self.askers.get(str(node.target), ()) if node.op == "get_attr" else ()
        trees = [axes[node], *(axes[one] for one in node.all_input_nodes)]
        for tensor in (tensor for tree in trees for tensor in flat_axes(tree)):
            for axis in tensor:
                if kept.mask(axis) is not None:
                    yield from (kept.names[leaf] for leaf in leaves(axis) if leaf in kept.dims)
        for one in node.all_input_nodes:
            if axes[one] is None:
                yield from self._groups(one)


def _pairs(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    """The leaves of two arguments side by side; where they are built differently, the two as they are."""
    if isinstance(before, slice) and isinstance(after, slice):
        before, after = ((one.start, one.stop, one.step) for one in (before, after))
    if isinstance(before, (tuple, list)) and isinstance(after, (tuple, list)) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            yield from _pairs(one, other)
    elif isinstance(before, dict) and isinstance(after, dict):
        for key in before | after:
            yield from _pairs(before.get(key, _Missing), after.get(key, _Missing))
    else:
        yield before, after


class _Missing:
    """Stands for an argument that is not given."""


def _same(before: Any, after: Any) -> bool:
    if isinstance(before, (tuple, list)) and isinstance(after, (tuple, list)):
        return list(before) == list(after)
    return before is after or (type(before) is type(after) and bool(before == after))


def _shown(node: fx.Node) -> str:
    name = getattr(node.target, "__name__", str(node.target))
    return f"{name} (node {node.name})"


def remake(model: nn.Module, propagation: Propagation, kept: Kept, attributes: Mapping[str, Any]) -> nn.Module:
    """A deep copy of a model with sliced tensors and new attributes; hooks, modes and everything else are kept.

    Args:
        model: The real model; only read.
        propagation: Its graph with the axes of every parameter and buffer.
        kept: The kept channels.
        attributes: New values by dotted name.
    """
    emitter = Emitter(model, {}, propagation.parameters, kept)
    names = list(tensors_of(model))
    names += [name for name in propagation.parameters if name not in names and _holds(model, name)]
    memo: dict[int, Any] = {id(emitter.find(name)): emitter.tensor(name) for name in names}
    result = copy.deepcopy(model, memo)
    for name, value in attributes.items():
        path, _, last = name.rpartition(".")
        setattr(operator.attrgetter(path)(result) if path else result, last, value)
    return result


def _holds(model: nn.Module, name: str) -> bool:
    try:
        return isinstance(operator.attrgetter(name)(model), torch.Tensor)
    except AttributeError:
        return False
