"""What is known of a tensor before any input is: which of its elements are constants, and which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_ROUNDING = 1e-12  # of the larger one: what two orders of the same sum may differ by


def zeros(shape: Sequence[int]) -> Tensor:
    """Zeros in float32, whatever the default dtype is."""
    return torch.zeros(tuple(shape), dtype=torch.float32)


def nowhere(shape: Sequence[int]) -> Tensor:
    """Zeros in float32 that take no memory."""
    return torch.zeros((), dtype=torch.float32).expand(tuple(shape))


def everywhere(shape: Sequence[int]) -> Tensor:
    """True in every place, which takes no memory."""
    return torch.ones((), dtype=torch.bool).expand(tuple(shape))


def is_constant(value: Value) -> bool:
    """Whether every element is known."""
    return value.known is not None and (_is_flat(value.known) or bool(value.known.all()))


def _is_flat(tensor: Tensor) -> bool:
    """Whether one element in memory stands for all."""
    return not any(tensor.stride())


def asked(one: Tensor) -> bool:
    """Whether some element is not zero, or is asked for its gradient."""
    if one.requires_grad:
        return True
    return bool(one.flatten()[:1].any()) if _is_flat(one) else bool(one.any())


def ones(shape: Sequence[int]) -> Tensor:
    """Ones in float32, whatever the default dtype is."""
    return torch.ones(tuple(shape), dtype=torch.float32)


@dataclass(slots=True, eq=False)
class Value:
    """A tensor at one moment of a run.

    Attributes:
        shape: Its shape.
        known: Bool of that shape: which elements are constants, whatever the model's inputs are; None for nowhere.
        value: The tensor as it was, where some element is known.
        static: Made of parameters alone, so that its shape is the same in every call.
    """

    shape: torch.Size
    known: Tensor | None = None
    value: Tensor | None = None
    static: bool = False

    def unknown(self) -> Tensor:
        """Float of its shape: 1 where an element depends on the model's inputs."""
        if self.known is None:
            return ones(self.shape)
        return nowhere(self.shape) if is_constant(self) else (~self.known).float()

    def nonzero(self) -> Tensor:
        """Float of its shape: 0 where an element is zero, whatever the model's inputs are."""
        if self.known is None or self.value is None:
            return ones(self.shape)
        nonzero = self.value != 0
        return (nonzero if is_constant(self) else nonzero | ~self.known).float()

    def known_nonzero(self) -> Tensor:
        """Float of its shape: 1 where an element is a constant other than zero."""
        if self.known is None or self.value is None:
            return zeros(self.shape)
        return (self.known & (self.value != 0)).float()

    def uneven(self, dims: Sequence[int]) -> Tensor:
        """Float, of width 1 along ``dims``: 0 where the elements along them are one and the same constant."""
        shape = [1 if dim in dims else size for dim, size in enumerate(self.shape)]
        if self.known is None or self.value is None:
            return ones(shape)
        if not dims or 0 in self.shape:
            return self.unknown().reshape(shape) if not dims else zeros(shape)
        real = self.value.real if self.value.is_complex() else self.value.double()
        low, high = real.amin(tuple(dims), keepdim=True), real.amax(tuple(dims), keepdim=True)
        even = high - low <= _ROUNDING * torch.maximum(low.abs(), high.abs())
        return (~even | (self.unknown().amax(tuple(dims), keepdim=True) > 0)).float()
