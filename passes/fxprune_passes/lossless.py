"""Which channels can go without a change of the function, and what of them the ops that read them must be given.

A channel can go where every element of it, in every tensor, is a constant or is read by nobody. An op that would then
compute another number is given the difference (:mod:`fxprune_passes.fold`); where that cannot be, the channel stays.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from fxprune_passes.axes import Axes, Dim, Term, is_dynamic, leaves
from fxprune_passes.digits import digits
from fxprune_passes.flow import Tape, Value, noted
from fxprune_passes.fold import Fold, Folds, Reader, Settled, fold_of, reader_of, settled
from fxprune_passes.groups import channels
from fxprune_passes.kept import Kept, along, block_numbers, blocks_of
from fxprune_passes.propagation import Propagation
from fxprune_passes.scalars import is_scalar

Gone = dict[Dim, Tensor]  # bool (size,): channels that go
Blame = tuple[Dim, Tensor]  # bool (size,): channels that must stay


@dataclass(slots=True)
class Lossless:
    """What of a model's channels can go, by the weights that it has.

    Attributes:
        propagation: The captured graph with its axes.
        tape: A run of it.
        read: Which elements of each value the outputs may depend on.
        held: For each channel that stays the number of the node that holds it, -1 for the others.
    """

    propagation: Propagation
    tape: Tape
    read: dict[Value, Tensor]
    held: dict[Dim, Tensor] = field(default_factory=dict)
    _constants: dict[fx.Node, Settled] | None = None
    _numbers: dict[tuple[int, Dim], tuple[Term, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, propagation: Propagation, module: nn.Module, inputs: Mapping[str, Any], *, epsilon: float) -> Lossless:
        """Run the captured graph.

        Args:
            propagation: The captured graph with its axes.
            module: The model in float64; the run may change it.
            inputs: Placeholder values by name, in float64.
            epsilon: What an RMS norm without an ``eps`` of its own uses.

        Raises:
            NodeError: A node does not run on these inputs.
        """
        dynamic = _dynamic_numbers(propagation)
        graph = propagation.graph_module.graph
        tape = noted(
            module, graph, inputs, epsilon=epsilon, tainted=lambda one: any(n in dynamic for n in one.all_input_nodes)
        )
        return cls(propagation, tape, tape.read())

    def removable(self) -> tuple[Gone, Folds]:
        """All channels that can go together, and what their readers must be given."""
        return self.removable_of(self._candidates())

    def removable_of(self, gone: Gone) -> tuple[Gone, Folds]:
        """What of these channels can go together, which is less where some stay; changes ``gone``."""
        while True:
            folds, blamed = self.folds(gone)
            if not blamed:
                return gone, folds
            self._hold(gone, blamed)

    def keep_one(self, gone: Gone) -> bool:
        """Keep the first position of the last axis that would lose all of them; False where there is no such axis."""
        kept = _kept(gone)
        for node in reversed(self.propagation.graph_module.graph.nodes):
            for axis in (axis for axes, _ in self._results(node) for axis in axes):
                if axis.size and kept.size(axis) == 0:
                    for dim in set(leaves(axis)) & set(gone):
                        if (channel := int(self._of(axis, dim)[0])) >= 0:
                            gone[dim][channel] = False
                    return True
        return False

    def folds_without(self, gone: Gone) -> tuple[Folds, list[Blame]]:
        """What readers must be given where these channels go, and those of them that cannot go."""
        free = self._candidates()
        blamed = [(dim, mask & ~free[dim]) for dim, mask in gone.items() if bool((mask & ~free[dim]).any())]
        folds, held = self.folds(gone)
        return folds, [*blamed, *(one for _, one in held)]

    def folds(self, gone: Gone) -> tuple[Folds, list[tuple[fx.Node, Blame]]]:
        """What readers must be given where these channels go, and which of the channels cannot go.

        Args:
            gone: Channels that go, by the Dims that they are of.

        Returns:
            The folds by node; and for each node that would compute another number, channels that it cannot miss.
        """
        given: dict[fx.Node, Fold] = {}
        blamed: list[tuple[fx.Node, Blame]] = []
        kept = _kept(gone)
        for node in self.propagation.graph_module.graph.nodes:
            missing = self._missing(node, kept)
            wrong = self._wrong(node, missing, kept) if missing else {}
            if wrong:
                reader = reader_of(node, self.propagation, self.tape)
                guilty = self._guilty(node, missing, wrong)
                if found := self._unfoldable(node, reader, guilty, kept):
                    blamed += [(node, one) for one in found]
                elif reader is not None:
                    given[node] = fold_of(reader, guilty[reader.x])
        return Folds(given, self._settled()), blamed

    def is_constant(self, dim: Dim, channel: int) -> bool:
        """Whether a channel is a constant in every tensor that has it."""
        for axes, value in self._pairs():
            for place, axis in enumerate(axes):
                at = self._of(axis, dim) == channel if dim in set(leaves(axis)) else None
                if at is not None and (value.known is None or not bool(_over(value.known, place, all)[at].all())):
                    return False
        return True

    def needed_by_block(self, outers: Mapping[Dim, tuple[Dim, ...]]) -> dict[Dim, Tensor]:
        """Bool ``(blocks, channels)`` by Dim: those of which some element is no constant, and is read.

        Args:
            outers: What numbers the blocks of each Dim.
        """
        result = {dim: torch.zeros(blocks_of(some), dim.size, dtype=torch.bool) for dim, some in outers.items()}
        for node in self.propagation.graph_module.graph.nodes:
            for axes, value in [*self._results(node), *self._inputs(node)]:
                if (bad := self._needed(value)) is None or not bool(bad.any()):
                    continue
                for number, axis in enumerate(axes):
                    for dim in set(leaves(axis)) & result.keys():
                        for digit in digits(axis, dim):
                            row = block_numbers(axes, outers[dim], number, digit)
                            channel = along(digit.channel, number, len(axes))
                            at = bad & (channel >= 0)
                            result[dim][row.expand(at.shape)[at], channel.expand(at.shape)[at]] = True
        return result

    def _settled(self) -> dict[fx.Node, Settled]:
        """Nodes that give a number for each channel."""
        if self._constants is None:
            axes = self.propagation.axes
            nodes = [node for node in self.tape.values if node.op != "get_attr" and not self._changes_later(node)]
            found = {node: settled(self.tape.values[node], axes[node]) for node in nodes}
            self._constants = {node: one for node, one in found.items() if one is not None}
        return self._constants

    def _changes_later(self, node: fx.Node) -> bool:
        """Whether some reader of a node finds what was written into it since."""
        reads, value = self.tape.reads, self.tape.values[node]
        return isinstance(value, Value) and any(reads[user][node] is not value for user in node.users)

    def is_folded(self, dim: Dim, channel: int, folds: Folds) -> bool:
        """Whether some reader is given the constant of a channel."""
        return any(
            bool(fold.constants[self._of(fold.reader.channels, dim) == channel].any())
            for fold in folds.given.values()
            if dim in set(leaves(fold.reader.channels))
        )

    def read_of(self, node: fx.Node) -> Any:
        """Bool in place of each tensor of a node: which elements the outputs may depend on."""

        def mask(value: Any) -> Any:
            read = self.read.get(value) if isinstance(value, Value) else None
            return torch.zeros(value.shape, dtype=torch.bool) if isinstance(value, Value) and read is None else read

        return tree_map(mask, self.tape.values[node])

    def _candidates(self) -> Gone:
        """Channels of which every element is a constant or is read by nobody."""
        dims = {leaf for axes in self.propagation.parameters.values() for axis in axes for leaf in leaves(axis)}
        gone = {dim: torch.ones(dim.size, dtype=torch.bool) for dim in dims if not dim.frozen}
        self.held = {dim: torch.full((dim.size,), -1) for dim in gone}
        for number, node in enumerate(self.propagation.graph_module.graph.nodes):
            for axes, value in [*self._results(node), *self._inputs(node)]:
                bad = self._needed(value)
                if bad is None or not bool(bad.any()):
                    continue
                for dim, mask in self._channels_at(axes, bad, gone):
                    self.held[dim][mask] = number
                    gone[dim] &= ~mask
        return gone

    def _hold(self, gone: Gone, blamed: list[tuple[fx.Node, Blame]]) -> None:
        numbers = {node: number for number, node in enumerate(self.propagation.graph_module.graph.nodes)}
        for node, (dim, mask) in blamed:
            self.held[dim][mask] = numbers[node]
            gone[dim] &= ~mask

    def _needed(self, value: Value) -> Tensor | None:
        """Bool: elements that are no constants, and that something reads; None for none."""
        read = self.read.get(value)
        if read is None or value.known is None:
            return read
        return read & ~value.known

    def _missing(self, node: fx.Node, kept: Kept) -> dict[Value, Tensor]:
        """What of the tensors that a node reads is not there, and is not zero."""
        result: dict[Value, Tensor] = {}
        for axes, value in self._inputs(node):
            gone = _gone_of(axes, kept)
            if gone is not None and bool((mask := gone & (value.nonzero() > 0)).any()):
                result[value] = mask
        return result

    def _wrong(self, node: fx.Node, missing: Mapping[Value, Tensor], kept: Kept) -> dict[Value, Tensor]:
        """What of a node's results would be another number, though it is there and is read."""
        changed, result = self.tape.differences(node, missing), {}
        pairs = list(self._results(node)) or [((), value) for one in self.tape.entries[node] for value in one.outputs]
        for axes, value in pairs:
            if value in changed and value in self.read and value not in missing:
                gone = _gone_of(axes, kept)
                mask = changed[value] & self.read[value]
                mask = mask if gone is None else mask & ~gone
                if bool(mask.any()):
                    result[value] = mask
        return result

    def _guilty(
        self, node: fx.Node, missing: Mapping[Value, Tensor], wrong: Mapping[Value, Tensor]
    ) -> dict[Value, Tensor]:
        """What of the missing elements the wrong ones depend on."""
        sources = self.tape.sources(node, wrong)
        return {value: sources[value] & mask for value, mask in missing.items() if value in sources}

    def _unfoldable(
        self, node: fx.Node, reader: Reader | None, guilty: Mapping[Value, Tensor], kept: Kept
    ) -> list[Blame]:
        """Channels that a node cannot miss."""
        found: list[Blame] = []
        gone = {dim: ~mask for dim, mask in kept.dims.items()}
        axes_of = {value: axes for axes, value in self._inputs(node)}
        for value, mask in guilty.items():
            if reader is not None and value is reader.weight:
                continue
            held = mask & reader.uneven() if reader is not None and value is reader.x else mask
            found += self._channels_at(axes_of[value], held, gone)
        if found:
            return found
        if reader is None or reader.x not in guilty:  # no channel tells: hold all that it touches
            touched = {leaf for axes in axes_of.values() for axis in axes for leaf in leaves(axis)}
            return [(dim, mask) for dim, mask in gone.items() if dim in touched]
        if not reader.is_even and kept.size(reader.channels) == 0:  # the map takes its size from a channel
            dim, mask = self._channels_at(reader.axes, guilty[reader.x], gone)[0]
            first = torch.zeros_like(mask)
            first[mask.nonzero()[0]] = True
            return [(dim, first)]
        return []

    def _channels_at(self, axes: Axes, elements: Tensor, gone: Mapping[Dim, Tensor]) -> list[Blame]:
        """The channels that go which elements of a tensor are of."""
        result: list[Blame] = []
        for place, axis in enumerate(axes):
            dims = [dim for dim in set(leaves(axis)) if dim in gone and bool(gone[dim].any())]
            at = _over(elements, place, any) if dims else None
            for dim in dims:
                numbers = self._of(axis, dim)[at]
                mask = torch.zeros(dim.size, dtype=torch.bool)
                mask[numbers[numbers >= 0]] = True
                if bool((mask := mask & gone[dim]).any()):
                    result.append((dim, mask))
        return result

    def _of(self, axis: Term, dim: Dim) -> Tensor:
        """(size,): for each position of an axis the channel of a Dim that it is, or -1."""
        key = (id(axis), dim)
        if key not in self._numbers:
            self._numbers[key] = (axis, channels(axis, dim))
        return self._numbers[key][1]

    def _pairs(self) -> Iterator[tuple[Axes, Value]]:
        for node in self.propagation.graph_module.graph.nodes:
            if node.op not in ("get_attr", "output"):
                yield from self._results(node)

    def _results(self, node: fx.Node) -> Iterator[tuple[Axes, Value]]:
        return _paired(self.propagation.axes[node], self.tape.values[node])

    def _inputs(self, node: fx.Node) -> Iterator[tuple[Axes, Value]]:
        for one, value in self.tape.reads[node].items():
            yield from _paired(self.propagation.axes[one], value)
        if node.op == "call_module":
            prefix = f"{node.target}."
            for name, axes in self.propagation.parameters.items():
                if name.startswith(prefix) and name in self.tape.parameters:
                    yield axes, self.tape.parameters[name]


