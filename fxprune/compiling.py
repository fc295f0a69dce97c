"""Compile: a model and a plan in, a smaller graph module out."""

from __future__ import annotations

import torch
from torch import fx, nn

from fxprune.analysis import Analysis
from fxprune.plans import Plan
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.rewrite import rewrite
from fxprune_passes.verify import check_shapes


def compile(model: nn.Module, plan: Plan, *, statistics: str = "kept") -> fx.GraphModule:
    """Rewrite a model without the channels that a plan removes.

    Args:
        model: The model that the plan was made for, or another with the same structure; only read.
        plan: Which channels stay.
        statistics: Over which channels means and variances run: ``"kept"``, those that are left (the convention of
            the literature), or ``"full"``, all of them with zeros in the removed places.

    Returns:
        A graph module with parameters of its own under their old names. It computes the function of the model in
        which every removed channel is zero in every tensor.

    Raises:
        PlanError: The plan does not fit the model.
        VerifyError: The result is not what the analysis predicts (a bug; nothing wrong is returned).

    Example:
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> small = fxprune.compile(model, fxprune.plan(model, torch.zeros(1, 8), channels=0.5))
        >>> small(torch.zeros(1, 8)).shape, sum(p.numel() for p in small.parameters())
        (torch.Size([1, 2]), 35)
    """
    if statistics not in ("kept", "full"):
        raise PlanError(explain(f"statistics={statistics!r}, expected 'kept' or 'full'."))
    analysis = plan.analysis_of(model)
    kept = kept_of(analysis, plan)
    captured = analysis.capture
    small = rewrite(analysis.propagation, model, kept, constants=captured.constants, statistics=statistics)
    check_shapes(analysis.propagation, small, kept, captured.inputs)
    return small


def kept_of(analysis: Analysis, plan: Plan) -> Kept:
    """The plan's choice in terms of the analysis."""
    dims = {}
    for group in analysis.groups:
        if group.name not in plan.keep:
            continue
        mask = torch.zeros(group.size, dtype=torch.bool)
        mask[torch.tensor(plan.keep[group.name], dtype=torch.int64)] = True
        dims[group.dim] = mask
    return Kept(dims, analysis.groups.names)
