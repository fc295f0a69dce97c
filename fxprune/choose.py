"""Plan by criterion and target: the channels that score highest stay, as many as the target allows."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from fxprune.analysis import Analysis, analyse
from fxprune.batches import Loss
from fxprune.budget import SCOPES, Choice, Planner, met
from fxprune.choices import Keep, is_by_block, kept_of, settled
from fxprune.costs import Costs
from fxprune.criteria import Criterion, Evidence, Scorer, check_given, find_criterion, name_of
from fxprune.indices import kept_mask
from fxprune.inputs import ExampleInputs, as_call
from fxprune.latency import Stopwatch, check_timing, latency_meter
from fxprune.meters import Counted, Meter
from fxprune.modules import Check, fit
from fxprune.plans import Plan, make_plan
from fxprune.program import Model, inputs_of
from fxprune.targets import Target, target_of
from fxprune.widths import Widths
from fxprune.wrappers import unwrap
from fxprune_passes.axes import Cat, Dim, Prod, Take, Term, leaves, resolve
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup, ChannelGroups, channels
from fxprune_passes.kept import Kept
from fxprune_passes.propagation import flat_axes
from fxprune_passes.quiet import no_collection
from fxprune_passes.tensors import tensors_of


def plan(
    model: Model,
    example_inputs: ExampleInputs | None = None,
    *,
    channels: float | None = None,
    params: float | None = None,
    macs: float | None = None,
    bytes: float | None = None,
    latency: float | str | None = None,
    timing: str = "eager",
    criterion: str | Criterion = "l2",
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    scope: str = "local",
    overrides: Mapping[str, float] | None = None,
    ignore: Sequence[str] = (),
    round_to: int | str | None = "default",
    min_channels: int = 1,
    max_drop: float = 1.0,
    by_block: bool = True,
    seed: int = 0,
    emit: str = "graph",
) -> Plan:
    """Choose the channels that score highest, as many as a target allows.

    Exactly one target: ``channels``, ``params``, ``macs``, ``bytes`` or ``latency``. A float up to 1 is the fraction
    that stays (of what the captured graph reads), anything else a bound. An axis that is a product (heads and head
    width, groups and group width) is pruned in its wider factor only.

    Args:
        model: Any module, or an exported program; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those that
            an exported program holds.
        channels: Fraction of the channels that stays, in (0, 1].
        params: Parameters that stay.
        macs: Multiply-accumulate operations that stay, on the example inputs.
        bytes: Bytes of parameters and buffers that stay.
        latency: Time of one call on the example inputs that stays, or a bound with a unit: ``"5ms"``, ``"300us"``,
            ``"0.01s"``. Layers are timed first, at some widths (see :mod:`fxprune.table`; kept in files, so that a
            second plan is quick); then compiled models, by turns with the original, in eval mode, on the threads that
            PyTorch is set to. Plans depend on these measurements; under ``torch.distributed`` all processes plan
            together, by the means of what they measure.
        timing: What of a model is timed for ``latency``: ``"eager"``, or ``"compiled"`` by ``torch.compile``. Layers
            are timed eagerly for both; what a compiled model takes decides.
        criterion: A name (``"l2"``, ``"taylor"``, .. see :mod:`fxprune.criteria`), one of the criteria there, or
            ``criterion(group) -> scores (n,)``; high stays. With a parameter ``evidence`` it gets the data's too.
        batches: Data for the criteria that need it: any iterable of inputs or ``(inputs, targets)``, read once.
        loss: ``loss(output, targets)``, a scalar, for the criteria that need gradients.
        scope: ``"local"``: the same fraction of every group. ``"global"``: one ranking over all groups, by scores
            relative to the mean of their group, or as they are if the criterion is ``comparable``. ``"isomorphic"``:
            the same fraction of every class of groups of like structure, ranked within the class (Fang et al.,
            Isomorphic Pruning for Vision Models, ECCV 2024).
        overrides: Fractions that stay for some groups, by names or globs as in ``ignore``: ``{"layer4.*": 0.8}``.
        ignore: Modules, parameters or globs of them whose output width stays.
        round_to: Kept channels are a multiple of this, where the group is wide enough. ``"auto"``: multiples of 16
            from 64 channels on, of 8 from 32 on, which kernels like. By default None for ``channels``, else ``"auto"``.
        min_channels: At least so many of each group stay.
        max_drop: At most this fraction of each group goes.
        by_block: In grouped convolutions and heads, each block keeps the channels that score highest in it, as many as
            every other, where no tensor forbids it. False: the same channels in all blocks.
        seed: For ``"random"``, and for what the model and the batches draw at random.
        emit: What the plan is to be compiled to. ``"module"`` leaves out the groups that the model's own code does
            not let go, and says so.

    Returns:
        The plan, which costs at most what the target says; a note says what it costs.

    Raises:
        PlanError: An option is out of range, options conflict, a name is unknown, a criterion misbehaves or reads no
            batches or loss that are given, or the target lies below what can be reached.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> plan(model, torch.zeros(1, 8), channels=0.5).kept("2.weight")[1].shape
        torch.Size([3])
        >>> print(plan(model, torch.zeros(1, 8), params=40).notes[-1])
        params=40: 35 of 68 params stay (51.5%), the nearest below that the widths allow
    """
    target = target_of({"channels": channels, "params": params, "macs": macs, "bytes": bytes, "latency": latency})
    check_timing(timing, target.metric)
    default = None if target.metric == "channels" else "auto"
    widths = Widths(default if round_to == "default" else round_to, min_channels, max_drop)
    widths.check()
    if scope not in SCOPES:
        raise PlanError(explain(f"scope={scope!r}, expected one of {', '.join(map(repr, SCOPES))}."))
    is_timed = target.metric == "latency"
    is_quick = batches is None and not is_timed
    with no_collection() if is_quick else nullcontext():
        found = find_criterion(criterion, seed)  # what is unknown or not read is refused before the analysis
        check_given(found, name_of(criterion), {"batches": batches, "loss": loss})
        analysis, module = analyse(model, example_inputs, emit=emit), unwrap(model)[0]
        inputs, name = inputs_of(model, example_inputs), f"criterion {name_of(criterion)}"
        evidence = Evidence(analysis, module, inputs, batches=batches, loss=loss, seed=seed, criterion=name)
        score = Scorer(criterion, evidence)
        whole = _ignored(analysis.groups, module, ignore)
        fixed = _overridden(analysis.groups, module, overrides or {}, whole)

        views: dict[str, ChannelGroup] = {}

        def open_groups(without: set[str]) -> list[ChannelGroup]:
            groups = _one_factor_each(analysis.groups, without)
            if by_block:
                analysis.find_freedom(groups)
            for group in (one for one in groups if one.name not in views):
                views[group.name] = analysis.by_block(group) if by_block else group
            return [views[group.name] for group in groups]

        score.score(open_groups(whole))  # before anything is searched: it may be refused
        notes = list[str]()

        def choose(left_out: set[str], check: Check) -> Keep:
            choices = [
                one
                for group in open_groups(whole | left_out)
                if (one := _choice(group, score, widths, fixed.get(group.name)))
            ]
            ranked = {one.group.name: one for one in choices}
            orders = {name: one.orders[0] for name, one in ranked.items()}

            def settle(counts: Mapping[str, int], runs: bool = is_timed) -> tuple[Keep, Kept]:
                keep = cover(analysis, {name: ranked[name].best(count) for name, count in counts.items()}, orders)
                if runs:
                    check(keep)
                return keep, kept_of(analysis, keep)

            planner = Planner(choices, scope)
            if target.metric == "channels":
                return settle(planner.counts(target.value))[0]
            if is_timed:
                settle(planner.counts(0.5))  # what the code holds is known before anything is timed
            meter = _meter(analysis, module, inputs, target, timing, planner, lambda counts: settle(counts, False)[1])
            keep, note = met(planner, target, meter, settle)
            notes[:] = [note]
            return keep

        chosen, left_out = fit(analysis, module, choose) if emit == "module" else (choose(set(), lambda _: None), {})
        return make_plan(model, example_inputs, analysis, chosen, {**score.left_out(), **left_out}, notes=notes)


def _meter(
    analysis: Analysis,
    model: nn.Module,
    inputs: ExampleInputs,
    target: Target,
    timing: str,
    planner: Planner,
    settle: Callable[[Mapping[str, int]], Kept],
) -> Meter:
    """What the target is measured by."""
    if target.metric == "latency":
        stopwatch = Stopwatch(model, as_call(inputs), timing)
        return latency_meter(analysis, model, stopwatch, planner.allowed(), settle, relative=target.is_fraction)
    costs = Costs(analysis, model)
    return Counted(costs, target.metric, costs.of_kept(kept_of(analysis, {}))[target.metric])


def _choice(group: ChannelGroup, score: Scorer, widths: Widths, fixed: float | None) -> Choice | None:
    """How a group's channels rank, and its widths; None where the criterion has no scores for it."""
    if (scores := score(group)) is None:
        return None
    ordered = torch.sort(scores.view(group.blocks, group.width), descending=True, stable=True)
    orders, values = tuple(map(tuple, ordered.indices.tolist())), ordered.values.mean(0)
    compared = values if score.comparable else _relative(values)
    return Choice(group, orders, compared, widths.allowed(group.width), fixed)