def _paired(axes: Any, value: Any) -> Iterator[tuple[Axes, Value]]:
    """The axes of each tensor in a node's value, with what is known of it."""
    if isinstance(axes, tuple) and isinstance(value, Value):
        yield axes, value
    elif isinstance(axes, list) and isinstance(value, (list, tuple)):
        for part, one in zip(axes, value, strict=True):
            yield from _paired(part, one)
    elif isinstance(axes, dict) and isinstance(value, dict):
        for key, part in axes.items():
            yield from _paired(part, value[key])


def _kept(gone: Gone) -> Kept:
    return Kept({dim: ~mask for dim, mask in gone.items() if bool(mask.any())})


def _gone_of(axes: Axes, kept: Kept) -> Tensor | None:
    """Bool of a tensor's shape: elements of which some axis is gone; None for none."""
    result: Tensor | None = None
    for place, axis in enumerate(axes):
        if (mask := kept.mask(axis)) is not None:
            part = (~mask).view([-1 if place == dim else 1 for dim in range(len(axes))])
            result = part if result is None else result | part
    return None if result is None else result.expand([axis.size for axis in axes])


def _over(elements: Tensor, place: int, quantifier: Callable[..., Any]) -> Tensor:
    """(size,): whether any, or all, of the elements at each position of an axis hold."""
    flat = elements.movedim(place, 0).reshape(elements.shape[place], -1)
    return flat.any(1) if quantifier is any else flat.all(1)


def _dynamic_numbers(propagation: Propagation) -> set[fx.Node]:
    """Nodes that give numbers that change with the sizes of the model's inputs."""
    result: set[fx.Node] = set()
    for node in propagation.graph_module.graph.nodes:
        if node.op in ("output", "placeholder") or not is_scalar(propagation.axes[node]):
            continue
        inputs = [propagation.axes[one] for one in node.all_input_nodes if isinstance(propagation.axes[one], tuple)]
        axes = [axis for one in inputs for axis in _read_axes(node, one)]
        if any(one in result for one in node.all_input_nodes) or any(map(is_dynamic, axes)):
            result.add(node)
    return result


def _read_axes(node: fx.Node, axes: Axes) -> Axes:
    """The axes whose size a node reads."""
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    sized = node.target in ("size", torch.ops.aten.sym_size.int, operator.getitem)
    return (axes[dim],) if sized and isinstance(dim, int) and axes else axes
