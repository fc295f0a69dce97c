"""Surrogates of ops that keep channels apart: pooling and resizing, and means and extremes along axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fxprune_passes.flow.surrogates import Flow, Run, surrogate
from fxprune_passes.flow.values import ones

_KINDS = (
    "max_pool{n}d_with_indices", "max_pool{n}d", "avg_pool{n}d", "_adaptive_avg_pool{n}d", "adaptive_avg_pool{n}d",
    "adaptive_max_pool{n}d", "upsample_nearest{n}d", "_upsample_nearest_exact{n}d", "upsample_linear1d",
    "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d", "_upsample_bilinear2d_aa",
    "_upsample_bicubic2d_aa",
)  # fmt: skip
_NAMES = {kind.format(n=n): n for kind in _KINDS for n in (1, 2, 3) if "{n}" in kind or str(n) in kind}


@surrogate(*_NAMES, sized=True)
def window(run: Run) -> Flow:
    """Channel by channel, over all places; a constant stays what it is, but for zeros that are averaged in."""
    x = run.args[0]
    name = run.func._schema.name.removeprefix("aten::")
    dims = list(range(x.ndim - _NAMES[name], x.ndim))

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        return [s[x.at].mean(dims, keepdim=True).expand(one.shape) for one in run.outputs]

    extra = x.value.uneven(dims)
    if name.startswith("avg_pool") and _has_padding(run):
        extra = torch.maximum(extra, x.value.known_nonzero().amax(dims, keepdim=True))
    return Flow(linear, [extra.expand(run.shape), *(ones(one.shape) for one in run.outputs[1:])])


def _has_padding(run: Run) -> bool:
    """Whether an average may count places outside: by padding, or by a fixed divisor of windows that are cut off."""
    padding = _argument(run, 3, "padding", 0)
    cut_off = _argument(run, 4, "ceil_mode", False) and _argument(run, 6, "divisor_override", None) is not None
    return cut_off or any(padding if isinstance(padding, (list, tuple)) else [padding])


def _argument(run: Run, place: int, name: str, default: Any) -> Any:
    return run.args[place] if len(run.args) > place else run.kwargs.get(name, default)


@surrogate("mean", "amax", "amin", "std", "var", sized=True)
def along_axes(run: Run) -> Flow:
    """What is one number along the axes stays it (a deviation: zero); anything else may change with their sizes."""
    x, dims = run.args[0], _dims(run)
    keepdim = _keepdim(run)

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        return [s[x.at].mean(dims, keepdim=keepdim).reshape(run.shape)]

    return Flow(linear, [x.value.uneven(dims).reshape(run.shape)])


@surrogate("sum", "linalg_vector_norm", "logsumexp", "prod")
def over_axes(run: Run) -> Flow:
    """Zeros give zero; other constants give what changes with the sizes of the axes."""
    x = run.args[0]
    dims = _dims(run, 2 if "norm" in run.func._schema.name else 1)

    def linear(s: Sequence[Tensor]) -> list[Tensor]:
        return [s[x.at].mean(dims).reshape(run.shape)]

    extra = ones(x.value.shape) if _moves_zero(run) else x.value.known_nonzero()
    return Flow(linear, [extra.amax(dims).reshape(run.shape)])


def _moves_zero(run: Run) -> bool:
    return any(one in run.func._schema.name for one in ("logsumexp", "prod"))


def _dims(run: Run, place: int = 1) -> list[int]:
    ndim = run.args[0].ndim
    dims = run.args[place] if len(run.args) > place else run.kwargs.get("dim")
    dims = [dims] if isinstance(dims, int) else dims
    return [dim % ndim for dim in dims] if dims else list(range(ndim))


def _keepdim(run: Run) -> bool:
    return len(run.shape) == len(run.args[0].value.shape)
