"""Which channels may differ from block to block: the width of a convolution's groups, of an attention's heads.

Channels ``C`` are free under a Dim ``O`` (the groups, the heads) if ordering them anew, in every block in another way,
changes nothing but the order of weights. That is so where

- every tensor that holds ``C`` holds ``O`` exactly once beside it, so that the block of every element is known, and
- no op mixes blocks at one place of ``C``: one that sums, orders or normalizes over ``O`` does so over ``C`` as well.

Then each block keeps channels of its own, as many as every other. Any op that is not known here to keep blocks apart
forbids it, and so does a pick of channels by index. ``O`` itself is not frozen: then all equations of it hold place by
place, and a block is the same block in every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import fx

from fxprune_passes.axes import Axes, Cat, Dim, Prod, Take, Term, leaves, resolve
from fxprune_passes.groups import ChannelGroup
from fxprune_passes.mixing import mixed
from fxprune_passes.propagation import Operation, Propagation


@dataclass(frozen=True, slots=True)
class Freedom:
    """Whether a group's channels may differ from block to block.

    Attributes:
        outers: The Dims that number the blocks, the last one fastest; empty if all blocks keep the same.
        reason: What forbids it; empty where nothing has blocks.
    """

    outers: tuple[Dim, ...]
    reason: str = ""

    @property
    def blocks(self) -> int:
        """Number of blocks that may differ; 1 if all keep the same."""
        return math.prod(one.size for one in self.outers)

    def __str__(self) -> str:
        """Read as ``each of 2 blocks keeps its own``, or why not; empty where nothing has blocks."""
        if self.outers:
            return f"each of {self.blocks} blocks keeps its own"
        return f"all blocks keep the same: {self.reason}" if self.reason else ""


def find_freedom(propagation: Propagation, groups: Iterable[ChannelGroup]) -> dict[Dim, Freedom]:
    """The blocks of every group.

    Args:
        propagation: The captured graph with its axes.
        groups: Its channel groups.
    """
    search = _Search()
    for group in groups:
        _start(search, group, propagation)
    for node, operations in propagation.operations.items() if search.wanted else ():
        for axes, held in search.tensors([propagation.axes[node]]):
            search.hold(axes, held, node.name)
        for operation in operations:
            _apply(search, operation, node, propagation)
    return {dim: Freedom(tuple(left), search.reasons.get(dim, "")) for dim, left in search.left.items()}


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to be a position of an axis: a join has one for each part, but for parts alike.

    Attributes:
        leaves: The Dims that the position is a channel of.
        picked: Those among which it was picked by an index, more than one of them maybe.
    """

    leaves: tuple[Dim, ...] = ()
    picked: frozenset[Dim] = frozenset()

    def __add__(self, other: _Way) -> _Way:
        """Both at once: a position of a product."""
        return _Way(self.leaves + other.leaves, self.picked | other.picked)

    def counts(self, dim: Dim | None, outer: Dim) -> tuple[bool, int]:
        """Whether it is a channel of ``dim``, and how often it names ``outer``; picks name as good as twice."""
        times = self.leaves.count(outer) + 2 * (outer in self.picked or dim in self.picked)
        return dim in self.leaves or dim in self.picked, times


@dataclass(frozen=True, eq=False)
class _Axis:
    """An axis taken apart.

    Attributes:
        term: What it is made of.
        leaves: All Dims in it that are not frozen, in order.
    """

    term: Term
    leaves: dict[Dim, None]

    @cached_property
    def ways(self) -> frozenset[_Way]:
        """The ways to be a position of it."""
        return _ways(self.term) if self.leaves else frozenset()

    @cached_property
    def products(self) -> list[dict[Dim, None]]:
        """The Dims of each product in it, frozen ones too: what a reader takes for channels and their blocks."""
        return list(_products(self.term))

    @cached_property
    def throughout(self) -> frozenset[Dim]:
        """The Dims that every position names."""
        return _shared(self.ways)

    def beside(self, dim: Dim) -> frozenset[Dim]:
        """The Dims that every position names that is a channel of ``dim``, or every position at all if none is."""
        if dim not in self.leaves:
            return self.throughout
        return _shared(way for way in self.ways if dim in way.leaves)


