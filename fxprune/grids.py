"""At which widths to time layers: few models, in which every layer is seen at all pairs of levels of its two sizes."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence

from fxprune.kinds import Formula, groups_of

LEVELS = 5
"""Widths of an axis that are timed, from the fewest channels to all; a prime number."""
BLOCK = 16
"""Kernels compute whole blocks of so many channels: in eager oneDNN, 33 to 48 take equally long."""


def level_vectors(coordinates: Sequence[Sequence[Formula]], active: Collection[int]) -> Iterator[dict[int, int]]:
    """Levels of the groups in each model to time.

    Sizes that a layer has two of get different colours; models are the rows of an orthogonal array of strength two
    (Bush, Orthogonal Arrays of Index Unity, 1952), so any two colours meet in all pairs of levels.

    Args:
        coordinates: Of each kind of layer, the sizes that vary.
        active: Numbers of the groups that vary.

    Yields:
        A level for each of those groups, from 0 to ``LEVELS - 1``.
    """
    blocks = _blocks(coordinates, active)
    colours = _colours(coordinates, blocks)
    second = range(LEVELS if max(colours.values(), default=0) > 0 else 1)
    for i, j in itertools.product(range(LEVELS), second):
        yield {group: _level(i, j, colours[block]) for group, block in blocks.items()}


def _level(i: int, j: int, colour: int) -> int:
    """Any two columns of ``LEVELS + 1`` hold all pairs; further colours repeat them."""
    colour %= LEVELS + 1
    return j if colour == LEVELS else (i + colour * j) % LEVELS


def _blocks(coordinates: Sequence[Sequence[Formula]], active: Collection[int]) -> dict[int, int]:
    """Groups that make up one size are on one level: the first of them stands for all."""
    first = {group: group for group in active}

    def root(group: int) -> int:
        while first[group] != group:
            group = first[group]
        return group

    for formula in (one for kind in coordinates for one in kind):
        members = sorted(root(group) for group in groups_of(formula) & first.keys())
        for other in members[1:]:
            first[root(other)] = root(members[0])
    return {group: root(group) for group in active}


def _colours(coordinates: Sequence[Sequence[Formula]], blocks: Mapping[int, int]) -> dict[int, int]:
    """A number for each block, another one than those of the blocks that it shares a layer with."""
    beside: dict[int, set[int]] = {block: set() for block in blocks.values()}
    for kind in coordinates:
        met = {blocks[group] for formula in kind for group in groups_of(formula) if group in blocks}
        for block in met:
            beside[block] |= met - {block}
    colours: dict[int, int] = {}
    for block in beside:
        taken = {colours[other] for other in beside[block] if other in colours}
        colours[block] = next(colour for colour in itertools.count() if colour not in taken)
    return colours


class Grid:
    """Seconds at some sizes, and in between.

    Wherever more was measured to take less time, the less counts for both: something else ran on the machine, or the
    kernel likes the larger size. So seconds never fall as sizes grow, and a search may halve.

    Args:
        points: Seconds by sizes; all of a grid, or single ones.
        fallback: Seconds by the number of elements, for single points.
    """

    def __init__(self, points: Mapping[tuple[float, ...], float], fallback: Mapping[float, float]) -> None:
        dims = len(next(iter(points), ()))
        self._axes = [sorted({point[dim] for point in points}) for dim in range(dims)]
        self.is_full = all(point in points for point in itertools.product(*self._axes))
        self._points = _rising(self._axes, points) if self.is_full else {}
        self._sizes = sorted(fallback)
        by_size = _rising([self._sizes], {(size,): seconds for size, seconds in fallback.items()})
        self._fallback = {size: seconds for (size,), seconds in by_size.items()}

    def at(self, sizes: tuple[float, ...], elements: float) -> float:
        """Seconds by linear interpolation, of whole blocks of channels; those at the ends beyond them."""
        if not self.is_full:
            return sum(weight * self._fallback[size] for size, weight in _around(self._sizes, elements))
        corners = itertools.product(
            *(_around(axis, _blocked(axis, size)) for axis, size in zip(self._axes, sizes, strict=True))
        )
        total = 0.0
        for corner in corners:
            weight = 1.0
            for _, share in corner:
                weight *= share
            total += weight * self._points[tuple(size for size, _ in corner)]
        return total


def _rising(
    axes: Sequence[Sequence[float]], points: Mapping[tuple[float, ...], float]
) -> dict[tuple[float, ...], float]:
    """The least seconds of a point of a grid and of all that are as large along every axis."""
    result = dict(points)
    for dim, axis in enumerate(axes):
        after = dict(itertools.pairwise(axis))
        for point in sorted(result, reverse=True):
            if point[dim] in after:
                beyond = (*point[:dim], after[point[dim]], *point[dim + 1 :])
                result[point] = min(result[point], result[beyond])
    return result


def _blocked(axis: Sequence[float], size: float) -> float:
    """A size as kernels see it: what was measured as it is, and more than one block as whole ones."""
    return size if size <= BLOCK or size in axis else BLOCK * math.ceil(size / BLOCK)


def _around(axis: Sequence[float], size: float) -> list[tuple[float, float]]:
    """The neighbours of a size, and their shares."""
    place = bisect_left(axis, size)
    if place == len(axis) or place == 0 or axis[place] == size:
        return [(axis[min(place, len(axis) - 1)], 1.0)]
    low, high = axis[place - 1], axis[place]
    share = (size - low) / (high - low)
    return [(low, 1 - share), (high, share)]
