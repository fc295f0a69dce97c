"""What a kept mask does to a real tensor: zero its removed positions, cut them out, put them back as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxprune_passes.axes import Axes, Term
from fxprune_passes.digits import resized
from fxprune_passes.kept import Kept


def mask_at(kept: Kept, axis: Term, size: int) -> Tensor | None:
    """The kept mask of an axis in a call in which it has ``size`` positions.

    Returns:
        A bool tensor ``(size,)``, or None if every position is kept or no batch explains the size.
    """
    (places,) = places_at(kept, (axis,), (size,))
    return None if places is None else places >= 0


def places_at(kept: Kept, axes: Axes, shape: Sequence[int]) -> list[Tensor | None]:
    """Where the positions of a tensor of this shape come to be: see :meth:`Kept.places`; None for whole axes."""
    if not kept.changes(axes):
        return [None] * len(axes)
    terms = [resized(axis, size) for axis, size in zip(axes, shape, strict=True)]
    found = kept.places(tuple(axis if term is None else term for axis, term in zip(axes, terms, strict=True)))
    return [None if term is None else one for term, one in zip(terms, found, strict=True)]


def zero_removed(tensor: Tensor, axes: Axes, kept: Kept) -> Tensor:
    """Set the removed positions to zero, in place so that views stay views.

    An expanded tensor holds one number in several places and cannot be written to: it is copied.
    """
    for places in places_at(kept, axes, tensor.shape):
        if places is not None:
            removed = places.to(tensor.device) < 0
            expanded = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
            tensor = tensor.masked_fill(removed, 0) if expanded else tensor.masked_fill_(removed, 0)
    return tensor


def cut(tensor: Tensor, axes: Axes, kept: Kept) -> Tensor:
    """A copy of the kept positions, in order.

    Raises:
        LookupError: What is kept differs from block to block, and no axis says which block it is.
    """
    result = tensor
    for dim, order in enumerate(_orders(places_at(kept, axes, tensor.shape))):
        if order is not None:
            result = _picked(result, dim, order.to(tensor.device))
    return result.clone() if result is tensor else result


def put_back(part: Tensor, axes: Axes, kept: Kept) -> Tensor:
    """The tensor that :func:`cut` gives ``part`` of, with zeros in the removed places."""
    shape = [size * axis.size // max(kept.size(axis), 1) for axis, size in zip(axes, part.shape, strict=True)]
    for dim, order in reversed(list(enumerate(_orders(places_at(kept, axes, shape))))):
        if order is not None:
            order = order.to(part.device)
            whole = part.new_zeros(*part.shape[:dim], shape[dim], *part.shape[dim + 1 :])
            sizes = [part.shape[other] if other != dim else order.shape[dim] for other in range(part.ndim)]
            part = whole.scatter_(dim, order.expand(sizes), part)
    return part


def _orders(places: list[Tensor | None]) -> list[Tensor | None]:
    """The positions along each axis that are kept, in order, of a tensor whose axes before it were cut."""
    result: list[Tensor | None] = []
    for dim, place in enumerate(places):
        if place is None:
            result.append(None)
            continue
        count = int((place >= 0).sum(dim).flatten()[0])
        order = torch.where(place < 0, place.shape[dim], place).argsort(dim=dim, stable=True).narrow(dim, 0, count)
        for other in range(dim + 1, len(places)):
            if (one := places[other]) is not None and one.shape[dim] > 1:
                places[other] = _picked(one, dim, order)
        result.append(order)
    return result


def _picked(tensor: Tensor, dim: int, order: Tensor) -> Tensor:
    """The positions of an axis that are picked, at each place along the others."""
    if order.numel() == order.shape[dim]:
        return tensor.index_select(dim, order.flatten())
    return torch.take_along_dim(tensor, order, dim)
