"""The algebra of axes: equations hold for every choice of channels, and are no stricter than they must be."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from random_terms import World, worlds

from fxprune_passes.axes import Cat, Dim, Take, Term, cat, freezing, leaves, mask, prod, resolve, take
from fxprune_passes.equations import Equations

Channel = tuple[Dim, int]

laws = settings(max_examples=250, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def conditions(term: Term) -> list[frozenset[Channel]]:
    """For every position the channels that must all be kept for it to be kept (frozen ones always are)."""
    term = resolve(term)
    if isinstance(term, Dim):
        return [frozenset() if term.frozen else frozenset({(term, i)}) for i in range(term.size)]
    if isinstance(term, Cat):
        return [one for part in term.parts for one in conditions(part)]
    if isinstance(term, Take):
        base = conditions(term.base)
        return [base[place] for place in term.index]
    return [frozenset().union(*places) for places in itertools.product(*map(conditions, term.factors))]


def space(terms: list[Term]) -> set[frozenset[int]]:
    """The smallest sets of positions that can go, over all terms one after the other; every other one is a union."""
    gone: dict[Channel, set[int]] = {}
    for place, channels in enumerate(itertools.chain.from_iterable(map(conditions, terms))):
        for channel in channels:
            gone.setdefault(channel, set()).add(place)
    sets = {frozenset(places) for places in gone.values()}
    return {one for one in sets if one != frozenset().union(*(other for other in sets if other < one))}


def random_choices(terms: list[Term], seed: int) -> Iterator[dict[Dim, torch.Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    free = [leaf for leaf in dict.fromkeys(leaf for term in terms for leaf in leaves(term)) if not leaf.frozen]
    for _ in range(3):
        yield {leaf: torch.rand(leaf.size, generator=generator) < 0.6 for leaf in free}


def positions(term: Term, kept: dict[Dim, torch.Tensor]) -> torch.Tensor:
    found = mask(term, kept)
    return torch.ones(term.size, dtype=torch.bool) if found is None else found


@laws
@given(worlds(equations=3))
def test_mask_keeps_a_position_if_all_channels_it_is_made_of_are_kept(world: World) -> None:
    equations, _, terms = world.build()
    equations.equate(terms[0], terms[1])
    for kept in random_choices(terms, 0):
        for term in terms:
            expected = [all(bool(kept[dim][i]) for dim, i in one) for one in conditions(term)]
            assert positions(term, kept).tolist() == expected


@laws
@given(worlds(equations=8))
def test_equal_axes_keep_the_same_positions_whatever_is_kept(world: World) -> None:
    equations, _, terms = world.build()
    pairs = list(zip(terms[::2], terms[1::2], strict=True))
    for number, (a, b) in enumerate(pairs):
        equations.equate(a, b)
        for one, other in pairs[: number + 1]:
            assert conditions(one) == conditions(other)


def is_normal(term: Term) -> bool:
    """Whether no part of a term is solved, and none is of its own kind."""
    if isinstance(term, Dim):
        return term.bound is None
    if isinstance(term, Take):
        return not isinstance(term.base, Take) and is_normal(term.base)
    parts = term.parts if isinstance(term, Cat) else term.factors
    return not any(isinstance(part, type(term)) for part in parts) and all(map(is_normal, parts))


@laws
@given(worlds(equations=6))
def test_a_term_is_in_normal_form_whenever_it_was_looked_at_before(world: World) -> None:
    """A term remembers that it is in normal form; no equation afterwards may be missed, nor by a copy."""
    equations, dims, terms = world.build()
    for a, b in zip(terms[::2], terms[1::2], strict=True):
        seen = [resolve(term) for term in [*dims, *terms]]
        copied = copy.deepcopy(seen)
        equations.equate(a, b)
        assert all(is_normal(resolve(term)) for term in [*seen, *dims, *terms, *copied])
        assert [conditions(one) for one in seen] == [conditions(one) for one in [*dims, *terms]]


@laws
@given(worlds(equations=4))
def test_an_equation_stated_again_changes_nothing(world: World) -> None:
    equations, dims, terms = world.build()
    pairs = list(zip(terms[::2], terms[1::2], strict=True))
    for a, b in pairs:
        equations.equate(a, b)
    before = space(list(dims))
    for a, b in [*pairs, *((b, a) for a, b in pairs)]:
        equations.equate(a, b)
        assert space(list(dims)) == before


@laws
@given(worlds(equations=3))
def test_it_does_not_matter_which_side_is_named_first_unless_a_product_is_cut_across(world: World) -> None:
    """Of a product that does not nest one factor is kept free, and which one may depend on what was frozen before."""
    spaces, reasons = [], set()
    for sides in (lambda a, b: (a, b)), (lambda a, b: (b, a)):
        equations, dims, terms = world.build()
        for a, b in zip(terms[::2], terms[1::2], strict=True):
            equations.equate(*sides(a, b))
        spaces.append(space(list(dims)))
        reasons |= {leaf.frozen.reason for dim in dims for leaf in leaves(dim) if leaf.frozen}
    assert spaces[0] == spaces[1] or "reshape that cuts across the axis" in reasons


@laws
@given(worlds(equations=8))
def test_no_variable_is_ever_made_of_itself(world: World) -> None:
    equations, dims, terms = world.build()
    sizes = [term.size for term in [*dims, *terms]]
    for a, b in zip(terms[::2], terms[1::2], strict=True):
        equations.equate(a, b)
    assert [resolve(term).size for term in [*dims, *terms]] == sizes
    for tie in equations.ties:
        parts = list(leaves(tie.dim))
        assert tie.dim not in parts
        assert not [leaf for leaf in parts if leaf.bound]


@laws
@given(worlds(equations=4), st.integers(0, 7))
def test_what_is_frozen_stays_whole(world: World, number: int) -> None:
    equations, dims, terms = world.build()
    equations.freeze(terms[number], "by the test")
    for a, b in zip(terms[::2], terms[1::2], strict=True):
        equations.equate(a, b)
    whole = [terms[number], *(dim for dim, frozen in zip(dims, world.frozen, strict=True) if frozen)]
    assert not any(channels for term in whole for channels in conditions(term))
    assert all(freezing(term) for term in whole)


def solved(world: World) -> tuple[Equations, Term]:
    """One axis, after the first two terms were found to be equal."""
    equations, _, terms = world.build()
    equations.equate(terms[0], terms[1])
    return equations, terms[2]


@laws
@given(worlds(sides=3), st.data())
def test_split_and_slice_cut_the_axis(world: World, data: st.DataObject) -> None:
    equations, axis = solved(world)
    start, stop = sorted(data.draw(st.lists(st.integers(0, axis.size), min_size=2, max_size=2)))
    first, second = equations.split(axis, stop)
    part = equations.slice(axis, start, stop)
    assert conditions(first) + conditions(second) == conditions(axis)
    assert conditions(part) == conditions(axis)[start:stop]
    assert all(freezing(one) for one in (first, second, part) if one.size == 1)


@laws
@given(worlds(sides=3), st.data())
def test_take_picks_positions_of_the_axis(world: World, data: st.DataObject) -> None:
    equations, axis = solved(world)
    index = data.draw(st.lists(st.integers(0, axis.size - 1), min_size=1, max_size=8))
    picked = equations.take(axis, index)
    assert conditions(picked) == [conditions(axis)[place] for place in index]
    assert picked.size > 1 or freezing(picked)


@laws
@given(worlds(sides=3), st.data())
def test_factor_reshapes_the_axis(world: World, data: st.DataObject) -> None:
    equations, axis = solved(world)
    outer = data.draw(st.sampled_from([one for one in range(1, axis.size + 1) if axis.size % one == 0]))
    factors = equations.factor(axis, (outer, axis.size // outer))
    assert [factor.size for factor in factors] == [outer, axis.size // outer]
    assert conditions(prod(factors)) == conditions(axis)


@laws
@given(worlds(equations=2), st.integers(0, 9))
def test_the_mask_of_an_ops_result_is_the_op_on_masks(world: World, seed: int) -> None:
    equations, _, (a, b, other, _) = world.build()
    equations.equate(a, b)
    index = torch.arange(a.size).roll(1)
    flipped, rolled = take(a, range(a.size - 1, -1, -1)), take(a, index.tolist())
    joined, whole = cat((a, other)), prod((a, other))
    for kept in random_choices([a, other], seed):
        left, right = positions(a, kept), positions(other, kept)
        assert torch.equal(positions(flipped, kept), left.flip(0))
        assert torch.equal(positions(rolled, kept), left[index])
        assert torch.equal(positions(joined, kept), torch.cat((left, right)))
        assert torch.equal(positions(whole, kept).view(a.size, other.size), left.outer(right))


def choices(terms: list[Term], *others: Term) -> Iterator[tuple[tuple[bool, ...], list[list[bool]]]]:
    """Every choice of channels: the kept positions of ``terms`` one after the other, and those of each other term."""
    needed = [one for term in terms for one in conditions(term)]
    parts = [conditions(other) for other in others]
    channels = list(dict.fromkeys(channel for one in needed for channel in one))
    for kept in itertools.product((False, True), repeat=len(channels)):
        gone = {channel for channel, flag in zip(channels, kept, strict=True) if not flag}
        yield tuple(gone.isdisjoint(one) for one in needed), [[gone.isdisjoint(one) for one in part] for part in parts]


@laws
@given(worlds(equations=2, kinds=("dim", "cat", "take"), largest=6, may_freeze=False))
def test_without_products_nothing_is_ruled_out_but_to_lose_an_axis_of_width_1(world: World) -> None:
    assume(sum(world.sizes) <= 10)
    _, dims, terms = world.build()
    expected = {kept for kept, (a, b, c, d) in choices(list(dims), *terms) if a == b and c == d}
    equations, dims, terms = world.build()
    for a, b in zip(terms[::2], terms[1::2], strict=True):
        equations.equate(a, b)
    frozen = [leaf.frozen for dim in dims for leaf in leaves(dim) if leaf.frozen]
    single = [not channels for dim in dims for channels in conditions(dim)]
    assert all(one.reason in ("axis of width 1", "all of its channels go together") for one in frozen)
    whole = {kept for kept in expected if all(flag or not alone for flag, alone in zip(kept, single, strict=True))}
    assert {kept for kept, _ in choices(list(dims))} == whole
