"""Random numbers become constants, so that two graphs of different widths can be compared while they train.

A dropout mask is drawn for every channel, so no seed gives two widths the same one. Each random op gives its mean
instead (and half a deviation more where that mean is zero): dropout passes its input on, a Bernoulli draw gives its
probability.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def _bernoulli_in_place(x: torch.Tensor, p: Any = 0.5, **kwargs: Any) -> torch.Tensor:
    return x.copy_(p) if isinstance(p, torch.Tensor) else x.fill_(p)


def _bernoulli(x: torch.Tensor, p: float | None = None, **kwargs: Any) -> torch.Tensor:
    return x.clone() if p is None else torch.full_like(x, p)


def _uniform(x: torch.Tensor, low: float = 0.0, high: float = 1.0, **kwargs: Any) -> torch.Tensor:
    return x.fill_((low + high) / 2)


def _normal(x: torch.Tensor, mean: float = 0.0, std: float = 1.0, **kwargs: Any) -> torch.Tensor:
    return x.fill_(mean + std / 2)


def _exponential(x: torch.Tensor, lambd: float = 1.0, **kwargs: Any) -> torch.Tensor:
    return x.fill_(1 / lambd)


def _dropout(x: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
    return x.clone(), torch.ones_like(x, dtype=torch.bool)


def _rrelu(
    x: torch.Tensor, noise: torch.Tensor, lower: float = 1 / 8, upper: float = 1 / 3, *args: Any, **kwargs: Any
) -> torch.Tensor:
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2)


_STEADY: dict[Any, Callable[..., Any]] = {
    aten.bernoulli_: _bernoulli_in_place,
    aten.bernoulli: _bernoulli,
    aten.uniform_: _uniform,
    aten.normal_: _normal,
    aten.exponential_: _exponential,
    aten.native_dropout: _dropout,
    aten.rrelu_with_noise: _rrelu,
}
_DRAWN = frozenset({aten.rand, aten.rand_like, aten.randn, aten.randn_like, aten.normal})
_NAMES = frozenset(str(op).removeprefix("aten.") for op in (*_STEADY, *_DRAWN))


class Steady(TorchDispatchMode):
    """Under this mode every random op gives a constant, whatever the shape."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: D105
        kwargs = kwargs or {}
        if (constant := _STEADY.get(func.overloadpacket)) is not None:
            return constant(*args, **kwargs)
        out = func(*args, **kwargs)
        return out.fill_(0.5) if func.overloadpacket in _DRAWN else out


def draws(names: Iterable[str]) -> bool:
    """Whether one of these ATen ops, named as ``aten.bernoulli_.float``, is random."""
    return any(name.split(".")[1] in _NAMES for name in names if name.startswith("aten."))
