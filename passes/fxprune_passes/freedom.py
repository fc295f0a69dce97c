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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from fxprune_passes.axes import Axes, Cat, Dim, Take, Term, leaves, resolve
from fxprune_passes.groups import ChannelGroup
from fxprune_passes.mixing import mixed
from fxprune_passes.propagation import Operation, Propagation, flat_axes


@dataclass(frozen=True, slots=True)
class Freedom:
    """Whether a group's channels may differ from block to block.

    Attributes:
        outers: The Dims that number the blocks, the last one fastest; empty if all blocks keep the same.
        reason: What forbids it; empty where nothing has blocks.
    """

    outers: tuple[Dim, ...]
    reason: str = ""


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
        around = [propagation.axes[one] for one in (node, *node.all_input_nodes)]
        for axes in flat_axes(propagation.axes[node]):
            search.hold(axes, node.name)
        for operation in operations:
            _apply(search, operation, around, node.name)
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


@dataclass(frozen=True, slots=True)
class _Axis:
    """An axis taken apart: all Dims in it, and the ways to be a position of it."""

    axis: Term
    leaves: frozenset[Dim]
    ways: frozenset[_Way]


@dataclass(slots=True)
class _Search:
    """The Dims that may still number the blocks of each Dim, and why another does not."""

    left: dict[Dim, list[Dim]] = field(default_factory=dict)
    beside: dict[Dim, set[Dim]] = field(default_factory=dict)
    reasons: dict[Dim, str] = field(default_factory=dict)
    wanted: set[Dim] = field(default_factory=set)
    _axes: dict[int, _Axis] = field(default_factory=dict)
    _tensors: dict[int, tuple[Axes, list[_Axis], set[Dim]]] = field(default_factory=dict)
    _checked: set[int] = field(default_factory=set)

    def held(self, axes: Axes) -> tuple[Axes, list[_Axis], set[Dim]]:
        """The axes of a tensor taken apart, and all Dims in them; each axis is looked at once."""
        if (known := self._tensors.get(id(axes))) is None:
            found = [self._axis(axis) for axis in axes]
            known = self._tensors[id(axes)] = (axes, found, set[Dim]().union(*(one.leaves for one in found)))
        return known

    def _axis(self, axis: Term) -> _Axis:
        if (known := self._axes.get(id(axis))) is None:
            known = self._axes[id(axis)] = _Axis(axis, frozenset(leaves(axis)), _ways(axis))
        return known

    def inside(self, axes: Axes) -> set[Dim]:
        """The Dims in question that a tensor holds."""
        return self.held(axes)[2] & self.wanted

    def counts(self, axes: Axes, dim: Dim | None, outer: Dim) -> set[int]:
        """How often the elements of a tensor that are a channel of ``dim`` (all, for None) name ``outer``."""
        found = {(False, 0)}
        for one in self.held(axes)[1]:
            if dim in one.leaves or outer in one.leaves:
                each = {way.counts(dim, outer) for way in one.ways}
                found = {(a or c, b + d) for a, b in found for c, d in each}
        return {times for held, times in found if held or dim is None}

    def hold(self, axes: Axes, name: str) -> None:
        """A tensor that is used: the block of every channel in it must be known; each is looked at once."""
        if id(axes) not in self._checked:
            self._checked.add(id(axes))
            for dim in self.inside(axes):
                self.check(dim, axes, name)

    def check(self, dim: Dim, axes: Axes, name: str) -> None:
        """Forbid what does not say the block of every channel of ``dim`` in a tensor."""
        for outer in list(self.left[dim]):
            counts = self.counts(axes, dim, outer)
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
    dim, tensors = group.dim, [propagation.parameters[site.parameter] for site in group.sites]
    first = dict.fromkeys(leaf for axis in tensors[0] for leaf in leaves(axis))
    search.left[dim] = [one for one in first if one is not dim and one.frozen is None and one.size > 1]
    search.beside[dim] = {one for site in group.sites for one in _beside(site.axis, dim)}
    for one in search.beside[dim]:
        if one.frozen is not None and not one.frozen.dynamic and one.size > 1:
            search.reasons[dim] = f"its {one.size} blocks are frozen by {one.frozen.where}: {one.frozen.reason}"
    for site, axes in zip(group.sites, tensors, strict=True):
        if search.left[dim]:
            search.check(dim, axes, site.parameter)
    if search.left[dim]:
        search.wanted.add(dim)


def _apply(search: _Search, operation: Operation, around: Sequence[object], name: str) -> None:
    """What an op says: of the tensors that go in and come out, and of what it mixes."""
    tensors = [*flat_axes(operation.arguments), *operation.axes]
    if operation.rule is None:
        tensors += flat_axes(list(around))
    if not (touched := {dim for axes in tensors for dim in search.inside(axes)}):
        return
    where = f"{operation.name.removeprefix('aten.').partition('.')[0]} in {name}"
    together = mixed(operation)
    for axes in tensors:
        search.hold(axes, name)
    for dim in touched:
        for outer in list(search.left[dim]):
            if together is None:
                search.forbid(dim, outer, f"{where} is not known to keep blocks apart")
            elif any(_mixes(terms, dim, outer) for terms in together) or any(
                max(search.counts(axes, None, outer), default=0) > 1 for axes in operation.axes
            ):
                search.forbid(dim, outer, f"{where} mixes blocks")


def _mixes(terms: Sequence[Term], dim: Dim, outer: Dim) -> bool:
    """Whether axes that an op takes together hold the blocks, and not what is in them."""
    inside = {leaf for term in terms for leaf in leaves(term)}
    return outer in inside and dim not in inside


def _ways(term: Term) -> frozenset[_Way]:
    term = resolve(term)
    if isinstance(term, Dim):
        return frozenset({_Way((term,))})
    if isinstance(term, Take):
        return frozenset({_Way(picked=frozenset(leaves(term)))})
    if isinstance(term, Cat):
        return frozenset(way for part in term.parts for way in _ways(part))
    found = frozenset({_Way()})
    for factor in term.factors:
        found = frozenset(one + other for one in found for other in _ways(factor))
    return found


def _beside(term: Term, dim: Dim) -> Iterator[Dim]:
    """The Dims that an axis multiplies with ``dim``: what a reader takes for its blocks."""
    term = resolve(term)
    if isinstance(term, Cat):
        for part in term.parts:
            yield from _beside(part, dim)
    elif not isinstance(term, (Dim, Take)) and dim in (inside := set(leaves(term))):
        yield from inside
