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


@dataclass(slots=True)
class _Search:
    """The Dims that may still number the blocks of each Dim, and why another does not."""

    left: dict[Dim, list[Dim]] = field(default_factory=dict)
    beside: dict[Dim, set[Dim]] = field(default_factory=dict)
    reasons: dict[Dim, str] = field(default_factory=dict)
    wanted: set[Dim] = field(default_factory=set)
    _held: dict[int, tuple[Axes, set[Dim]]] = field(default_factory=dict)
    _checked: set[int] = field(default_factory=set)

    def inside(self, axes: Axes) -> set[Dim]:
        """The Dims in question that a tensor holds."""
        if (known := self._held.get(id(axes))) is None:
            known = self._held[id(axes)] = (axes, {leaf for axis in axes for leaf in leaves(axis)} & self.wanted)
        return known[1] & self.wanted

    def hold(self, axes: Axes, name: str) -> None:
        """A tensor that is used: the block of every channel in it must be known; each is looked at once."""
        inside = self.inside(axes)
        if id(axes) not in self._checked:
            self._checked.add(id(axes))
            for dim in inside:
                self.check(dim, axes, name)

    def check(self, dim: Dim, axes: Axes, name: str) -> None:
        """Forbid what does not say the block of every channel of ``dim`` in a tensor."""
        for outer in list(self.left[dim]):
            counts = _counts(axes, dim, outer)
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
    first = [leaf for axis in tensors[0] for leaf in leaves(axis)]
    search.left[dim] = [one for one in dict.fromkeys(first) if one is not dim and one.frozen is None and one.size > 1]
    search.beside[dim] = {one for site in group.sites for one in _beside(site.axis, dim)} if search.left[dim] else set()
    for site, axes in zip(group.sites, tensors, strict=True):
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
                max(_counts(axes, None, outer), default=0) > 1 for axes in operation.axes
            ):
                search.forbid(dim, outer, f"{where} mixes blocks")


def _mixes(terms: Sequence[Term], dim: Dim, outer: Dim) -> bool:
    """Whether axes that an op takes together hold the blocks, and not what is in them."""
    inside = {leaf for term in terms for leaf in leaves(term)}
    return outer in inside and dim not in inside


def _counts(axes: Axes, dim: Dim | None, outer: Dim) -> set[int]:
    """How often the elements of a tensor that are a channel of ``dim`` (all, for None) name ``outer``."""
    found = {(0, 0)}
    for axis in axes:
        found = {(a + c, b + d) for a, b in found for c, d in _alternatives(axis, dim, outer)}
    return {times for held, times in found if held or dim is None}


def _alternatives(term: Term, dim: Dim | None, outer: Dim) -> set[tuple[int, int]]:
    """How often a position of an axis names ``dim`` and ``outer``; picked ones count as many times."""
    term = resolve(term)
    if isinstance(term, Dim):
        return {(int(term is dim), int(term is outer))}
    if isinstance(term, Take):
        inside = set(leaves(term))
        return {(int(dim in inside), 2 * int(outer in inside or dim in inside))}
    if isinstance(term, Cat):
        return {one for part in term.parts for one in _alternatives(part, dim, outer)}
    found = {(0, 0)}
    for factor in term.factors:
        found = {(a + c, b + d) for a, b in found for c, d in _alternatives(factor, dim, outer)}
    return found


def _beside(term: Term, dim: Dim) -> Iterator[Dim]:
    """The Dims that an axis multiplies with ``dim``: what a reader takes for its blocks."""
    term = resolve(term)
    if isinstance(term, Cat):
        for part in term.parts:
            yield from _beside(part, dim)
    elif not isinstance(term, (Dim, Take)) and dim in (inside := set(leaves(term))):
        yield from inside
