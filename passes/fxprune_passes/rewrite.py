"""Write the new graph: every node of the old one with sliced parameters, mended literals, and dead code gone."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx, nn

from fxprune_passes.effects import drop_dead, is_impure
from fxprune_passes.emit import Emitter
from fxprune_passes.fold import Folds
from fxprune_passes.given import give, settle
from fxprune_passes.kept import Kept
from fxprune_passes.mend import FULL, MENDS, MODULES, Call, Scalars, Source, moved
from fxprune_passes.mode import mode_of
from fxprune_passes.propagation import Propagation, flat_axes
from fxprune_passes.scalars import changes, is_scalar, write_scalar
from fxprune_passes.tensors import tensors_of
from fxprune_passes.vanish import EMPTY, Vanish, is_empty, refusal


def rewrite(
    propagation: Propagation,
    model: nn.Module,
    kept: Kept,
    *,
    constants: Mapping[str, torch.Tensor],
    statistics: str = "kept",
    folds: Folds | None = None,
) -> fx.GraphModule:
    """Emit the smaller graph module.

    Args:
        propagation: The captured graph with its axes.
        model: The real model; only read.
        kept: The kept channels.
        constants: Real tensors that the capture found outside parameters and buffers, by name.
        statistics: ``"kept"`` or ``"full"``: over which channels means and variances run.
        folds: What is written in place of constants in removed channels.

    Returns:
        A graph module with parameters of its own.

    Raises:
        PlanError: A node cannot do without all of its channels.
    """
    emitter = Emitter(model, constants, propagation.parameters, kept)
    return Rewriter(propagation, emitter, statistics, folds or Folds()).run()


class Rewriter:
    """Maps the nodes of the old graph to nodes of the new one, in order."""

    def __init__(self, propagation: Propagation, emitter: Emitter, statistics: str, folds: Folds) -> None:
        self.propagation = propagation
        self.emitter = emitter
        self.statistics = statistics
        self.folds = folds
        self.graph = fx.Graph()
        self.tensors: dict[fx.Node, Any] = {}
        self.scalars = Scalars()
        self.vanish = Vanish()
        self.source = Source(propagation.axes, propagation.values, propagation.constants, propagation.statistics)

    def run(self) -> fx.GraphModule:
        """The new graph module."""
        old = self.propagation.graph_module
        self.write()
        self.graph._codegen = old.graph._codegen
        drop_dead(self.graph, is_impure)
        result = self.emitter.build(self.graph, type(self.emitter.model).__name__.removesuffix("Impl"), self._unread())
        result.meta["fxprune"] = {"statistics": self.statistics, "dropped": self._dropped(result)}
        given = {name: one.flatten().tolist() for name, one in self.emitter.given.items()}  # plain, for JSON
        result.meta["fxprune"]["given"] = given
        self._note_promises()
        return result

    def write(self) -> None:
        """Write every node of the old graph into the new one."""
        for node in self.propagation.graph_module.graph.nodes:
            self._write(node, self._call(node))

    def _unread(self) -> set[str]:
        """Parameters and buffers of a graph module that its graph never reads."""
        model = self.emitter.model
        if not isinstance(model, fx.GraphModule):
            return set()
        read = tuple(str(node.target) for node in self.propagation.graph_module.graph.nodes)
        modules = tuple(f"{one}." for one in read)
        return {name for name in tensors_of(model) if name not in read and not name.startswith(modules)}

    def _note_promises(self) -> None:
        """Say of every node whether it is exact, or takes statistics over the channels that are left."""
        over_kept = {node.name for node in self.propagation.graph_module.graph.nodes if self._is_over_kept(node)}
        inferred = {node.name: one.op for node, one in self.propagation.inferred.items()}
        for node in self.graph.nodes:
            node.meta["promise"] = "statistics over what is left" if node.meta.get("origin") in over_kept else "exact"
            if node.meta.get("origin") in inferred:
                node.meta["inferred"] = inferred[node.meta["origin"]]

    def _call(self, node: fx.Node) -> Call:
        return Call(node, self.graph, self.source, self.emitter.kept, self.tensors, self.scalars, self.emitter.constant)

    def _write(self, node: fx.Node, call: Call) -> None:
        if node.op == "output":
            if self.vanish.touches(call):
                raise refusal(call)
            self.graph.output(call.data(node.args[0]))
        elif node.op == "placeholder":
            self.tensors[node] = self.scalars.shape[node] = self.scalars.data[node] = self._placeholder(node, call)
        elif is_scalar(self.source.axes[node]) and node.target not in (operator.setitem, "__setitem__"):
            if self.vanish.touches(call):
                raise refusal(call)
            self._scalar(node, call)
        elif is_empty(self.source.axes[node], call):
            self.tensors[node] = EMPTY
        elif node in self.folds.settled and self.vanish.touches(call):
            self.tensors[node] = settle(call, self.folds.settled[node], self.emitter, self.vanish)
            return
        elif self.vanish.touches(call) and self._is_read_by_constants(node):
            self.tensors[node] = EMPTY
        elif self.vanish.touches(call):
            self.tensors[node] = self._vanishing(node, call)
        else:
            self.tensors[node] = self._tensor(node, call)
        if node in self.folds.given:
            fold = self.folds.given[node]
            self.tensors[node] = give(call, self.tensors[node], fold, self.emitter, self.vanish)

    def _is_read_by_constants(self, node: fx.Node) -> bool:
        """Whether every reader of a node is written as a constant, so that the node need not be."""
        return bool(node.users) and all(user in self.folds.settled for user in node.users)

    def _scalar(self, node: fx.Node, call: Call) -> None:
        """A number; one that a module gives (its mode) is the same in both readings."""
        if (path := mode_of(node)) is not None:
            written = call.emit("call_module", self.emitter.mode(path))
        elif node.op == "call_module":
            written = self._module(node, call)
        else:
            write_scalar(call)
            return
        self.scalars.shape[node] = self.scalars.data[node] = written
        self.scalars.values[node] = self.source.values[node]

    def _vanishing(self, node: fx.Node, call: Call) -> Any:
        module = self.emitter.original(str(node.target)) if node.op == "call_module" else None
        operations = self.propagation.operations.get(node, [])
        return self.vanish.write(call, module, operations, lambda: self._tensor(node, call))

    def _placeholder(self, node: fx.Node, call: Call) -> fx.Node:
        written = self.graph.placeholder(str(node.target), node.type, *node.args)
        written.meta["origin"] = node.name
        return written

    def _tensor(self, node: fx.Node, call: Call) -> Any:
        if node.op == "call_module":
            return self._module(node, call)
        trees = [self.source.axes[one] for one in node.all_input_nodes]
        if not changes(call, [*trees, self.source.axes[node]]):
            return call.copy()
        if (inferred := self.propagation.inferred.get(node)) is not None and inferred.moved is not None:
            call.is_mend = True
            return moved(call, inferred.moved)
        full = self._is_full(node) and node.target in FULL
        call.is_mend = full or node.target in MENDS
        if full:
            return FULL[node.target](call, None)
        return MENDS[node.target](call) if call.is_mend else call.copy()

    def _module(self, node: fx.Node, call: Call) -> Any:
        target = str(node.target)
        module = self.emitter.original(target)
        if any(is_empty(part, call) for part in flat_axes(self.source.axes[node])):
            raise refusal(call)  # some of its results, not all: an LSTM loses its projection or its cells
        if self._is_full(node) and type(module) in FULL:
            return FULL[type(module)](call, module)
        mend = MODULES.get(type(module))
        attributes = {} if mend is None else mend(call, module)
        path = self.emitter.module(target, attributes)
        result = call.emit(node.op, path, call.data(node.args), call.data(node.kwargs))
        result.meta["in_place"] = bool(getattr(module, "inplace", False))
        return result

    def _is_over_kept(self, node: fx.Node) -> bool:
        """Whether the node takes its statistics over the channels that are left."""
        axes = self.source.statistics.get(node, [])
        return self.statistics == "kept" and any(self.emitter.kept.mask(axis) is not None for axis in axes)

    def _is_full(self, node: fx.Node) -> bool:
        """Whether the node takes statistics that must count removed channels as zeros."""
        axes = self.source.statistics.get(node, [])
        return self.statistics == "full" and any(self.emitter.kept.mask(axis) is not None for axis in axes)

    def _dropped(self, result: fx.GraphModule) -> list[str]:
        """Parameters that no node of the new graph reads."""
        left = tensors_of(result)
        return [name for name, _ in self.emitter.model.named_parameters() if name not in left]
