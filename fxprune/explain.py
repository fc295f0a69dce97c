"""Explain: the chain of ties from one channel of a model to everything that goes with it, or to what freezes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from tabulate import tabulate
from torch import nn

from fxprune.analysis import Analysis, analyse
from fxprune.inputs import ExampleInputs
from fxprune_passes import errors
from fxprune_passes.axes import Axes, Cat, Dim, Frozen, Take, Term, freezing, leaves, resolve
from fxprune_passes.errors import PlanError
from fxprune_passes.freedom import Freedom
from fxprune_passes.groups import Site, channels
from fxprune_passes.propagation import flat_axes
from fxprune_passes.ties import Chain, chain_to, chains


@dataclass(frozen=True, slots=True)
class Loss:
    """One parameter axis that loses positions together with a channel.

    Attributes:
        site: The parameter axis.
        positions: The positions that it loses, ascending.
        chain: The ops whose equations tie it to the axis that the explanation starts from, in order.
    """

    site: Site
    positions: tuple[int, ...]
    chain: Chain


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel of one group and everything that goes with it.

    Attributes:
        group: The group's name.
        channel: The channel, or None for all of them.
        losses: What every parameter axis that holds the channel loses.
        freedom: Whether it may stay in one block (head, group of a convolution) and go in another.
    """

    group: str
    channel: int | None
    losses: tuple[Loss, ...]
    freedom: Freedom

    def __str__(self) -> str:
        """A table: parameter axis, positions, and the ops that tie it, told from the row that it goes on from."""
        told: dict[Chain, str] = {}
        rows = []
        for loss in self.losses:
            positions = _show_runs(loss.positions, loss.site.axis.size)
            rows.append((str(loss.site), positions, _tell(loss.chain, told)))
            told.setdefault(loss.chain, f"{loss.site.parameter} dim {loss.site.dim}")
        which = "all channels" if self.channel is None else f"channel {self.channel}"
        table = tabulate(rows, headers=("parameter axis", "loses", "tied by"), disable_numparse=True)
        blocks = f"; {self.freedom}" if str(self.freedom) else ""
        return f"{which} of group {self.group!r}: {len(self.losses)} parameter axes{blocks}\n\n{table}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why channels go together, seen from one axis.

    Attributes:
        start: The parameter axis that was asked for, as text.
        channel: Its position (or the group's channel) that was asked for, or None for all.
        term: The axis in the names of the channel groups.
        channels: One entry for each group that holds the channel. A position of a product goes when any one of its
            factors' channels goes: then there are several.
        frozen: Why the axis (or this position of it) stays, or None.
        chain: The ops whose equations tie the axis to what freezes it.
    """

    start: str
    channel: int | None
    term: str
    channels: tuple[Channel, ...]
    frozen: Frozen | None
    chain: Chain

    def __str__(self) -> str:
        """Where it starts, then a table for each group, or the reason and the chain that leads there."""
        what = "every channel" if self.channel is None else f"channel {self.channel}"
        head = f"{what} of {self.term}, from {self.start}"
        if self.frozen is not None:
            links = [f"  tied by {where}" for where in self.chain]
            return "\n".join([head, *links, f"  frozen by {self.frozen.where}: {self.frozen.reason}"])
        if len(self.channels) > 1 and self.channel is not None:
            head += "; it goes with any one of these:"
        return "\n\n".join([head, *map(str, self.channels)])


def explain(
    model: nn.Module,
    example_inputs: ExampleInputs,
    member: str,
    channel: int | None = None,
    *,
    dim: int | None = None,
) -> Explanation:
    """Follow the ties from one channel to everything that goes with it.

    Args:
        model: Any module; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        member: A channel group, a module, or a parameter or buffer.
        channel: The channel of the group, or the position along the parameter's axis; None for all of them.
        dim: Which axis of a parameter; the one that it writes by default.

    Returns:
        Every parameter axis that loses the channel with the ops that tie it, or why the channel is frozen.

    Raises:
        PlanError: The name is unknown, or the position or the dim is out of range.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> (found,) = explain(model, torch.zeros(1, 8), "0", 3).channels
        >>> [str(loss.site) for loss in found.losses]
        ['0.weight dim 0 (6, 8)', '0.bias dim 0 (6,)', '2.weight dim 1 (2, 6)']
    """
    return explain_axis(analyse(model, example_inputs), member, channel, dim=dim)


def explain_axis(analysis: Analysis, member: str, channel: int | None = None, *, dim: int | None = None) -> Explanation:
    """As :func:`explain`, for a model that is analysed already."""
    groups = analysis.groups
    (name, number), term = _start(analysis, member, dim, channel)
    start = f"{name} dim {number} {tuple(axis.size for axis in groups.parameters[name])}"
    if channel is not None and not 0 <= channel < term.size:
        first = f"{member!r} has {term.size} channels, asked for channel {channel}."
        raise PlanError(errors.explain(first, at=start, mend=f"channels run from 0 to {term.size - 1}"))
    held, stated = _held(term, channel), groups.parameters[name][number]
    analysis.find_freedom([groups[groups.names[leaf]] for leaf, _ in held if leaf in groups.names])
    found = [_losses(analysis, leaf, place, stated) for leaf, place in held if leaf in groups.names]
    frozen = None if found else next((leaf.frozen for leaf, _ in held if leaf.frozen), None)
    if not found and frozen is None:
        raise PlanError(errors.explain(f"{member!r} is not used when the model runs.", at=start))
    chain = () if frozen is None else chain_to(stated, frozen, groups.ties)
    return Explanation(start, channel, groups.show(term), tuple(found), frozen, chain)


def tensor_terms(analysis: Analysis, tensor: str) -> list[tuple[int, int, str, str]]:
    """Say what each axis of any tensor is made of.

    Args:
        analysis: The analysed model.
        tensor: A parameter, a buffer, or a node of the captured graph.

    Returns:
        For every axis its dim, its size, its term in the names of the channel groups, and why it is frozen (or "").
        A node with several outputs gives the axes of each in turn.

    Raises:
        PlanError: No tensor has that name.
    """
    rows = []
    for axes in _tensors(analysis, tensor):
        for dim, axis in enumerate(axes):
            frozen = freezing(axis)
            reason = f"{frozen.where}: {frozen.reason}" if frozen else ""
            rows.append((dim, axis.size, analysis.groups.show(axis), reason))
    return rows


def _tensors(analysis: Analysis, name: str) -> list[Axes]:
    """The axes of every tensor that a name stands for."""
    known = {node.name: axes for node, axes in analysis.propagation.axes.items()} | dict(analysis.groups.parameters)
    if name not in known:
        raise PlanError(_unknown("parameter, buffer or node", name, list(known)))
    return list(flat_axes(known[name]))


def _unknown(kind: str, name: str, known: Sequence[str]) -> str:
    close = [one for one in known if name in one or one.rpartition(".")[2] == name.rpartition(".")[2]][:5]
    mend = f"did you mean {', '.join(close)}?" if close else "print the groups to see the names"
    return errors.explain(f"no {kind} is called {name!r}.", mend=mend)


def _start(analysis: Analysis, member: str, dim: int | None, channel: int | None) -> tuple[tuple[str, int], Term]:
    """The parameter and dim that a name stands for, and the term that its channels are counted along."""
    groups = analysis.groups
    if member in groups.names.values() and dim is None:
        group = groups[member]
        holding = [one for one in [*group.writers, *group.sites] if _places(one.axis, group.dim, channel)]
        site = next((one for one in holding if resolve(one.axis) is group.dim), (holding or group.writers)[0])
        return (site.parameter, site.dim), group.dim
    names = [name for name in groups.parameters if member in (name, name.rpartition(".")[0])]
    if not names:
        known = [*groups.names.values(), *groups.parameters]
        raise PlanError(_unknown("module, parameter or channel group", member, known))
    axes = {(name, number): axis for name in names for number, axis in enumerate(groups.parameters[name])}
    axes = {place: axis for place, axis in axes.items() if dim in (None, place[1])}
    if not axes:
        raise PlanError(errors.explain(f"{member!r} has {len(groups.parameters[names[0]])} dims, asked for dim {dim}."))
    # Of several axes the first that writes channels, and sooner one that is free.
    readers = analysis.propagation.readers - analysis.propagation.writers
    place = min(axes, key=lambda one: (id(axes[one]) in readers, freezing(axes[one]) is not None))
    return place, axes[place]


def _held(term: Term, position: int | None) -> list[tuple[Dim, int | None]]:
    """The unsolved Dims that an axis is made of, or those that one position of it is, each with its channel."""
    term = resolve(term)
    if position is None:
        return [(leaf, None) for leaf in dict.fromkeys(leaves(term))]
    if isinstance(term, Dim):
        return [(term, position)]
    if isinstance(term, Take):
        return _held(term.base, term.index[position])
    if isinstance(term, Cat):
        for part in term.parts:
            if position < part.size:
                return _held(part, position)
            position -= part.size
        raise AssertionError("position past the end")
    result: list[tuple[Dim, int | None]] = []
    inner = term.size
    for factor in term.factors:
        inner //= factor.size
        result += _held(factor, position // inner % factor.size)
    return result


def _losses(analysis: Analysis, dim: Dim, channel: int | None, start: Term) -> Channel:
    """What the sites of a group that hold the channel lose, nearest first."""
    groups = analysis.groups
    group = groups[groups.names[dim]]
    tied = chains(start, groups.ties, through=lambda axis: bool(_places(axis, dim, channel)))
    found = []
    for site in group.sites:
        if positions := _places(site.axis, dim, channel):
            found.append(Loss(site, positions, tied[groups.parameters[site.parameter][site.dim]]))
    losses = tuple(sorted(found, key=lambda loss: len(loss.chain)))
    return Channel(group.name, channel, losses, analysis.freedom(group))


def _places(axis: Term, dim: Dim, channel: int | None) -> tuple[int, ...]:
    """The positions of an axis that are a channel of a Dim, or any channel of it."""
    every = channels(axis, dim)
    return tuple((every >= 0 if channel is None else every == channel).nonzero().flatten().tolist())


def _tell(chain: Chain, told: dict[Chain, str]) -> str:
    """The links of a chain, from the longest part of it that has been told."""
    known = next((end for end in range(len(chain), -1, -1) if chain[:end] in told), 0)
    links = [str(where) for where in chain[known:]]
    if known or (chain in told and not links):
        links.insert(0, f"as {told[chain[:known]]}" + (", then" if links else ""))
    return "\n".join(links)


def _show_runs(positions: Sequence[int], size: int) -> str:
    """Positions in short: runs as first-last, of many only the first few."""
    if len(positions) == size > 1:
        return f"all {size}"
    runs = [[place for _, place in run] for _, run in groupby(enumerate(positions), lambda pair: pair[1] - pair[0])]
    shown = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs[:4]]
    return ", ".join(shown) + (f", .. ({len(positions)} of {size})" if len(runs) > 4 else "")
