"""Where in a captured graph the activations of channels are measured, and which weights are batch norm scales."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx
from torch.nn.modules.batchnorm import _BatchNorm

from fxprune.analysis import Analysis
from fxprune_passes.axes import Axes, Term, leaves
from fxprune_passes.groups import ChannelGroup, Site

_SCALE = {torch.nn.functional.batch_norm: 3}  # position among the arguments; 1 in every other batch norm


@dataclass(frozen=True, slots=True)
class Tap:
    """One axis of the value of one node, measured when another node runs.

    Attributes:
        when: The node that is about to run; where it is the measured node itself, it has just run.
        node: The node whose value is measured.
        dim: The axis.
        axis: What it is made of.
    """

    when: fx.Node
    node: fx.Node
    dim: int
    axis: Term


class Taps:
    """The places of measurement.

    A channel is measured as the weights that read it see it: at the input of each op that sums over it with a weight
    (behind norms and activation functions), just before that op runs. Where no weight reads a channel (queries and
    keys of an attention), it is measured at the output of each op that a weight of its producers goes into.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.groups = analysis.groups
        self._axes = analysis.propagation.axes
        self._held = _held(analysis)
        self._origins: dict[fx.Node, frozenset[int]] = {}
        self._consumers: dict[int, list[fx.Node]] = {}
        for node in analysis.capture.graph_module.graph.nodes:
            self._follow(node)

    def _follow(self, node: fx.Node) -> None:
        """Note which weights a node is made of alone, or which go into it together with other values."""
        inputs = [one for one in node.all_input_nodes if self._plain(one)]
        weights = frozenset[int]().union(*(self._origins.get(one, frozenset()) for one in inputs))
        weights |= self._held.get(str(node.target), frozenset()) if node.op in ("get_attr", "call_module") else weights
        if node.op != "call_module" and all(one in self._origins for one in inputs):
            if weights:
                self._origins[node] = weights
        else:
            for weight in weights:
                self._consumers.setdefault(weight, []).append(node)

    def _plain(self, node: fx.Node) -> Axes:
        """The axes of a node that is one tensor; none of any other."""
        axes = self._axes[node]
        return axes if isinstance(axes, tuple) else ()

    def inputs(self, site: Site) -> list[Tap]:
        """The values that a weight is multiplied with and summed over along one of its axes."""
        site = site.original
        inside = set(leaves(site.axis))
        found = [
            Tap(when, node, dim, axis)
            for when in self._consumers.get(id(site.tensor), ())
            for node in when.all_input_nodes
            if node not in self._origins or when.op == "call_module"
            for dim, axis in enumerate(self._plain(node))
            if inside & set(leaves(axis))
        ]
        return list(dict.fromkeys(found))

    def of(self, group: ChannelGroup) -> list[Tap]:
        """The values that stand for the activations of a group."""
        read = [tap for site in group.sites if site.reads for tap in self.inputs(site)]
        read = [tap for tap in read if group.dim in set(leaves(tap.axis))]
        if not read:
            read = [
                Tap(node, node, dim, axis)
                for site in group.sites
                for node in self._consumers.get(id(site.original.tensor), ())
                for dim, axis in enumerate(self._plain(node))
                if group.dim in set(leaves(axis))
            ]
        return list(dict.fromkeys(read))

    def partner(self, site: Site) -> Site | None:
        """The axis of a producer's weight that holds its input channels."""
        others = (one for one in self.groups.sites_of(site.parameter) if one.dim != site.dim and one.reads)
        return next((one for one in others if self.inputs(one)), None)

    def every(self) -> list[Tap]:
        """All taps that groups or weights ask for, in the order in which the graph names them."""
        sites = [one for name in self.groups.parameters for one in self.groups.sites_of(name) if one.reads]
        found = [tap for site in sites for tap in self.inputs(site)]
        return list(dict.fromkeys([*found, *(tap for group in self.groups for tap in self.of(group))]))


def _held(analysis: Analysis) -> dict[str, frozenset[int]]:
    """The tensors behind each name, and inside each module, by identity."""
    result: dict[str, frozenset[int]] = {}
    for name in analysis.groups.parameters:
        tensors = frozenset(id(site.tensor) for site in analysis.groups.sites_of(name)[:1])
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            path = ".".join(parts[:end])
            result[path] = result.get(path, frozenset()) | tensors
    return result


def batch_norm_scales(analysis: Analysis) -> frozenset[str]:
    """The names of the weights that batch norms multiply with."""
    module = analysis.capture.graph_module
    found = set[str]()
    for node in module.graph.nodes:
        if node.op == "call_module" and isinstance(module.get_submodule(str(node.target)), _BatchNorm):
            found.add(f"{node.target}.weight")
        elif node.op == "call_function" and "batch_norm" in getattr(node.target, "__name__", ""):
            place = _SCALE.get(node.target, 1)
            scale = node.kwargs.get("weight", node.args[place] if len(node.args) > place else None)
            if isinstance(scale, fx.Node) and scale.op == "get_attr":
                found.add(str(scale.target))
    return frozenset(found)
