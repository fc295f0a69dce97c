"""The forwards that run while a model is recorded, and what each of them does because of its module's mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from fxprune.calls import Calls
from fxprune.frames import current_line
from fxprune.modes import ModalCall, in_mode, is_of_torch, is_training, may_be_switch, modal_call
from fxprune.patches import attributes_kept
from fxprune.sizes import plain
from fxprune.spelling import OPENED


@dataclass(slots=True)
class Running:
    """A module whose forward is being recorded.

    Attributes:
        path: Its dotted name in the model.
        module: The module.
        reads: The lines at which its forward read a ``training`` flag.
        calls: Its own modal calls so far (not those of the modules that it calls).
    """

    path: str
    module: nn.Module
    reads: dict[str, None] = field(default_factory=dict)
    calls: list[ModalCall] = field(default_factory=list)


class Forwards:
    """The forwards that are running, innermost last.

    Attributes:
        trying: Whether the innermost one runs in the other mode, where nothing but its modal calls is noted.
    """

    def __init__(self, model: nn.Module, calls: Calls) -> None:
        self.trying = False
        self._calls = calls
        self._running = [Running("", model)]
        self._switching: nn.Module | None = None

    @contextmanager
    def entered(self, path: str, module: nn.Module) -> Iterator[None]:
        """Run a module's forward, whose nodes are the module's."""
        writer = self._calls.writer
        caller, writer.path = writer.path, path
        self._running.append(Running(path, module))
        try:
            yield
        finally:
            self._running.pop()
            writer.path = caller

    def note(self, call: ModalCall) -> None:
        """Note a modal call of the forward that is running."""
        self._running[-1].calls.append(call)

    def open(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a function of torch such that the calls inside it are seen.

        Attention in evaluation is written as in training, where all of its dropout shows; that follows the mode.
        """
        running = self._running[-1]
        follows = bool(running.reads) and kwargs.get("training") == is_training(running.module)
        before = len(running.calls)
        result = OPENED[func](*args, **(kwargs | {"training": True} if follows else kwargs))
        for call in running.calls[before:] if follows else ():
            off = {name: False if name == "training" else 0.0 for name in call.values if name != "p"}
            other = ModalCall(call.function, {**call.values, **off})
            call.follow(other, True, running.path, self._calls.writer.where())
        del running.calls[before:]
        return result

    def read_mode(self, module: nn.Module) -> None:
        """A read of ``training`` by the model."""
        if not (self._calls.inside or self.trying) or self._switching is module:
            self._running[-1].reads[current_line()] = None

    def follow_mode(self, args: Any, kwargs: Any) -> None:
        """Make what the forward that ends did because of its mode follow the mode, or note that it does not.

        Args:
            args: Positional arguments that the forward got.
            kwargs: Its keyword arguments.
        """
        running, writer = self._running[-1], self._calls.writer
        module, calls = running.module, running.calls
        if not running.reads or is_of_torch(module):
            return
        others = self._in_other_mode(module, args, kwargs) if calls else None
        if others is not None and [one.function for one in others] == [one.function for one in calls]:
            for call, other in zip(calls, others, strict=True):
                call.follow(other, is_training(module), running.path, writer.where())
            return
        for line in running.reads:
            writer.baked[line, "training", is_training(module)] = None

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

    def is_switch(self, module: nn.Module, args: Any, kwargs: Any) -> bool:
        """Whether a module drops paths in training, say, and hands on its very input in evaluation."""
        if not may_be_switch(module) or not args:
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

    def _try(self, module: nn.Module, args: Any, kwargs: Any, *, training: bool) -> Any:
        """Run a forward without recording it."""
        self.trying = True
        try:
            with attributes_kept(module), in_mode(module, training):
                return module.forward(*plain(args), **plain(kwargs))
        finally:
            self.trying = False

    def try_call(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Run a torch function of a forward that is tried."""
        if (modal := modal_call(func, args, kwargs)) is not None:
            self.note(modal)
        return func(*args, **kwargs)
