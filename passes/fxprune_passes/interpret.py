"""The interpreter that runs a captured graph node by node and has every node's equations stated."""

from __future__ import annotations

from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_leaves

from fxprune_passes.axes import Where
from fxprune_passes.errors import CaptureError
from fxprune_passes.index_values import is_index
from fxprune_passes.ledger import Ledger
from fxprune_passes.mend import knows_statistics, opaque, unmended
from fxprune_passes.propagation import Propagation
from fxprune_passes.refusals import VALUE_READS, described, does_not_run, needs_values
from fxprune_passes.replay import Replays
from fxprune_passes.rules import RULES, is_recurrent, state_alike
from fxprune_passes.tensors import modules_of, tensors_of
from fxprune_passes.whole_calls import WholeCall, state_opaque, state_own, state_recurrent


class Interpreter(fx.Interpreter):
    """Runs the graph node by node under the ledger."""

    def __init__(self, result: Propagation, values: Mapping[str, torch.Tensor]) -> None:
        graph_module = result.graph_module
        super().__init__(nn.Module(), garbage_collect_values=False, graph=graph_module.graph)
        self.module, self.modules = graph_module, modules_of(graph_module, by_every_path=True)
        self.submodules = self.modules  # which fx would look up with named_modules, in ten times the time
        self.result = result
        self.real = values
        self.ledger = Ledger(result)
        self.replays = Replays(result.fake_mode)
        self._learn_parameters()

    def _learn_parameters(self) -> None:
        equations, known = self.result.equations, {}
        module = self.result.graph_module
        for name, tensor in tensors_of(module).items():
            equations.where = Where(name, name)
            if name not in self.real:
                continue
            if id(tensor) not in known:
                axes = tuple(equations.dim(size) for size in tensor.shape)
                known[id(tensor)] = self.ledger.learn_weight(tensor, axes, self._integer(name))
            self.result.parameters[name] = known[id(tensor)]

    def _integer(self, name: str) -> torch.Tensor | None:
        value = self.real.get(name)
        if not is_index(value):
            return None
        with unset_fake_temporarily():
            return value.detach().cpu()

    def run_graph(self, inputs: Mapping[str, Any]) -> None:
        """Run every node on the given placeholders."""
        for node in self.result.graph_module.graph.nodes:
            value = self._placeholder(node, inputs) if node.op == "placeholder" else self._run(node)
            self.env[node] = self.result.values[node] = value
            self.result.axes[node] = axes = self.ledger.tree(value)
            if isinstance(axes, tuple) and (constant := self.ledger.known(axes)) is not None:
                self.result.constants[node] = constant

    def _placeholder(self, node: fx.Node, inputs: Mapping[str, Any]) -> Any:
        name = str(node.target)
        value = inputs[name] if name in inputs else node.args[0]
        self.result.equations.where = Where(node.name, f"model input {name}")
        fixed = self.result.equations.fixed
        for tensor in tree_leaves(value):
            if isinstance(tensor, torch.Tensor):
                self.ledger.learn(tensor, tuple(fixed(size, "model input", dynamic=True) for size in tensor.shape))
        return value

    def _run(self, node: fx.Node) -> Any:
        where = Where(node.name, _target_name(node), node.meta.get("module", ""), node.meta.get("source", ""))
        self.ledger.begin(node.target, where, unmended(node, self.modules))
        own_rule = RULES.get(node.target) if isinstance(node.target, FunctionType) else None
        stated_whole = own_rule is not None or is_recurrent(node, self.modules)
        try:
            value = self.run_node(node) if stated_whole else self._state_ops(node)
        except Exception as error:
            raise CaptureError(self._failure(node, where, error)) from error
        self.result.operations[node] = self.ledger.operations
        self._settle_statistics(node)
        self.result.equations.where = where
        inputs = [self.result.axes[one] for one in node.all_input_nodes]
        state_alike(self.result.equations, node.target, inputs, self.ledger.tree(value))
        if own_rule is not None:
            state_own(self.ledger, self._whole(node, value, where), own_rule)
        elif stated_whole:
            state_recurrent(self.ledger, self._whole(node, value, where))
        elif reason := opaque(node, self.modules):
            state_opaque(self.ledger, self._whole(node, value, where), reason)
        if self.ledger.inferred is not None:
            self.result.inferred[node] = self.ledger.inferred
        return value

    def _state_ops(self, node: fx.Node) -> Any:
        """Run a node, or recall an equal one, and state the equations of the ops inside."""
        callee = self.modules[str(node.target)] if node.op == "call_module" else node.target
        called = None
        if node.op.startswith("call_"):
            called = self.replays.called(callee, *self.fetch_args_kwargs_from_env(node))
        if called is None:
            with self.ledger:
                return self.run_node(node)
        if (known := self.replays.find(called)) is not None:
            value, ran = self.replays.play(known, called)
            for one, (_, factors) in zip(ran, known.computed, strict=True):
                self.ledger.state(one, factors)
            return value
        with self.ledger:
            value = self.run_node(node)
        self.replays.learn(called, self.ledger.ran, value)
        return value

    def _settle_statistics(self, node: fx.Node) -> None:
        """Keep the axes over which a node takes a mean or variance, where that cannot count removed channels in."""
        if self.ledger.statistics and knows_statistics(node, self.modules):
            self.result.statistics[node] = self.ledger.statistics
        else:
            for axis in self.ledger.statistics:
                self.result.equations.freeze(axis, "a mean or variance inside it runs over the axis")

    def _whole(self, node: fx.Node, value: Any, where: Where) -> WholeCall:
        callee = self.modules[str(node.target)] if node.op == "call_module" else node.target
        return WholeCall(node, callee, *self.fetch_args_kwargs_from_env(node), value, where)

    def _failure(self, node: fx.Node, where: Where, error: Exception) -> str:
        inputs = described([self.env.get(one) for one in node.all_input_nodes])
        if isinstance(error, VALUE_READS):
            return needs_values("the model", where.source or node.name, where.op, inputs, at=str(where))
        shown = str(error).strip().strip("'").splitlines()
        return does_not_run("the model", f"{node.name}: ", shown[0] if shown else repr(error), inputs, at=str(where))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fetch a parameter, a buffer, or a constant, which is sliced like a buffer if it can be found again."""
        value = super().get_attr(target, args, kwargs)
        if isinstance(value, torch.Tensor) and target in self.real and target not in self.result.parameters:
            axes = tuple(self.result.equations.dim(size) for size in value.shape)
            self.ledger.learn_weight(value, axes, self._integer(target))
            self.result.parameters[target] = axes
        return value


def _target_name(node: fx.Node) -> str:
    """What a node calls: a method's or a module's name, or a function's own."""
    return str(node.target) if isinstance(node.target, str) else str(getattr(node.target, "__name__", node.target))