def _relative(scores: torch.Tensor) -> torch.Tensor:
    """Scores relative to the mean of their group, so that groups of large weights do not win throughout."""
    return scores / scores.abs().mean().clamp(min=1e-30)


def _overridden(
    groups: ChannelGroups, model: nn.Module, overrides: Mapping[str, float], whole: set[str]
) -> dict[str, float]:
    """The fraction that each override asks of the groups that it names; later ones win."""
    result: dict[str, float] = {}
    for pattern, share in overrides.items():
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
            raise PlanError(explain(f"overrides[{pattern!r}]={share!r}, expected a fraction in (0, 1] that stays."))
        named = _ignored(groups, model, (pattern,), option="overrides")
        if both := sorted(named & whole):
            first = f"overrides[{pattern!r}] and ignore both name channel group {both[0]!r}."
            raise PlanError(explain(first, mend="name it in one of them"))
        result.update(dict.fromkeys(named, float(share)))
    return result


def cover(analysis: Analysis, keep: Mapping[str, Sequence[Any]], ranked: Mapping[str, Sequence[int]]) -> Keep:
    """Keep a channel more where an axis would lose all of its own: every reader keeps something to read.

    Args:
        analysis: The analysed model.
        keep: Kept indices by group. No axis picks channels that are kept by block, so they cover all that they can.
        ranked: All indices by group, best first.

    Returns:
        Kept indices by group, ascending.
    """
    blocks: Keep = {name: settled(kept) for name, kept in keep.items() if is_by_block(kept)}
    result = {name: set(kept) for name, kept in keep.items() if name not in blocks}
    by_name = {group.name: group for group in analysis.groups}
    for axis in _axes_that_may_empty(analysis):
        kept = Kept({by_name[name].dim: kept_mask(by_name[name].size, sorted(one)) for name, one in result.items()})
        if kept.size(axis) == 0:
            name, place = _best(analysis.groups, _empty_part(axis, kept), ranked)
            result[name].add(place)
    return {name: blocks[name] if name in blocks else tuple(sorted(result[name])) for name in keep}


