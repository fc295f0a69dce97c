"""fxprune: structured pruning as a compiler pass. A model and a plan in, a smaller ``torch.fx.GraphModule`` out."""

from __future__ import annotations

from fxprune.analysis import analyse
from fxprune.choose import plan
from fxprune.compiling import compile
from fxprune.count import Count, count
from fxprune.extend import mend, rule
from fxprune.inputs import ExampleInputs
from fxprune.measure import measure
from fxprune.plans import Plan
from fxprune.program import Model
from fxprune.report import Report
from fxprune.schedules import schedule
from fxprune.sparsity import Regularizer
from fxprune.transfer import transfer
from fxprune.verification import verify
from fxprune_passes.axes import Axes
from fxprune_passes.errors import (
    ArtifactError,
    CaptureError,
    FxPruneError,
    PlanError,
    RuleError,
    UnsupportedError,
    VerifyError,
)
from fxprune_passes.groups import ChannelGroup, ChannelGroups
from fxprune_passes.mend import Call
from fxprune_passes.rules import Op

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "Axes",
    "Call",
    "CaptureError",
    "ChannelGroup",
    "ChannelGroups",
    "Count",
    "FxPruneError",
    "Op",
    "Plan",
    "PlanError",
    "Regularizer",
    "Report",
    "RuleError",
    "UnsupportedError",
    "VerifyError",
    "analyze",
    "compile",
    "count",
    "measure",
    "mend",
    "plan",
    "rule",
    "schedule",
    "transfer",
    "verify",
]


def analyze(model: Model, example_inputs: ExampleInputs | None = None, *, emit: str = "graph") -> ChannelGroups:
    """Find what can be pruned, and what is frozen and why.

    Args:
        model: Any module, or an exported program; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those that
            an exported program holds.
        emit: ``"module"`` analyses a model whose code is to stay, on real values where fake ones do not suffice.

    Returns:
        The channel groups; printing them gives a table.

    Raises:
        CaptureError: The model cannot be captured.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> [(group.name, group.size) for group in analyze(model, torch.zeros(1, 8))]
        [('0', 6)]
    """
    return analyse(model, example_inputs, emit=emit).groups
