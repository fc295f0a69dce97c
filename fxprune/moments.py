"""Moments of activations along one axis, as sums that add up over batches and processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

_ROUNDING = 1e-12  # of a variance relative to the mean square: less is the rounding of a constant


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over all values that were seen in each place of an axis, float64.

    Attributes:
        count: Number of values, ``(n,)``.
        total: Their sum, ``(n,)``.
        magnitude: The sum of their absolute values, ``(n,)``.
        square: The sum of their squares, ``(n,)``.
    """

    count: torch.Tensor
    total: torch.Tensor
    magnitude: torch.Tensor
    square: torch.Tensor

    @classmethod
    def nothing(cls, size: int, device: torch.device) -> Moments:
        """No values yet."""
        return cls(*torch.zeros(4, size, dtype=torch.float64, device=device))

    @property
    def sums(self) -> tuple[torch.Tensor, ...]:
        """The four sums."""
        return self.count, self.total, self.magnitude, self.square

    @property
    def mean(self) -> torch.Tensor:
        """``(n,)``."""
        return self.total / self.count.clamp_min(1)

    @property
    def mean_magnitude(self) -> torch.Tensor:
        """The mean absolute value, ``(n,)``."""
        return self.magnitude / self.count.clamp_min(1)

    @property
    def variance(self) -> torch.Tensor:
        """Of the population, ``(n,)``; exactly 0 for a constant."""
        mean_square = self.square / self.count.clamp_min(1)
        variance = mean_square - self.mean.square()
        return variance.masked_fill(variance <= _ROUNDING * mean_square, 0)

    @property
    def norm(self) -> torch.Tensor:
        """The Euclidean norm of all values, ``(n,)``."""
        return self.square.sqrt()

    def add(self, value: torch.Tensor, dim: int) -> None:
        """Count in a tensor whose axis ``dim`` is the axis, in place."""
        rows = value.detach().movedim(dim, -1).flatten(0, -2) if value.ndim > 1 else value.detach()[None]
        real = rows.real if rows.is_complex() else rows
        magnitude = rows.abs().double()
        self.count.add_(len(rows))
        self.total.add_(real.double().sum(0))
        self.magnitude.add_(magnitude.sum(0))
        self.square.add_(magnitude.square().sum(0))
