"""Random terms over common variables, for the laws of the algebra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from fxprune_passes.axes import Dim, Frozen, Term, cat, prod, take
from fxprune_passes.equations import Equations

ALL = ("dim", "cat", "prod", "take")
Spec = tuple[Any, ...]  # ("dim", number), ("cat", parts), ("prod", factors) or ("take", base, index)


@dataclass
class World:
    """Variables by number, and terms made of them: one description builds equal worlds again and again."""

    sizes: list[int]
    frozen: list[bool]
    terms: list[Spec]

    def build(self) -> tuple[Equations, list[Dim], list[Term]]:
        equations = Equations()
        dims = [equations.dim(size) for size in self.sizes]
        for dim, frozen in zip(dims, self.frozen, strict=True):
            if frozen and dim.frozen is None:
                dim.frozen = Frozen("by the test")
        return equations, dims, [_term(spec, dims) for spec in self.terms]


def _term(spec: Spec, dims: list[Dim]) -> Term:
    kind, content, *index = spec
    if kind == "dim":
        return dims[content]
    if kind == "take":
        return take(_term(content, dims), *index)
    return {"cat": cat, "prod": prod}[kind]([_term(part, dims) for part in content])


class Draw:
    """Draws terms of given sizes over a common stock of variables."""

    def __init__(self, draw: Callable[[Any], Any], kinds: tuple[str, ...], *, may_freeze: bool) -> None:
        self.draw, self.kinds, self.may_freeze = draw, kinds, may_freeze
        self.world = World([], [], [])

    def dim(self, size: int) -> Spec:
        known = [number for number, one in enumerate(self.world.sizes) if one == size]
        number = self.draw(st.sampled_from([*known, -1]))
        if number < 0:
            number = len(self.world.sizes)
            self.world.sizes.append(size)
            self.world.frozen.append(self.may_freeze and self.draw(st.integers(0, 5)) == 0)
        return ("dim", number)

    def term(self, size: int, depth: int) -> Spec:
        kind = self.draw(st.sampled_from(self.kinds)) if depth else "dim"
        divisors = [one for one in range(2, size) if size % one == 0]
        if kind == "cat" and size > 1:
            first = self.draw(st.integers(1, size - 1))
            return ("cat", [self.term(first, depth - 1), self.term(size - first, depth - 1)])
        if kind == "prod" and divisors:
            first = self.draw(st.sampled_from(divisors))
            return ("prod", [self.term(first, depth - 1), self.term(size // first, depth - 1)])
        if kind == "take" and size > 1:
            base = self.draw(st.integers(1, 6))
            index = self.draw(st.lists(st.integers(0, base - 1), min_size=size, max_size=size))
            return ("take", self.term(base, depth - 1), index)
        return self.dim(size)


@st.composite
def worlds(
    draw: Callable[[Any], Any],
    *,
    equations: int = 1,
    sides: int = 2,
    kinds: tuple[str, ...] = ALL,
    largest: int = 12,
    may_freeze: bool = True,
) -> World:
    """Terms in runs of ``sides`` of equal size, over shared variables."""
    drawn = Draw(draw, kinds, may_freeze=may_freeze)
    for _ in range(equations):
        size = draw(st.integers(1, largest))
        drawn.world.terms += [drawn.term(size, 3) for _ in range(sides)]
    return drawn.world
