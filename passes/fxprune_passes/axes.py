"""Terms: what each axis of a tensor is made of, and which of its positions a choice of channels keeps.

====================  =====================================================  ===========================
term                  means                                                  comes from
====================  =====================================================  ===========================
``Dim(n)``            n channels that live or die one by one                 a weight's rows
``Cat(a, b, ..)``     a's channels, then b's                                 cat, split, slices, padding
``Prod(a, b, ..)``    position ``i * len(b) + j`` lives if a[i] and b[j] do  view, heads, groups
``Take(a, index)``    a's channels picked by a fixed index vector            flip, roll, strided slices
====================  =====================================================  ===========================

A ``Dim`` is a variable: :mod:`fxprune_passes.equations` binds it to another term. A frozen ``Dim`` stays whole.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch


@dataclass(frozen=True, slots=True)
class Where:
    """The place that stated an equation or froze an axis."""

    node: str = ""
    op: str = ""
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        """Read as ``op in module (file:line)``, as far as known."""
        inside = f" in {self.module}" if self.module else ""
        line = f" ({self.source})" if self.source else ""
        return f"{self.op or self.node or 'model'}{inside}{line}"


@dataclass(frozen=True, slots=True)
class Frozen:
    """Why an axis stays whole, and whether its size may change from call to call (batch, spatial)."""

    reason: str
    where: Where = field(default_factory=Where)
    dynamic: bool = False


@dataclass(slots=True, eq=False)
class Dim:
    """A variable of ``size`` channels; ``bound`` once an equation has solved it."""

    size: int
    frozen: Frozen | None = None
    bound: Term | None = None


_solved = [object()]  # stands for the Dims solved so far: a term once in normal form is until another one is put here


@dataclass(frozen=True, slots=True, eq=False)
class Cat:
    """The channels of each part in turn; ``looked`` holds what ``_solved`` did when it last was in normal form."""

    parts: tuple[Term, ...]
    size: int
    looked: list[object] = field(default_factory=lambda: [None], init=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Prod:
    """Row-major product: the last factor runs fastest; ``looked`` as in a ``Cat``."""

    factors: tuple[Term, ...]
    size: int
    looked: list[object] = field(default_factory=lambda: [None], init=False, repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """Position p is ``base``'s position ``index[p]``."""

    base: Term
    index: tuple[int, ...]
    size: int


Term = Dim | Cat | Prod | Take
Axes = tuple[Term, ...]


def fixed(size: int, reason: str, where: Where | None = None, *, dynamic: bool = False) -> Dim:
    """A Dim that is frozen from the start."""
    return Dim(size, Frozen(reason, where or Where(), dynamic))


def cat(parts: Sequence[Term]) -> Term:
    """Concatenation in normal form: flat, without empty parts."""
    flat: list[Term] = []
    for part in parts:
        if isinstance(part, Dim) and part.bound is None:
            flat.append(part)
        else:
            term = resolve(part)
            flat.extend(term.parts if isinstance(term, Cat) else (term,))
    flat = [part for part in flat if part.size]
    return flat[0] if len(flat) == 1 else Cat(tuple(flat), sum(part.size for part in flat))


def prod(factors: Sequence[Term]) -> Term:
    """Product in normal form: flat, without units that stay; an empty one is the empty concatenation."""
    flat: list[Term] = []
    for factor in map(resolve, factors):
        flat.extend(factor.factors if isinstance(factor, Prod) else (factor,))
    if any(factor.size == 0 for factor in flat):
        return cat(())
    units = [factor for factor in flat if factor.size == 1 and freezing(factor)]
    flat = [factor for factor in flat if factor not in units] or units[:1]
    return flat[0] if len(flat) == 1 else Prod(tuple(flat), math.prod(factor.size for factor in flat))


def take(base: Term, index: Sequence[int]) -> Term:
    """Picked positions in normal form: of what is picked at all, never a Take of a Take, never the identity."""
    base, index = resolve(base), tuple(index)
    if not index:
        return cat(())
    if isinstance(base, Take):
        inner = base.index
        base, index = base.base, tuple(inner[i] for i in index)
    if isinstance(base, (Cat, Prod)):
        used, index = _used_parts(base, index) if isinstance(base, Cat) else _used_factors(base, index)
        if used.size < base.size:
            return take(used, index)
    if index == tuple(range(base.size)):
        return base
    if frozen := freezing(base):
        return Dim(len(index), frozen)
    return Take(base, index, len(index))


def _used_parts(base: Cat, index: Sequence[int]) -> tuple[Term, tuple[int, ...]]:
    """A join without the parts that ``index`` does not pick from, and the index into what is left."""
    picked, used, start = set(index), [], 0
    place: dict[int, int] = {}
    for part in base.parts:
        inside = range(start, start := start + part.size)
        if not picked.isdisjoint(inside):
            place.update(zip(inside, itertools.count(len(place)), strict=False))
            used.append(part)
    return cat(used), tuple(place[i] for i in index)