def _axes_that_may_empty(analysis: Analysis) -> list[Term]:
    """Axes that hold a part of a group only: picks, and what is made of nothing else."""
    trees = [axes for tree in analysis.propagation.axes.values() for axes in flat_axes(tree)]
    every = {id(axis): axis for axes in (*trees, *analysis.groups.parameters.values()) for axis in axes}
    terms = {id(term): term for axis in every.values() if not isinstance(term := resolve(axis), Dim)}
    return [term for term in terms.values() if _may_empty(term)]


def _may_empty(term: Term) -> bool:
    """Whether an axis can lose all its positions though every group keeps a channel; one without any loses none."""
    if term.size == 0:
        return False
    if isinstance(term, Cat):
        return all(_may_empty(part) for part in term.parts)
    if isinstance(term, Prod):
        return any(_may_empty(factor) for factor in term.factors)
    return isinstance(term, Take)


def _empty_part(term: Term, kept: Kept) -> Term:
    """The pick that empties an axis."""
    term = resolve(term)
    if isinstance(term, Cat):
        return _empty_part(term.parts[0], kept)
    if isinstance(term, Prod):
        return next(_empty_part(factor, kept) for factor in term.factors if kept.size(factor) == 0)
    return term


def _best(groups: ChannelGroups, axis: Term, ranked: Mapping[str, Sequence[int]]) -> tuple[str, int]:
    """The best channel that fills a position of an axis."""
    for leaf in dict.fromkeys(leaves(axis)):
        inside = set(channels(axis, leaf).tolist()) - {-1}
        if leaf in groups.names and inside:
            name = groups.names[leaf]
            return name, next(place for place in ranked[name] if place in inside)
    raise AssertionError("an empty axis holds no channel of a pruned group")


