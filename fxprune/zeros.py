"""From zeros to channels that go: which can without a change of the function, by which argument, and what stays."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves, tree_map

from fxprune.analysis import Analysis
from fxprune.choices import Indices, settled
from fxprune.difference import difference
from fxprune.ordered import idle_last, ordered
from fxprune.originals import original
from fxprune_passes.axes import Dim, freezing, leaves
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.fold import Folds
from fxprune_passes.groups import ChannelGroup, Site, channels
from fxprune_passes.kept import Kept
from fxprune_passes.lossless import Gone, Lossless
from fxprune_passes.rewrite import rewrite
from fxprune_passes.wide import Wide, precision, widen, widened

ARGUMENTS = ("dead producer", "dead reader", "constant folded")
_STEPS = 12  # of the bisection for a threshold


@dataclass(frozen=True, slots=True)
class Layer:
    """The zeros of one weight, and what of its output channels goes.

    Attributes:
        name: The parameter.
        elements: Its elements, and ``zeros`` those of them that are zero.
        channels: Its output channels; 0 where they are frozen.
        removed: How many of them go, by argument, in the order of ``ARGUMENTS``.
        left: Elements that are left, and ``left_zeros`` those of them that are zero.
    """

    name: str
    elements: int
    zeros: int
    channels: int
    removed: tuple[int, ...]
    left: int
    left_zeros: int


@dataclass(frozen=True)
class ZerosReport:
    """What a plan from zeros rests on; printing it gives a table.

    Attributes:
        below: Weights up to this magnitude count as zeros.
        error: The largest change of an output that was measured on the example inputs, relative to the largest
            output; 0 for a plan of exact zeros.
        layers: Every weight, in the order of the model.
        stays: Filters and columns that are zero and stay, and what holds them; one line for each weight and axis.
    """

    below: float
    error: float
    layers: tuple[Layer, ...]
    stays: tuple[str, ...] = ()

    @property
    def removed(self) -> int:
        """Channels that go, over all weights."""
        return sum(sum(layer.removed) for layer in self.layers)

    def __str__(self) -> str:
        """A row for each weight, and one for all."""
        rows = [_cells(one.name, one) for one in self.layers]
        table = tabulate([*rows, _cells("all weights", _total(self.layers))], headers=_HEADERS, colalign=_ALIGNED)
        lines = [table, *(f"stays: {line}" for line in self.stays)]
        if not self.removed and not self.stays:
            why = (
                "the zeros hold no channel whole" if any(one.zeros for one in self.layers) else "the model has no zeros"
            )
            lines.append(f"no channel can go: {why}")
        if self.below:
            change = f"outputs change by {self.error:.1e} at most on the example inputs"
            lines.append(f"weights up to {self.below:.3g} count as zeros; {change}")
        return "\n".join(lines)

    def document(self) -> dict[str, Any]:
        """Plain data, for JSON."""
        return {**asdict(self), "layers": [asdict(one) for one in self.layers]}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> ZerosReport:
        """The report that :meth:`document` wrote."""
        layers = tuple(Layer(**{**one, "removed": tuple(one["removed"])}) for one in document["layers"])
        return cls(float(document["below"]), float(document["error"]), layers, tuple(document["stays"]))


_HEADERS = ("weight", "zeros", "channels", *ARGUMENTS, "left", "zeros left")
_ALIGNED = ("left", *("right" for _ in _HEADERS[1:]))


def _cells(name: str, layer: Layer) -> tuple[Any, ...]:
    zeros = f"{layer.zeros / max(1, layer.elements):.2%}"
    left = f"{layer.left / max(1, layer.elements):.0%}"
    return (
        name,
        zeros,
        layer.channels or "frozen",
        *layer.removed,
        left,
        f"{layer.left_zeros / max(1, layer.left):.2%}",
    )


def _total(layers: tuple[Layer, ...]) -> Layer:
    removed = tuple(sum(layer.removed[i] for layer in layers) for i in range(len(ARGUMENTS)))

    def over(name: str) -> int:
        return sum(getattr(one, name) for one in layers)

    return Layer("", over("elements"), over("zeros"), over("channels"), removed, over("left"), over("left_zeros"))


def lossless(analysis: Analysis, model: nn.Module, inputs: Mapping[str, Any], *, below: float = 0.0) -> Lossless:
    """What of a model's channels can go, by the weights that it has.

    Args:
        analysis: Of the model, for a graph.
        model: Its weights; only read.
        inputs: Placeholder values by name.
        below: Weights up to this magnitude count as zeros.

    Raises:
        PlanError: A weight is not a finite number.
    """
    _refuse_not_finite(model)
    module = original(model, analysis.capture)
    without_small(module, below)
    epsilon = torch.finfo(precision(model)).eps
    return Lossless.of(analysis.propagation, module, tree_map(widen, inputs), epsilon=epsilon)


def without_small(module: nn.Module, below: float, names: Collection[str] | None = None) -> None:
    """Make zeros of small weights, in place: of every parameter but biases, which a zero filter leaves as they are."""
    for name, parameter in module.named_parameters() if below else ():
        if not name.endswith("bias") and (names is None or name in names):
            parameter.data.masked_fill_(parameter.abs() <= below, 0)


def _refuse_not_finite(model: nn.Module) -> None:
    """Refuse weights that are no numbers; buffers may be infinite, as masks are."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found = "is a meta tensor" if tensor.is_meta else ""
        if not found and bool((~tensor.isfinite() if isinstance(tensor, nn.Parameter) else tensor.isnan()).any()):
            found = "holds NaN or infinite values"
        if not found:
            continue
        raise PlanError(explain(f"{name!r} {found}, expected finite numbers.", mend="load or repair the weights first"))


