"""Surrogates of ops that move elements: the op itself, on what is asked about the elements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fxprune_passes.flow.surrogates import Flow, Ref, Run, sum_of, surrogate
from fxprune_passes.flow.values import ones


@surrogate("view", "_unsafe_view", "reshape", "_reshape_alias", sized=True)
def reshaped(run: Run) -> Flow:
    """The elements in another shape, whatever their strides are.

    Raises:
        ValueError: The memory is read as another dtype.
    """
    if run.func._overloadname == "dtype":
        raise ValueError("elements of other sizes")
    return Flow(lambda s: [s[run.args[0].at].reshape(run.shape)])


@surrogate("permute", "transpose", "t", "unsqueeze", "squeeze",
           "expand", "slice", "select", "narrow", "split", "split_with_sizes", "unsafe_split",
           "unsafe_split_with_sizes", "chunk", "unbind", "cat", "stack", "flip", "roll", "repeat", "movedim",
           "diagonal", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "unfold",
           "tril", "triu", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
           "replication_pad2d", "replication_pad3d", "repeat_interleave", sized=True)  # fmt: skip
def moved(run: Run) -> Flow:
    """The elements, in other places."""
    return Flow(lambda s: _call(run, run.args[0], s))


@surrogate("index_select", "index", "gather", sized=True)
def picked(run: Run) -> Flow:
    """The elements that indices pick; indices that come from the model's inputs may pick any."""
    indices = [one for one in tree_leaves(run.args[1:]) if isinstance(one, Ref)]
    known = all(one.value.known is not None and bool(one.value.known.all()) for one in indices)

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        (result,) = _call(run, run.args[0], s)
        return [result + sum_of(s[one.at].mean() for one in indices)]

    return Flow(linear, [None if known else ones(run.shape)])


@surrogate("constant_pad_nd")
def padded(run: Run) -> Flow:
    """Constants around the elements."""
    x, pad = run.args[0], run.args[1]
    return Flow(lambda s: [torch.constant_pad_nd(s[x.at], pad, 0.0)])


@surrogate("as_strided", sized=True)
def strided(run: Run) -> Flow:
    """Only where nothing is picked: the strides of a tensor of the same shape.

    Raises:
        ValueError: Elements are picked by their places in memory.
    """
    x = run.args[0]
    if tuple(x.value.shape) != tuple(run.shape):
        raise ValueError("elements by their places in memory")
    return Flow(lambda s: [s[x.at]])


@surrogate("embedding", sized=True)
def embedding(run: Run) -> Flow:
    """A row of the table; a column that holds one number gives that number, whatever is looked up."""
    table, indices = run.args[0], run.args[1]
    varies = table.value.uneven([0])

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        return [torch.embedding(s[table.at], indices.tensor) + s[indices.at].unsqueeze(-1) * varies[0]]

    known = indices.value.known is not None and bool(indices.value.known.all())
    return Flow(linear, [None if known else varies[0].expand(run.shape)])


def _call(run: Run, data: Any, s: Sequence[Tensor]) -> list[Tensor]:
    """The op on other elements in place of its data."""
    changes = run.func._schema.is_mutable  # the form that works in place would reshape what is asked
    moving = tree_map_only(Ref, lambda one: s[one.at].clone() if changes else s[one.at], data)
    rest = tree_map_only(Ref, lambda one: one.tensor, (run.args[1:], run.kwargs))
    out = run.func(moving, *rest[0], **rest[1])
    return list(out) if isinstance(out, (list, tuple)) else [out]
