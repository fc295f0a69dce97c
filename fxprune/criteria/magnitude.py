"""Criteria of the size of weights: magnitude, batch norm scale, group norm, LAMP."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from fxprune.criteria.weights import (
    NORMALIZATIONS,
    OVER,
    REDUCTIONS,
    Over,
    check_choice,
    is_bias,
    normalize,
    power_sums,
    reduce,
    sites_over,
)
from fxprune.evidence import Evidence
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup


@dataclass(frozen=True)
class Magnitude:
    """``s_k = reduce_l(sum |w_l[k]|^p) ^ (1/p)``: the p-norm of a channel's weights over the layers l.

    With ``reduce="sum"`` it is the norm of all these weights together, ``"mean"`` divides by the number of layers,
    ``"max"`` and ``"product"`` are those of the layers' norms, ``"first"`` is the norm of the first layer.

    Attributes:
        p: 1 for the sum of absolute values (``"l1"``), 2 for the Euclidean norm (``"l2"``).
        over: ``"producers"``, ``"writers"``, ``"readers"`` or ``"group"``: see :func:`sites_over`.
        reduce: ``"sum"``, ``"mean"``, ``"max"``, ``"product"`` or ``"first"``.
        normalize: None, or what a group's scores are divided by: their ``"sum"``, ``"mean"`` or ``"max"``, or
            ``"lamp"``.

    Source: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, section 3.1; over coupled layers as in Fang et
    al., DepGraph, CVPR 2023, section 3.4.
    """

    p: float = 2
    over: str = "producers"
    reduce: str = "sum"
    normalize: str | None = None
    reads: ClassVar[tuple[str, ...]] = ("weights",)

    def __post_init__(self) -> None:
        """Check the options."""
        if not (isinstance(self.p, (int, float)) and 0 < self.p < math.inf):
            raise PlanError(explain(f"p={self.p!r}, expected a positive number."))
        check_choice("over", self.over, OVER)
        check_choice("reduce", self.reduce, REDUCTIONS)
        check_choice("normalize", self.normalize, NORMALIZATIONS)

    @property
    def comparable(self) -> bool:
        """Whether scores of different groups compare as they are: those that are normalized."""
        return self.normalize is not None

    def __call__(self, group: ChannelGroup) -> torch.Tensor:
        """``(group.size,)``."""
        sites = sites_over(group, self.over)
        sums = reduce(group, sites, [power_sums(group, site, self.p) for site in sites], self.reduce)
        return normalize(sums ** (1 / self.p), self.normalize)


@dataclass(frozen=True)
class BatchNormScale:
    """``s_k = reduce_l |gamma_l[k]|``: the scales of the batch norms behind a channel's producers.

    None for a group that no batch norm scales.

    Attributes:
        reduce: Over several batch norms, as for :class:`Magnitude`.

    Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017, section 3.
    """

    reduce: str = "mean"
    reads: ClassVar[tuple[str, ...]] = ("weights",)

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("reduce", self.reduce, REDUCTIONS)

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> torch.Tensor | None:
        """``(group.size,)``, or None."""
        sites = [site for site in group.sites if site.parameter in evidence.batch_norm_scales]
        return reduce(group, sites, [power_sums(group, site, 1) for site in sites], self.reduce) if sites else None


@dataclass(frozen=True)
class GroupNorm:
    """``s_k = I_k / mean(I)`` with ``I_k = sum_l ||w_l[k]||_2^2`` over all coupled layers l, readers too.

    The paper divides by the mean of the N largest; the authors' code by that of all, and without biases, as here.

    Attributes:
        top: N; None for all channels.
        bias: Whether biases count.

    Source: Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023, section 3.4; ``GroupNormPruner`` and
    ``GroupMagnitudeImportance`` of github.com/VainF/Torch-Pruning.
    """

    top: int | None = None
    bias: bool = False
    reads: ClassVar[tuple[str, ...]] = ("weights",)
    comparable: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the options."""
        if self.top is not None and (not isinstance(self.top, int) or isinstance(self.top, bool) or self.top < 1):
            raise PlanError(explain(f"top={self.top!r}, expected None or a positive integer."))

    def __call__(self, group: ChannelGroup) -> torch.Tensor:
        """``(group.size,)``."""
        every = sites_over(group, "group")
        sites = every if self.bias else [site for site in every if not is_bias(site)] or every
        sums = reduce(group, sites, [power_sums(group, site, 2) for site in sites], "sum")
        mean = sums.topk(min(self.top or group.size, group.size)).values.mean()
        return sums / mean if mean > 0 else sums


@dataclass(frozen=True)
class LAMP(Over):
    """``s_k = ||w[k]||^2 / sum_{j: ||w[j]|| >= ||w[k]||} ||w[j]||^2`` over a group's channels.

    The best channel scores 1; scores do not change with the scale of a layer, so that those of different groups
    compare. The paper scores single weights, this is the same with channels in their place (ties by index).

    Attributes:
        over: As for :class:`Magnitude`.

    Source: Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021, section 3.
    """

    reads: ClassVar[tuple[str, ...]] = ("weights",)
    comparable: ClassVar[bool] = True

    def __call__(self, group: ChannelGroup) -> torch.Tensor:
        """``(group.size,)``."""
        sites = self.sites(group)
        return normalize(reduce(group, sites, [power_sums(group, site, 2) for site in sites], "sum"), "lamp")
