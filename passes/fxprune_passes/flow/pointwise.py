"""Surrogates of ops that take element by element, of norms, and of ops that make tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fxprune_passes.flow.surrogates import Flow, Ref, Run, along, spread, surrogate
from fxprune_passes.flow.values import asked, ones, zeros


def each(run: Run) -> Flow:
    """Every element of every output depends on the elements in its place."""

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        return [spread(one.shape, s) for one in run.outputs]

    return Flow(linear)


@surrogate("mul")
def multiply(run: Run) -> Flow:
    """A factor that is zero hides the other one."""
    a, b, *_ = run.args
    if not isinstance(b, Ref):
        return Flow(lambda s: [s[a.at] * float(b != 0)])
    if not isinstance(a, Ref):
        return Flow(lambda s: [s[b.at] * float(a != 0)])

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        pairs = [(s[one.at], other.value) for one, other in ((a, b), (b, a)) if asked(s[one.at])]
        return [spread(run.shape, (one * other.nonzero() for one, other in pairs))]

    return Flow(linear)


@surrogate("copy_", sized=True)
def copied(run: Run) -> Flow:
    """What is written over does not matter."""
    source = run.args[1]
    return Flow(lambda s: [s[source.at].expand(run.shape)])


@surrogate("zero_", "zeros", "ones", "zeros_like", "ones_like", "new_zeros", "new_ones", sized=True)
def blank(run: Run) -> Flow:
    """Zeros or ones, whatever was there."""
    return Flow(lambda s: [zeros(run.shape)])


@surrogate("full", "full_like", "new_full", "scalar_tensor", "fill_")
def filled(run: Run) -> Flow:
    """A constant, whatever was there; a value that is a tensor fills it."""
    values = [one for one in run.args[1:] if isinstance(one, Ref)]
    return Flow(lambda s: [spread(run.shape, (s[one.at] for one in values))])


@surrogate("arange", "linspace", "eye")
def counted(run: Run) -> Flow:
    """Numbers that count."""
    return Flow(lambda s: [zeros(run.shape)])


@surrogate("_to_copy", "clone", "detach", "alias", "lift_fresh", "lift_fresh_copy", "contiguous", "positive",
           sized=True)  # fmt: skip
def same(run: Run) -> Flow:
    """The same elements, in another dtype perhaps."""
    return Flow(lambda s: [s[run.args[0].at].expand(run.shape)])


@surrogate("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "batch_norm")
def batch_norm(run: Run) -> Flow:
    """Channel by channel; in training over all of a channel, whose statistics are no constants."""
    x, weight, _, *rest = run.args
    tensors = [one for one in run.args if isinstance(one, Ref)]
    flags = [one for one in rest if isinstance(one, bool)]
    training = bool(flags and flags[0])
    keeps = any(isinstance(one, Ref) for one in rest)
    others = [dim for dim in range(x.ndim) if dim != 1]
    scale = along(weight.value.nonzero(), 1, x.ndim) if isinstance(weight, Ref) else ones(())
    nonzero = ones(run.shape)

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        source = s[x.at].mean(others, keepdim=True) if training else s[x.at]
        vectors = [along(s[one.at], 1, x.ndim) for one in tensors if one is not x]
        return [spread(run.shape, (source * scale, *vectors)), *(zeros(one.shape) for one in run.outputs[1:])]

    uneven = ones(()) if keeps else x.value.uneven(others) * scale
    rest_unknown = [ones(one.shape) for one in run.outputs[1:]]
    return Flow(linear, [nonzero * uneven if training else None, *rest_unknown])


@surrogate("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(run: Run) -> Flow:
    """Every element depends on all that are normalised with it, unless its scale is zero."""
    x, shape, *vectors = run.args
    tensors = [one for one in vectors if isinstance(one, Ref)]
    dims = list(range(x.ndim - len(shape), x.ndim))
    scale = vectors[0].value.nonzero() if vectors and isinstance(vectors[0], Ref) else ones(())

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        source = s[x.at].mean(dims, keepdim=True) * scale
        first = spread(run.shape, (source, *(s[one.at] for one in tensors)))
        return [first, *(zeros(one.shape) for one in run.outputs[1:])]

    return Flow(linear, [None, *(ones(one.shape) for one in run.outputs[1:])])


@surrogate("native_group_norm")
def group_norm(run: Run) -> Flow:
    """Every element depends on its block of channels, unless its scale is zero; constants other than zero do too."""
    x, weight, bias, batch, _, _, groups, _ = run.args
    vectors = [one for one in (weight, bias) if isinstance(one, Ref)]
    scale = along(weight.value.nonzero(), 1, x.ndim) if isinstance(weight, Ref) else ones(())

    def blocks(one: Tensor) -> Tensor:
        inner = one.reshape(batch, groups, -1)
        return inner.mean(2, keepdim=True).expand(inner.shape).reshape(one.shape) * scale

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        first = spread(run.shape, (blocks(s[x.at]), *(along(s[one.at], 1, x.ndim) for one in vectors)))
        return [first, *(zeros(one.shape) for one in run.outputs[1:])]

    rest = [ones(one.shape) for one in run.outputs[1:]]
    return Flow(linear, [blocks(x.value.known_nonzero()), *rest])


@surrogate("_softmax", "_log_softmax", "_safe_softmax")
def softmax(run: Run) -> Flow:
    """Every element depends on all along the axis."""
    x, dim = run.args[0], run.args[1]
    return Flow(lambda s: [s[x.at].mean(dim, keepdim=True).expand(run.shape)], [ones(run.shape)])


@surrogate("native_dropout")
def dropout(run: Run) -> Flow:
    """Zero stays zero; any other constant is drawn or not."""
    x, _, train = run.args
    extra = x.value.known_nonzero() if train else None
    return Flow(lambda s: [s[x.at].expand(one.shape) for one in run.outputs], [extra, ones(run.shape)])
