"""The torch function mode under which a model runs while it is recorded: each call it sees becomes a node."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointFunction

from fxprune.frames import call_model, current_line
from fxprune.memoized import caches_bypassed
from fxprune.modes import ModalCall, Running, in_mode, is_training, modal_call, training_reads_seen
from fxprune.patches import attributes_kept, functions_seen, module_calls_seen, numbers_plain
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
    places_name,
    spell,
)
from fxprune.writer import GraphWriter, named_tensors
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.refusals import KEEP_CODE, described

LOOKS = frozenset({"array", "bool", "complex", "float", "format", "index", "int", "item", "numpy", "tolist"})
"""Functions that look at the values of a tensor whatever they are given."""


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that raised an exception: its name, and the tensors that it got."""

    error: Exception
    call: str
    inputs: str


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
        self.is_leaf = is_leaf
        self._places = _places_of(model)
        self._paths = {id(module): path for path, module in model.named_modules()}
        self._own = {id(module): _tensors_of(module) for module in model.modules()}
        self.failed: Failed | None = None
        self._inside = False  # a node, where nothing is recorded
        self._effects: set[fx.Node] = set()  # nodes that stay even if nobody reads them
        self._running = [Running("", model)]
        self._switching: nn.Module | None = None
        self._trying = False  # a forward in the other mode, of which nothing but its modal calls is noted

    def run(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record one call of the model, from its inputs to its output."""
        args, kwargs = self._inputs(inspect.signature(model.forward), args, kwargs)
        with torch.enable_grad():  # nothing here has gradients, but the model's own torch.no_grad() is seen
            with (
                caches_bypassed(model),
                module_calls_seen(self._call_module),
                functions_seen(self._call_autograd),
                training_reads_seen(self._read_mode),
                self,
            ):
                output = call_model(model.forward, *args, **kwargs)
                self._follow_mode(self._running[0], args, kwargs)
            self.writer.output(output)

    def node_of(self, value: Any) -> fx.Node | None:
        """The node that gave a tensor; None for anything else."""
        return self.writer.recipe(value).node if isinstance(value, Tensor) else None

    def finish(self, model: nn.Module, cached: Mapping[Any, fx.Node | None]) -> fx.GraphModule:
        """The graph without its dead nodes, over the model; ``cached`` goes into its ``meta``."""
        graph, stays = self.writer.graph, {*self._effects, *cached.values()}
        if not self.writer.keeps_code:  # code that stays runs all of it
            graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output") or node in stays)
        for node, value in self.writer.decisions.items():
            node.meta["decided"] = value
        vars(model).update(self.writer.strangers)
        graph_module = fx.GraphModule(model, graph, class_name=type(model).__name__)
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
        if self._inside:
            return func(*args, **kwargs)
        if self._trying:
            return self._try_call(func, args, kwargs)
        with self._noting_failure(_name(func), (args, kwargs)):
            return self._function(func, args, kwargs)

    def _function(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is Tensor.__getitem__ and self._places:
            args = (args[0], map_values(args[1], lambda one: self._places.get(id(one), one)))
        if func in SIZE_READS:
            return self._size(func, args, kwargs)
        if func in OPENED:
            return self._open(func, args, kwargs)
        if func in ASSERTIONS and tensors_in(args):  # not run: fake tensors have no values
            self._effects.add(self.writer.write("call_function", func, args, kwargs))
            return None
        if attribute(func, "__set__") in ("data", "grad"):
            first = f"the model assigns to a tensor's .data or .grad ({described(args[0])}), which a graph cannot hold."
            raise CaptureError(explain(first, at=current_line(), mend=KEEP_CODE))
        result = self._node(
            lambda: func(*plain(args), **plain(kwargs)),
            spell(func, args, kwargs),
            changed=tensors_in(args[:1]) if is_in_place(func) else [],
            needless=is_conversion(func, args, kwargs) or attribute(func) is not None,
        )
        if (modal := modal_call(func, plain(args), plain(kwargs))) is not None:
            self._running[-1].calls.append(replace(modal, node=self.node_of(result)))
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
        if self._trying and not self._inside:
            with self._one_node():
                return original(module, *args, **kwargs)
        if path is None or self._inside:
            return original(module, *args, **kwargs)
        # A module whose parameters were exchanged for others (torch.func.functional_call) is no call of what it was.
        if self.is_leaf(module, path) and self._own[id(module)] == _tensors_of(module):
            call: Call = ("call_module", path, args, kwargs)
            buffers = list(module.buffers())
            with self._noting_failure(type(module).__name__, (args, kwargs)), numbers_plain(module):
                return self._node(
                    lambda: original(module, *plain(args), **plain(kwargs)),
                    call,
                    watched=buffers,
                    trained=any(True for _ in module.parameters()),
                )
        if self._is_switch(module, args, kwargs):
            return self._node(
                lambda: original(module, *plain(args), **plain(kwargs)), ("call_module", path, args, kwargs)
            )
        caller, self.writer.path = self.writer.path, path
        self._running.append(Running(path, module))
        try:
            result = original(module, *args, **kwargs)
            self._follow_mode(self._running[-1], args, kwargs)
            return result
        finally:
            self._running.pop()
            self.writer.path = caller

    def _open(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function of torch such that the calls inside it are seen.

        Attention in evaluation is written as in training, where all of its dropout shows; that follows the mode.
        """
        running = self._running[-1]
        follows = bool(running.reads) and kwargs.get("training") == is_training(running.module)
        before = len(running.calls)
        with self:
            result = OPENED[func](*args, **(kwargs | {"training": True} if follows else kwargs))
        for call in running.calls[before:] if follows else ():
            off = {name: False if name == "training" else 0.0 for name in call.values if name != "p"}
            call.follow(ModalCall(call.function, {**call.values, **off}), True, running.path, self.writer.where())
        del running.calls[before:]
        return result

    def _read_mode(self, module: nn.Module) -> None:
        """A read of ``training`` by the model."""
        if not (self._inside or self._trying) or self._switching is module:
            self._running[-1].reads[current_line()] = None

    def _follow_mode(self, running: Running, args: Any, kwargs: Any) -> None:
        """Make what a forward did because of its mode follow the mode, or note that it does not."""
        module, calls = running.module, running.calls
        if not running.reads or is_torch_module(module):
            return
        others = self._in_other_mode(module, args, kwargs) if calls else None
        if others is not None and [one.function for one in others] == [one.function for one in calls]:
            for call, other in zip(calls, others, strict=True):
                call.follow(other, is_training(module), running.path, self.writer.where())
            return
        for line in running.reads:
            self.writer.baked[line, "training", is_training(module)] = None

    def _in_other_mode(self, module: nn.Module, args: Any, kwargs: Any) -> list[ModalCall] | None:
        """The modal calls of a forward in the other mode; None if it does not run in that."""
        self._running.append(Running("", module))
        try:
            self._try(module, args, kwargs, training=not is_training(module))
        except Exception:  # any Python may fail in a mode that nobody asked for
            return None
        finally:
            calls = self._running.pop().calls
        return calls

    def _try(self, module: nn.Module, args: Any, kwargs: Any, *, training: bool) -> Any:
        """Run a forward without recording it."""
        self._trying = True
        try:
            with attributes_kept(module), in_mode(module, training):
                return module.forward(*plain(args), **plain(kwargs))
        finally:
            self._trying = False

    def _try_call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if (modal := modal_call(func, args, kwargs)) is not None:
            self._running[-1].calls.append(modal)
        return func(*args, **kwargs)

    def _is_switch(self, module: nn.Module, args: Any, kwargs: Any) -> bool:
        """Whether a module drops paths in training, say, and hands on its very input in evaluation."""
        if is_torch_module(module) or module._parameters or module._buffers or module._modules or not args:
            return False
        self._running.append(Running("", module))
        self._switching = module
        try:
            return self._try(module, args, kwargs, training=False) is args[0] and bool(self._running[-1].reads)
        except Exception:  # any Python may fail in a mode that nobody asked for
            return False
        finally:
            self._running.pop()
            self._switching = None

    def _call_autograd(self, apply: Callable[..., Any], function: type[Function], args: Any, kwargs: Any) -> Any:
        """An autograd function is one node, so that its own gradient stays; those of PyTorch are traced into."""
        if self._inside or self._trying:
            return apply(*args, **kwargs)
        if function is CheckpointFunction:
            run, _, *inputs = args
            return run(*inputs)
        if function.__module__.startswith("torch."):
            return apply(*args, **kwargs)
        call: Call = ("call_function", applied(function), args, kwargs)
        with self._noting_failure(function.__name__, (args, kwargs)):
            return self._node(lambda: apply(*plain(args), **plain(kwargs)), call)

    def _node(
        self,
        run: Callable[[], Any],
        call: Call,
        *,
        watched: Iterable[Tensor] = (),
        trained: bool = False,
        changed: Iterable[Tensor] = (),
        needless: bool = False,
    ) -> Any:
        """Run a call and write its node, unless it neither gives a tensor nor changes one.

        Args:
            run: Makes the call on plain numbers.
            call: How it is written.
            watched: Tensors that it may change besides its arguments.
            trained: Whether it has parameters of its own.
            changed: Tensors that it changes in any case.
            needless: Write nothing if the call returns its first argument.
        """
        tensors = tensors_in(call[2:])
        for tensor in tensors:
            self.writer.recipe(tensor)
        with self._one_node():
            if torch.is_inference_mode_enabled():
                first = "the model enters torch.inference_mode, in which changes in place cannot be seen."
                raise CaptureError(explain(first, at=current_line(), mend="use torch.no_grad there"))
            before = [(tensor, tensor._version) for tensor in (*tensors, *watched)]
            result = run()
            mutated = {id(tensor) for tensor, version in before if tensor._version != version} | set(map(id, changed))
            if not mutated and (not tensors_in(result) or (needless and result is call[2][0])):
                return result
            flow = self._gradients(tensors, trained, mutated)
            node = self.writer.write(*call)
            if mutated:
                self._effects.add(node)
            return self.writer.bind(result, Recipe(self.writer, lambda: node, **flow), mutated)

    def _gradients(self, tensors: Iterable[Tensor], trained: bool, mutated: set[int]) -> dict[str, bool]:
        """Whether gradients flow through the result of a call, or end there because they are turned off."""
        recipes = [self.writer.recipe(tensor) for tensor in tensors]
        trained = trained or any(recipe.trained for recipe in recipes)
        if torch.is_grad_enabled():
            return {"trained": trained}
        changed = [one for one in tensors if id(one) in mutated and self.writer.recipe(one).trained]
        if changed:
            first = (
                f"the model changes {described(changed)} in place where gradients are off, which a graph cannot hold."
            )
            mend = f"write the result to a tensor of its own,\nor {KEEP_CODE}"
            raise CaptureError(explain(first, at=current_line(), mend=mend))
        return {"detached": trained or any(recipe.detached for recipe in recipes)}

    @contextmanager
    def _noting_failure(self, call: str, arguments: Any) -> Iterator[None]:
        """Remember the innermost call that raised an exception, and what it got."""
        try:
            yield
        except Exception as error:
            if self.failed is None or self.failed.error is not error:
                self.failed = Failed(error, call, described(arguments))
            raise

    @contextmanager
    def _one_node(self) -> Iterator[None]:
        self._inside = self.writer.quiet = True
        try:
            yield
        finally:
            self._inside = self.writer.quiet = False


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    map_values(value, lambda one: found.append(one) if isinstance(one, Tensor) else None)
    return found


def is_torch_module(module: nn.Module) -> bool:
    """Whether a module's class is torch's own."""
    return type(module).__module__.startswith("torch.nn.")


def _places_of(model: nn.Module) -> dict[int, Tensor]:
    """The places that a boolean vector of the model picks, where capture knows them, by the vector's id."""
    known = dict(model.named_buffers(remove_duplicate=False))
    masks = (pair for pair in named_tensors(model) if pair[1].dtype == torch.bool)
    return {id(mask): known[places] for name, mask in masks if (places := places_name(name)) in known}


def _name(function: Callable[..., Any]) -> str:
    """What a function is called where a user reads of it."""
    return str(getattr(function, "__name__", function)).strip("_")


def _tensors_of(module: nn.Module) -> list[int]:
    return [id(tensor) for tensor in (*module.parameters(), *module.buffers())]
