"""Compile: a model and a plan in, a smaller graph module or exported program out."""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch import fx, nn
from torch.export import ExportedProgram

from fxprune.analysis import Analysis
from fxprune.choices import kept_of
from fxprune.exporting import dynamic_shapes_of, export
from fxprune.inputs import as_call
from fxprune.modules import compile_module
from fxprune.ordered import ordered
from fxprune.plans import Plan
from fxprune.program import Model
from fxprune.proving import prove_inferred
from fxprune.specs import from_spec
from fxprune.trial import Trial, lossless_of
from fxprune.wrappers import unwrap
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.fold import Folds
from fxprune_passes.kept import Kept
from fxprune_passes.lossless import Lossless
from fxprune_passes.quiet import no_collection
from fxprune_passes.rewrite import rewrite
from fxprune_passes.verify import check_shapes

EMITS = ("graph", "module", "exported", "unflattened")


@overload
def compile(
    model: Model, plan: Plan, *, statistics: str = ..., emit: Literal["graph"] | None = ...
) -> fx.GraphModule: ...


@overload
def compile(
    model: Model, plan: Plan, *, statistics: str = ..., emit: Literal["module", "unflattened"]
) -> nn.Module: ...


@overload
def compile(model: Model, plan: Plan, *, statistics: str = ..., emit: Literal["exported"]) -> ExportedProgram: ...


@overload
def compile(model: Model, plan: Plan, *, statistics: str = ..., emit: str) -> Any: ...


@no_collection()
def compile(model: Model, plan: Plan, *, statistics: str = "kept", emit: str | None = None) -> Any:
    """Rewrite a model without the channels that a plan removes.

    Args:
        model: The model that the plan was made for, or another with the same structure; a module or an exported
            program, only read.
        plan: Which channels stay.
        statistics: Over which channels means and variances run: ``"kept"``, those that are left (the convention of
            the literature), or ``"full"``, all of them with zeros in the removed places, as always for a plan of
            :meth:`Plan.from_zeros`.
        emit: ``"graph"``, or ``"module"`` for a smaller copy of the model's own class, code and methods included;
            ``"exported"`` for a ``torch.export.ExportedProgram`` (with the dynamic sizes of the one that came in),
            ``"unflattened"`` for that program as a tree of modules; by default what the plan was made for.

    Returns:
        A graph module with parameters of its own under their old names; with ``emit="module"`` a module of the
        model's class, and so on. It computes the function of the model in which every removed channel is zero in
        every tensor; with a plan of :meth:`Plan.from_zeros`, the very function of the model.
        ``meta["fxprune"]["notes"]`` of a graph module says what it was specialised to (``meta["baked"]``: line, what
        was asked, value), and which parameters of the model it leaves out.

    Raises:
        PlanError: The plan does not fit the model, or with ``emit="module"`` its code would have to change.
        VerifyError: The result is not what the analysis predicts (a bug; nothing wrong is returned), or a rule that
            was inferred by running an op cannot be verified. Plans that rely on one are always verified by numbers.
        UnsupportedError: The compiled graph cannot be exported.

    Example:
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> small = fxprune.compile(model, fxprune.plan(model, torch.zeros(1, 8), channels=0.5))
        >>> small(torch.zeros(1, 8)).shape, sum(p.numel() for p in small.parameters())
        (torch.Size([1, 2]), 35)
    """
    if statistics not in ("kept", "full"):
        raise PlanError(explain(f"statistics={statistics!r}, expected 'kept' or 'full'."))
    emit = plan.emit if emit is None else emit
    if emit not in EMITS:
        raise PlanError(explain(f"emit={emit!r}, expected one of {', '.join(map(repr, EMITS))}."))
    analysis = plan.analysis_of(model, "module" if emit == "module" else "graph")
    module, unwrapped = unwrap(model)
    kept = kept_of(analysis, plan.keep)
    if emit == "module" and plan.report is not None:
        first = "a plan from zeros moves constants into biases, which the model's own code need not have."
        raise PlanError(explain(first, mend="emit='graph', 'exported' or 'unflattened'"))
    if emit == "module":
        made = compile_module(module, analysis, kept, statistics)
        prove_inferred(Trial.of(module, made, plan, analysis, kept, statistics, seed=0))
        return made
    captured, facts, folds = analysis.capture, None, None
    source, left = module, kept
    if plan.report is not None:
        if kept.blocks:  # what is folded is found in a model whose blocks are in order
            source, left = ordered(module, analysis, kept), Kept(kept.dims, kept.names)
        facts, statistics = lossless_of(analysis, source, plan), "full"
        folds = _folds(facts, left, analysis)
    small = rewrite(
        analysis.propagation, source, left, constants=captured.constants, statistics=statistics, folds=folds
    )
    small.meta["baked"] = list(captured.graph_module.meta.get("baked", []))
    small.meta["fxprune"]["notes"] = list(dict.fromkeys((*unwrapped, *analysis.groups.notes)))
    check_shapes(analysis.propagation, small, kept, captured.inputs)
    small.meta["fxprune"]["lossless"] = facts is not None
    given = small.meta["fxprune"]["given"]
    prove_inferred(Trial.of(module, small, plan, analysis, kept, statistics, seed=0, facts=facts, given=given))
    if emit == "graph":
        return small
    program = _exported(small, model, module, plan)
    return program if emit == "exported" else torch.export.unflatten(program)


def _folds(facts: Lossless, kept: Kept, analysis: Analysis) -> Folds:
    """What is written in place of the channels that go.

    Raises:
        PlanError: With these weights, some of the channels cannot go without a change of the function.
    """
    folds, blamed = facts.folds_without({dim: ~mask for dim, mask in kept.dims.items()})
    if not blamed:
        return folds
    dim, mask = blamed[0]
    name, number = analysis.groups.names[dim], int(mask.nonzero()[0])
    first = f"channel {number} of group {name!r} is no constant with these weights, and is read."
    raise PlanError(explain(first, why="the plan was made from other zeros", mend="make a new one: Plan.from_zeros"))


def _exported(small: fx.GraphModule, model: Model, module: nn.Module, plan: Plan) -> ExportedProgram:
    """The compiled graph as a program that is called as the original is."""
    if not isinstance(model, ExportedProgram):
        args, kwargs = as_call(from_spec(plan.inputs))
        return export(small, module, args, kwargs)
    args, kwargs = model.example_inputs or as_call(from_spec(plan.inputs))
    return export(small, module, args, kwargs, dynamic_shapes_of(model))
