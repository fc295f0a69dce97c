"""Compile to a module of the model's own class: its Python code stays, its tensors and attributes get smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import fx, nn

from fxprune.analysis import Analysis
from fxprune.capture import own
from fxprune.choices import Keep, kept_of
from fxprune.record import record
from fxprune.settings import follow
from fxprune_passes.errors import CaptureError, PlanError, VerifyError, explain
from fxprune_passes.fakes import shadow
from fxprune_passes.kept import Kept
from fxprune_passes.remake import Conflict, needs, remake
from fxprune_passes.verify import check_shapes

Check = Callable[[Keep], object]
"""Called with kept indices, it returns where the model's code lets them go."""


def compile_module(model: nn.Module, analysis: Analysis, kept: Kept, statistics: str) -> nn.Module:
    """A smaller deep copy of a model.

    Args:
        model: Only read.
        analysis: Made with ``emit="module"``.
        kept: The kept channels.
        statistics: ``"kept"`` or ``"full"``.

    Raises:
        PlanError: The model's code would have to change; names the line, and the channel group to leave out.
        VerifyError: The copy does not compute what the analysis predicts.
    """
    if emptied := kept.emptied():
        first = f"channel group {emptied[0]!r} keeps no channel, and the code of {type(model).__name__} calls it still."
        raise PlanError(explain(first, mend='keep a channel, or compile with emit="graph"'))
    propagation = analysis.propagation
    found = needs(propagation, model, kept, statistics=statistics, constants=analysis.capture.constants)
    if found.conflicts:
        raise PlanError(_refusal(model, found.conflicts[0]))
    small = remake(model, propagation, kept, found.attributes)
    for place in analysis.capture.forgotten:
        place.empty(small)
    read = {str(node.target) for node in propagation.graph_module.graph.nodes if node.op == "get_attr"}
    notes = (*analysis.groups.notes, *follow(model, small, read))
    check_module(small, analysis, kept)
    facts = {"statistics": statistics, "emit": "module", "attributes": found.attributes, "notes": notes}
    small.__dict__["_fxprune"] = facts
    return small


def _refusal(model: nn.Module, conflict: Conflict) -> str:
    groups = ", ".join(map(repr, conflict.groups)) or "none that is known"
    return explain(
        f'emit="module" keeps the code of {type(model).__name__}, and a line of it would have to change: '
        f"{conflict.source or conflict.node}.",
        at=conflict.detail,
        why=f"channel groups whose pruning asks for it: {groups}",
        mend=f'leave {groups} out (fxprune.plan(..., emit="module") does), or compile with emit="graph"',
    )


def facts_of(small: nn.Module) -> Mapping[str, Any] | None:
    """What compile noted on its result (statistics, emit), or None for a module that it did not make."""
    if isinstance(small, fx.GraphModule):
        kept: Mapping[str, Any] = {**small.meta.get("custom", {}), **small.meta}  # "custom" is saved with a program
        return kept.get("fxprune")
    return vars(small).get("_fxprune")


def check_module(small: nn.Module, analysis: Analysis, kept: Kept) -> None:
    """The copy's own code, run anew, is the graph that was analysed, and its shapes are as predicted.

    Raises:
        VerifyError: It is not, or the copy does not run.
    """
    args, kwargs = analysis.capture.call
    fake_mode = analysis.capture.fake_mode
    if fake_mode is None:
        return _check_run(small, args, kwargs)
    try:
        again = record(shadow(small, fake_mode), *own((args, kwargs)), fake_mode=fake_mode, keeps_code=True)
    except CaptureError as error:
        raise VerifyError(explain(f"the smaller {type(small).__name__} does not run as the original.")) from error
    _compare(analysis.capture.graph_module.graph, again.graph)
    for node in again.graph.nodes:
        node.meta["origin"] = node.name
    return check_shapes(analysis.propagation, again, kept, analysis.capture.inputs)


