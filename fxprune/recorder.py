"""The torch function mode under which a model runs while it is recorded: each call it sees becomes a node."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Container, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import Function
from torch.fx._lazy_graph_module import _LazyGraphModule
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from fxprune.calls import Calls, tensors_in
from fxprune.forwards import Forwards
from fxprune.frames import call_model, current_line
from fxprune.mask_places import places_of_masks
from fxprune.memoized import caches_bypassed
from fxprune.modes import modal_call, training_reads_seen
from fxprune.patches import functions_seen, module_calls_seen, numbers_plain
from fxprune.sizes import Recipe, RecordedInt, RecordedSize, map_values, plain
from fxprune.spelling import (
    ASSERTIONS,
    OPENED,
    SIZE_READS,
    Call,
    applied,
    attribute,
    is_conversion,
    is_in_place,
    spell,
)
from fxprune.writer import GraphWriter
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.refusals import KEEP_CODE, described


class Recorder(TorchFunctionMode):
    """Sees every torch function and every module that is called, runs it, and has a node written for it."""

    def __init__(
        self,
        model: nn.Module,
        is_leaf: Callable[[nn.Module, str], bool],
        seen: Container[int] = (),
        *,
        keeps_code: bool = False,
    ) -> None:
        super().__init__()
        self.writer = GraphWriter(model, seen, keeps_code=keeps_code)
        self.calls = Calls(self.writer)
        self.forwards = Forwards(model, self.calls)
        self.is_leaf = is_leaf
        self._places = places_of_masks(model)
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._own = {id(module): _tensors_of(module) for module in model.modules()}

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record one call of the model, from its inputs to its output."""
        args, kwargs = self._inputs(inspect.signature(model.forward), args, kwargs)
        with torch.enable_grad():  # nothing here has gradients, but the model's own torch.no_grad() is seen
            with (
                caches_bypassed(model),
                module_calls_seen(self._call_module),
                functions_seen(self._call_autograd),
                training_reads_seen(self.forwards.read_mode),
                self,
            ):
                output = call_model(model.forward, *args, **kwargs)
                self.forwards.follow_mode(args, kwargs)
            self.writer.output(output)

    def node_of(self, value: Any) -> fx.Node | None:
        """The node that gave a tensor; None for anything else."""
        return self.writer.recipe(value).node if isinstance(value, Tensor) else None

    def finish(self, model: nn.Module, cached: Mapping[Any, fx.Node | None]) -> fx.GraphModule:
        """The graph without its dead nodes, over the model; ``cached`` goes into its ``meta``."""
        graph, stays = self.writer.graph, {*self.calls.effects, *cached.values()}
        if not self.writer.keeps_code:  # code that stays runs all of it
            graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or node in stays)
        for node, value in self.writer.decisions.items():
            node.meta["decided"] = value
        vars(model).update(self.writer.strangers)
        graph_module = _LazyGraphModule(model, graph, class_name=type(model).__name__)  # nobody may ever call it
        graph.lint()
        graph_module.meta["baked"] = [] if self.writer.keeps_code else list(self.writer.baked)
        graph_module.meta["cached"] = dict(cached)
        graph_module.meta["strangers"] = dict(self.writer.strangers)
        return graph_module

    def _inputs(
        self, signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Write a placeholder for each argument that holds a tensor; those of ``*args`` are named ``args_0``, ..."""
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            kind = signature.parameters[name].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(self._input(f"{name}_{i}", one) for i, one in enumerate(value))
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: self._input(key, one) for key, one in value.items()}
            else:
                bound.arguments[name] = self._input(name, value)
        return bound.args, bound.kwargs

    def _input(self, name: str, value: Any) -> Any:
        if not tensors_in(value):
            return value
        node = self.writer.write("placeholder", name, where=("", ""))
        trained = any(tensor.is_floating_point() for tensor in tensors_in(value))
        return self.writer.bind(value, Recipe(self.writer, lambda: node, trained=trained))

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function that the model calls, and record it."""
        kwargs = kwargs or {}
        if self.calls.inside:
            return func(*args, **kwargs)
        if self.forwards.trying:
            return self.forwards.try_call(func, args, kwargs)
        with self.calls.noting_failure(_name(func), (args, kwargs)):
            return self._function(func, args, kwargs)

    def _function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is Tensor.__getitem__ and self._places:
            args = (args[0], map_values(args[1], lambda one: self._places.get(id(one), one)))
        if func in SIZE_READS:
            return self._size(func, args, kwargs)
        if func in OPENED:
            with self:
                return self.forwards.open(func, args, kwargs)
        if func in ASSERTIONS and tensors_in(args):  # not run: fake tensors have no values
            self.calls.effects.add(self.writer.write("call_function", func, args, kwargs))
            return None
        if attribute(func, "__set__") in ("data", "grad"):
            first = f"the model assigns to a tensor's .data or .grad ({described(args[0])}), which a graph cannot hold."
            raise CaptureError(explain(first, at=current_line(), mend=KEEP_CODE))
        result = self.calls.run(
            lambda: func(*plain(args), **plain(kwargs)),
            spell(func, args, kwargs),
            changed=tensors_in(args[:1]) if is_in_place(func) else [],
            needless=is_conversion(func, args, kwargs) or attribute(func) is not None,
        )
        if (modal := modal_call(func, plain(args), plain(kwargs))) is not None:
            self.forwards.note(replace(modal, node=self.node_of(result)))
        if func is Tensor.__len__:
            size = self.writer.read(self.writer.recipe(args[0]), "call_method", "size", 0)
            self.writer.bake("len()", result, size)
        return result

    def _size(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A read of sizes, which is written if somebody uses it."""
        args, kwargs = plain(args), plain(kwargs)
        op, target, (tensor, *rest), named = spell(func, args, kwargs)
        writer, value = self.writer, func(*args, **kwargs)
        recipe = writer.read(writer.recipe(tensor), op, target, *rest, *named.values())
        if isinstance(value, int):
            return RecordedInt(value, recipe)
        items = (
            RecordedInt(size, writer.read(recipe, "call_function", operator.getitem, dim))
            for dim, size in enumerate(value)
        )
        return RecordedSize(items, recipe)

    def _call_module(self, original: Callable[..., Any], module: nn.Module, args: Any, kwargs: Any) -> Any:
        path = self._paths.get(id(module))
        if self.forwards.trying and not self.calls.inside:
            with self.calls.unseen():
                return original(module, *args, **kwargs)
        if path is None or self.calls.inside:
            return original(module, *args, **kwargs)
        # A module whose parameters were exchanged for others (torch.func.functional_call) is no call of what it was.
        if self.is_leaf(module, path) and self._own[id(module)] == _tensors_of(module):
            call: Call = ("call_module", path, args, kwargs)
            buffers = list(module.buffers())
            with self.calls.noting_failure(type(module).__name__, (args, kwargs)), numbers_plain(module):
                return self.calls.run(
                    lambda: original(module, *plain(args), **plain(kwargs)),
                    call,
                    watched=buffers,
                    trained=any(True for _ in module.parameters()),
                )
        if self.forwards.is_switch(module, args, kwargs):
            return self.calls.run(
                lambda: original(module, *plain(args), **plain(kwargs)), ("call_module", path, args, kwargs)
            )
        with self.forwards.entered(path, module):
            result = original(module, *args, **kwargs)
            self.forwards.follow_mode(args, kwargs)
            return result

    def _call_autograd(self, apply: Callable[..., Any], function: type[Function], args: Any, kwargs: Any) -> Any:
        """An autograd function is one node, so that its own gradient stays; those of PyTorch are traced into."""
        if self.calls.inside or self.forwards.trying:
            return apply(*args, **kwargs)
        if function is CheckpointFunction:
            run, _, *inputs = args
            return run(*inputs)
        if function.__module__.startswith("torch."):
            return apply(*args, **kwargs)
        call: Call = ("call_function", applied(function), args, kwargs)
        with self.calls.noting_failure(function.__name__, (args, kwargs)):
            return self.calls.run(lambda: apply(*plain(args), **plain(kwargs)), call)


def _name(function: Callable[..., Any]) -> str:
    """What a function is called where a user reads of it."""
    return str(getattr(function, "__name__", function)).strip("_")


def _tensors_of(module: nn.Module) -> list[int]:
    return [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
