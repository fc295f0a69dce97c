"""Axes position by position: the channels that each one is made of, and the classes that equations make of them."""

from __future__ import annotations

from collections.abc import Sequence

from fxprune_passes.axes import Cat, Dim, Take, Term, resolve

Position = tuple[Dim, int]


def made_of(term: Term) -> list[frozenset[Position]]:
    """For every position of an axis the channels that must all be kept for it to be kept; frozen ones always are."""
    term = resolve(term)
    if isinstance(term, Dim):
        return [frozenset() if term.frozen else frozenset({(term, i)}) for i in range(term.size)]
    if isinstance(term, Cat):
        return [position for part in term.parts for position in made_of(part)]
    if isinstance(term, Take):
        base = made_of(term.base)
        return [base[i] for i in term.index]
    result: list[frozenset[Position]] = [frozenset()]
    for factor in map(made_of, term.factors):
        result = [outer | inner for outer in result for inner in factor]
    return result


def classes_of(pairs: Sequence[tuple[Position, Position]]) -> dict[Position, Position]:
    """Union-find over leaf channels: each channel's representative."""
    parent: dict[Position, Position] = {}

    def root(position: Position) -> Position:
        parent.setdefault(position, position)
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    for a, b in pairs:
        root_a, root_b = root(a), root(b)
        if root_a != root_b:
            parent[root_b] = root_a
    return {position: root(position) for position in list(parent)}
