"""Channel groups: what can be pruned, under which names, and what is frozen and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from tabulate import tabulate
from torch import Tensor

from fxprune_passes.axes import Axes, Cat, Dim, Take, Term, Where, freezing, leaves, resolve, show
from fxprune_passes.equations import Tie
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.ties import chain_to


@dataclass(frozen=True, slots=True)
class Site:
    """One axis of one parameter or buffer: ``parameter`` dim ``dim``, made of ``axis``.

    ``reads`` says that the axis is summed over by every op that uses it (a convolution's input channels).
    """

    parameter: str
    dim: int
    axis: Term
    reads: bool
    tensor: Tensor = field(repr=False)

    @property
    def original(self) -> Site:
        """The site as the parameter has it: this one, unless its tensor is laid out anew."""
        return self

    def like(self, values: Tensor) -> Tensor:
        """Values in the shape of the parameter, laid out as ``tensor`` is."""
        return values

    def __str__(self) -> str:
        """Read as ``conv1.weight dim 0 (64, 3, 7, 7)``."""
        return f"{self.parameter} dim {self.dim} {tuple(self.tensor.shape)}"


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Channels that go together: channel i of the group is named by every site.

    Attributes:
        name: Unique; the first module that writes these channels.
        size: Number of channels, of all blocks where each keeps channels of its own.
        sites: Every parameter axis that holds them.
        dim: The variable of the axis algebra.
    """

    name: str
    size: int
    sites: tuple[Site, ...]
    dim: Dim = field(repr=False)

    @property
    def blocks(self) -> int:
        """Number of blocks (heads, groups of a convolution) that keep channels of their own, as many each."""
        return 1

    @property
    def width(self) -> int:
        """Channels of each block."""
        return self.size // self.blocks

    @property
    def writers(self) -> tuple[Site, ...]:
        """The sites that produce the channels (all sites, where none does)."""
        return tuple(site for site in self.sites if not site.reads) or self.sites

    def per_channel(self, site: Site, values: Tensor) -> Tensor:
        """Sum values along a site's axis into the channels they belong to.

        Args:
            site: One of ``sites``.
            values: ``(site's axis size,)``.

        Returns:
            ``(size,)``: for every channel the sum over the positions that it fills.
        """
        places, channel = (one.to(values.device) for one in self.places(site.axis))
        part = values if len(places) == len(values) else values[places]
        return values.new_zeros(self.size).index_add_(0, channel, part)

    def places(self, axis: Term) -> tuple[Tensor, Tensor]:
        """The positions of an axis, ascending, that hold channels of this group, and the channel of each; int64."""
        return _places(axis, self.dim)


def _places(term: Term, dim: Dim) -> tuple[Tensor, Tensor]:
    """Look only into the parts of a join that are made of ``dim``: a dense block joins many."""
    term = resolve(term)
    if isinstance(term, Cat):
        parts, start = list[tuple[Tensor, Tensor]](), 0
        for part in term.parts:
            if part is dim or (not isinstance(part, Dim) and dim in leaves(part)):
                positions, channel = _places(part, dim)
                parts.append((positions + start, channel))
            start += part.size
        if len(parts) == 1:
            return parts[0]
        none = torch.empty(0, dtype=torch.int64)
        return tuple(map(torch.cat, zip(*parts, strict=True))) if parts else (none, none)  # type: ignore[return-value]
    every = channels(term, dim)
    positions = (every >= 0).nonzero().flatten()
    return positions, every[positions]


def channels(term: Term, dim: Dim) -> Tensor:
    """For every position of an axis the channel of ``dim`` that it is, or -1; int64 ``(term.size,)``."""
    term = resolve(term)
    if isinstance(term, Dim):
        return torch.arange(term.size) if term is dim else torch.full((term.size,), -1)
    if isinstance(term, Take):
        return channels(term.base, dim)[torch.tensor(term.index)]
    if isinstance(term, Cat):
        return torch.cat([channels(part, dim) for part in term.parts] or [torch.empty(0, dtype=torch.int64)])
    result = torch.full((1,), -1)
    for factor in term.factors:
        result = torch.maximum(result[:, None], channels(factor, dim)).flatten()
    return result


@dataclass(frozen=True, slots=True)
class FrozenAxis:
    """An axis that stays whole, and why."""

    parameter: str
    dim: int
    size: int
    reason: str
    where: Where

    def __str__(self) -> str:
        """Read as one line."""
        return f"{self.parameter} dim {self.dim} ({self.size} channels) is frozen by {self.where}: {self.reason}"


class ChannelGroups(Sequence[ChannelGroup]):
    """All channel groups of a model, in the order the model runs; indexed by number or by any member's name.

    Attributes:
        frozen: Parameter axes that stay whole, with op, module and source line.
        parameters: The axes of every parameter and buffer.
        ties: The solved equations, for the chain from one axis to another.
        notes: What the graph was specialised to and what it leaves out, one line a fact.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        parameters: Mapping[str, Axes],
        ties: Sequence[Tie],
        notes: Sequence[str] = (),
        freedom: Callable[[Sequence[ChannelGroup]], Mapping[Dim, object]] | None = None,
    ) -> None:
        self.parameters = parameters
        self.ties = ties
        self.notes = tuple(notes)
        self._freedom = freedom
        self._sites = sites
        self._groups = _gather(sites)
        self._by_name = {group.name: group for group in self._groups}
        self.names = {group.dim: group.name for group in self._groups}
        self.frozen = [
            FrozenAxis(site.parameter, site.dim, site.axis.size, frozen.reason, frozen.where)
            for site in sites
            if (frozen := freezing(site.axis)) and site.axis.size > 1 and not _is_kernel(site)
        ]

    def __len__(self) -> int:
        """Number of groups."""
        return len(self._groups)

    def __iter__(self) -> Iterator[ChannelGroup]:
        """The groups, in the order the model runs."""
        return iter(self._groups)

    def __getitem__(self, key: int | slice | str) -> ChannelGroup:  # type: ignore[override]
        """A group by number, by name, or by any module or parameter that writes it.

        Raises:
            PlanError: The name is unknown, names several groups, or names only frozen axes.
        """
        if isinstance(key, (int, slice)):
            return self._groups[key]  # type: ignore[return-value]
        if key in self._by_name:
            return self._by_name[key]
        axis = self.axis(key)
        found = list(dict.fromkeys(leaf for leaf in leaves(axis) if not leaf.frozen))
        if len(found) > 1:
            names = ", ".join(self.names[leaf] for leaf in found)
            first = f"{key!r} holds {len(found)} channel groups, expected one."
            raise PlanError(explain(first, at=f"its axis is {self.show(axis)}", mend=f"name one of {names}"))
        return self._by_name[self.names[found[0]]]

    def __str__(self) -> str:
        """Tables of the groups with their members, of those that blocks number, of what is frozen, and the notes."""
        rows = [(group.name, group.size, _members(group)) for group in self]
        text = tabulate(rows, headers=("channel group", "channels", "members"), maxcolwidths=[None, None, 80])
        freedom = {} if self._freedom is None else self._freedom(self)
        if blocks := [(group.name, told) for group in self if (told := str(freedom.get(group.dim, "")))]:
            table = tabulate(
                blocks, headers=("channel group", "groups of a convolution, heads"), maxcolwidths=[None, 90]
            )
            text = f"{text}\n\n{table}"
        frozen: dict[tuple[str, str], list[FrozenAxis]] = {}
        for axis in self.frozen:
            frozen.setdefault((axis.reason, str(axis.where)), []).append(axis)
        lines = [
            (reason, where, _some([f"{a.parameter}:{a.dim}" for a in axes])) for (reason, where), axes in frozen.items()
        ]
        if lines:
            table = tabulate(lines, headers=("frozen because", "by", "axes"), maxcolwidths=[30, 50, 60])
            text = f"{text}\n\n{table}"
        return "\n".join([text, *(f"note: {note}" for note in self.notes)])

    def show(self, term: Term) -> str:
        """A term as text, in the names of these groups."""
        return show(term, self.names)

    def axis(self, member: str) -> Term:
        """The axis that a module or parameter writes.

        Args:
            member: A module (``"layer1.0.conv1"``), a parameter or a buffer (``"layer1.0.conv1.weight"``), or one
                dim of it (``"layer1.0.conv1.weight:1"``).

        Raises:
            PlanError: The name is unknown, holds several different axes, or is frozen.
        """
        sites = [site for site in self._sites if _is_called(site, member)]
        if not sites:
            raise PlanError(self._unknown(member))
        written = [site for site in sites if not site.reads and not _is_kernel(site)] or sites
        free = [site for site in written if not freezing(site.axis)]
        if not free:
            raise PlanError(self._frozen(member, written))
        axes = list(dict.fromkeys(resolve(site.axis) for site in free))
        shown = {self.show(axis) for axis in axes}
        if len(shown) > 1:
            first = f"{member!r} writes {len(shown)} different axes, expected one."
            at = "\n".join(f"{site}: {self.show(site.axis)}" for site in free)
            mend = f"name a parameter and its dim, {free[0].parameter + ':' + str(free[0].dim)!r}, or a channel group"
            raise PlanError(explain(first, at=at, mend=mend))
        return axes[0]

    def sites_of(self, parameter: str) -> list[Site]:
        """Every axis of a parameter or buffer, frozen ones too."""
        return [site for site in self._sites if site.parameter == parameter]

    def _unknown(self, member: str) -> str:
        if any(site.parameter.startswith(f"{member}.") for site in self._sites):
            first = f"{member!r} holds several modules, expected one module, parameter or channel group."
        else:
            first = f"no module, parameter or channel group is called {member!r}."
        known = {site.parameter.rpartition(".")[0] for site in self._sites} | set(self._by_name)
        close = [name for name in sorted(known) if member.rpartition(".")[2] in name or name in member][:5]
        return explain(
            first, mend=f"did you mean {', '.join(close)}?" if close else "print the groups to see the names"
        )

    def _frozen(self, member: str, sites: Sequence[Site]) -> str:
        site = next((one for one in sites if not one.reads), sites[0])
        frozen = freezing(site.axis)
        assert frozen is not None
        first = f"{member!r} cannot be pruned: {site.axis.size} channels, frozen by {frozen.where}: {frozen.reason}."
        return explain(first, at=str(site), why="\n".join(self.chain(self.parameters[site.parameter][site.dim])))

    def chain(self, axis: Term) -> list[str]:
        """The ties that lead from a frozen axis, as the model stated it, to what it is frozen by."""
        if (frozen := freezing(axis)) is None:
            return []
        links = [f"{axis.size} channels tied by {where}" for where in chain_to(axis, frozen, self.ties)]
        return [*links, f"frozen by {frozen.where}: {frozen.reason}"]


def _is_called(site: Site, member: str) -> bool:
    return member in (site.parameter, site.parameter.rpartition(".")[0], f"{site.parameter}:{site.dim}")


def _is_kernel(site: Site) -> bool:
    frozen = freezing(site.axis)
    return frozen is not None and frozen.reason == "kernel size"


def _members(group: ChannelGroup) -> str:
    return _some(list(dict.fromkeys(f"{site.parameter}:{site.dim}" for site in group.sites)))


def _some(names: Sequence[str], most: int = 12) -> str:
    rest = f", +{len(names) - most}" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _gather(sites: Sequence[Site]) -> list[ChannelGroup]:
    """Groups in order of first use; two names of one tensor count once."""
    by_dim: dict[Dim, list[Site]] = {}
    seen: set[tuple[int, int]] = set()
    for site in sites:
        if (id(site.tensor), site.dim) in seen:
            continue
        seen.add((id(site.tensor), site.dim))
        axis = resolve(site.axis)
        for leaf in (axis,) if isinstance(axis, Dim) else dict.fromkeys(leaves(axis)):
            if not leaf.frozen:
                by_dim.setdefault(leaf, []).append(site)
    taken: set[str] = set()
    return [_named(dim, members, taken) for dim, members in by_dim.items()]


def _named(dim: Dim, sites: Sequence[Site], taken: set[str]) -> ChannelGroup:
    """Name a group after the first module that writes exactly it, else after the part of an axis that it is.

    Parameters come before buffers: a head's width is that of a projection, not that of a table of frequencies.
    """
    own = [site for site in sites if isinstance(site.tensor, torch.nn.Parameter)] or sites
    writers = [site for site in own if not site.reads]
    first = next((site for site in writers if resolve(site.axis) is dim), None) or (writers or own)[0]
    name = first.parameter.rpartition(".")[0] or first.parameter
    free = list(dict.fromkeys(leaf for leaf in leaves(first.axis) if not leaf.frozen))
    if len(free) > 1:
        name = f"{name}:{free.index(dim)}"
    if name in taken:
        name = first.parameter if first.parameter not in taken else f"{first.parameter}:{first.dim}"
    unique, number = name, 1
    while unique in taken:
        unique, number = f"{name}#{number}", number + 1
    taken.add(unique)
    return ChannelGroup(unique, dim.size, tuple(sites), dim)
