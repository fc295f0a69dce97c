"""Criteria of activations: what flows through a channel, and what weights read of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fxprune.criteria.weights import channel_sums, sites_over, wide
from fxprune.evidence import Evidence
from fxprune_passes.groups import ChannelGroup, Site


@dataclass(frozen=True)
class ActivationMean:
    """``s_k = mean |x_k|`` over samples and positions, x being what weights read of the channel.

    Source: Molchanov et al., Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017,
    section 2.2, "Activation" (there behind ReLU, where ``|x| = x``).
    """

    reads: ClassVar[tuple[str, ...]] = ("activations",)

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> torch.Tensor | None:
        """``(group.size,)``; None where no op reads or writes the channels with a weight."""
        moments = evidence.activations(group)
        return None if moments is None else moments.mean_magnitude


@dataclass(frozen=True)
class ActivationVariance:
    """``s_k = mean (x_k - mean x_k)^2`` over samples and positions, x being what weights read of the channel.

    A channel that hardly varies can be replaced by its mean.

    Source: Molchanov et al., as for :class:`ActivationMean` (the standard deviation of activations); Polyak and Wolf,
    Channel-level Acceleration of Deep Face Representations, IEEE Access 2015 (inbound pruning by variance).
    """

    reads: ClassVar[tuple[str, ...]] = ("activations",)

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> torch.Tensor | None:
        """``(group.size,)``; None where no op reads or writes the channels with a weight."""
        moments = evidence.activations(group)
        return None if moments is None else moments.variance


@dataclass(frozen=True)
class Wanda:
    """``s_k = sum_{l, o} |w_l[o, k]| * ||x_l[k]||_2`` over the weights l that read channel k, x being their inputs.

    The paper scores each weight so; a channel is the sum over the column that goes with it. Where no weight reads the
    channels (queries and keys), it is the sum over their producers' rows, ``sum_i |w[k, i]| * ||x[i]||_2``.

    Source: Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2023, equation 1; by columns
    as the baseline "Wanda-sp" of An et al., Fluctuation-based Adaptive Structured Pruning, AAAI 2024.
    """

    reads: ClassVar[tuple[str, ...]] = ("weights", "activations")

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> torch.Tensor | None:
        """``(group.size,)``; None where no weight is multiplied with anything that was measured."""
        parts = [_columns(group, site, evidence) for site in group.sites if site.reads]
        if all(one is None for one in parts):
            parts = [_rows(group, site, evidence) for site in sites_over(group, "producers")]
        found = [one for one in parts if one is not None]
        return torch.stack(found).sum(0) if found else None


def _columns(group: ChannelGroup, site: Site, evidence: Evidence) -> torch.Tensor | None:
    moments = evidence.inputs(site)
    return None if moments is None else channel_sums(group, site, _scaled(site, site, moments.norm))


def _rows(group: ChannelGroup, site: Site, evidence: Evidence) -> torch.Tensor | None:
    partner = evidence.partner(site)
    moments = None if partner is None else evidence.inputs(partner)
    return (
        None if partner is None or moments is None else channel_sums(group, site, _scaled(site, partner, moments.norm))
    )


def _scaled(site: Site, inputs: Site, norm: torch.Tensor) -> torch.Tensor:
    """Absolute weights times the norm of the input that each is multiplied with."""
    shape = [1] * site.tensor.ndim
    shape[inputs.dim] = -1
    return wide(site).abs() * norm.view(shape)