def _check_run(small: nn.Module, args: tuple[object, ...], kwargs: Mapping[str, object]) -> None:
    """Where the graph is that of one image's values, the copy must at least run on it."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            call_args, call_kwargs = own((args, kwargs))
            _in_private(small)(*call_args, **call_kwargs)
    except Exception as error:
        raise VerifyError(explain(f"the smaller {type(small).__name__} does not run: {error}")) from error


def _in_private(module: nn.Module) -> nn.Module:
    """The module itself, or a copy of it where running would change its statistics."""
    return deepcopy(module) if any(one.training for one in module.modules()) else module


def _compare(before: fx.Graph, after: fx.Graph) -> None:
    pairs = zip(before.nodes, after.nodes, strict=False)
    for old, new in pairs:
        if old.format_node() != new.format_node():
            first = f"the smaller module computes {new.format_node()}, where the analysis has {old.format_node()}."
            raise VerifyError(explain(first, at=str(old.meta.get("source", ""))))
    if len(before.nodes) != len(after.nodes):
        raise VerifyError(explain("the smaller module's code takes another way than the original's."))


def fit(
    analysis: Analysis,
    model: nn.Module,
    choose: Callable[[set[str], Check], Keep],
    statistics: str = "kept",
) -> tuple[Keep, dict[str, str]]:
    """Leave out the groups that the model's code does not let go.

    Args:
        analysis: Made with ``emit="module"``.
        model: Only read.
        choose: Gives kept indices by group, where the named groups stay whole. Before it compiles any to see what they
            cost, it has them checked by the function that it gets.
        statistics: What it is to be compiled with.

    Returns:
        Kept indices by group, and for each group left out the line of code and what it would have to be.
    """
    left_out: dict[str, str] = {}

    def check(keep: Keep) -> Keep:
        chosen = {name: kept for name, kept in keep.items() if name not in left_out}
        if chosen and (found := _conflicts(analysis, model, chosen, statistics)):
            raise _Stands(chosen, found)
        return chosen

    while True:
        try:
            return check(choose(set(left_out), check)), left_out
        except _Stands as way:
            guilty = _guilty(analysis, model, way.keep, way.conflicts, statistics)
            left_out.update(guilty or dict.fromkeys(way.keep, _reason(way.conflicts[0])))


class _Stands(Exception):
    """The model's code stands in the way of kept indices."""

    def __init__(self, keep: Keep, conflicts: Sequence[Conflict]) -> None:
        super().__init__(conflicts)
        self.keep, self.conflicts = keep, conflicts


def _conflicts(
    analysis: Analysis, model: nn.Module, keep: Mapping[str, Sequence[Any]], statistics: str
) -> list[Conflict]:
    kept, constants = kept_of(analysis, keep), analysis.capture.constants
    return needs(analysis.propagation, model, kept, statistics=statistics, constants=constants).conflicts


def _guilty(
    analysis: Analysis,
    model: nn.Module,
    keep: Mapping[str, Sequence[Any]],
    conflicts: Sequence[Conflict],
    statistics: str,
) -> dict[str, str]:
    """Of the groups in each conflict, those that cause it by themselves; else all but the first."""
    sure = {one.groups[0]: _reason(one) for one in conflicts if len(one.groups) == 1}
    unclear = [one for one in conflicts if not set(one.groups) & sure.keys()]
    if sure:
        return sure
    for place in range(max((len(one.groups) for one in unclear), default=0)):
        alone = {one.groups[place] for one in unclear if place < len(one.groups)}
        for one in _conflicts(analysis, model, {name: keep[name] for name in alone}, statistics):
            sure.update({name: _reason(one) for name in one.groups if name in alone})
    if sure:
        return sure
    return {name: _reason(one) for one in unclear for name in one.groups[1:] or one.groups}


def _reason(conflict: Conflict) -> str:
    return f"{conflict.source} would have to change: {conflict.detail}"
