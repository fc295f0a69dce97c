"""Run the captured graph on fake tensors and state every op's equations between axes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from fxprune_passes.axes import Where, freezing, leaves
from fxprune_passes.interpret import Interpreter
from fxprune_passes.propagation import Propagation, flat_axes
from fxprune_passes.quiet import quiet_run


def propagate(
    graph_module: fx.GraphModule,
    inputs: Mapping[str, Any],
    fake_mode: FakeTensorMode | None,
    values: Mapping[str, torch.Tensor],
    *,
    freeze_outputs: bool = True,
) -> Propagation:
    """Solve every op's axis equations.

    Args:
        graph_module: Captured model whose parameters and buffers are fake; not modified.
        inputs: A fake tensor or plain value for each placeholder.
        fake_mode: The mode that made them; None for a graph of real tensors, which run.
        values: The real tensors by name; integer ones are followed by value where they index an axis.
        freeze_outputs: Keep the model's outputs whole.

    Returns:
        Axes of every tensor, fake values of every node, and the solved equations.

    Raises:
        CaptureError: The graph does not run on these inputs.
    """
    result = Propagation(graph_module, fake_mode)
    interpreter = Interpreter(result, values)
    with quiet_run(fake_mode):
        interpreter.run_graph(inputs)
    if freeze_outputs:
        _freeze_outputs(result)
    _freeze_tables(result, values)
    _note_inferred(result)
    return result


def _freeze_outputs(result: Propagation) -> None:
    output = next(iter(reversed(result.graph_module.graph.nodes)))
    result.equations.where = Where("output", "model output")
    for axes in flat_axes(result.axes[output]):
        for axis in axes:
            result.equations.freeze(axis, "model output")


def _note_inferred(result: Propagation) -> None:
    """Keep and mark the inferred rules that carry channels which can go."""
    for node in list(result.inferred):
        if all(freezing(axis) for axes in flat_axes(result.axes[node]) for axis in axes):
            del result.inferred[node]
        else:
            node.meta["inferred"] = result.inferred[node].op


def _freeze_tables(result: Propagation, values: Mapping[str, torch.Tensor]) -> None:
    """Keep the axes that only integer tensors have, such as the positions behind a sequence: no weight is there."""
    integers = {name for name in result.parameters if name in values and not _is_weight(values[name])}
    weighty = {
        leaf
        for name in result.parameters.keys() - integers
        for axis in result.parameters[name]
        for leaf in leaves(axis)
    }
    for name in sorted(integers):
        result.equations.where = Where(name, name)
        for leaf in (leaf for axis in result.parameters[name] for leaf in leaves(axis)):
            if leaf not in weighty:
                result.equations.freeze(leaf, "no weights, a table of numbers")


def _is_weight(tensor: torch.Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()
