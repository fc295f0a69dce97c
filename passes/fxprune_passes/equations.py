"""Solve equations between axes, as type inference does: bind a Dim to what it must equal.

Every equation has a solution. Where two structures do not nest (a product cut off its inner size, a flip tied to
itself), the equation is solved position by position: positions that must agree become one channel of a new Dim.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from fxprune_passes.axes import (
    Cat,
    Dim,
    Frozen,
    Prod,
    Take,
    Term,
    Where,
    bind,
    cat,
    fixed,
    freezing,
    leaves,
    prod,
    resolve,
    take,
)
from fxprune_passes.positions import Position, classes_of, made_of


@dataclass(frozen=True, slots=True)
class Tie:
    """One solved equation: ``dim`` turned out to be ``term``, because of ``where``."""

    dim: Dim
    term: Term
    where: Where


@dataclass(slots=True)
class Equations:
    """The equations stated so far; ``where`` says who states the next ones."""

    where: Where = field(default_factory=Where)
    ties: list[Tie] = field(default_factory=list)

    def dim(self, size: int) -> Dim:
        """A new variable; one of width 1 is frozen, since broadcasting reads it as a scalar."""
        return Dim(size) if size != 1 else self.fixed(1, "axis of width 1")

    def fixed(self, size: int, reason: str, *, dynamic: bool = False) -> Dim:
        """A new axis that stays whole."""
        return fixed(size, reason, self.where, dynamic=dynamic)

    def freeze(self, term: Term, reason: str, *, dynamic: bool = False) -> None:
        """Make every channel of ``term`` stay."""
        for leaf in leaves(term):
            if leaf.frozen is None:
                leaf.frozen = Frozen(reason, self.where, dynamic)

    def equate(self, a: Term, b: Term) -> None:
        """State that two axes keep the same positions.

        Raises:
            ValueError: The sizes differ (a rule stated an equation that cannot hold).
        """
        if a is b or _stay_alike(a, b):
            return
        stated = (a, b)
        a, b = resolve(a), resolve(b)
        if a is b or a.size == b.size == 0:
            return
        if a.size != b.size:
            raise ValueError(f"axes of {a.size} and {b.size} channels cannot be equal")
        frozen_a, frozen_b = freezing(a), freezing(b)
        if frozen_a and frozen_b:
            return
        if isinstance(a, Dim) and not frozen_a:
            self._bind(a, b, stated)
        elif isinstance(b, Dim) and not frozen_b:
            self._bind(b, a, stated[::-1])
        elif frozen := frozen_a or frozen_b:
            self._keep(b if frozen_a else a, frozen)
        elif isinstance(a, Prod) and isinstance(b, Prod):
            self._equate_products(a, b)
        elif isinstance(a, Cat) or isinstance(b, Cat):
            self._equate_parts(*((a, b) if isinstance(a, Cat) else (b, a)))
        else:
            self._equate_positions(a, b)

    def split(self, term: Term, at: int) -> tuple[Term, Term]:
        """Cut an axis into its first ``at`` positions and the rest; a part of width 1 stays, as any such axis."""
        term = resolve(term)
        if at <= 0 or at >= term.size:
            none = cat(())
            return (term, none) if at >= term.size else (none, term)
        first, second = self._split(term, at)
        return self._single(first), self._single(second)

    def slice(self, term: Term, start: int, stop: int) -> Term:
        """Positions ``start`` to ``stop`` of an axis."""
        return self.split(self.split(term, stop)[0], start)[1]

    def take(self, term: Term, index: Sequence[int]) -> Term:
        """The positions of an axis that ``index`` picks, as plainly as they can be said."""
        index = tuple(index)
        if index and index == tuple(range(index[0], index[0] + len(index))):
            return self.slice(term, index[0], index[0] + len(index))
        return self._single(take(term, index))

    def factor(self, term: Term, sizes: Sequence[int]) -> list[Term]:
        """See an axis as a product of axes of the given sizes (a reshape of one axis to many)."""
        term = resolve(term)
        if isinstance(term, Prod) and [factor.size for factor in term.factors] == list(sizes):
            return list(term.factors)
        if frozen := freezing(term):
            return [Dim(size, frozen) for size in sizes]
        result: list[Term] = [self.dim(size) for size in sizes]
        self.equate(term, prod(result))
        return result

    def _bind(self, dim: Dim, term: Term, stated: tuple[Term, Term] | None = None) -> None:
        """Solve a Dim, and record the equation as it was stated, so that a chain of ties visits only ops on its way."""
        if any(leaf is dim for leaf in leaves(term)):
            self._equate_positions(dim, term)
            return
        bind(dim, term)
        left, right = stated or (dim, term)
        self.ties.append(Tie(left, right, self.where) if isinstance(left, Dim) else Tie(dim, right, self.where))

    def _keep(self, term: Term, frozen: Frozen) -> None:
        """Tie every channel that ``term`` holds to one that stays, and no other."""
        term = resolve(term)
        if isinstance(term, Dim):
            if term.frozen is None:
                self._bind(term, Dim(term.size, frozen))
        elif isinstance(term, Take):
            if len(set(term.index)) == term.base.size:
                self._keep(term.base, frozen)
            else:
                self._equate_positions(term, Dim(term.size, frozen))
        else:
            for part in term.parts if isinstance(term, Cat) else term.factors:
                self._keep(part, frozen)

    def _single(self, term: Term) -> Term:
        """The axis; one of width 1 stays, since broadcasting reads it as a scalar."""
        if term.size == 1 and not freezing(term):
            self._keep(term, Frozen("axis of width 1", self.where))
        return resolve(term)

    def _split(self, term: Term, at: int) -> tuple[Term, Term]:
        if isinstance(term, Dim):
            return self._split_dim(term, at)
        if isinstance(term, Cat):
            return self._split_cat(term, at)
        if isinstance(term, Take):
            return take(term.base, term.index[:at]), take(term.base, term.index[at:])
        inner = term.size // term.factors[0].size
        if at % inner:
            return self.split(self._as_take(term), at)
        first, second = self.split(term.factors[0], at // inner)
        return prod((first, *term.factors[1:])), prod((second, *term.factors[1:]))

    def _split_dim(self, dim: Dim, at: int) -> tuple[Term, Term]:
        if dim.frozen:
            return Dim(at, dim.frozen), Dim(dim.size - at, dim.frozen)
        first, second = self.dim(at), self.dim(dim.size - at)
        self._bind(dim, cat((first, second)))
        return first, second

    def _split_cat(self, term: Cat, at: int) -> tuple[Term, Term]:
        for number, part in enumerate(term.parts):
            if at < part.size:
                first, second = self.split(part, at)
                return cat((*term.parts[:number], first)), cat((second, *term.parts[number + 1 :]))
            at -= part.size
        raise AssertionError("split past the end")

    def _equate_parts(self, a: Cat, b: Term) -> None:
        rest: Term = b
        for part in a.parts:
            piece, rest = self.split(rest, part.size)
            self.equate(part, piece)

    def _equate_products(self, a: Prod, b: Prod) -> None:
        """Pair factors from the left, cutting the larger one where the sizes nest."""
        left, right = list(a.factors), list(b.factors)
        while left and right:
            if left[0].size > right[0].size:
                left, right = right, left
            small, large = left[0], right[0]
            if large.size % small.size:
                self._equate_positions(prod(left), prod(right))
                return
            del left[0], right[0]
            if small.size != large.size:
                large, rest = self.factor(large, (small.size, large.size // small.size))
                right.insert(0, rest)
            self.equate(small, large)

    def _as_take(self, term: Prod) -> Term:
        """Keep the widest factor that can be pruned, freeze the others, and say the product as a Take of it."""
        free = [place for place, factor in enumerate(term.factors) if not freezing(factor)]
        if not free:
            frozen = freezing(term)
            assert frozen is not None
            return Dim(term.size, frozen)
        number = max(free, key=lambda place: term.factors[place].size)
        for place in free:
            if place != number:
                self.freeze(term.factors[place], "reshape that cuts across the axis")
        widest = term.factors[number]
        inner = math.prod(factor.size for factor in term.factors[number + 1 :])
        return take(widest, [position // inner % widest.size for position in range(term.size)])

    def _positions(self, term: Term) -> list[Position]:
        """The leaf channel that each position of an axis is."""
        term = resolve(term)
        if isinstance(term, Dim):
            return [(term, i) for i in range(term.size)]
        if isinstance(term, Cat):
            return [position for part in term.parts for position in self._positions(part)]
        if isinstance(term, Take):
            base = self._positions(term.base)
            return [base[i] for i in term.index]
        return self._positions(self._as_take(term))

    def _equate_positions(self, a: Term, b: Term) -> None:
        """Tie two axes position by position: channels that must agree become one channel of a new Dim."""
        if made_of(a) == made_of(b):
            return
        self._positions(a), self._positions(b)  # freezes what products must give up, before anything is read
        pairs = list(zip(self._positions(a), self._positions(b), strict=True))
        classes = classes_of(pairs)
        dims = list(dict.fromkeys(dim for pair in pairs for dim, _ in pair))
        whole = {
            classes[dim, i]: dim.frozen for dim in dims if dim.frozen for i in range(dim.size) if (dim, i) in classes
        }
        free = list(dict.fromkeys(classes[dim, i] for dim in dims for i in range(dim.size) if (dim, i) in classes))
        free = [root for root in free if root not in whole]
        self._rebuild([dim for dim in dims if not dim.frozen], classes, free, whole)

    def _shared(self, size: int) -> Dim:
        """The channels that an equation leaves of several axes; where it leaves one, that one stays."""
        return self.dim(size) if size > 1 else self.fixed(1, "all of its channels go together")

    def _rebuild(
        self,
        dims: list[Dim],
        classes: dict[Position, Position],
        free: list[Position],
        whole: dict[Position, Frozen],
    ) -> None:
        """Bind each Dim to its classes of channels; channels outside the equation stay on their own."""
        shared = self._shared(len(free)) if free else None
        number = {root: i for i, root in enumerate(free)}
        for dim in dims:
            roots = [classes.get((dim, i)) for i in range(dim.size)]
            alone = [i for i, root in enumerate(roots) if root is None]
            stuck = [frozen for root in roots if root is not None and (frozen := whole.get(root))]
            parts: list[Term] = [shared] if shared is not None else []
            if alone:
                parts.append(self.dim(len(alone)))
            if stuck:
                parts.append(Dim(1, stuck[0]))
            offset_alone = len(free)
            offset_stuck = offset_alone + len(alone)
            places = {position: offset_alone + i for i, position in enumerate(alone)}
            index = [places[i] if root is None else number.get(root, offset_stuck) for i, root in enumerate(roots)]
            self._bind(dim, take(cat(parts), index))


def _stay_alike(a: Term, b: Term) -> bool:
    """Whether both are Dims of one size that stay: nothing is left to state of them."""
    both = isinstance(a, Dim) and isinstance(b, Dim) and a.frozen is not None and b.frozen is not None
    return both and a.bound is b.bound is None and a.size == b.size  # type: ignore[union-attr]
