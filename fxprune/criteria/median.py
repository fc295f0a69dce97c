"""The criterion of redundancy: how far a channel's filters are from those of all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fxprune.criteria.weights import OVER, check_choice, rows, sites_over
from fxprune_passes.groups import ChannelGroup

_ROUNDING = 1e-12  # of a squared distance relative to the squares that it is the difference of


@dataclass(frozen=True)
class FPGM:
    """``s_k = sum_j ||w[k] - w[j]||_2``: filters near the geometric median can be replaced by the others.

    A channel's filters in all layers that write it are one vector.

    Attributes:
        over: As for :class:`Magnitude`.

    Source: He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR
    2019, section 3.3.
    """

    over: str = "producers"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("over", self.over, OVER)

    def __call__(self, group: ChannelGroup) -> torch.Tensor:
        """``(group.size,)``."""
        products = torch.zeros(group.size, group.size, dtype=torch.float64)
        for site in sites_over(group, self.over):
            one = rows(group, site)
            products += one @ one.T
        squares = products.diagonal()
        both = squares[:, None] + squares
        distance = both - 2 * products
        return distance.masked_fill(distance <= _ROUNDING * both, 0).sqrt().sum(1)
