"""Analysis: capture and propagate in one step, and the channel groups that result."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.export import ExportedProgram

from fxprune.capture import Capture, capture
from fxprune.inputs import ExampleInputs
from fxprune.notes import inferred_notes, listed, notes_of, unread
from fxprune.program import Model, inputs_of
from fxprune.wrappers import unwrap
from fxprune_passes.axes import Dim
from fxprune_passes.blocks import by_block
from fxprune_passes.errors import CaptureError, PlanError, explain
from fxprune_passes.freedom import Freedom, find_freedom
from fxprune_passes.groups import ChannelGroup, ChannelGroups, Site
from fxprune_passes.propagate import propagate
from fxprune_passes.propagation import Propagation
from fxprune_passes.quiet import no_collection
from fxprune_passes.tensors import tensors_of


@dataclass(frozen=True, slots=True)
class Analysis:
    """Everything known of one model on one kind of inputs.

    Attributes:
        capture: The captured graph.
        propagation: The axes of every tensor in it.
        groups: What can be pruned, what is frozen and why.
        emit: What it is for: ``"graph"`` or ``"module"``.
    """

    capture: Capture
    propagation: Propagation
    groups: ChannelGroups
    emit: str = "graph"
    _freedom: dict[Dim, Freedom] = field(default_factory=dict, repr=False, compare=False)

    def freedom(self, group: ChannelGroup) -> Freedom:
        """Whether a group's channels may differ from block to block (heads, groups of a convolution)."""
        if group.dim not in self._freedom:
            self.find_freedom(self.groups)
        return self._freedom[group.dim]

    def find_freedom(self, groups: Iterable[ChannelGroup]) -> None:
        """Look at these groups at once; :meth:`freedom` then knows of them, and looks at all for another one."""
        if missing := [group for group in groups if group.dim not in self._freedom]:
            self._freedom.update(find_freedom(self.propagation, missing))

    def by_block(self, group: ChannelGroup) -> ChannelGroup:
        """A group as one of all channels of all blocks, where each may keep channels of its own; else as it is."""
        outers = self.freedom(group).outers
        return by_block(group, outers, self.groups.parameters) if outers else group


@no_collection()
def analyse(
    model: Model, example_inputs: ExampleInputs | None, *, emit: str = "graph", freeze_outputs: bool = True
) -> Analysis:
    """Capture a model and solve its axis equations.

    Args:
        model: Any module, or an exported program; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those that
            an exported program holds.
        emit: ``"module"`` analyses a model whose code stays: see :func:`fxprune.capture.capture`.
        freeze_outputs: Keep the model's outputs whole (always, but for the laws of single ops).

    Raises:
        CaptureError: The model cannot be captured.
        PlanError: ``emit`` is neither ``"graph"`` nor ``"module"``.
    """
    if emit not in ("graph", "module"):
        raise PlanError(explain(f"emit={emit!r}, expected 'graph' or 'module' for an analysis or a plan."))
    if emit == "module" and isinstance(model, ExportedProgram):
        first = "an exported program has no class of its own to copy (emit='module')."
        raise CaptureError(explain(first, mend="emit='graph', 'exported' or 'unflattened'"))
    example_inputs = inputs_of(model, example_inputs)
    model, unwrapped = unwrap(model)
    captured = capture(model, example_inputs, emit=emit)
    if captured.fake_mode is None:
        _refuse_unreached(captured, model)
    tensors = {**tensors_of(model), **captured.constants}
    propagation = propagate(
        captured.graph_module,
        captured.inputs,
        captured.fake_mode,
        tensors,
        freeze_outputs=freeze_outputs,
    )
    notes = (*unwrapped, *notes_of(captured.graph_module, model, emit=emit), *inferred_notes(propagation.inferred))
    return Analysis(captured, propagation, _groups(propagation, tensors, notes), emit)


def _refuse_unreached(captured: Capture, model: nn.Module) -> None:
    """Code that takes its way by values may reach other modules on other values: what those read is not known."""
    if missed := unread(captured.graph_module, model):
        first = f"the example inputs do not reach {listed(missed)}, and the code takes its way by values."
        mend = "pass example inputs that reach them, or prune the submodules around the code that looks at values"
        raise CaptureError(explain(first, why="what they read of the pruned channels is not known", mend=mend))


def _groups(propagation: Propagation, tensors: dict[str, torch.Tensor], notes: tuple[str, ...]) -> ChannelGroups:
    readers = propagation.readers - propagation.writers
    sites = [
        Site(name, dim, axis, id(axis) in readers, tensors[name])
        for name in _in_order_of_use(propagation, tensors)
        for dim, axis in enumerate(propagation.parameters[name])
    ]
    return ChannelGroups(
        sites, propagation.parameters, propagation.equations.ties, notes, partial(find_freedom, propagation)
    )


def _in_order_of_use(propagation: Propagation, tensors: dict[str, torch.Tensor]) -> list[str]:
    """Names of the tensors that the graph reads, in the order in which it does; other names of the same last."""
    inside: dict[str, list[str]] = {}
    for name in propagation.parameters:
        parts = name.split(".")
        for end in range(1, len(parts)):
            inside.setdefault(".".join(parts[:end]), []).append(name)
    order: dict[str, None] = {}
    for node in propagation.graph_module.graph.nodes:
        if node.op == "get_attr" and str(node.target) in propagation.parameters:
            order.setdefault(str(node.target))
        elif node.op == "call_module":
            order.update(dict.fromkeys(inside.get(str(node.target), [])))
    used = {id(tensors[name]) for name in order}
    return [*order, *(name for name in propagation.parameters if name not in order and id(tensors[name]) in used)]
