"""Plan by criterion: in every channel group, the channels that score highest stay."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from fxprune.analysis import Analysis, analyse
from fxprune.criteria import Criterion, find_criterion, scores
from fxprune.indices import kept_mask
from fxprune.inputs import ExampleInputs
from fxprune.modules import fit
from fxprune.plans import Plan, make_plan
from fxprune.program import Model
from fxprune.wrappers import unwrap
from fxprune_passes.axes import Cat, Prod, Take, Term, leaves, resolve
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup, ChannelGroups, channels
from fxprune_passes.kept import Kept
from fxprune_passes.propagation import flat_axes


def plan(
    model: Model,
    example_inputs: ExampleInputs | None = None,
    *,
    channels: float,
    criterion: str | Criterion = "l2",
    ignore: Sequence[str] = (),
    round_to: int | None = None,
    seed: int = 0,
    emit: str = "graph",
) -> Plan:
    """Choose, in every channel group, the channels that score highest.

    An axis that is a product (heads and head width, groups and group width) is pruned in its wider factor only.

    Args:
        model: Any module, or an exported program; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those that
            an exported program holds.
        channels: Fraction of each group's channels that stays, in (0, 1].
        criterion: ``"l1"``, ``"l2"``, ``"random"``, or ``criterion(group) -> scores (n,)``, high stays.
        ignore: Modules, parameters or globs of them whose output width stays.
        round_to: Kept channels are a multiple of this, where the group is wide enough.
        seed: For ``"random"``.
        emit: What the plan is to be compiled to. ``"module"`` leaves out the groups that the model's own code does
            not let go, and says so.

    Raises:
        PlanError: An option is out of range, a name in ``ignore`` is unknown, or a criterion misbehaves.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> plan(model, torch.zeros(1, 8), channels=0.5).kept("2.weight")[1].shape
        torch.Size([3])
    """
    _check_options(channels, round_to)
    score = find_criterion(criterion, seed)
    analysis, module = analyse(model, example_inputs, emit=emit), unwrap(model)[0]
    whole = _ignored(analysis.groups, module, ignore)

    def choose(left_out: set[str]) -> dict[str, tuple[int, ...]]:
        ranked = {
            group.name: torch.sort(scores(group, score), descending=True, stable=True).indices.tolist()
            for group in _one_factor_each(analysis.groups, whole | left_out)
        }
        keep = {name: order[: _count(len(order), channels, round_to)] for name, order in ranked.items()}
        return cover(analysis, keep, ranked)

    chosen, left_out = fit(analysis, module, choose) if emit == "module" else (choose(set()), {})
    return make_plan(model, example_inputs, analysis, chosen, left_out)


def cover(
    analysis: Analysis, keep: Mapping[str, Sequence[int]], ranked: Mapping[str, Sequence[int]]
) -> dict[str, tuple[int, ...]]:
    """Keep a channel more where an axis would lose all of its own: every reader keeps something to read.

    Args:
        analysis: The analysed model.
        keep: Kept indices by group.
        ranked: All indices by group, best first.

    Returns:
        Kept indices by group, ascending.
    """
    result = {name: set(kept) for name, kept in keep.items()}
    by_name = {group.name: group for group in analysis.groups}
    for axis in _axes_that_may_empty(analysis):
        kept = Kept({by_name[name].dim: kept_mask(by_name[name].size, sorted(one)) for name, one in result.items()})
        if kept.size(axis) == 0:
            name, place = _best(analysis.groups, _empty_part(axis, kept), ranked)
            result[name].add(place)
    return {name: tuple(sorted(one)) for name, one in result.items()}


def _axes_that_may_empty(analysis: Analysis) -> list[Term]:
    """Axes that hold a part of a group only: picks, and what is made of nothing else."""
    found: dict[int, Term] = {}
    trees = [axes for tree in analysis.propagation.axes.values() for axes in flat_axes(tree)]
    for axes in (*trees, *analysis.groups.parameters.values()):
        found.update({id(axis): axis for axis in axes if id(axis) not in found and _may_empty(resolve(axis))})
    return list(found.values())


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
        inside = set(channels(axis, leaf)) - {-1}
        if leaf in groups.names and inside:
            name = groups.names[leaf]
            return name, next(place for place in ranked[name] if place in inside)
    raise AssertionError("an empty axis holds no channel of a pruned group")


def _check_options(channels: float, round_to: int | None) -> None:
    if isinstance(channels, bool) or not isinstance(channels, (int, float)) or not 0 < channels <= 1:
        raise PlanError(explain(f"channels={channels!r} is out of range, expected a fraction in (0, 1] that stays."))
    if round_to is not None and (isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1):
        raise PlanError(explain(f"round_to={round_to!r}, expected None or a positive integer."))


def _count(size: int, channels: float, round_to: int | None) -> int:
    count = max(1, round(size * channels))
    if round_to is not None:
        count = max(round_to, round(count / round_to) * round_to)
    return min(size, count)


def _ignored(groups: ChannelGroups, model: nn.Module, patterns: Sequence[str]) -> set[str]:
    """Groups that hold an output axis of an ignored module or parameter."""
    if isinstance(patterns, str):
        raise PlanError(
            explain(f"ignore={patterns!r} is a string, expected a sequence of names.", mend=f"ignore=({patterns!r},)")
        )
    names = [name for name, _ in model.named_modules(remove_duplicate=False)]
    names += [name for name, _ in model.named_parameters(remove_duplicate=False)]
    names += [name for name, _ in model.named_buffers(remove_duplicate=False)] + [group.name for group in groups]
    result: set[str] = set()
    for pattern in patterns:
        matched = set(fnmatch.filter(names, pattern)) | ({pattern} & set(names))
        if not matched:
            raise PlanError(explain(f"ignore names {pattern!r}, which matches no module, parameter or group."))
        result |= {group.name for group in groups if _writes_any(group, matched)}
    return result


def _writes_any(group: ChannelGroup, names: set[str]) -> bool:
    owners = {group.name}
    for site in group.writers:
        parts = site.parameter.split(".")
        owners |= {".".join(parts[: end + 1]) for end in range(len(parts))}
    return bool(owners & names)


def _one_factor_each(groups: ChannelGroups, whole: set[str]) -> list[ChannelGroup]:
    """Groups to prune: of the groups that are factors of one product, the widest that is not ignored."""
    rivals: dict[str, set[str]] = {}
    for group in groups:
        for site in group.sites:
            _note_rivals(site.axis, groups, rivals)
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
            _note_rivals(part, groups, rivals)
    elif isinstance(term, Prod):
        factors = [{groups.names[leaf] for leaf in leaves(one) if leaf in groups.names} for one in term.factors]
        for factor in factors:
            for name in factor:
                others = set().union(*(one for one in factors if one is not factor))
                rivals.setdefault(name, set()).update(others - {name})
