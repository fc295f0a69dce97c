"""What criteria share: which weights of a group count, sums of them by channel, and how several layers become one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fxprune_passes.axes import resolve
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup, Site

OVER = ("producers", "writers", "readers", "group")
REDUCTIONS = ("sum", "mean", "max", "product", "first")
NORMALIZATIONS = (None, "sum", "mean", "max", "lamp")


def sites_over(group: ChannelGroup, over: str) -> list[Site]:
    """The weights of a group that a criterion counts, each tied one once.

    Args:
        group: The channel group.
        over: ``"producers"`` are the filters that write the channels (weights of convolutions, linear layers and
            embeddings), ``"writers"`` are these with their biases, norm scales and shifts, ``"readers"`` the weights
            that sum over the channels, ``"group"`` is all of them.

    Returns:
        The sites. A group without producers is counted by its writers, one without readers or writers by what it has;
        buffers count where there are no parameters.
    """
    sites = [site for site in group.sites if site.tensor.is_floating_point() or site.tensor.is_complex()]
    sites = [site for site in sites if isinstance(site.tensor, nn.Parameter)] or sites
    writers = [site for site in sites if not site.reads] or sites
    if over == "group":
        return sites
    if over == "readers":
        return [site for site in sites if site.reads] or writers
    return writers if over == "writers" else [site for site in writers if site.tensor.ndim > 1] or writers


@dataclass(frozen=True)
class Over:
    """A criterion that counts some of a group's weights.

    Attributes:
        over: Which: see :func:`sites_over`.
    """

    over: str = "producers"

    def __post_init__(self) -> None:
        """Check the options."""
        check_choice("over", self.over, OVER)

    def sites(self, group: ChannelGroup) -> list[Site]:
        """The weights that count."""
        return sites_over(group, self.over)

    def total(self, group: ChannelGroup, values: Callable[[Site], torch.Tensor]) -> torch.Tensor:
        """The sum of values, one for each element of each of these weights: ``(group.size,)``, float64."""
        parts = (channel_sums(group, site, values(site)) for site in self.sites(group))
        return sum(parts, torch.zeros(group.size, dtype=torch.float64))


def is_bias(site: Site) -> bool:
    """Whether a weight is added rather than multiplied with; by its name."""
    return site.tensor.ndim == 1 and "bias" in site.parameter.rpartition(".")[2]


def weight(site: Site) -> torch.Tensor:
    """The values of a weight, as they are.

    Raises:
        PlanError: It has none.
    """
    if site.tensor.is_meta:
        first = f"{site.parameter!r} is a meta tensor, expected weights with values."
        raise PlanError(explain(first, mend='load the weights first, or criterion="random"'))
    return site.tensor.detach()


def wide(site: Site) -> torch.Tensor:
    """The values of a weight in float64 (or complex128), in the memory of the host."""
    tensor = weight(site).cpu()
    return tensor.to(torch.complex128 if tensor.is_complex() else torch.float64)


def channel_sums(group: ChannelGroup, site: Site, values: torch.Tensor) -> torch.Tensor:
    """Sum values in the shape of a weight into channels.

    Args:
        group: The channel group.
        site: One of its sites.
        values: One for each element of ``site.tensor``.

    Returns:
        ``(group.size,)``.
    """
    others = [dim for dim in range(values.ndim) if dim != site.dim]
    return group.per_channel(site, values.sum(others) if others else values)


def power_sums(group: ChannelGroup, site: Site, power: float) -> torch.Tensor:
    """The sum of ``|w| ** power`` over a weight's elements in each channel, ``(group.size,)``, float64."""
    tensor = weight(site)
    if resolve(site.axis) is group.dim:
        return _norms(tensor, site.dim, power) ** power
    places, channel = group.places(site.axis)
    if len(places) < site.axis.size:  # a reader of a dense block reads many groups: look at this one's part only
        tensor = tensor.index_select(site.dim, places.to(tensor.device))
    result = torch.zeros(group.size, dtype=torch.float64)
    return result.index_add_(0, channel, _norms(tensor, site.dim, power) ** power)


def _norms(tensor: torch.Tensor, dim: int, power: float) -> torch.Tensor:
    """Of the part of a weight at every position along ``dim``, float64."""
    others = [one for one in range(tensor.ndim) if one != dim]
    dtype = torch.promote_types(tensor.dtype, torch.float32)
    norms = torch.linalg.vector_norm(tensor, power, dim=others, dtype=dtype) if others else tensor
    return norms.abs().double().cpu()


def rows(group: ChannelGroup, site: Site) -> torch.Tensor:
    """Every channel's elements of a weight as one row, ``(group.size, m)``, real; 0 where a channel has fewer."""
    tensor = weight(site).cpu()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    tensor = tensor.movedim(site.dim, 0).flatten(1) if tensor.ndim > 1 else tensor[:, None]
    inside, place = group.places(site.axis)
    whole = torch.arange(group.size)
    if torch.equal(inside, whole) and torch.equal(place, whole):
        return tensor
    tensor = tensor[inside]
    order = place.argsort(stable=True)
    counts = torch.bincount(place, minlength=group.size)
    number = torch.arange(len(place)) - (counts.cumsum(0) - counts)[place[order]]
    result = tensor.new_zeros(group.size, int(counts.max()), tensor.shape[1])
    result[place[order], number] = tensor[order]
    return result.flatten(1)


def reduce(group: ChannelGroup, sites: Sequence[Site], values: Sequence[torch.Tensor], how: str) -> torch.Tensor:
    """Make one value of those of several weights, for each channel.

    Args:
        group: The channel group.
        sites: The weights.
        values: ``(group.size,)`` for each of them, not negative.
        how: ``"sum"``, ``"mean"``, ``"max"``, ``"product"`` or ``"first"`` (in the order in which the model runs).

    Returns:
        ``(group.size,)``, over the weights that hold the channel; 0 where none does.
    """
    if not sites:
        return torch.zeros(group.size, dtype=torch.float64)
    stack = torch.stack([one.double() for one in values])
    if how == "sum":
        return stack.sum(0)
    if how == "max":
        return stack.amax(0)
    held = torch.stack([group.per_channel(site, torch.ones(site.axis.size)) > 0 for site in sites])
    if how == "mean":
        return stack.sum(0) / held.sum(0).clamp_min(1)
    if how == "product":
        return torch.where(held, stack, 1).prod(0) * held.any(0)
    return stack.gather(0, held.int().argmax(0, keepdim=True))[0]


def normalize(scores: torch.Tensor, how: str | None) -> torch.Tensor:
    """Make scores of different groups comparable: divide by their sum, mean or largest, or as LAMP does."""
    if how is None:
        return scores
    if how == "lamp":
        order = scores.argsort(stable=True)
        ascending = scores[order]
        rest = ascending.flip(0).cumsum(0).flip(0)  # itself and all that are larger
        result = torch.zeros_like(scores)
        result[order] = ascending / torch.where(rest > 0, rest, 1)
        return result
    total = {"sum": scores.sum(), "mean": scores.mean(), "max": scores.amax()}[how]
    return scores / total if total > 0 else scores


def check_choice(what: str, value: object, known: Sequence[object]) -> None:
    """Refuse an option that is not among the known ones.

    Raises:
        PlanError: It is not.
    """
    if value not in known:
        raise PlanError(explain(f"{what}={value!r}, expected one of {', '.join(map(repr, known))}."))
