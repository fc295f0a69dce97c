"""Sums of products: matrix products, convolutions and attention. What is summed over is equal on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from fxprune_passes.axes import Axes, Term, prod
from fxprune_passes.rules.registry import Op, Result, optional, rule

aten = torch.ops.aten


@rule(aten.mm)
def mm(op: Op, a: Axes, b: Axes) -> Axes:
    """(M, K), (K, N) -> (M, N)."""
    op.contract(a, 1, b, 0)
    return (a[0], b[1])


@rule(aten.bmm)
def bmm(op: Op, a: Axes, b: Axes) -> Axes:
    """(B, M, K), (B, K, N) -> (B, M, N)."""
    op.contract(a, 2, b, 1)
    return (op.equal(a[0], b[0]), a[1], b[2])


@rule(aten.mv)
def mv(op: Op, a: Axes, b: Axes) -> Axes:
    """(M, K), (K,) -> (M,)."""
    op.contract(a, 1, b, 0)
    return (a[0],)


@rule(aten.dot)
def dot(op: Op, a: Axes, b: Axes) -> Result:
    """(K,), (K,) -> ()."""
    op.contract(a, 0, b, 0)
    return ()


@rule(aten.addmm, aten.baddbmm, aten.addmv, aten.addmm_, aten.baddbmm_)
def addmm(op: Op, bias: Axes, a: Axes, b: Axes, **kwargs: Any) -> Result:
    """(N,) or (M, N), (M, K), (K, N) -> (M, N); a batch axis in front for baddbmm."""
    result: Any = {1: mv, 2: mm, 3: bmm}[len(op.shape)](op, a, b)
    return _broadcast(op, bias, result)


@rule(aten.linear)
def linear(op: Op, x: Axes, weight: Axes, bias: Axes | None = None) -> Result:
    """(.., I), (O, I), (O,) -> (.., O)."""
    op.contract(x, -1, weight, 1)
    return _broadcast(op, bias, (*x[:-1], weight[0]))


@rule(aten._cdist_forward)
def distance(op: Op, a: Axes, b: Axes, p: float, mode: int | None) -> Result:
    """(.., A, K), (.., B, K) -> (.., A, B): a channel that is gone on both sides adds nothing to a distance."""
    if p == 0:
        raise ValueError("a distance that counts")
    op.contract(a, -1, b, -1)
    op.equal_all(a[:-2], b[:-2])
    return (*a[:-1], b[-2])


def _broadcast(op: Op, bias: Axes | None, result: Axes) -> Axes:
    for dim in range(1, len(bias or ()) + 1):
        assert bias is not None
        if bias[-dim].size == result[-dim].size:
            op.equal(result[-dim], bias[-dim])
    return result


@rule(aten.convolution, *optional("convolution_overrideable"))
def convolution(
    op: Op,
    x: Axes,
    weight: Axes,
    bias: Axes | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Result:
    """(N, I, ..), (O, I/groups, k..) -> (N, O, ..); transposed weights are (I, O/groups, k..)."""
    spatial = len(weight) - 2
    op.freeze(x[-spatial:], "spatial axis")
    op.freeze(weight[2:], "kernel size")
    if groups == 1:
        op.contract(x, -spatial - 1, weight, 0 if transposed else 1)
        writes = weight[1 if transposed else 0]
    else:
        writes = _grouped(op, x[-spatial - 1], weight, groups, transposed=transposed)
    if bias is not None:
        op.equal(writes, bias[0])
    return (*x[: -spatial - 1], writes, *op.spatial(op.shape[-spatial:]))


def _grouped(op: Op, channels: Term, weight: Axes, groups: int, *, transposed: bool) -> Term:
    """Input = Prod(groups, I/groups), output = Prod(groups, O/groups); returns the output's channels."""
    long, short = weight[0], weight[1]  # the first axis carries the groups, the second the width of one
    whole, _ = op.equations.factor(long, (groups, long.size // groups))
    if id(weight) in op.weights:
        op.contracted.append(long if transposed else short)
    if transposed:
        op.equal(channels, long)
        return prod((whole, short))
    op.equal(channels, prod((whole, short)))
    return long


@rule(
    *optional("_scaled_dot_product_flash_attention_for_cpu"),
    *optional("_scaled_dot_product_flash_attention"),
    *optional("_scaled_dot_product_efficient_attention"),
    *optional("_scaled_dot_product_cudnn_attention"),
    *optional("_scaled_dot_product_fused_attention_overrideable"),
    *optional("_scaled_dot_product_attention_math_for_mps"),
)
def attention(op: Op, query: Axes, key: Axes, value: Axes, *args: Any, **kwargs: Any) -> Result:
    """(N, H, L, E), (N, H, S, E), (N, H, S, D) -> (N, H, L, D), and (N, H, L) where sums are given."""
    op.equal(query[0], key[0])
    op.equal(query[0], value[0])
    op.equal(key[1], value[1])
    op.equal(query[1], _shared_heads(op, key[1], query[1].size))
    op.contract(query, 3, key, 3)
    op.freeze((query[2], key[2], value[2]), "sequence axis of attention")
    masks = [one for one in (*args, *kwargs.values()) if isinstance(one, tuple)]
    for mask in masks:
        for number, axis in enumerate(reversed(mask)):
            like = (key[2], query[2], query[1], query[0])[number]
            if axis.size == like.size:
                op.equal(axis, like)
    logarithms = [query[:3] for shape in op.shapes[1:2] if shape == tuple(axis.size for axis in query[:3])]
    return [(*query[:3], value[3]), *logarithms]


def _shared_heads(op: Op, heads: Term, count: int) -> Term:
    """Grouped-query attention: every key head serves several query heads in a row."""
    return heads if heads.size == count else prod((heads, op.fixed(count // heads.size, "queries of one key head")))


@rule(*optional("_grouped_mm"))
def grouped_mm(op: Op, x: Axes, w: Axes, offsets: Axes | None = None, bias: Axes | None = None, *args: Any) -> Axes:
    """(M, K), (G, K, N), (G,) -> (M, N): the rows up to each offset go to one matrix (experts)."""
    if (len(x), len(w)) != (2, 3) or offsets is None or bias is not None:
        raise ValueError("a grouped product of other shapes")
    op.contract(x, 1, w, 1)
    op.freeze((x[0], w[0], *offsets), "rows go to matrices by place")
    return (x[0], w[2])


@rule(aten._trilinear)
def trilinear(
    op: Op, a: Axes, b: Axes, c: Axes, expand_a: list[int], expand_b: list[int], expand_c: list[int], sumdim: list[int],
    *args: Any,
) -> Result:  # fmt: skip
    """(N, I), (O, I, J), (N, J) -> (N, O): a product of three, broadcast to one space and summed over ``sumdim``."""
    rank = len(a) + len(expand_a)
    like: list[Term | None] = [None] * rank
    for axes, expand in ((a, expand_a), (b, expand_b), (c, expand_c)):
        present = [dim for dim in range(rank) if dim not in expand]
        for number, dim in enumerate(present):
            known = like[dim]
            like[dim] = axes[number] if known is None else op.equal(known, axes[number])
            if dim in sumdim and id(axes) in op.weights:
                op.contracted.append(axes[number])
    return tuple(axis for dim, axis in enumerate(like) if dim not in sumdim and axis is not None)
