"""Symbolic tracing: the graph of a model whose forward is plain enough to be run on proxies."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import fx, nn
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.fx.graph_module import _copy_attr

from fxprune.caches import kept_in_containers
from fxprune.frames import call_model, current_line
from fxprune.modes import in_mode, may_be_switch, training_reads_seen
from fxprune.patches import attributes_kept, functions_seen
from fxprune.record import default_leaf
from fxprune_passes.effects import drop_dead, writes
from fxprune_passes.nodes import make_node
from fxprune_passes.tensors import modules_of, tensors_of


def is_plain(model: nn.Module, bound: Mapping[str, Any]) -> bool:
    """Whether symbolic tracing can see all there is: no composite leaf, no caches, and only tensors as arguments."""
    if not all(isinstance(value, torch.Tensor) for value in bound.values()) or kept_in_containers(model):
        return False
    kinds = {parameter.kind for parameter in inspect.signature(model.forward).parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return False
    return not any(_is_composite(module) for module in modules_of(model).values())


def _is_composite(module: nn.Module) -> bool:
    """A module of torch.nn that holds others and computes by itself, which symbolic tracing would leave whole."""
    home = type(module).__module__
    return home.startswith("torch.nn") and not home.endswith("container") and not default_leaf(module, "")


def symbolic_trace(model: nn.Module) -> fx.GraphModule | None:
    """The graph by symbolic tracing, or None where Python looks at values or a function stays opaque."""
    tracer = _Tracer()
    try:
        with (
            torch.enable_grad(),
            functions_seen(_unseen),
            attributes_kept(model),
            training_reads_seen(tracer.reads.append),
        ):
            graph = call_model(tracer.trace, model)
    except Exception:  # any Python may fail on proxies; the recording tracer runs it on tensors
        return None
    if tracer.reads or _meets_constants(graph, model):
        return None  # the recording tracer keeps what follows the mode, and finds out where a constant comes from
    result = _over(model, graph)
    drop_dead(result.graph, writes)
    return result


def _over(model: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A graph module around the modules of a model that a graph calls; nobody may ever call it, nor read its code."""
    result = _LazyGraphModule(nn.Module(), fx.Graph())
    for node in graph.nodes:
        *owners, name = str(node.target).split(".")
        if node.op == "get_attr":
            _copy_attr(model, result, str(node.target))
        elif node.op == "call_module":
            source, inside = model._modules, result._modules
            for one in owners:  # by the tables: nn.Module looks at every name that an attribute may clash with
                container = inside.setdefault(one, None) or nn.Module()
                inside[one], source = container, cast(nn.Module, source[one])._modules
                inside = container._modules
            inside[name] = source[name]
    result.graph = graph
    return result


def _meets_constants(graph: fx.Graph, model: nn.Module) -> bool:
    """Whether symbolic tracing met tensors that are neither parameters nor buffers."""
    reads = [str(node.target) for node in graph.nodes if node.op == "get_attr"]
    return bool(reads) and not tensors_of(model).keys() >= set(reads)


class _Tracer(fx.Tracer):
    """``fx.Tracer`` that notes source line and module path of every node, and stops at functions it cannot enter."""

    proxy_buffer_attributes = True  # else what is written into a buffer is not in the graph

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = [""]
        self.reads: list[nn.Module] = []  # modules whose mode was read

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Keep the path of the module whose forward is being traced; a switch stays a module, and follows its mode."""
        if self._is_switch(m, args, kwargs):
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
        self.path.append(self.path_of_module(m))
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.path.pop()

    def _is_switch(self, module: nn.Module, args: Any, kwargs: Any) -> bool:
        """Whether a module drops paths in training, say, and hands on its very input in evaluation."""
        if not may_be_switch(module) or not args:
            return False
        stand_in = torch.empty(0)
        args, kwargs = fx.node.map_aggregate((args, kwargs), lambda one: stand_in if isinstance(one, fx.Proxy) else one)
        reads = len(self.reads)
        try:
            with attributes_kept(module), in_mode(module, False):
                handed_on = module.forward(*args, **kwargs) is stand_in is args[0]
        except Exception:  # any Python may fail on a tensor of another shape
            return False
        if found := handed_on and module in self.reads[reads:]:
            del self.reads[reads:]
        return found

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that refuses what a graph would lose in silence."""
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Any:
        """An argument of a node; most are what other nodes gave, which fx finds out last."""
        return a.node if type(a) is _Proxy else super().create_arg(a)

    def create_node(
        self, kind: str, target: Any, args: Any, kwargs: Any, name: str | None = None, type_expr: Any = None
    ) -> fx.Node:
        """Note where the node comes from; the recording tracer knows what a region without gradients means."""
        if not torch.is_grad_enabled():
            raise _UnseenError("a region without gradients")
        node = make_node(super().create_node, kind, target, args, kwargs, name, type_expr)
        node.meta["module"] = self.path[-1]
        node.meta["source"] = "" if node.op == "output" else current_line()
        if node.op == "call_function" and _is_wrapped(node.target):
            raise _UnseenError(str(node.target))
        return node


class _UnseenError(Exception):
    """Symbolic tracing met what it cannot enter or write down."""


def _unseen(*call: Any) -> Any:
    raise _UnseenError("an autograd function")


class _Proxy(fx.Proxy):
    """A proxy that may be given attributes of its own, but none that a tensor has."""

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(torch.Tensor, name):
            raise _UnseenError(f"an assignment to .{name}")
        super().__setattr__(name, value)


def _is_wrapped(target: Any) -> bool:
    home = (getattr(target, "__module__", None) or "torch").split(".")[0]
    return home not in ("torch", "_operator", "operator", "math", "builtins")
