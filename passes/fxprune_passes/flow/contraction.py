"""Surrogates of sums of products: a product with a zero factor depends on nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fxprune_passes.flow.surrogates import Flow, Ref, Run, along, spread, sum_of, surrogate
from fxprune_passes.flow.values import asked, ones, zeros


@surrogate("mm", "bmm", "mv", "dot", "matmul", sized=True)
def product(run: Run) -> Flow:
    """(.., M, K), (.., K, N) -> (.., M, N)."""
    a, b = run.args
    return _product(run, a, b, torch.matmul)


@surrogate("linear", sized=True)
def linear_layer(run: Run) -> Flow:
    """(.., I), (O, I), (O,) -> (.., O)."""
    x, weight, *bias = run.args
    return _product(run, x, weight, F.linear, *bias)


@surrogate("addmm", "baddbmm", "addmv")
def product_and_sum(run: Run) -> Flow:
    """A product and what is added to it."""
    added, a, b = run.args
    return _product(run, a, b, torch.matmul, added)


def _product(run: Run, a: Ref, b: Ref, multiply: Callable[[Tensor, Tensor], Tensor], *added: Any) -> Flow:
    terms = [one for one in added if isinstance(one, Ref)]

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        parts = [s[one.at] for one in terms]
        if asked(s[a.at]):
            parts.append(multiply(s[a.at], b.value.nonzero()))
        if asked(s[b.at]):
            parts.append(multiply(a.value.nonzero(), s[b.at]))
        return [spread(run.shape, parts)]

    if a.value.static or b.value.static:
        return Flow(linear)
    # A sum over an axis that no parameter has may have more terms in the next call.
    return Flow(linear, [multiply(a.value.known_nonzero(), b.value.known_nonzero())])


@surrogate("convolution", sized=True)
def convolution(run: Run) -> Flow:
    """Channel by channel: every output may depend on every tap, at any size of the input.

    A constant at zero padding, or under a transposed kernel, does not give one number at every place.
    """
    x, weight, bias, stride, padding, _, transposed, output_padding, groups = run.args
    others = [dim for dim in range(x.ndim) if dim != 1]
    taps = list(range(2, x.ndim))
    bare = all(one == 0 for one in (*padding, *output_padding))
    if transposed:
        bare = bare and all(one == 1 for one in (*stride, *weight.value.shape[2:]))
    convolve = partial_convolution(x.ndim - 2, transposed=transposed, groups=groups)
    weights = weight.value.nonzero().amax(taps, keepdim=True)

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        parts = [along(s[bias.at], 1, x.ndim)] if isinstance(bias, Ref) else []
        if asked(s[x.at]):
            parts.append(convolve(s[x.at].mean(others, keepdim=True), weights))
        if asked(s[weight.at]):
            seen = x.value.nonzero().amax(others, keepdim=True)
            parts.append(convolve(seen, s[weight.at].mean(taps, keepdim=True)))
        return [spread(run.shape, parts)]

    loose = x.value.uneven(others)
    if not bare:
        loose = torch.maximum(loose, x.value.known_nonzero().amax(others, keepdim=True))
    return Flow(linear, [convolve(loose, weights).expand(run.shape)])


def partial_convolution(dims: int, *, transposed: bool, groups: int) -> Callable[[Tensor, Tensor], Tensor]:
    """A convolution of single points."""
    kind = (
        ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d") if transposed else ("conv1d", "conv2d", "conv3d")
    )
    function = getattr(F, kind[dims - 1])
    return lambda x, weight: function(x, weight, groups=groups)


@surrogate("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math")
def attention(run: Run) -> Flow:
    """(.., L, E), (.., S, E), (.., S, V) -> (.., L, V); a value that is the same for all keys comes out as it is.

    Raises:
        ValueError: Heads are shared, or dropped.
    """
    q, k, v, *rest = run.args
    if q.value.shape[:-2] != k.value.shape[:-2] or any(isinstance(one, float) and one for one in rest[:2]):
        raise ValueError("shared heads or dropout")
    masks = [one for one in (*rest, *run.kwargs.values()) if isinstance(one, Ref)]
    varies = v.value.uneven([v.ndim - 2])
    from_k, from_q = k.value.nonzero().amax(-2, keepdim=True), q.value.nonzero().amax(-2, keepdim=True)

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        scores = (s[q.at] * from_k).mean(-1, keepdim=True)
        scores = scores + (s[k.at] * from_q).mean((-1, -2), keepdim=True)
        scores = scores + sum_of(s[one.at].mean() for one in masks)
        first = spread(run.shape, (s[v.at].mean(-2, keepdim=True), scores * varies))
        return [first, *(zeros(one.shape) for one in run.outputs[1:])]

    rest_unknown = [ones(one.shape) for one in run.outputs[1:]]
    return Flow(linear, [varies.expand(run.shape), *rest_unknown])
