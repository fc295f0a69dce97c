"""Calls of a graph that ran before on tensors of the same shapes: what happened inside them, without running them.

A deep model makes the same calls again and again. The first one runs, and the ATen ops inside it are noted; for any
other, the equations of those ops are stated, and stand-ins for their outputs made. A call that may depend on more than
its arguments' shapes is always run.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.immutable_collections import immutable_dict, immutable_list

from fxprune_passes.fakes import fake, is_fakable
from fxprune_passes.recalled import Like, RecallingMode, UnknownError, is_plain, is_settled, is_view, like

_PLAIN = frozenset({int, float, bool, str, type(None), torch.dtype, torch.device})
_SEQUENCES = frozenset({tuple, list, torch.Size, immutable_list})
_FORWARD_READS = {"training", "_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"}
_UNREAD = frozenset(vars(nn.Module())) - _FORWARD_READS - {"_backward_hooks", "_backward_pre_hooks"}
_READ: dict[tuple[str, ...], tuple[str, ...]] = {}  # of the attributes of a module, those that its forward may read
_TABLES = frozenset({dict, OrderedDict, set})
_OF_TORCH = ("torch", "_operator", "operator")


@dataclass(frozen=True, slots=True)
class Slot:
    """A tensor of a call: its arguments come first, then a module's own, then what its ops gave."""

    place: int


