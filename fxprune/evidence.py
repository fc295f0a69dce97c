"""Evidence: what a user's batches say of a model's channels, for the criteria that ask."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import torch
from torch import nn

from fxprune.analysis import Analysis
from fxprune.batches import Batches, Loss
from fxprune.gathering import Gathered, gather
from fxprune.inputs import ExampleInputs
from fxprune.moments import Moments
from fxprune.taps import Tap, Taps, batch_norm_scales
from fxprune_passes.axes import Term, leaves
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup, Site

_PASS = "plan(..., batches=loader, loss=loss), where the loss takes the model's output and the targets"


class Evidence:
    """Gradients and activations, gathered at the first question, in one pass over all batches.

    The model runs in float64 on a private copy, in the modes that its modules have. Under ``torch.distributed`` every
    process runs its own batches, and all of them see the same sums.
    """

    def __init__(
        self,
        analysis: Analysis,
        model: nn.Module,
        example_inputs: ExampleInputs,
        *,
        batches: Iterable[Any] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
        criterion: str = "the criterion",
    ) -> None:
        """Prepare; nothing runs yet.

        Args:
            analysis: Of the model.
            model: The model with plain tensors; only read.
            example_inputs: What it was analysed on.
            batches: Any iterable of inputs or (inputs, targets), read once.
            loss: ``loss(output, targets)``, a scalar.
            seed: Of what the model and the data draw at random.
            criterion: Who asks, for messages.
        """
        self.analysis = analysis
        self.model = model
        self.example_inputs = example_inputs
        self.batches = batches
        self.loss = loss
        self.seed = seed
        self.criterion = criterion
        self._read: set[str] = set()

    @property
    def unread(self) -> list[str]:
        """Which of ``batches`` and ``loss`` were given, and never asked for."""
        given = {"batches": self.batches, "loss": self.loss}
        return [name for name, one in given.items() if one is not None and name not in self._read]

    @cached_property
    def batch_norm_scales(self) -> frozenset[str]:
        """The names of the parameters that a batch norm multiplies with."""
        return batch_norm_scales(self.analysis)

    def gradient(self, site: Site) -> torch.Tensor:
        """The mean over batches of the gradient of the loss, in the shape of ``site.tensor``; 0 for a buffer.

        Raises:
            PlanError: There are no batches, or there is no loss.
        """
        if self.loss is None:
            raise PlanError(explain(f"{self.criterion} needs a loss, got loss=None.", mend=_PASS))
        self._read.add("loss")
        return self._mean(self._gathered.gradients, site)

    def squared_gradient(self, site: Site) -> torch.Tensor:
        """The mean over batches of the squared gradient of each batch's loss, in the shape of ``site.tensor``.

        Raises:
            PlanError: There are no batches, or there is no loss.
        """
        self.gradient(site)
        return self._mean(self._gathered.squares, site)

    def activations(self, group: ChannelGroup) -> Moments | None:
        """Moments of what is seen in each channel of a group, pooled over all places where weights read it.

        See :class:`fxprune.taps.Taps` for the places; None if there is none.

        Raises:
            PlanError: There are no batches, or the model takes its way by values.
        """
        found = [(tap, self._moments(tap)) for tap in self._taps.of(group)]
        if not found:
            return None
        result = Moments.nothing(group.size, torch.device("cpu"))
        for tap, moments in found:
            places, channel = group.places(tap.axis)
            for total, one in zip(result.sums, moments.sums, strict=True):
                total.index_add_(0, channel, one.cpu()[places])
        return result

    def inputs(self, site: Site) -> Moments | None:
        """Moments of the values that a weight sums over along a site's axis, one for each of its positions.

        The positions of a grouped convolution's weight are read in every group, and pooled over them. None if no op
        sums values with the weight over this axis.

        Raises:
            PlanError: There are no batches, or the model takes its way by values.
        """
        width, found = site.original.axis.size, False
        result = Moments.nothing(site.axis.size, torch.device("cpu"))
        for tap in self._taps.inputs(site):
            size = site.axis.size if _ends_on(tap.axis, site) else width
            if tap.axis.size % size == 0:
                found = True
                for total, one in zip(result.sums, self._moments(tap).sums, strict=True):
                    total.add_(one.cpu().unflatten(0, (-1, size)).sum(0).repeat(len(total) // size))
        return result if found else None

    def partner(self, site: Site) -> Site | None:
        """The axis along which a producer's weight sums its inputs; None for a bias, a norm or an embedding."""
        return self._taps.partner(site)

    @cached_property
    def _taps(self) -> Taps:
        return Taps(self.analysis)

    @cached_property
    def _gathered(self) -> Gathered:
        if self.batches is None:
            raise PlanError(explain(f"{self.criterion} needs data, got batches=None.", mend=_PASS))
        self._read.add("batches")
        device = next((one.device for one in self.model.parameters()), torch.device("cpu"))
        batches = Batches(self.batches, self.example_inputs, device)
        return gather(self.analysis, self.model, batches, self.loss, self._taps.every(), self.seed)

    def _mean(self, sums: dict[str, torch.Tensor], site: Site) -> torch.Tensor:
        total = sums.get(site.parameter)
        if total is None:
            return torch.zeros_like(site.tensor, dtype=torch.float64, device="cpu")
        return site.like((total / self._gathered.batches).cpu())

    def _moments(self, tap: Tap) -> Moments:
        if self.analysis.capture.fake_mode is None:
            first = f"{self.criterion} cannot measure activations: the model's code takes its way by values."
            raise PlanError(explain(first, mend='a criterion of weights or gradients ("l2", "taylor")'))
        return self._gathered.moments[tap]


def _ends_on(axis: Term, site: Site) -> bool:
    """Whether the places of a measured axis are those of a site, in the same order, once or many times over."""
    if site.original is site:
        return axis.size % site.axis.size == 0
    wanted = list(leaves(site.axis))
    return list(leaves(axis))[-len(wanted) :] == wanted and axis.size % site.axis.size == 0
