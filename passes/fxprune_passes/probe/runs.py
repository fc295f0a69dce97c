"""Run an op on made-up tensors, within bounds of size, time and work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Run = Callable[[list[Tensor]], list[Tensor]]

_SECONDS = 0.5  # of one run
_WORK = 1 << 26  # elements of all runs together
_TOLERANCE = {torch.float64: 1e-9, torch.complex128: 1e-9}
_WIDE = {
    torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Like:
    """A tensor to make up.

    Attributes:
        shape: Its shape.
        dtype: Its dtype, widened where the op takes that.
        values: Its values where they are known and matter (an index vector).
        whole: Axes that stay whole in any case, for which fewer choices of slices are tried.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    values: Tensor | None = None
    whole: tuple[int, ...] = ()


class Stop(Exception):
    """Nothing can be concluded."""


@dataclass(slots=True)
class Runs:
    """The runs of one op on one kind of made-up tensors.

    Attributes:
        run: The op on a list of tensors.
        inputs: What to make up.
        shapes: The shapes of its outputs.
        elements: Of all tensors of one run.
        work: Elements of all runs so far.
    """

    run: Run
    inputs: list[Like]
    shapes: list[tuple[int, ...]]
    elements: int
    work: int = 0

    def drawn(self, *, style: int = 0) -> list[Tensor]:
        """A tensor for every input."""
        return [drawn(one, style=style) for one in self.inputs]

    def first(self, tensors: list[Tensor]) -> list[Tensor]:
        """Run the op for the first time.

        Raises:
            Stop: It is slow, draws random numbers or gives other shapes than it should.
        """
        start = time.perf_counter()
        outputs = self.outputs(tensors)
        if time.perf_counter() - start > _SECONDS:
            raise Stop
        if [tuple(one.shape) for one in outputs] != self.shapes or not same(self.outputs(tensors), outputs, exact=True):
            raise Stop
        return outputs

    def outputs(self, tensors: list[Tensor]) -> list[Tensor]:
        """Run the op.

        Raises:
            Stop: It changes its inputs, or has run often enough.
        """
        self.work += self.elements
        if self.work > _WORK:
            raise Stop
        given = [one.clone() for one in tensors]
        result = [one.clone() for one in self.run(given)]
        if not same(given, tensors, exact=True):
            raise Stop
        return result


def wide(like: Like) -> Like:
    """The same, in float64 where it has fewer digits."""
    return replace(like, dtype=_WIDE.get(like.dtype, like.dtype))


def drawn(like: Like, *, style: int = 0) -> Tensor:
    """Numbers of both signs around 1, or positive ones, or small or large ones."""
    if like.values is not None:
        return like.values.clone()
    if like.dtype.is_floating_point or like.dtype.is_complex:
        numbers = torch.rand(like.shape, dtype=torch.float64) + 0.1 if style % 2 else torch.randn(like.shape).double()
        return (numbers * (1, 1, 10, 0.1)[style % 4]).to(like.dtype)
    return torch.randint(2, like.shape).to(like.dtype)


def same(tensors: Sequence[Tensor], others: Sequence[Tensor], *, exact: bool = False) -> bool:
    """Whether two lists of tensors are equal, up to rounding unless told otherwise."""
    if [(one.shape, one.dtype) for one in tensors] != [(one.shape, one.dtype) for one in others]:
        return False
    for one, other in zip(tensors, others, strict=True):
        rounding = (
            0.0 if exact or not (one.is_floating_point() or one.is_complex()) else _TOLERANCE.get(one.dtype, 1e-4)
        )
        if not torch.allclose(one, other, rtol=rounding, atol=rounding, equal_nan=one.is_floating_point()):
            return False
    return True


def tensors_of(value: Any) -> list[Tensor]:
    """What an op returns, as a list of tensors."""
    return [one for one in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(one, Tensor)]
