"""Reshapes and permutations: which axes a view merges, cuts and moves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes, Term, prod
from fxprune_passes.rules.pointwise import replace
from fxprune_passes.rules.registry import Op, Result, optional, rule

aten = torch.ops.aten


@rule(aten.view.default, aten._unsafe_view)
def view(op: Op, x: Axes, *args: Any) -> Result:
    """(A, B*C, D, ..) -> (A*B, C, D, ..): pair the smallest runs of axes with equal products."""
    result: list[Term] = []
    if 0 in op.shape:
        op.freeze(x, "reshape of an empty tensor")
        return tuple(op.fixed(size, "empty") for size in op.shape)
    for old, sizes in _runs(x, op.shape):
        result += _reshape_run(op, old, sizes)
    return tuple(result)


def _runs(x: Axes, shape: Sequence[int]) -> list[tuple[list[Term], list[int]]]:
    """Cut both shapes into the shortest runs whose products agree."""
    runs: list[tuple[list[Term], list[int]]] = []
    old, new = list(x), list(shape)
    while old or new:
        left, right = [old.pop(0)] if old else [], [new.pop(0)] if new else []
        while (size := math.prod(axis.size for axis in left)) != (target := math.prod(right)):
            if size < target:
                left.append(old.pop(0))
            else:
                right.append(new.pop(0))
        runs.append((left, right))
    return runs


def _reshape_run(op: Op, old: list[Term], sizes: list[int]) -> list[Term]:
    if not sizes:
        return []
    if len(old) == 1 and len(sizes) == 1:
        return old
    whole = prod(old) if old else op.fixed(1, "axis of width 1")
    if len(sizes) == 1:
        return [whole]
    return op.equations.factor(whole, sizes)


@rule(aten.unsqueeze, aten.unsqueeze_)
def unsqueeze(op: Op, x: Axes, dim: int) -> Result:
    """(A, B) -> (A, 1, B)."""
    dim %= len(x) + 1
    return (*x[:dim], op.fixed(1, "axis of width 1"), *x[dim:])


@rule(aten.squeeze, aten.squeeze_)
def squeeze(op: Op, x: Axes, dim: int | Sequence[int] | None = None) -> Result:
    """(A, 1, B) -> (A, B)."""
    dims = range(len(x)) if dim is None else [dim] if isinstance(dim, int) else dim
    gone = {d % len(x) for d in dims if x[d].size == 1} if x else set()
    return tuple(axis for number, axis in enumerate(x) if number not in gone)


@rule(aten.permute)
def permute(op: Op, x: Axes, dims: Sequence[int]) -> Result:
    """(A, B, C) -> the same, in another order."""
    return tuple(x[dim] for dim in dims)


@rule(aten.transpose, aten.transpose_)
def transpose(op: Op, x: Axes, dim0: int, dim1: int) -> Result:
    """(A, B) -> (B, A)."""
    axes = list(x)
    axes[dim0], axes[dim1] = axes[dim1], axes[dim0]
    return tuple(axes)


@rule(aten.t, aten.t_)
def t(op: Op, x: Axes) -> Result:
    """(A, B) -> (B, A)."""
    return tuple(reversed(x))


@rule(aten.expand)
def expand(op: Op, x: Axes, size: Sequence[int], *, implicit: bool = False) -> Result:
    """(1, C) -> (A, n, C): axes that repeat one value are free."""
    new = len(op.shape) - len(x)
    return tuple(
        x[number - new] if number >= new and x[number - new].size == length else op.dim(length)
        for number, length in enumerate(op.shape)
    )


@rule(aten.repeat)
def repeat(op: Op, x: Axes, repeats: Sequence[int]) -> Result:
    """(C,) -> (r * C,): r whole copies, one after the other."""
    padded = (*(op.fixed(1, "axis of width 1") for _ in range(len(repeats) - len(x))), *x)
    return tuple(
        op.dim(count) if axis.size == 1 else prod((op.fixed(count, "number of repeats"), axis))
        for axis, count in zip(padded, repeats, strict=True)
    )


@rule(aten.view_as_real)
def view_as_real(op: Op, x: Axes) -> Result:
    """(..) complex -> (.., 2)."""
    return (*x, op.fixed(2, "real and imaginary part"))


@rule(aten.view_as_complex)
def view_as_complex(op: Op, x: Axes) -> Result:
    """(.., 2) -> (..) complex."""
    op.freeze(x[-1:], "real and imaginary part")
    return x[:-1]


@rule(aten.as_strided, aten.as_strided_)
def restride(op: Op, x: Axes, size: Sequence[int], stride: Sequence[int], *args: Any) -> Result:
    """(N, C, 1, 1) -> the same: how pooling to one pixel marks its memory format; any other use freezes."""
    if (
        list(op.shape) != [axis.size for axis in x]
        or list(op.shape[2:]) != [1, 1]
        or list(stride[:2]) != [op.shape[1], 1]
        or any(args)
    ):
        raise ValueError("strides that move data")
    return x


@rule(aten.pixel_shuffle)
def pixel_shuffle(op: Op, x: Axes, upscale_factor: int) -> Result:
    """(.., C*r*r, H, W) -> (.., C, H*r, W*r)."""
    channels, *pixels = op.equations.factor(x[-3], (op.shape[-3], upscale_factor, upscale_factor))
    op.freeze((*pixels, *x[-2:]), "pixels of a window")
    return (*x[:-3], channels, *op.spatial(op.shape[-2:]))


@rule(aten.pixel_unshuffle)
def pixel_unshuffle(op: Op, x: Axes, downscale_factor: int) -> Result:
    """(.., C, H*r, W*r) -> (.., C*r*r, H, W)."""
    window = op.fixed(downscale_factor**2, "pixels of a window")
    op.freeze(x[-2:], "spatial axis")
    return (*x[:-3], prod((x[-3], window)), *op.spatial(op.shape[-2:]))


@rule(aten.channel_shuffle, *optional("native_channel_shuffle"))
def channel_shuffle(op: Op, x: Axes, groups: int) -> Result:
    """(N, g*C, ..) -> (N, C*g, ..)."""
    outer, inner = op.equations.factor(x[1], (groups, x[1].size // groups))
    return replace(x, 1, prod((inner, outer)))


@rule(aten.im2col)
def im2col(op: Op, x: Axes, kernel_size: Sequence[int], *args: Any) -> Result:
    """(N, C, H, W) -> (N, C*kH*kW, L)."""
    op.freeze(x[-2:], "spatial axis")
    window = op.fixed(math.prod(kernel_size), "pixels of a window")
    return (*x[:-3], prod((x[-3], window)), *op.spatial(op.shape[-1:]))


@rule(aten.col2im)
def col2im(op: Op, x: Axes, output_size: Sequence[int], kernel_size: Sequence[int], *args: Any) -> Result:
    """(N, C*kH*kW, L) -> (N, C, H, W)."""
    channels = op.equations.factor(x[-2], (op.shape[-3], math.prod(kernel_size)))
    op.freeze((x[-1], channels[1]), "spatial axis")
    return (*x[:-2], channels[0], *op.spatial(op.shape[-2:]))
