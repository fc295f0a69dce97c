"""Cases of reductions and of ops along an axis."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from one_op import Case


def _frozen(names: str, axes: str, *, function: Callable[..., Any] | None = None, **kwargs: Any) -> list[Case]:
    def apply(name: str) -> Callable[..., Any]:
        return lambda x: getattr(torch, name)(x, dim=1, **kwargs)

    return [Case(name, axes, apply(name), positive=True) for name in names.split()]


CASES = (
    Case("sum", "nc", lambda x: x.sum(1)),
    Case("sum of everything", "nc", torch.sum),
    Case("sum over two axes, kept", "nchw", lambda x: x.sum((1, -1), keepdim=True)),
    Case("nansum", "nc", lambda x: torch.nansum(x, 1)),
    Case("mean", "nc", lambda x: x.mean(1)),
    Case("mean of everything", "nc", torch.mean),
    Case("mean over two axes, kept", "nchw", lambda x: x.mean((1, -1), keepdim=True)),
    Case("var", "nc", lambda x: x.var(1)),
    Case("var without correction", "nchw", lambda x: torch.var(x, (1, 2), correction=0, keepdim=True)),
    Case("std", "nc", lambda x: x.std(1, keepdim=True)),
    Case("std of everything", "nc", torch.std),
    Case("var_mean", "nc", lambda x: torch.var_mean(x, 1)),
    Case("std_mean", "nc", lambda x: torch.std_mean(x, 1, unbiased=False)),
    Case("linalg_vector_norm", "nc", lambda x: torch.linalg.vector_norm(x, dim=1)),
    Case("linalg_vector_norm of order 1", "nc", lambda x: torch.linalg.vector_norm(x, 1, dim=1, keepdim=True)),
    Case("linalg_vector_norm of order 0", "nC", lambda x: torch.linalg.vector_norm(x, 0, dim=1)),
    Case("normalize", "nc", F.normalize),
    *_frozen("amax amin aminmax logsumexp max median min nanmedian prod mode argmax argmin", "nC"),
    *_frozen("softmax log_softmax cummax cummin cumprod cumsum logcumsumexp sort", "nC"),
    Case("all", "nC", lambda x: (x > 0).all(1)),
    Case("any", "nC", lambda x: (x > 0).any(1)),
    Case("max of everything", "NC", torch.max),
    Case("maximum of two", "nc nc", torch.max),
    Case("cumsum_", "nC", lambda x: x.clone().cumsum_(1)),
    Case("topk", "nC", lambda x: x.topk(3, 1)),
    Case("kthvalue", "nC", lambda x: x.kthvalue(3, 1)),
    Case("sort.stable", "nC", lambda x: torch.sort(x, dim=1, stable=True)),
    Case("_fft_r2c", "nC", torch.fft.rfft),
    Case("_fft_c2c", "nC", lambda x: torch.fft.fft(torch.fft.fft(x))),
    Case("_fft_c2r", "nC", lambda x: torch.fft.irfft(torch.fft.rfft(x))),
    Case("_weight_norm_interface", "oik o11", lambda v, g: torch._weight_norm(v, g, 0)),
)
