"""What is changed in Python and in the model while a model is recorded, and is undone behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.autograd import Function

from fxprune.sizes import RecordedFloat, RecordedInt, plain
from fxprune_passes.tensors import modules_of


class _IntWhileRecording(type):
    """Makes a class that passes for ``int``, but whose call leaves a recorded number recorded."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args and isinstance(args[0], RecordedInt):
            return args[0]
        if args and isinstance(args[0], RecordedFloat):
            return args[0].compute(int, args[0])
        return int(*args, **kwargs)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, int)

    def __subclasscheck__(cls, kind: type) -> bool:
        return issubclass(kind, int)

    def __getattr__(cls, name: str) -> Any:
        return getattr(int, name)

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is int

    def __hash__(cls) -> int:
        return hash(int)


class _Int(metaclass=_IntWhileRecording):
    """``int`` for a module of the user's code."""


def _len(value: Any) -> int:
    """``len`` for a module of the user's code."""
    return value.shape[0] if isinstance(value, Tensor) and value.dim() else len(value)


@contextmanager
def conversions_seen(namespaces: Iterable[dict[str, Any]]) -> Iterator[None]:
    """Let ``int(size)`` and ``len(tensor)`` in some modules give recorded numbers.

    Python makes what ``__int__`` and ``__len__`` return a plain int, most often a batch size that becomes a literal.

    Args:
        namespaces: The globals of those modules.
    """
    added = [(space, name) for space in namespaces for name in ("int", "len") if name not in space]
    try:
        for space, name in added:
            space[name] = _Int if name == "int" else _len
        yield
    finally:
        for space, name in added:
            del space[name]


@contextmanager
def module_calls_seen(call_module: Callable[..., Any]) -> Iterator[None]:
    """Let module calls arrive at ``call_module(original, module, args, kwargs)``."""
    original = nn.Module.__call__

    def patched(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return call_module(original, module, args, kwargs)

    setattr(nn.Module, "__call__", patched)  # noqa: B010 (a plain assignment is a type error)
    try:
        yield
    finally:
        setattr(nn.Module, "__call__", original)  # noqa: B010


@contextmanager
def functions_seen(apply: Callable[..., Any]) -> Iterator[None]:
    """Let calls of autograd functions arrive at ``apply(original, function class, args, kwargs)``.

    No torch function mode sees them, only the ops inside, whose gradients are not those that the function defines.
    """
    own = vars(Function)["apply"]

    def patched(cls: type[Function], *args: Any, **kwargs: Any) -> Any:
        return apply(own.__get__(None, cls), cls, args, kwargs)

    setattr(Function, "apply", classmethod(patched))  # noqa: B010 (a plain assignment is a type error)
    try:
        yield
    finally:
        setattr(Function, "apply", own)  # noqa: B010


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Undo what the forward assigns to modules, so that the graph's names lead to what they led to before.

    That goes for what it puts into their dicts, lists and sets as well: a cache that one recording fills is empty for
    the next one.
    """
    kept: dict[int, tuple[Any, Any]] = {}
    for module in modules_of(model).values():
        own = vars(module)
        for one in (own, *own.values()):
            if type(one) in (dict, list, set):
                kept.setdefault(id(one), (one, one.copy()))
    try:
        yield
    finally:
        for content, before in kept.values():
            content.clear()
            (content.extend if isinstance(content, list) else content.update)(before)


@contextmanager
def numbers_plain(module: nn.Module) -> Iterator[None]:
    """Give a module that runs unseen plain numbers for its recorded attributes: what it compares is its own affair."""
    recorded = [
        (own, {name: value for name, value in own.items() if isinstance(value, RecordedInt)})
        for own in map(vars, module.modules())
    ]
    for own, numbers in recorded:
        own.update({name: plain(value) for name, value in numbers.items()})
    try:
        yield
    finally:
        for own, numbers in recorded:
            own.update(numbers)
