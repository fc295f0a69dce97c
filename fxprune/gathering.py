"""One pass over a user's batches: gradients of the loss, and moments of the activations, in float64.

The captured graph runs over a private copy of the model. A graph that holds for the values of the example inputs alone
does not: there the copy itself runs, in its own precision, and only gradients are to be had.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map, tree_map_only

from fxprune.analysis import Analysis
from fxprune.batches import Batch, Batches, Loss
from fxprune.inputs import bind
from fxprune.moments import Moments
from fxprune.originals import original
from fxprune.ranks import failing_together, rank, sum_over_ranks
from fxprune.taps import Tap
from fxprune_passes.errors import CaptureError, PlanError, explain
from fxprune_passes.wide import NodeError, Wide, in_float64, precision, widen


@dataclass(slots=True)
class Gathered:
    """Sums over all batches (of all processes).

    Attributes:
        batches: How many there were, ``(1,)``.
        gradients: By parameter name, of the loss; empty without a loss.
        squares: By parameter name, the squares of each batch's gradient.
        moments: By place of measurement; empty where no graph could run.
    """

    batches: torch.Tensor
    gradients: dict[str, torch.Tensor] = field(default_factory=dict)
    squares: dict[str, torch.Tensor] = field(default_factory=dict)
    moments: dict[Tap, Moments] = field(default_factory=dict)

    def tensors(self) -> list[torch.Tensor]:
        """All sums, in an order that is the same in every process."""
        sums = [one for moments in self.moments.values() for one in moments.sums]
        return [self.batches, *self.gradients.values(), *self.squares.values(), *sums]


def gather(
    analysis: Analysis, model: nn.Module, batches: Batches, loss: Loss | None, taps: Sequence[Tap], seed: int
) -> Gathered:
    """Run all batches.

    Args:
        analysis: Of the model.
        model: Its weights; only read.
        batches: The data of this process.
        loss: ``loss(output, targets)``, a scalar; None for activations alone.
        taps: Where to measure activations.
        seed: Of what the model and the data draw at random; each process adds its rank.

    Raises:
        PlanError: There are no batches, the loss is no finite scalar, or another process failed.
        CaptureError: The model does not run on a batch.
    """
    run = _Run(analysis, model, loss, taps, batches.device)
    devices = [batches.device] if batches.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed + rank())
        if devices:
            torch.cuda.manual_seed(seed + rank())
        with failing_together("evaluate their batches"):
            for batch in batches.read(show=rank() == 0):
                run.take(batch)
    sum_over_ranks(run.result.tensors())
    if not run.result.batches.item():
        raise PlanError(explain("batches is empty, expected at least one batch.", mend="a used-up iterator is empty"))
    return run.result


class _Run:
    """A private copy of the model and the sums so far."""

    def __init__(
        self, analysis: Analysis, model: nn.Module, loss: Loss | None, taps: Sequence[Tap], device: torch.device
    ) -> None:
        self.graph = analysis.capture.graph_module.graph if analysis.capture.fake_mode is not None else None
        self.dtype = torch.promote_types(precision(model), torch.float32)
        self.epsilon = torch.finfo(precision(model)).eps
        self.loss = loss
        self.model = model
        with torch.inference_mode(False):
            self.copy = deepcopy(model) if self.graph is None else original(model, analysis.capture)
        self.parameters = _prunable(analysis, self.copy) if loss is not None else {}
        for parameter in self.copy.parameters():
            parameter.requires_grad_(any(parameter is one for one in self.parameters.values()))
            parameter.grad = None
        self.taps: dict[fx.Node, list[Tap]] = {}
        for tap in taps if self.graph is not None else ():
            self.taps.setdefault(tap.when, []).append(tap)
        zeros = {name: torch.zeros_like(one, dtype=_wide(one.dtype)) for name, one in self.parameters.items()}
        self.result = Gathered(
            torch.zeros(1, dtype=torch.float64, device=device),
            zeros,
            {name: torch.zeros_like(one) for name, one in zeros.items()},
            {tap: Moments.nothing(tap.axis.size, device) for many in self.taps.values() for tap in many},
        )

    def take(self, batch: Batch) -> None:
        """Count a batch in."""
        output = self._output(batch)
        if self.loss is not None:
            _value(self.loss, output, batch).backward()
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    gradient = parameter.grad.to(self.result.gradients[name].dtype)
                    self.result.gradients[name] += gradient
                    self.result.squares[name] += (gradient * gradient.conj()).real
                    parameter.grad = None
        self.result.batches += 1

    def _output(self, batch: Batch) -> Any:
        """What the model returns, floating-point numbers in the model's own precision, and at least in float32."""
        try:
            if self.graph is None:
                return self.copy(*batch.args, **batch.kwargs)
            inputs = tree_map(widen, bind(self.model, batch.args, batch.kwargs))
            with torch.set_grad_enabled(self.loss is not None):
                output = _Measured(self.copy, self.graph, inputs, self.epsilon, self.taps, self.result.moments).result()
        except NodeError as failure:
            place = failure.node.meta
            at = f"{failure.node.name} {place.get('module', '')} {place.get('source', '')}".strip()
            raise CaptureError(explain(_does_not_run(batch, failure.__cause__), at=at)) from failure
        except CaptureError:
            raise
        except Exception as failure:
            raise CaptureError(explain(_does_not_run(batch, failure))) from failure
        output = tree_map_only(torch.Tensor, self._narrow, self.graph.process_outputs(output))
        return Fields(output) if isinstance(output, dict) else output

    def _narrow(self, value: torch.Tensor) -> torch.Tensor:
        return value.to(self.dtype) if value.is_floating_point() else value