def _used_factors(base: Prod, index: Sequence[int]) -> tuple[Term, tuple[int, ...]]:
    """A product of the positions of each factor that ``index`` picks from, and the index into it."""
    used: list[Term] = []
    result, inner = [0] * len(index), base.size
    for factor in base.factors:
        inner //= factor.size
        places = [position // inner % factor.size for position in index]
        rank = {place: number for number, place in enumerate(sorted(set(places)))}
        used.append(take(factor, tuple(rank)))
        result = [outer * len(rank) + rank[place] for outer, place in zip(result, places, strict=True)]
    return prod(used), tuple(result)


def resolve(term: Term) -> Term:
    """The term in normal form, with every solved Dim replaced by its solution."""
    if isinstance(term, Dim):
        return term if term.bound is None else _resolve_bound(term)
    if isinstance(term, Take):
        base = resolve(term.base)
        return term if base is term.base else take(base, term.index)
    solved = _solved[0]
    if term.looked[0] is solved:
        return term
    for part in term.parts if isinstance(term, Cat) else term.factors:
        if part.bound is not None if isinstance(part, Dim) else _is_stale(part, type(term)):
            return cat(term.parts) if isinstance(term, Cat) else prod(term.factors)
    term.looked[0] = solved
    return term


def bind(dim: Dim, term: Term) -> None:
    """Solve a Dim; every term is looked at anew.

    What a copy of a term holds, or one from another process, is never the new mark: it is looked at, too.
    """
    dim.bound = term
    _solved[0] = object()


def _is_stale(term: Term, parent: type[Term]) -> bool:
    return isinstance(resolved := resolve(term), parent) or resolved is not term


def _resolve_bound(dim: Dim) -> Term:
    """Follow a chain of bindings and shorten it behind us."""
    chain, term = [dim], dim.bound
    if isinstance(term, (Cat, Prod)) and term.looked[0] is _solved[0]:
        return term
    while isinstance(term, Dim) and term.bound is not None:
        chain.append(term)
        term = term.bound
    assert term is not None
    result = resolve(term)
    for link in chain:
        link.bound = result
    return result


def leaves(term: Term) -> Iterator[Dim]:
    """Every unsolved Dim that the term is made of, in order, with repetitions."""
    term = resolve(term)
    if isinstance(term, Dim):
        yield term
    elif isinstance(term, Take):
        yield from leaves(term.base)
    else:
        for part in term.parts if isinstance(term, Cat) else term.factors:
            if isinstance(part, Dim) and part.bound is None:
                yield part
            else:
                yield from leaves(part)


def freezing(term: Term) -> Frozen | None:
    """Why the term stays whole (the first reason), or None if some channel of it can go."""
    first: Frozen | None = None
    if isinstance(term := resolve(term), Dim):
        return term.frozen
    for leaf in leaves(term):
        if leaf.frozen is None:
            return None
        if first is None or (leaf.frozen.dynamic and not first.dynamic):
            first = leaf.frozen
    return first


def is_dynamic(term: Term) -> bool:
    """Whether an axis has a batch or spatial factor, so that its size is not the same in every call."""
    return any(leaf.frozen is not None and leaf.frozen.dynamic for leaf in leaves(term))


def mask(term: Term, kept: Mapping[Dim, torch.Tensor]) -> torch.Tensor | None:
    """Which positions of an axis are kept.

    Args:
        term: The axis.
        kept: For each pruned Dim a bool tensor of its size; Dims not named are kept whole.

    Returns:
        A bool tensor ``(term.size,)``, or None if every position is kept.
    """
    term = resolve(term)
    if isinstance(term, Dim):
        return kept.get(term)
    if isinstance(term, Take):
        base = mask(term.base, kept)
        return None if base is None else base[torch.tensor(term.index)]
    parts = term.parts if isinstance(term, Cat) else term.factors
    masks = [mask(part, kept) for part in parts]
    if all(one is None for one in masks):
        return None
    full = [
        torch.ones(part.size, dtype=torch.bool) if one is None else one for part, one in zip(parts, masks, strict=True)
    ]
    if isinstance(term, Cat):
        return torch.cat(full)
    result = full[0]
    for factor in full[1:]:
        result = (result[:, None] & factor).flatten()
    return result


def show(term: Term, names: Mapping[Dim, str]) -> str:
    """The term as text, with group names for Dims that have one and plain sizes for the rest."""
    term = resolve(term)
    if isinstance(term, Dim):
        return names.get(term, str(term.size))
    if isinstance(term, Take):
        return f"Take({show(term.base, names)}, {len(term.index)} of {term.base.size})"
    parts = term.parts if isinstance(term, Cat) else term.factors
    return f"{type(term).__name__}({', '.join(show(part, names) for part in parts)})"
