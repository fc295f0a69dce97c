"""Criteria of the loss: how much it changes without a channel, to first and second order in its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from fxprune.criteria.weights import Over, wide
from fxprune.evidence import Evidence
from fxprune_passes.groups import ChannelGroup


@dataclass(frozen=True)
class Taylor(Over):
    """``s_k = |sum_w w * dL/dw|`` over a channel's weights, L being the mean of the loss over batches.

    The first-order change of the loss when these weights go to zero. With ``over="writers"`` (filters, biases, norm
    scales and shifts) it is the criterion of 2019. With ``over="readers"`` it equals that of 2017, ``|sum_z z *
    dL/dz|`` over the activations z that weights read, since ``sum_o w[o, k] * dL/dw[o, k] = sum z_k * dL/dz_k``.

    Attributes:
        over: As for :class:`Magnitude`.

    Source: Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019, section 3.1 (the root of the
    squared group sum); Pruning Convolutional Neural Networks for Resource Efficient Inference, ICLR 2017, section 2.2.
    """

    over: str = "writers"
    reads: ClassVar[tuple[str, ...]] = ("weights", "gradients")

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> torch.Tensor:
        """``(group.size,)``."""
        return self.total(group, lambda site: (wide(site) * evidence.gradient(site).conj()).real).abs()


@dataclass(frozen=True)
class Hessian(Over):
    """``s_k = 1/2 * sum_w w^2 * F_w`` over a channel's weights, with F the diagonal of the empirical Fisher matrix.

    ``F_w`` is the mean over batches of ``(dL_b/dw)^2``, in place of the second derivatives of Optimal Brain Damage.
    Each batch is one observation: batches of one sample give the Fisher matrix of samples.

    Attributes:
        over: As for :class:`Magnitude`.

    Source: LeCun et al., Optimal Brain Damage, NeurIPS 1989; the Fisher matrix in place of the Hessian as in Theis et
    al., Faster gaze prediction with dense networks and Fisher pruning, 2018.
    """

    over: str = "writers"
    reads: ClassVar[tuple[str, ...]] = ("weights", "gradients")

    def __call__(self, group: ChannelGroup, evidence: Evidence) -> torch.Tensor:
        """``(group.size,)``."""
        return self.total(group, lambda site: wide(site).abs().square() * evidence.squared_gradient(site).abs()) / 2
