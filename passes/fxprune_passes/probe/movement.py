"""Data movement: which element of an input each element of an output is, as running the op shows."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fxprune_passes.probe.runs import Runs, Stop, same


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


def movement(runs: Runs) -> Moved | None:
    """Where every element of the only output comes from."""
    numbers = [i for i, one in enumerate(runs.inputs) if one.values is None and one.dtype != torch.bool]
    if len(runs.shapes) != 1:
        return None
    for number in numbers:
        try:
            first, second = _places(runs, number), _places(runs, number)
        except Stop:
            raise
        except Exception:  # values that the op does not take
            continue
        if first is not None and second is not None and torch.equal(first, second):
            moved = _factorised(number, first, runs.inputs[number].shape)
            return moved if moved is not None and _moves(runs, moved) else None
    return None


def _moves(runs: Runs, moved: Moved) -> bool:
    """Whether the op is this movement on any numbers, and not on the unique ones alone."""
    for style in range(4):
        tensors = runs.drawn(style=style)
        want = tensors[moved.source].permute(moved.order)
        for dim, index in enumerate(moved.index):
            want = want.index_select(dim, torch.tensor(index))
        if not same(runs.outputs(tensors), [want], exact=True):
            return False
    return True


def _places(runs: Runs, number: int) -> Tensor | None:
    """For every element of the output its place in an input, or None if some element is none of its numbers."""
    like = runs.inputs[number]
    order = torch.randperm(torch.Size(like.shape).numel())
    tensors = runs.drawn()
    tensors[number] = (order + 1).view(like.shape).to(like.dtype)
    if not torch.equal(tensors[number].long(), (order + 1).view(like.shape)):
        return None  # numbers that the dtype cannot tell apart
    (output,) = runs.outputs(tensors)
    if output.is_complex() or not bool((output == output.long()).all()):
        return None
    values = output.long() - 1
    if not values.numel() or bool((values < 0).any()) or bool((values >= len(order)).any()):
        return None
    return order.argsort()[values]


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