@dataclass(slots=True, eq=False)
class _Held:
    """What a tensor holds: those of its axes that are not frozen, and all Dims in them. Tensors alike share one."""

    axes: tuple[_Axis, ...]
    leaves: frozenset[Dim]
    checked: bool = False
    _counts: dict[tuple[Dim | None, Dim], frozenset[int]] = field(default_factory=dict)

    def counts(self, dim: Dim | None, outer: Dim) -> frozenset[int]:
        """How often the elements of the tensor that are a channel of ``dim`` (all, for None) name ``outer``."""
        if (known := self._counts.get((dim, outer))) is None:
            found = {(False, 0)}
            for one in self.axes:
                if dim in one.leaves or outer in one.leaves:
                    each = {way.counts(dim, outer) for way in one.ways}
                    found = {(a or c, b + d) for a, b in found for c, d in each}
            known = frozenset(times for held, times in found if held or dim is None)
            self._counts[dim, outer] = known
        return known


@dataclass(slots=True)
class _Search:
    """The Dims that may still number the blocks of each Dim, and why another does not.

    Each axis is taken apart once by the term that it is bound to, and tensors of the same terms are one.
    """

    left: dict[Dim, list[Dim]] = field(default_factory=dict)
    beside: dict[Dim, dict[Dim, None]] = field(default_factory=dict)
    reasons: dict[Dim, str] = field(default_factory=dict)
    wanted: set[Dim] = field(default_factory=set)
    _axes: dict[int, tuple[Term, _Axis]] = field(default_factory=dict)
    _tensors: dict[int, tuple[Axes, _Held]] = field(default_factory=dict)
    _alike: dict[tuple[int, ...], tuple[list[Term], _Held]] = field(default_factory=dict)

    def tensors(self, trees: Iterable[Any]) -> list[tuple[Axes, _Held]]:
        """Every tensor in nodes' values or an op's arguments that is not frozen throughout, and what it holds."""
        result = []
        for tree in trees:
            if isinstance(tree, tuple):
                if (held := self.held(tree)).leaves:
                    result.append((tree, held))
            elif isinstance(tree, (list, dict)) and tree:
                result += self.tensors(tree.values() if isinstance(tree, dict) else tree)
        return result

    def held(self, axes: Axes) -> _Held:
        """What a tensor holds."""
        if (known := self._tensors.get(id(axes))) is None:
            terms = [term for axis in axes if not isinstance(term := _bound(axis), Dim) or term.frozen is None]
            key = tuple(map(id, terms))
            if (alike := self._alike.get(key)) is None:
                parts = tuple(part for term in terms if (part := self.axis(term)).leaves)
                inside = frozenset[Dim]().union(*(part.leaves for part in parts))
                alike = self._alike[key] = terms, _Held(parts, inside)
            known = self._tensors[id(axes)] = axes, alike[1]
        return known[1]

    def axis(self, axis: Term) -> _Axis:
        """An axis taken apart."""
        if (known := self._axes.get(id(axis))) is None:
            term = resolve(axis)
            if (found := self._axes.get(id(term))) is None:
                inside = dict.fromkeys(leaf for leaf in leaves(term) if leaf.frozen is None)
                found = self._axes[id(term)] = term, _Axis(term, inside)
            known = self._axes[id(axis)] = axis, found[1]
        return known[1]

    def hold(self, axes: Axes, held: _Held, name: str) -> None:
        """A tensor that is used: the block of every channel in it must be known; each is looked at once."""
        if not held.checked:
            held.checked = True
            for dim in held.leaves & self.wanted:
                self.check(dim, axes, held, name)

    def check(self, dim: Dim, axes: Axes, held: _Held, name: str) -> None:
        """Forbid what does not say the block of every channel of ``dim`` in a tensor."""
        for outer in list(self.left[dim]):
            counts = held.counts(dim, outer)
            if any(times != 1 for times in counts):
                how = "holds them without their blocks" if 0 in counts else "mixes blocks"
                self.forbid(dim, outer, f"{name} {tuple(axis.size for axis in axes)} {how}")

    def forbid(self, dim: Dim, outer: Dim, reason: str) -> None:
        """``outer`` does not number the blocks of ``dim``."""
        self.left[dim].remove(outer)
        if outer in self.beside[dim]:
            self.reasons[dim] = reason
        if not self.left[dim]:
            self.wanted.discard(dim)


