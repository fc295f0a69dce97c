"""Numbers that remember where they come from: sizes read while recording, and the arithmetic on them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol

import torch
from torch import fx


class Book(Protocol):
    """What a recorded number needs of the recorder that it belongs to."""

    def compute(self, target: Callable[..., Any], args: tuple[Any, ...]) -> Recipe:
        """A recipe for ``target(*args)``, where ``args`` may hold recorded numbers."""

    def bake(self, what: str, value: float, recipe: Recipe) -> None:
        """Note that ``value`` enters the graph as a literal, because the model did ``what`` with it."""

    def decide(self, target: Callable[..., Any], args: tuple[Any, ...], outcome: bool) -> None:
        """Note that Python went on with the ``outcome`` of a comparison of recorded numbers."""


class Recipe:
    """A graph node that is written when it is first used, so that a value which nobody uses leaves no node.

    Attributes:
        book: The recorder in whose graph the node is.
        reads: Recipes for parts of this node's value, by what is read: each part is written once.
        detached: Whether gradients end at this value: it was computed from parameters, in a region without gradients.
        trained: Whether gradients flow to parameters through this value.
    """

    def __init__(
        self, book: Book, write: Callable[[], fx.Node], *, trained: bool = False, detached: bool = False
    ) -> None:
        self.book = book
        self.trained = trained
        self.detached = detached
        self.reads: dict[Hashable, Recipe] = {}
        self._write = write
        self._node: fx.Node | None = None

    @property
    def node(self) -> fx.Node:
        """The node, written now if it is not there yet."""
        if self._node is None:
            self._node = self._write()
        return self._node


class _Recorded:
    """What recorded ints and floats share: arithmetic goes on being recorded, everything else bakes the value."""

    recipe: Recipe

    def plain(self) -> Any:
        """The value as Python's own int or float."""
        raise NotImplementedError

    def bake(self, what: str) -> Any:
        """The plain value, noted as a literal."""
        value = self.plain()
        self.recipe.book.bake(what, value, self.recipe)
        return value

    def compute(self, target: Callable[..., Any], *args: Any) -> Any:
        """The result of ``target(*args)``, recorded; one of the arguments is this number."""
        value = target(*map(plain, args))
        return recorded(value, lambda: self.recipe.book.compute(target, args))

    def __int__(self) -> int:
        return int(self.bake("int()"))

    def __float__(self) -> float:
        return float(self.bake("float()"))

    def __bool__(self) -> bool:
        return bool(self.bake("bool()"))

    def __hash__(self) -> int:
        return hash(self.plain())

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __neg__(self) -> Any:
        return self.compute(operator.neg, self)

    def __abs__(self) -> Any:
        return self.compute(operator.abs, self)

    def __pos__(self) -> Any:
        return self

    def __round__(self, digits: int | None = None) -> Any:
        return self.compute(round, self) if digits is None else self.compute(round, self, digits)

    def __ceil__(self) -> Any:
        return self.compute(math.ceil, self)

    def __floor__(self) -> Any:
        return self.compute(math.floor, self)

    def __trunc__(self) -> Any:
        return self.compute(math.trunc, self)

    def __reduce__(self) -> Any:
        return type(self.plain()), (self.plain(),)


class RecordedInt(_Recorded, int):  # type: ignore[misc]  # what _Recorded returns is wider than what int does
    """An int that remembers its graph node.

    ``int()`` of it, a comparison and a truth value give plain values, since Python insists on them; they are noted
    with the recorder. Indexing and formatting give plain values too, and cannot be seen.
    """

    def __new__(cls, value: int, recipe: Recipe) -> RecordedInt:  # noqa: D102
        self = int.__new__(cls, value)
        self.recipe = recipe
        return self

    def plain(self) -> int:  # noqa: D102
        return int.__index__(self)