class Fields(dict[str, Any]):
    """A dict of outputs whose entries are attributes and have places too, as in the class that a graph writes so."""

    def __getattr__(self, name: str) -> Any:
        """The entry of that name."""
        if name not in self:
            raise AttributeError(f"the output has no {name!r}, but {', '.join(self)}")
        return self[name]

    def __getitem__(self, key: Any) -> Any:
        """The entry of that name, or in that place."""
        return list(self.values())[key] if isinstance(key, (int, slice)) else super().__getitem__(key)


class _Measured(Wide):
    """Runs the graph with or without gradients, and measures activations on the way."""

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        inputs: Mapping[str, Any],
        epsilon: float,
        taps: Mapping[fx.Node, Sequence[Tap]],
        moments: Mapping[Tap, Moments],
    ) -> None:
        super().__init__(module, graph, inputs, epsilon=epsilon)
        self.taps = taps
        self.moments = moments

    def result(self) -> Any:
        """Run every node, with gradients if they are enabled outside."""
        enabled = torch.is_grad_enabled()
        with in_float64(), torch.set_grad_enabled(enabled):
            return self.run(enable_io_processing=False)

    def compute(self, node: fx.Node) -> Any:
        """The node's value; a node that reads a measured value has it measured before, since it may write into it."""
        taps = self.taps.get(node, ())
        for tap in taps:
            if tap.node is not node:
                self.moments[tap].add(self.env[tap.node], tap.dim)
        value = super().compute(node)
        for tap in taps:
            if tap.node is node:
                self.moments[tap].add(value, tap.dim)
        return value


def _prunable(analysis: Analysis, copy: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that hold prunable channels, by the names of their sites; a tied one once."""
    named = dict(copy.named_parameters(remove_duplicate=False))
    sites = [site.parameter for group in analysis.groups for site in group.sites]
    return {
        name: named[name]
        for name in dict.fromkeys(sites)
        if name in named and (named[name].is_floating_point() or named[name].is_complex())
    }


def _value(loss: Loss, output: Any, batch: Batch) -> torch.Tensor:
    """The loss of a batch.

    Raises:
        PlanError: It is not one finite number that depends on the weights, or does not run.
    """
    try:
        value = loss(output, batch.targets)
    except Exception as error:
        shown = (str(error).strip() or "no message").splitlines()[0]
        first = f"loss(output, targets) raises {type(error).__name__} on batch {batch.number}: {shown}"
        mend = "batches are (inputs, targets), the loss takes the model's output and the targets"
        raise PlanError(explain(first, mend=mend)) from error
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        got = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)
        raise PlanError(explain(f"loss gave {got:.80}, expected a scalar tensor.", mend="loss(...).mean()"))
    if not value.requires_grad:
        first = "the loss does not depend on the weights, expected a scalar with a gradient."
        raise PlanError(explain(first, mend="compute it from the model's output, without detach() or item()"))
    if not value.isfinite().all():
        raise PlanError(explain(f"loss gave {value.item()} on batch {batch.number}, expected a finite number."))
    return value.reshape(())


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.complex128 if dtype.is_complex else torch.float64


def _does_not_run(batch: Batch, error: BaseException | None) -> str:
    shown = str(error).strip().splitlines() or [type(error).__name__]
    return f"the model does not run on batch {batch.number}: {shown[0]}"
