"""The graph of ties: by which equations, in which order, one axis turned out to be (a part of) another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

from fxprune_passes.axes import Cat, Dim, Frozen, Take, Term, Where
from fxprune_passes.equations import Tie

Chain = tuple[Where, ...]


def chains(start: Term, ties: Sequence[Tie], *, through: Callable[[Term], bool] | None = None) -> dict[Term, Chain]:
    """The shortest chain of equations from an axis to every Dim that it is tied to.

    Args:
        start: An axis as the model stated it (a parameter's is a Dim).
        ties: The solved equations.
        through: Says which Dims to follow (those that hold a certain channel); all of them by default.

    Returns:
        For every Dim in reach the places that stated the equations, nearest first.
    """
    edges = _edges(ties)
    found: dict[Term, Chain] = dict.fromkeys(_stated(start), ())
    waiting = deque(_stated(start))
    while waiting:
        here = waiting.popleft()
        for there, where in edges.get(here, ()):
            if there not in found and (through is None or through(there)):
                found[there] = found[here] if found[here][-1:] == (where,) else (*found[here], where)
                waiting.append(there)
    return found


def chain_to(start: Term, frozen: Frozen, ties: Sequence[Tie]) -> Chain:
    """The chain of equations from an axis to the nearest one that stays whole for this reason."""
    tied = chains(start, ties)
    return next((chain for dim, chain in tied.items() if isinstance(dim, Dim) and dim.frozen is frozen), ())


def _edges(ties: Sequence[Tie]) -> dict[Dim, list[tuple[Dim, Where]]]:
    """The ties of every Dim, in both directions."""
    edges: dict[Dim, list[tuple[Dim, Where]]] = {}
    for tie in ties:
        for dim in _stated(tie.term):
            edges.setdefault(tie.dim, []).append((dim, tie.where))
            edges.setdefault(dim, []).append((tie.dim, tie.where))
    return edges


def _stated(term: Term) -> Iterator[Dim]:
    """The Dims of a term as it was when an equation named it, solved since or not."""
    if isinstance(term, Dim):
        yield term
    elif isinstance(term, Take):
        yield from _stated(term.base)
    else:
        for part in term.parts if isinstance(term, Cat) else term.factors:
            yield from _stated(part)
