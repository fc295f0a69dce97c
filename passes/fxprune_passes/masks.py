"""What a kept mask does to a real tensor: zero its removed positions, cut them out, put them back as zeros."""

from __future__ import annotations

import math

import torch

from fxprune_passes.axes import Axes, Prod, Term, resolve
from fxprune_passes.kept import Kept


def mask_at(kept: Kept, axis: Term, size: int) -> torch.Tensor | None:
    """The kept mask of an axis in a call in which it has ``size`` positions.

    A batch factor may differ from the example's (``flatten(0, 1)`` of (N, C, ..)); a batch of 1 is no factor at all,
    and is taken to be the outermost.

    Returns:
        A bool tensor ``(size,)``, or None if every position is kept or no batch explains the size.
    """
    mask = kept.mask(axis)
    if mask is None or len(mask) == size:
        return mask
    term = resolve(axis)
    factors = term.factors if isinstance(term, Prod) else (term,)
    masks = [kept.mask(factor) for factor in factors]
    batch = next((i for i, one in enumerate(factors) if masks[i] is None and kept.is_dynamic(one)), None)
    whole = [_whole(one.size) if mask is None else mask for one, mask in zip(factors, masks, strict=True)]
    parts = [one for i, one in enumerate(whole) if i != batch]
    rest = math.prod(map(len, parts))
    if size % rest:
        return None
    parts.insert(batch or 0, _whole(size // rest))
    result = parts[0]
    for part in parts[1:]:
        result = (result[:, None] & part).flatten()
    return result


def zero_removed(tensor: torch.Tensor, axes: Axes, kept: Kept) -> torch.Tensor:
    """Set the removed positions to zero, in place so that views stay views.

    An expanded tensor holds one number in several places and cannot be written to: it is copied.
    """
    for dim, axis in enumerate(axes):
        mask = mask_at(kept, axis, tensor.shape[dim])
        if mask is not None:
            removed = ~mask.to(tensor.device).view(-1, *(1 for _ in range(tensor.ndim - 1 - dim)))
            expanded = any(stride == 0 and size > 1 for stride, size in zip(tensor.stride(), tensor.shape, strict=True))
            tensor = tensor.masked_fill(removed, 0) if expanded else tensor.masked_fill_(removed, 0)
    return tensor


def cut(tensor: torch.Tensor, axes: Axes, kept: Kept) -> torch.Tensor:
    """A copy of the kept positions."""
    result = tensor
    for dim, axis in enumerate(axes):
        mask = mask_at(kept, axis, tensor.shape[dim])
        if mask is not None:
            result = result.index_select(dim, mask.nonzero().flatten().to(tensor.device))
    return result.clone() if result is tensor else result


def put_back(part: torch.Tensor, axes: Axes, kept: Kept) -> torch.Tensor:
    """The tensor that :func:`cut` gives ``part`` of, with zeros in the removed places."""
    for dim, axis in enumerate(axes):
        example = kept.mask(axis)
        if example is not None:
            size = part.shape[dim] * len(example) // int(example.sum())
            mask = mask_at(kept, axis, size)
            assert mask is not None
            whole = part.new_zeros(*part.shape[:dim], size, *part.shape[dim + 1 :])
            part = whole.index_copy_(dim, mask.nonzero().flatten().to(part.device), part)
    return part


def _whole(size: int) -> torch.Tensor:
    return torch.ones(size, dtype=torch.bool)
