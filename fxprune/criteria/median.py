"""The criterion of redundancy: how far a channel's filters are from those of all others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from fxprune.criteria.weights import Over, rows
from fxprune_passes.groups import ChannelGroup

_ROUNDING = 1e-12  # of a squared distance relative to the squares that it is the difference of
_CHANNELS = 512  # whose distances to the others are in memory at once
_COLUMNS = 2048  # of all channels that are in memory in float64 at once


@dataclass(frozen=True)
class FPGM(Over):
    """``s_k = sum_j ||w[k] - w[j]||_2``: filters near the geometric median can be replaced by the others.

    A channel's filters in all layers that write it are one vector.

    Attributes:
        over: As for :class:`Magnitude`.

    Source: He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR
    2019, section 3.3.
    """

    reads: ClassVar[tuple[str, ...]] = ("weights",)

    def __call__(self, group: ChannelGroup) -> torch.Tensor:
        """``(group.size,)``."""
        filters = [rows(group, site) for site in self.sites(group)]
        squares = sum((_squares(one) for one in filters), torch.zeros(group.size, dtype=torch.float64))
        total = torch.zeros_like(squares)
        for start in range(0, group.size, _CHANNELS):
            stop = min(start + _CHANNELS, group.size)
            both = squares[start:stop, None] + squares[start:]
            distance = both - 2 * _products(filters, start, stop)
            distance = distance.masked_fill_(distance <= _ROUNDING * both, 0).sqrt_()
            total[start:stop] += distance.sum(1)
            total[stop:] += distance[:, stop - start :].sum(0)  # each pair is looked at once
        return total


def _products(filters: Sequence[torch.Tensor], start: int, stop: int) -> torch.Tensor:
    """Inner products of the channels from ``start`` to ``stop`` with those from ``start`` on, in float64."""
    result = torch.zeros(stop - start, len(filters[0]) - start, dtype=torch.float64)
    for one in filters:
        for columns in one[start:].split(_COLUMNS, 1):
            block = columns.double()
            result.addmm_(block[: stop - start], block.T)
    return result


def _squares(filters: torch.Tensor) -> torch.Tensor:
    """Squared norms of rows, ``(n,)``, float64."""
    parts = [columns.double().square().sum(1) for columns in filters.split(_COLUMNS, 1)]
    return torch.stack(parts).sum(0)