class RecordedFloat(_Recorded, float):  # type: ignore[misc]  # as for RecordedInt
    """A float that remembers its graph node: what dividing sizes gives."""

    def __new__(cls, value: float, recipe: Recipe) -> RecordedFloat:  # noqa: D102
        self = float.__new__(cls, value)
        self.recipe = recipe
        return self

    def plain(self) -> float:  # noqa: D102
        return float.__float__(self)


def _arithmetic(target: Callable[[Any, Any], Any], *, reflected: bool) -> Callable[[Any, Any], Any]:
    def method(self: _Recorded, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        return self.compute(target, other, self) if reflected else self.compute(target, self, other)

    return method


def _comparison(target: Callable[[Any, Any], bool]) -> Callable[[Any, Any], Any]:
    def method(self: _Recorded, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        outcome = target(*(one.bake("comparison") if isinstance(one, _Recorded) else one for one in (self, other)))
        self.recipe.book.decide(target, (self, other), outcome)
        return outcome

    return method


for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift"):
    _operator = getattr(operator, f"__{_name}__")
    setattr(_Recorded, f"__{_name}__", _arithmetic(_operator, reflected=False))
    setattr(_Recorded, f"__r{_name}__", _arithmetic(_operator, reflected=True))
for _name in ("lt", "le", "eq", "ne", "ge", "gt"):
    setattr(_Recorded, f"__{_name}__", _comparison(getattr(operator, _name)))


class RecordedSize(tuple[int, ...]):
    """A tensor's shape (or a part of it) whose items are recorded ints.

    ``torch.Size`` cannot be subclassed, and its ``numel`` would bake the value unseen.

    Attributes:
        recipe: The node of the whole shape; None for a part of one.
    """

    recipe: Recipe | None

    def __new__(cls, items: Iterable[int], recipe: Recipe | None = None) -> RecordedSize:  # noqa: D102
        self = tuple.__new__(cls, items)
        self.recipe = recipe
        return self

    def __getitem__(self, index: Any) -> Any:  # noqa: D105
        part = tuple.__getitem__(self, index)
        return RecordedSize(part) if isinstance(index, slice) else part

    def __add__(self, other: tuple[Any, ...]) -> Any:  # noqa: D105
        return RecordedSize((*self, *other)) if isinstance(other, tuple) else NotImplemented

    def __radd__(self, other: tuple[Any, ...]) -> Any:  # noqa: D105
        return RecordedSize((*other, *self)) if isinstance(other, tuple) else NotImplemented

    def numel(self) -> int:
        """The product of the sizes, as ``torch.Size.numel`` gives it."""
        return math.prod(self)


def recorded(value: Any, write: Callable[[], Recipe]) -> Any:
    """Make an int or a float a recorded one; anything else (a complex number) stays as it is."""
    if type(value) is int:
        return RecordedInt(value, write())
    return RecordedFloat(value, write()) if type(value) is float else value


def map_values(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a function to every value in nested tuples, lists, dicts and slices; a recorded size counts as one value.

    Example:
        >>> map_values(([1, 2], {"a": slice(3)}), lambda one: one and -one)
        ([-1, -2], {'a': slice(None, -3, None)})
    """
    if isinstance(value, RecordedSize):
        return change(value)
    if isinstance(value, tuple):
        items = [map_values(one, change) for one in value]
        return value._make(items) if hasattr(value, "_make") else tuple(items)
    if isinstance(value, list):
        return [map_values(one, change) for one in value]
    if isinstance(value, dict):
        return {key: map_values(one, change) for key, one in value.items()}
    if isinstance(value, slice):
        return slice(*(map_values(one, change) for one in (value.start, value.stop, value.step)))
    return change(value)


def plain(value: Any) -> Any:
    """Turn recorded numbers and sizes, also nested ones, into plain ones, without noting them as baked."""
    return map_values(value, _plain)


def _plain(value: Any) -> Any:
    if isinstance(value, RecordedSize):
        return torch.Size(map(_plain, value))
    if isinstance(value, type) and value == int:  # noqa: E721 (what stands in for int equals it)
        return int
    return value.plain() if isinstance(value, _Recorded) else value