def _start(search: _Search, group: ChannelGroup, propagation: Propagation) -> None:
    """Begin with what all parameters of a group hold: for most groups that is nothing."""
    dim = group.dim
    search.left[dim] = []
    tensors = [propagation.parameters[site.parameter] for site in group.sites]
    others = [axis for site in group.sites if (axis := _bound(site.axis)) is not dim]
    products = [product for axis in others for product in search.axis(axis).products if dim in product]
    search.beside[dim] = {one: None for product in products for one in product}
    if not products and any(len(axes) == 1 and _bound(axes[0]) is dim for axes in tensors):
        return
    for one in search.beside[dim]:
        if one.frozen is not None and not one.frozen.dynamic and one.size > 1:
            search.reasons[dim] = f"its {one.size} blocks are frozen by {one.frozen.where}: {one.frozen.reason}"
    held = search.held(tensors[0])
    named = frozenset[Dim](search.beside[dim]).union(*(axis.beside(dim) for axis in held.axes))
    first = dict.fromkeys(leaf for axis in held.axes for leaf in axis.leaves if leaf in named)
    search.left[dim] = [one for one in first if one is not dim and one.size > 1]
    for site, axes in zip(group.sites, tensors, strict=True):
        if search.left[dim]:
            search.check(dim, axes, search.held(axes), site.parameter)
    if search.left[dim]:
        search.wanted.add(dim)


def _apply(search: _Search, operation: Operation, node: fx.Node, propagation: Propagation) -> None:
    """What an op says: of the tensors that go in and come out, and of what it mixes."""
    results = search.tensors(operation.axes)
    tensors = search.tensors(operation.arguments) + results
    if operation.rule is None:
        around = [propagation.axes[one] for one in (node, *node.all_input_nodes)]
        tensors += search.tensors(around)
    if not (touched := {dim for _, held in tensors for dim in held.leaves & search.wanted}):
        return
    for axes, held in tensors:
        search.hold(axes, held, node.name)
    where = f"{operation.name.removeprefix('aten.').partition('.')[0]} in {node.name}"
    together = mixed(operation)
    lots = [{leaf for term in terms for leaf in search.axis(term).leaves} for terms in together or ()]
    for dim in touched:
        for outer in list(search.left[dim]):
            if together is None:
                search.forbid(dim, outer, f"{where} is not known to keep blocks apart")
            elif any(outer in lot and dim not in lot for lot in lots) or any(
                max(held.counts(None, outer), default=0) > 1 for _, held in results
            ):
                search.forbid(dim, outer, f"{where} mixes blocks")


def _bound(term: Term) -> Term:
    """What an axis is bound to, if anything: axes that are equal are mostly bound to one term."""
    while isinstance(term, Dim) and term.bound is not None:
        term = term.bound
    return term


def _shared(ways: Iterable[_Way]) -> frozenset[Dim]:
    """The Dims that each of some ways names."""
    return frozenset.intersection(*named) if (named := [frozenset(way.leaves) for way in ways]) else frozenset()


def _ways(term: Term) -> frozenset[_Way]:
    """The ways to be a position of an axis, as far as they name Dims that are not frozen."""
    term = resolve(term)
    if isinstance(term, Dim):
        return frozenset({_Way() if term.frozen else _Way((term,))})
    if isinstance(term, Take):
        return frozenset({_Way(picked=frozenset(leaves(term)))})
    if isinstance(term, Cat):
        return frozenset(way for part in term.parts for way in _ways(part))
    found = frozenset({_Way()})
    for factor in term.factors:
        found = frozenset(one + other for one in found for other in _ways(factor))
    return found


def _products(term: Term) -> Iterator[dict[Dim, None]]:
    term = resolve(term)
    if isinstance(term, Cat):
        for part in term.parts:
            if not isinstance(part, Dim) or part.bound is not None:
                yield from _products(part)
    elif isinstance(term, Prod):
        yield dict.fromkeys(leaves(term))
