"""Find out by running an op which axes it carries along: data movement, and axes whose slices it treats alike.

Two tests on real tensors, in float64 where the op takes it:

- *Alike*: an axis of an input and one of the output go together if a changed slice of the one changes that slice of the
  other alone, and if the op on kept slices is the kept slices of the op. The choices of slices are the binary digits of
  the slice numbers and their opposites: for any two slices, one choice keeps the first without the second, so that what
  one slice of the output is cannot depend on another slice of the input, nor on how many there are.
- *Moved*: unique numbers go in, and every number that comes out is one of them, at a place that factorises into one
  index vector per axis.

Nothing is concluded from an op that draws random numbers, changes its inputs, is large or slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Run = Callable[[list[Tensor]], list[Tensor]]
Axis = tuple[int, int]  # number of a tensor, and of one of its axes

_SECONDS = 0.5  # of one run
_ATTEMPTS = 4  # at a slice that changes something
_ELEMENTS = 1 << 21  # of all tensors of one run
_WORK = 1 << 26  # of all runs together
_TOLERANCE = {torch.float64: 1e-9, torch.complex128: 1e-9}
_WIDE = {
    torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Like:
    """A tensor to make up.

    Attributes:
        shape: Its shape.
        dtype: Its dtype, widened where the op takes that.
        values: Its values where they are known and matter (an index vector).
        whole: Axes that stay whole in any case, for which fewer choices of slices are tried.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Tensor | None = None
    whole: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Alike:
    """Axes of inputs and outputs that keep the same positions."""

    inputs: tuple[Axis, ...]
    outputs: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class Moved:
    """The only output is an input whose axes change places, and whose positions along them are picked.

    Attributes:
        source: Number of the input.
        order: For every axis of the output the axis of the input.
        index: For every axis of the output the positions that it picks.
    """

    source: int
    order: tuple[int, ...]
    index: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What running an op showed."""

    alike: tuple[Alike, ...]
    moved: Moved | None


def probe(run: Run, inputs: Sequence[Like], shapes: Sequence[tuple[int, ...]], *, seed: int = 0) -> Found | None:
    """Run an op on made-up tensors.

    Args:
        run: The op on a list of tensors.
        inputs: What to make up.
        shapes: The shapes of its outputs.
        seed: Of the made-up numbers; the random state of PyTorch is left as it is.

    Returns:
        Which axes go together, or None if nothing can be concluded.
    """
    elements = sum(torch.Size(shape).numel() for shape in (*shapes, *(one.shape for one in inputs)))
    if elements > _ELEMENTS or not all(0 not in one.shape for one in inputs):
        return None
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for widen in (True, False):
            prober = _Prober(run, [_wide(one) if widen else one for one in inputs], list(shapes), elements)
            try:
                return prober.found()
            except _Stop:
                return None
            except Exception:  # an op may fail in any way on tensors that nobody meant for it
                continue
    return None


class _Stop(Exception):
    """Nothing can be concluded."""


def _wide(like: Like) -> Like:
    return replace(like, dtype=_WIDE.get(like.dtype, like.dtype))


@dataclass(slots=True)
class _Prober:
    """One op on one set of made-up tensors."""

    run: Run
    inputs: list[Like]
    shapes: list[tuple[int, ...]]
    elements: int
    work: int = 0

    def found(self) -> Found:
        tensors = [_drawn(one) for one in self.inputs]
        start = time.perf_counter()
        outputs = self.outputs(tensors)
        if time.perf_counter() - start > _SECONDS:
            raise _Stop
        if [tuple(one.shape) for one in outputs] != self.shapes or not _same(
            self.outputs(tensors), outputs, exact=True
        ):
            raise _Stop
        alike = tuple(one for one in self._classes(tensors, outputs) if self._commutes(one))
        return Found(alike, self._moved())

    def outputs(self, tensors: list[Tensor]) -> list[Tensor]:
        """Run the op; it must leave its inputs as they are."""
        self.work += self.elements
        if self.work > _WORK:
            raise _Stop
        given = [one.clone() for one in tensors]
        result = [one.clone() for one in self.run(given)]
        if not _same(given, tensors, exact=True):
            raise _Stop
        return result

    def _axes(self) -> Iterator[Axis]:
        """Axes of inputs that may lose slices."""
        for number, like in enumerate(self.inputs):
            if like.values is None:
                yield from ((number, dim) for dim, size in enumerate(like.shape) if size > 1)

    def _classes(self, tensors: list[Tensor], outputs: list[Tensor]) -> list[Alike]:
        """Axes that a changed slice links; each output has at most one of them."""
        classes: list[tuple[set[Axis], set[Axis]]] = []
        for axis in self._axes():
            linked = self._linked(axis, tensors, outputs)
            if linked is None:
                continue
            touching = [one for one in classes if one[1] & linked]
            classes = [one for one in classes if one not in touching]
            classes.append(({axis}.union(*(one[0] for one in touching)), linked.union(*(one[1] for one in touching))))
        result = [Alike(tuple(sorted(one)), tuple(sorted(other))) for one, other in classes]
        return [one for one in result if len({number for number, _ in one.outputs}) == len(one.outputs)]

    def _linked(self, axis: Axis, tensors: list[Tensor], outputs: list[Tensor]) -> set[Axis] | None:
        """The output axes whose slice i alone changes with slice i of an input; None where other slices change too."""
        number, dim = axis
        size = self.inputs[number].shape[dim]
        candidates: list[set[int] | None] = [None] * len(outputs)
        for place in {0, size // 2, size - 1}:
            for output, differs in enumerate(self._differences(axis, place, tensors, outputs)):
                if differs.any():
                    here = {b for b, length in enumerate(differs.shape) if length == size and _only(differs, b, place)}
                    known = candidates[output]
                    candidates[output] = here if known is None else known & here
        touched = [(output, found) for output, found in enumerate(candidates) if found is not None]
        if not touched or any(len(found) != 1 for _, found in touched):
            return None
        return {(output, next(iter(found))) for output, found in touched}

    def _differences(self, axis: Axis, place: int, tensors: list[Tensor], outputs: list[Tensor]) -> list[Tensor]:
        """Where the outputs change with one slice of an input; a slice that changes nothing is drawn again."""
        number, dim = axis
        differs: list[Tensor] = []
        for attempt in range(_ATTEMPTS):
            changed = [one.clone() for one in tensors]
            fresh = _drawn(self.inputs[number], style=2 * attempt).select(dim, place)
            changed[number].select(dim, place).copy_(fresh)
            differs = [~_equal(before, after) for before, after in zip(outputs, self.outputs(changed), strict=True)]
            if any(one.any() for one in differs):
                break
        return differs

    def _commutes(self, alike: Alike) -> bool:
        """Whether the op on kept slices is the kept slices of the op."""
        number, dim = alike.inputs[0]
        free = any(dim not in self.inputs[number].whole for number, dim in alike.inputs)
        for round_, keep in enumerate(_choices(self.inputs[number].shape[dim], all_pairs=free)):
            tensors = [_drawn(one, style=round_) for one in self.inputs]
            want = _cut(self.outputs(tensors), alike.outputs, keep)
            try:
                got = self.outputs(_cut(tensors, alike.inputs, keep))
            except _Stop:
                raise
            except Exception:  # a size that the op does not take
                return False
            if not _same(got, want):
                return False
        return True

    def _moved(self) -> Moved | None:
        """Where every element of the only output comes from."""
        numbers = [i for i, one in enumerate(self.inputs) if one.values is None and one.dtype != torch.bool]
        if len(self.shapes) != 1:
            return None
        for number in numbers:
            try:
                first, second = self._places(number), self._places(number)
            except _Stop:
                raise
            except Exception:  # values that the op does not take
                continue
            if first is not None and second is not None and torch.equal(first, second):
                moved = _factorised(number, first, self.inputs[number].shape)
                return moved if moved is not None and self._moves(moved) else None
        return None

    def _moves(self, moved: Moved) -> bool:
        """Whether the op is this movement on any numbers, and not on the unique ones alone."""
        for style in range(4):
            tensors = [_drawn(one, style=style) for one in self.inputs]
            want = tensors[moved.source].permute(moved.order)
            for dim, index in enumerate(moved.index):
                want = want.index_select(dim, torch.tensor(index))
            if not _same(self.outputs(tensors), [want], exact=True):
                return False
        return True

    def _places(self, number: int) -> Tensor | None:
        """For every element of the output its place in an input, or None if some element is none of its numbers."""
        like = self.inputs[number]
        order = torch.randperm(torch.Size(like.shape).numel())
        tensors = [_drawn(one) for one in self.inputs]
        tensors[number] = (order + 1).view(like.shape).to(like.dtype)
        if not torch.equal(tensors[number].long(), (order + 1).view(like.shape)):
            return None  # numbers that the dtype cannot tell apart
        (output,) = self.outputs(tensors)
        if output.is_complex() or not bool((output == output.long()).all()):
            return None
        values = output.long() - 1
        if not values.numel() or bool((values < 0).any()) or bool((values >= len(order)).any()):
            return None
        return order.argsort()[values]


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


def _drawn(like: Like, *, style: int = 0) -> Tensor:
    """Numbers of both signs around 1, or positive ones, or small or large ones."""
    if like.values is not None:
        return like.values.clone()
    if like.dtype.is_floating_point or like.dtype.is_complex:
        numbers = torch.rand(like.shape, dtype=torch.float64) + 0.1 if style % 2 else torch.randn(like.shape).double()
        return (numbers * (1, 1, 10, 0.1)[style % 4]).to(like.dtype)
    return torch.randint(2, like.shape).to(like.dtype)


def _only(differs: Tensor, dim: int, place: int) -> bool:
    """Whether slice ``place`` along an axis is the only one with a difference."""
    found = differs.movedim(dim, 0).flatten(1).any(1).nonzero().flatten()
    return found.tolist() == [place]


def _equal(one: Tensor, other: Tensor) -> Tensor:
    same = one == other
    return same | (one.isnan() & other.isnan()) if one.is_floating_point() or one.is_complex() else same


def _same(tensors: Sequence[Tensor], others: Sequence[Tensor], *, exact: bool = False) -> bool:
    """Whether two lists of tensors are equal, up to rounding unless told otherwise."""
    if [(one.shape, one.dtype) for one in tensors] != [(one.shape, one.dtype) for one in others]:
        return False
    for one, other in zip(tensors, others, strict=True):
        rounding = (
            0.0 if exact or not (one.is_floating_point() or one.is_complex()) else _TOLERANCE.get(one.dtype, 1e-4)
        )
        if not torch.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=one.is_floating_point()):
            return False
    return True


def _factorised(source: int, places: Tensor, shape: tuple[int, ...]) -> Moved | None:
    """Places in an input as one index vector per axis; None where they are not, or where an axis comes from none."""
    if len(shape) != places.ndim:
        return None
    order: list[int] = [-1] * places.ndim
    index: list[tuple[int, ...]] = [()] * places.ndim
    for dim, coordinate in enumerate(torch.unravel_index(places, shape)):
        varying = [b for b, size in enumerate(places.shape) if size > 1 and not _is_constant(coordinate, b)]
        if not varying and shape[dim] == 1:
            continue
        if len(varying) != 1 or order[varying[0]] >= 0:
            return None
        b = varying[0]
        order[b], index[b] = dim, tuple(coordinate.movedim(b, 0).flatten(1)[:, 0].tolist())
    rest = [dim for dim in range(len(shape)) if dim not in order]
    if any(order[b] < 0 and size > 1 for b, size in enumerate(places.shape)):
        return None
    for b, size in enumerate(places.shape):
        if order[b] < 0:
            order[b], index[b] = rest.pop(0), tuple(range(size))
    return Moved(source, tuple(order), tuple(index))


def _is_constant(coordinate: Tensor, dim: int) -> bool:
    return bool((coordinate == coordinate.narrow(dim, 0, 1)).all())


def tensors_of(value: Any) -> list[Tensor]:
    """What an op returns, as a list of tensors."""
    return [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, Tensor)]
