"""Criteria: which channels of a group matter least. Every criterion is a function of one channel group.

A criterion of your own takes the group and returns a score for each channel; the highest stay. ``group.sites`` are the
parameter axes that hold the channels, ``group.per_channel`` sums along one of them:

    >>> def bias_free_l1(group):
    ...     scores = torch.zeros(group.size)
    ...     for site in group.writers:
    ...         if site.tensor.ndim > 1:
    ...             others = [dim for dim in range(site.tensor.ndim) if dim != site.dim]
    ...             scores += group.per_channel(site, site.tensor.detach().abs().sum(others))
    ...     return scores

One that has a parameter called ``evidence`` gets an :class:`Evidence` too: gradients by site, activations by group,
gathered from ``batches=`` and ``loss=`` at its first question. A criterion that has no score for a group returns None:
that group stays whole.

One with an attribute ``comparable`` that is true gives scores that compare between groups as they are. Others (all that
do not say) are taken relative to the mean of their group wherever groups are ranked together.

One with an attribute ``reads``, a tuple of ``"weights"``, ``"gradients"`` and ``"activations"``, is held to it: data
that it does not read is refused before any runs. For others that is found out when they have scored all groups.
"""

from __future__ import annotations

from fxprune.criteria.activation import ActivationMean, ActivationVariance, Wanda
from fxprune.criteria.magnitude import LAMP, BatchNormScale, GroupNorm, Magnitude
from fxprune.criteria.median import FPGM
from fxprune.criteria.scoring import (
    NAMES,
    OF_DATA,
    OF_WEIGHTS,
    Criterion,
    Random,
    Scorer,
    check_given,
    find_criterion,
    name_of,
)
from fxprune.criteria.sensitivity import Hessian, Taylor
from fxprune.criteria.weights import channel_sums, sites_over
from fxprune.evidence import Evidence
from fxprune.moments import Moments

__all__ = [
    "FPGM",
    "LAMP",
    "NAMES",
    "OF_DATA",
    "OF_WEIGHTS",
    "ActivationMean",
    "ActivationVariance",
    "BatchNormScale",
    "Criterion",
    "Evidence",
    "GroupNorm",
    "Hessian",
    "Magnitude",
    "Moments",
    "Random",
    "Scorer",
    "Taylor",
    "Wanda",
    "channel_sums",
    "check_given",
    "find_criterion",
    "name_of",
    "sites_over",
]
