"""Axes whose slices an op treats alike, as running it shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune_passes.probe.runs import Runs, Stop, drawn, same

Axis = tuple[int, int]  # number of a tensor, and of one of its axes

_ATTEMPTS = 4  # at a slice that changes something


@dataclass(frozen=True, slots=True)
class Alike:
    """Axes of inputs and outputs that keep the same positions."""

    inputs: tuple[Axis, ...]
    outputs: tuple[Axis, ...]


def linked_axes(runs: Runs, tensors: list[Tensor], outputs: list[Tensor]) -> list[Alike]:
    """Axes that a changed slice links; each output has at most one of them."""
    classes: list[tuple[set[Axis], set[Axis]]] = []
    for axis in _axes(runs):
        linked = _linked(runs, axis, tensors, outputs)
        if linked is None:
            continue
        touching = [one for one in classes if one[1] & linked]
        classes = [one for one in classes if one not in touching]
        classes.append(({axis}.union(*(one[0] for one in touching)), linked.union(*(one[1] for one in touching))))
    result = [Alike(tuple(sorted(one)), tuple(sorted(other))) for one, other in classes]
    return [one for one in result if len({number for number, _ in one.outputs}) == len(one.outputs)]


def commutes(runs: Runs, alike: Alike) -> bool:
    """Whether the op on kept slices is the kept slices of the op."""
    number, dim = alike.inputs[0]
    free = any(dim not in runs.inputs[number].whole for number, dim in alike.inputs)
    for round_, keep in enumerate(_choices(runs.inputs[number].shape[dim], all_pairs=free)):
        tensors = runs.drawn(style=round_)
        want = _cut(runs.outputs(tensors), alike.outputs, keep)
        try:
            got = runs.outputs(_cut(tensors, alike.inputs, keep))
        except Stop:
            raise
        except Exception:  # a size that the op does not take
            return False
        if not same(got, want):
            return False
    return True


def _axes(runs: Runs) -> Iterator[Axis]:
    """Axes of inputs that may lose slices."""
    for number, like in enumerate(runs.inputs):
        if like.values is None:
            yield from ((number, dim) for dim, size in enumerate(like.shape) if size > 1)


def _linked(runs: Runs, axis: Axis, tensors: list[Tensor], outputs: list[Tensor]) -> set[Axis] | None:
    """The output axes whose slice i alone changes with slice i of an input; None where other slices change too."""
    number, dim = axis
    size = runs.inputs[number].shape[dim]
    candidates: list[set[int] | None] = [None] * len(outputs)
    for place in {0, size // 2, size - 1}:
        for output, differs in enumerate(_differences(runs, axis, place, tensors, outputs)):
            if differs.any():
                here = {b for b, length in enumerate(differs.shape) if length == size and _only(differs, b, place)}
                known = candidates[output]
                candidates[output] = here if known is None else known & here
    touched = [(output, found) for output, found in enumerate(candidates) if found is not None]
    if not touched or any(len(found) != 1 for _, found in touched):
        return None
    return {(output, next(iter(found))) for output, found in touched}


def _differences(runs: Runs, axis: Axis, place: int, tensors: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
    """Where the outputs change with one slice of an input; a slice that changes nothing is drawn again."""
    number, dim = axis
    differs: list[Tensor] = []
    for attempt in range(_ATTEMPTS):
        changed = [one.clone() for one in tensors]
        fresh = drawn(runs.inputs[number], style=2 * attempt).select(dim, place)
        changed[number].select(dim, place).copy_(fresh)
        differs = [~_equal(before, after) for before, after in zip(outputs, runs.outputs(changed), strict=True)]
        if any(one.any() for one in differs):
            break
    return differs


def _choices(size: int, *, all_pairs: bool) -> Iterator[Tensor]:
    """Kept slices: for any two slices a choice that keeps the first without the second, and the extremes."""
    places = torch.arange(size)
    for bit in range(max(1, (size - 1).bit_length()) if all_pairs else 0):
        for one in (places >> bit & 1, 1 - (places >> bit & 1)):
            if one.any():
                yield one.nonzero().flatten()
    yield places[:1]
    yield places[1:]


def _cut(tensors: Sequence[Tensor], axes: Sequence[Axis], keep: Tensor) -> list[Tensor]:
    result = list(tensors)
    for number, dim in axes:
        result[number] = result[number].index_select(dim, keep)
    return result


def _only(differs: Tensor, dim: int, place: int) -> bool:
    """Whether slice ``place`` along an axis is the only one with a difference."""
    found = differs.movedim(dim, 0).flatten(1).any(1).nonzero().flatten()
    return found.tolist() == [place]


def _equal(one: Tensor, other: Tensor) -> Tensor:
    same = one == other
    return same | (one.isnan() & other.isnan()) if one.is_floating_point() or one.is_complex() else same