def removable(
    analysis: Analysis, model: nn.Module, inputs: Mapping[str, Any], *, tolerance: float
) -> tuple[dict[str, Indices], ZerosReport]:
    """The channels that can go.

    Args:
        analysis: Of the model, for a graph.
        model: Its weights; only read.
        inputs: Placeholder values by name, on which changes are measured.
        tolerance: The largest change of an output, relative to the largest output, that small weights may be taken
            for zeros for.

    Returns:
        Kept indices by group, and the report.
    """
    below, error = _threshold(analysis, model, inputs, tolerance) if tolerance else (0.0, 0.0)
    model, facts, order = _idle_last(analysis, model, inputs, below)
    gone, folds = _writable(analysis, model, facts)
    keep = {group.name: _kept(order, group.dim, (~gone[group.dim]).nonzero().flatten()) for group in analysis.groups}
    return keep, _report(analysis, model, facts, gone, folds, below, error)


def _idle_last(
    analysis: Analysis, model: nn.Module, inputs: Mapping[str, Any], below: float
) -> tuple[nn.Module, Lossless, Kept]:
    """The model with idle channels last in each block that is free to, what can go of it, and the order."""
    facts = lossless(analysis, model, inputs, below=below)
    order = idle_last(analysis, facts)
    if not order.blocks:
        return model, facts, order
    model = ordered(model, analysis, order)
    return model, lossless(analysis, model, inputs, below=below), order


def _kept(order: Kept, dim: Dim, places: Tensor) -> Indices:
    """The channels in these places, of each block where blocks differ."""
    if dim not in order.blocks:
        return tuple(places.tolist())
    return settled([sorted(row[places].tolist()) for row in order.blocks[dim].order])


def _threshold(
    analysis: Analysis, model: nn.Module, inputs: Mapping[str, Any], tolerance: float
) -> tuple[float, float]:
    """The largest magnitude that may count as zero, by bisection over those that occur, and what it changes."""
    weights = [one for name, one in model.named_parameters() if not name.endswith("bias")]
    if not weights:
        return 0.0, 0.0
    sizes = torch.cat([one.detach().abs().flatten().double().cpu() for one in weights]).unique()
    low, high, best = -1, len(sizes) - 1, (0.0, 0.0)
    for _ in range(_STEPS):
        if high - low <= 0:
            break
        middle = (low + high + 1) // 2
        below = float(sizes[middle])
        error = _change(analysis, model, inputs, below)
        low, high, best = (middle, high, (below, error)) if error <= tolerance else (low, middle - 1, best)
    return best


def _change(analysis: Analysis, model: nn.Module, inputs: Mapping[str, Any], below: float) -> float:
    """How far outputs change where weights up to a magnitude count as zeros."""
    moved, facts, _ = _idle_last(analysis, model, inputs, below)
    gone, folds = _writable(analysis, moved, facts)
    small = _rewritten(analysis, moved, gone, folds)
    epsilon, wide = torch.finfo(precision(model)).eps, tree_map(widen, inputs)
    want = Wide(original(model, analysis.capture), analysis.capture.graph_module.graph, wide, epsilon=epsilon).result()
    if not all(bool(one.isfinite().all()) for one in tree_leaves(want) if isinstance(one, Tensor)):
        first = "the model's outputs on the example inputs are not finite, so that no change of them can be measured."
        raise PlanError(explain(first, mend="pass example inputs as the model sees them"))
    return difference(want, Wide(widened(small), small.graph, wide, epsilon=epsilon).result())


def _rewritten(analysis: Analysis, model: nn.Module, gone: Gone, folds: Folds) -> fx.GraphModule:
    kept, constants = kept_without(analysis, gone), analysis.capture.constants
    return rewrite(analysis.propagation, model, kept, constants=constants, statistics="full", folds=folds)


def kept_without(analysis: Analysis, gone: Gone) -> Kept:
    """The channels that stay."""
    return Kept({dim: ~mask for dim, mask in gone.items() if bool(mask.any())}, analysis.groups.names)