@dataclass(frozen=True, slots=True)
class Ran:
    """One ATen op that ran: what it got, and the tensors that it gave."""

    func: OpOverload
    args: Any
    kwargs: Any
    outputs: list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class Step:
    """One ATen op of a call: its arguments, with slots for tensors, and its outputs, new ones as they look."""

    func: OpOverload
    args: Any
    kwargs: Any
    outputs: tuple[Slot | Like, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What a call did: its ops in order, and what it gave.

    ``computed`` are the names of the ops that gave tensors, each with the numbers among its arguments; ``fresh`` what
    the tensors of the value are like that ops made, by slot, if none of them is a view.
    """

    steps: Sequence[Step]
    value: Any
    computed: Sequence[tuple[str, tuple[float, ...]]]
    fresh: Mapping[int, Like] | None


@dataclass(slots=True)
class Called:
    """A call that is about to be made: what it depends on, and the tensors that it is given."""

    key: Hashable
    tensors: list[torch.Tensor]


class Replays:
    """The calls that ran under a fake tensor mode, for as long as the mode lives."""

    def __init__(self, mode: FakeTensorMode | None) -> None:
        self.mode = mode if isinstance(mode, RecallingMode) else None
        # By id; the tensor is kept alive, so that its id stays its own. What is recalled reshapes no tensor in place.
        self._looks: dict[int, tuple[torch.Tensor, Like]] = {}

    def called(self, callee: Any, args: Any, kwargs: Any) -> Called | None:
        """A call that is about to be made; None if it is to be run in any case.

        Args:
            callee: A module, a function, or the name of a method.
            args: Positional arguments.
            kwargs: Keyword arguments.
        """
        if self.mode is None or not _is_of_torch(callee):
            self._looks.clear()
            return None
        seen: dict[int, int] = {}
        tensors: list[torch.Tensor] = []
        key: list[Any] = [torch.get_default_dtype()]
        try:
            self._add(key, (args, kwargs), seen, tensors, False)
            if isinstance(callee, nn.Module):
                self._add_state(key, callee, seen, tensors)
            else:
                key.append(callee)
        except UnknownError:
            self._looks.clear()
            return None
        return Called(tuple(key), tensors) if tensors else None

    def find(self, called: Called) -> Known | None:
        """What an equal call did; None if there was none."""
        assert self.mode is not None
        if (known := self.mode.memory.calls.get(called.key)) is None:
            self._looks.clear()
        return known

    def learn(self, called: Called, ran: Sequence[Ran], value: Any) -> None:
        """Remember what a call did, if that is all in the ops that ran."""
        assert self.mode is not None
        calls = self.mode.memory.calls
        if called.key in calls:
            return
        slots = {id(tensor): Slot(place) for place, tensor in enumerate(called.tensors)}
        try:
            steps = [_step(one, slots) for one in ran]
            value = _encoded(value, slots)
            found = Known(steps, value, computed(ran), _fresh(steps, value, len(called.tensors)))
            calls[called.key] = found if any(True for _ in _places(value)) else None
        except UnknownError:
            calls[called.key] = None

    def value(self, known: Known, called: Called) -> Any:
        """What a call gives."""
        if known.fresh is None:
            return self.play(known, called)[0]
        assert self.mode is not None
        made: dict[int, torch.Tensor] = dict(enumerate(called.tensors))
        made.update((place, self.mode.made(one)) for place, one in known.fresh.items())
        return _filled(known.value, made)

    def play(self, known: Known, called: Called) -> tuple[Any, list[Ran]]:
        """What a call gives, and the ops that would have run.

        Args:
            known: What an equal call did.
            called: This call.
        """
        assert self.mode is not None
        tensors = [one if type(one) is FakeTensor else fake(one, self.mode) for one in called.tensors]
        ran = []
        for step in known.steps:
            args, kwargs = _filled(step.args, tensors), _filled(step.kwargs, tensors)
            ran.append(Ran(step.func, args, kwargs, self._outputs(step, args, kwargs, tensors)))
        return _filled(known.value, tensors), ran

    def _outputs(self, step: Step, args: Any, kwargs: Any, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
        assert self.mode is not None
        if is_view(step.func):  # of new tensors alone
            made: list[torch.Tensor] = [*self.mode.viewed(step.func, args, kwargs)]
            tensors += made
            return made
        made = []
        for one in step.outputs:
            if isinstance(one, Slot):
                made.append(tensors[one.place])
            else:
                made.append(self.mode.made(one))
                tensors.append(made[-1])
        return made

    def _add(
        self, key: list[Any], value: Iterable[Any], seen: dict[int, int], tensors: list[torch.Tensor], may_be_real: bool
    ) -> None:
        """Add to a key what some values are; no two ways to read it back."""
        assert self.mode is not None
        for one in value:
            kind = type(one)
            if kind is FakeTensor or (may_be_real and is_fakable(one)):
                place = seen.setdefault(id(one), len(seen))
                if place == len(tensors):
                    tensors.append(one)
                    key.append(self._look(one) if kind is FakeTensor else like(one))
                else:
                    key.append(place)
            elif kind in _PLAIN:
                key += kind, one
            elif kind in _SEQUENCES:
                key += kind, len(one)
                self._add(key, one, seen, tensors, may_be_real)
            elif kind is dict or kind is immutable_dict:
                key += dict, tuple(one)
                self._add(key, one.values(), seen, tensors, may_be_real)
            elif kind is slice:
                key.append(kind)
                self._add(key, (one.start, one.stop, one.step), seen, tensors, False)
            elif one is Ellipsis:
                key.append(kind)
            else:
                raise UnknownError

    def _look(self, tensor: FakeTensor) -> Like:
        """What a call may know of a tensor."""
        assert self.mode is not None
        if (known := self._looks.get(id(tensor))) is None:
            known = self._looks[id(tensor)] = tensor, self.mode.tensor_key(None, tensor)
        return known[1]

    def _add_state(self, key: list[Any], module: nn.Module, seen: dict[int, int], tensors: list[torch.Tensor]) -> None:
        """Add to a key what a module's forward may depend on: its attributes and tensors."""
        own = vars(module)
        names = tuple(own)
        if (read := _READ.get(names)) is None:
            read = _READ[names] = tuple(name for name in names if name not in _UNREAD)
        key += type(module), names
        for name in read:
            value = own[name]
            kind = type(value)
            if kind in _PLAIN:
                key += kind, value
            elif name == "_parameters" or name == "_buffers":
                if value:
                    key += name, tuple(value)
                    self._add(key, value.values(), seen, tensors, True)
            elif kind is tuple or kind is list:
                self._add(key, (value,), seen, tensors, False)
            elif kind not in _TABLES or value:  # a hook, a module, anything unknown
                raise UnknownError


def _is_of_torch(callee: Any) -> bool:
    """Whether what is called is PyTorch's own."""
    if isinstance(callee, nn.Module):
        return type(callee).__module__.startswith("torch.nn.")
    if isinstance(callee, str):
        return True
    return (getattr(callee, "__module__", None) or "torch").split(".")[0] in _OF_TORCH


def computed(ran: Iterable[Ran]) -> list[tuple[str, tuple[float, ...]]]:
    """The names of ops that gave tensors, each with the numbers among its arguments that are no sizes."""
    return [(str(one.func), tuple(numbers([list(one.args), one.kwargs]))) for one in ran if one.outputs]


def numbers(value: Any) -> Iterator[float]:
    """Floats among the arguments of an op: factors and offsets that a smaller shape must not change."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, (list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from numbers(one)


def _step(ran: Ran, slots: dict[int, Slot]) -> Step:
    func, outputs = ran.func, ran.outputs
    if not is_settled(func):
        raise UnknownError
    args, kwargs = _encoded(ran.args, slots), _encoded(ran.kwargs, slots)
    found: list[Slot | Like] = []
    for tensor in outputs:
        if id(tensor) in slots and not is_view(func):
            found.append(slots[id(tensor)])
        elif id(tensor) not in slots and is_plain(tensor):
            found.append(like(tensor))
            slots[id(tensor)] = Slot(len(slots))
        else:
            raise UnknownError
    return Step(func, args, kwargs, tuple(found))


def _fresh(steps: Iterable[Step], value: Any, given: int) -> dict[int, Like] | None:
    """What the tensors of a value are like that ops made, by slot; None if one is a view."""
    made = [(step, one) for step in steps for one in step.outputs if not isinstance(one, Slot)]
    result: dict[int, Like] = {}
    for place in _places(value):
        if place >= given:
            step, result[place] = made[place - given]
            if is_view(step.func):
                return None
    return result


def _places(value: Any) -> Iterator[int]:
    """The slots in a value."""
    if isinstance(value, Slot):
        yield value.place
    elif isinstance(value, (tuple, list, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _places(one)


def _encoded(value: Any, slots: dict[int, Slot]) -> Any:
    """A value with slots in place of tensors."""
    kind = type(value)
    if isinstance(value, torch.Tensor):
        if id(value) not in slots:
            raise UnknownError
        return slots[id(value)]
    if kind is tuple or kind is list:
        return kind(_encoded(one, slots) for one in value)
    if kind is dict:
        return {key: _encoded(one, slots) for key, one in value.items()}
    if isinstance(value, (tuple, list, dict)) and kind is not torch.Size:
        raise UnknownError
    return value


def _filled(value: Any, tensors: Sequence[torch.Tensor] | Mapping[int, torch.Tensor]) -> Any:
    """A value with tensors in place of slots."""
    kind = type(value)
    if kind is Slot:
        return tensors[value.place]
    if kind is tuple or kind is list:
        return kind(_filled(one, tensors) for one in value)
    if kind is dict:
        return {key: _filled(one, tensors) for key, one in value.items()}
    return value