def _ignored(groups: ChannelGroups, model: nn.Module, patterns: Sequence[str], *, option: str = "ignore") -> set[str]:
    """Groups that hold an output axis of the modules or parameters that an option names."""
    if isinstance(patterns, str):
        raise PlanError(
            explain(f"ignore={patterns!r} is a string, expected a sequence of names.", mend=f"ignore=({patterns!r},)")
        )
    if not patterns:
        return set()
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    names += [*tensors_of(model), *(group.name for group in groups)]
    result: set[str] = set()
    for pattern in patterns:
        matched = set(fnmatch.filter(names, pattern)) | ({pattern} & set(names))
        if not matched:
            raise PlanError(explain(f"{option} names {pattern!r}, which matches no module, parameter or group."))
        result |= {group.name for group in groups if _writes_any(group, matched)}
    return result


def prunable(groups: ChannelGroups, model: nn.Module, ignore: Sequence[str]) -> list[ChannelGroup]:
    """The groups that :func:`plan` chooses from: those that are not ignored, of the factors of a product the widest.

    Raises:
        PlanError: A name in ``ignore`` is unknown.
    """
    return _one_factor_each(groups, _ignored(groups, model, ignore))


def _writes_any(group: ChannelGroup, names: set[str]) -> bool:
    owners = {group.name}
    for site in group.writers:
        parts = site.parameter.split(".")
        owners |= {".".join(parts[: end + 1]) for end in range(len(parts))}
    return bool(owners & names)


def _one_factor_each(groups: ChannelGroups, whole: set[str]) -> list[ChannelGroup]:
    """Groups to prune: of the groups that are factors of one product, the widest that is not ignored."""
    rivals: dict[str, set[str]] = {}
    every = {id(site.axis): site.axis for group in groups for site in group.sites}
    axes = {id(axis): axis for one in every.values() if type(axis := resolve(one)) is not Dim}
    for axis in axes.values():
        _note_rivals(axis, groups, rivals)
    chosen: set[str] = set()
    for group in sorted((one for one in groups if one.name not in whole), key=lambda one: -one.size):
        if not rivals.get(group.name, set()) & chosen:
            chosen.add(group.name)
    return [group for group in groups if group.name in chosen]


def _note_rivals(term: Term, groups: ChannelGroups, rivals: dict[str, set[str]]) -> None:
    term = resolve(term)
    if isinstance(term, Take):
        _note_rivals(term.base, groups, rivals)
    elif isinstance(term, Cat):
        for part in term.parts:
            if not isinstance(part, Dim) or part.bound is not None:
                _note_rivals(part, groups, rivals)
    elif isinstance(term, Prod):
        factors = [{groups.names[leaf] for leaf in leaves(one) if leaf in groups.names} for one in term.factors]
        for factor in factors:
            for name in factor:
                others = set().union(*(one for one in factors if one is not factor))
                rivals.setdefault(name, set()).update(others - {name})