def _writable(analysis: Analysis, model: nn.Module, facts: Lossless) -> tuple[Gone, Folds]:
    """Channels that can go, such that the graph without them can be written: some node may need one to be left."""
    gone, folds = facts.removable()
    while True:
        try:
            _rewritten(analysis, model, gone, folds)
        except PlanError:
            if not facts.keep_one(gone):
                raise
            gone, folds = facts.removable_of(gone)  # a norm needs the others again where one of them stays
        else:
            return gone, folds


def _report(
    analysis: Analysis,
    model: nn.Module,
    facts: Lossless,
    gone: Gone,
    folds: Folds,
    below: float,
    error: float,
) -> ZerosReport:
    reasons = {group.dim: _arguments(group, facts, gone, folds) for group in analysis.groups}
    kept = kept_without(analysis, gone)
    layers = [
        _layer(name, parameter, sites, reasons, kept)
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and (sites := analysis.groups.sites_of(name))
    ]
    weights = [(name, one, analysis.groups.sites_of(name)) for name, one in model.named_parameters() if one.ndim > 1]
    stays = [line for name, one, sites in weights for line in _stay(name, one, sites, facts, kept)]
    return ZerosReport(below, error, tuple(layers), tuple(stays))


def _arguments(group: ChannelGroup, facts: Lossless, gone: Gone, folds: Folds) -> Tensor:
    """(size,): the number of the argument by which each channel goes, -1 for those that stay."""
    result = torch.full((group.size,), -1)
    for channel in gone[group.dim].nonzero().flatten().tolist():
        folded = facts.is_folded(group.dim, channel, folds)
        result[channel] = 2 if folded else 0 if facts.is_constant(group.dim, channel) else 1
    return result


def _layer(name: str, parameter: Tensor, sites: list[Site], reasons: Mapping[Dim, Tensor], kept: Kept) -> Layer:
    """One weight: its first axis that is not summed over is that of its output channels."""
    left = parameter.detach()
    for site in sites:
        if (index := kept.index(site.axis)) is not None:
            left = left.index_select(site.dim, index.to(left.device))
    out = next((one for one in sites if not one.reads and any(not leaf.frozen for leaf in leaves(one.axis))), None)
    counts = [0] * len(ARGUMENTS)
    if out is not None and (mask := kept.mask(out.axis)) is not None:
        for reason in _reasons_at(out, reasons)[~mask].tolist():
            counts[reason] += 1
    zeros, left_zeros = int((parameter == 0).sum()), int((left == 0).sum())
    width = out.axis.size if out is not None else 0
    return Layer(name, parameter.numel(), zeros, width, tuple(counts), left.numel(), left_zeros)


def _reasons_at(site: Site, reasons: Mapping[Dim, Tensor]) -> Tensor:
    """(size,): the argument by which each position of an axis goes; the last of those that hold."""
    result = torch.full((site.axis.size,), -1)
    for dim in dict.fromkeys(leaf for leaf in leaves(site.axis) if leaf in reasons):
        numbers = channels(site.axis, dim)
        found = torch.where(numbers >= 0, reasons[dim][numbers.clamp(min=0)], -1)
        result = torch.maximum(result, found)
    return result


def _stay(name: str, parameter: Tensor, sites: list[Site], facts: Lossless, kept: Kept) -> Iterator[str]:
    """Lines on filters and columns of one weight that are zero, and stay."""
    for site in sites:
        if site.axis.size == 1 or site.dim > 1:
            continue
        idle = (parameter.detach() == 0).cpu().movedim(site.dim, 0).reshape(site.axis.size, -1).all(1)
        if (mask := kept.mask(site.axis)) is not None:
            idle &= mask
        if count := int(idle.sum()):
            what = f"zero {'column' if site.reads else 'filter'}{'s' if count > 1 else ''}"
            yield f"{count} {what} of {name}, held by {_holder(site, idle, facts)}"


def _holder(site: Site, idle: Tensor, facts: Lossless) -> str:
    """The first node that holds a position of an axis, or what froze the axis."""
    if frozen := freezing(site.axis):
        return f"{frozen.where}: {frozen.reason}"
    graph_module = facts.propagation.graph_module
    nodes = list(graph_module.graph.nodes)
    for dim in dict.fromkeys(leaf for leaf in leaves(site.axis) if leaf in facts.held):
        numbers = channels(site.axis, dim)[idle]
        held = facts.held[dim][numbers[numbers >= 0]]
        if bool((held >= 0).any()):
            return _shown(nodes[int(held[held >= 0][0])], graph_module)
    return "a node that needs one channel"


def _shown(node: fx.Node, graph_module: fx.GraphModule) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(graph_module.get_submodule(str(node.target))).__name__})"
    return f"{node.name} ({node.meta['source']})" if node.meta.get("source") else node.name
