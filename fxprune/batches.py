"""Batches of a user's data: what the model is called with, and what the loss compares its output with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from fxprune.inputs import ExampleInputs, as_call
from fxprune_passes.errors import PlanError, explain

Loss = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the model: its arguments, and the targets (None where the data has none)."""

    number: int
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    targets: Any


@dataclass(frozen=True, slots=True)
class Batches:
    """A user's data.

    A batch is what ``example_inputs`` is (a tensor, as many positional arguments, a dict of keyword arguments), or a
    pair of that and the targets. Entries of a dict that the example inputs lack are targets, as a dict.

    Attributes:
        data: Any iterable of batches; read once.
        example_inputs: What the model was analysed on.
        device: Tensors are moved there.
    """

    data: Iterable[Any]
    example_inputs: ExampleInputs
    device: torch.device

    def read(self, *, show: bool = True) -> Iterator[Batch]:
        """Read the data once, behind a progress bar where there is a terminal to show it on.

        Raises:
            PlanError: The data is no iterable, or a batch is not what the model takes.
        """
        try:
            iterator = iter(self.data)
        except TypeError as error:
            first = f"batches is a {type(self.data).__name__}, expected an iterable of inputs or (inputs, targets)."
            raise PlanError(explain(first, mend="a list of tensors, or a DataLoader")) from error
        total = len(self.data) if isinstance(self.data, Sized) else None
        bar = tqdm(iterator, "criterion", total, leave=False, disable=None if show else True, unit="batch")
        for number, one in enumerate(bar):
            inputs, targets = self._taken_apart(number, one)
            args, kwargs = tree_map_only(torch.Tensor, lambda tensor: tensor.to(self.device), as_call(inputs))
            yield Batch(number, args, kwargs, tree_map_only(torch.Tensor, lambda x: x.to(self.device), targets))

    def _taken_apart(self, number: int, one: Any) -> tuple[ExampleInputs, Any]:
        args, kwargs = as_call(self.example_inputs)
        if isinstance(one, Mapping) and kwargs and set(kwargs) <= set(one):
            rest = {name: value for name, value in one.items() if name not in kwargs}
            return {name: one[name] for name in kwargs}, rest or None
        if self._fits(one):
            return one, None
        if isinstance(one, (list, tuple)):
            if self._fits(tuple(one)):
                return tuple(one), None
            if len(one) == 2 and self._fits(one[0]):
                return one[0], one[1]
            if len(one) == 2 and isinstance(one[0], list) and self._fits(tuple(one[0])):
                return tuple(one[0]), one[1]
        expected = f"a dict of {', '.join(kwargs)}" if kwargs else f"{len(args)} argument{'s' * (len(args) > 1)}"
        first = f"batch {number} is {_described(one)}, expected the model's inputs ({expected}) or (inputs, targets)."
        raise PlanError(explain(first, mend="batches hold what example_inputs is, alone or in a pair with targets"))

    def _fits(self, one: Any) -> bool:
        """Whether a value is a call like that of the example inputs: tensors where those have tensors."""
        args, kwargs = as_call(self.example_inputs)
        if isinstance(one, dict):
            return bool(kwargs) and set(kwargs) <= set(one)
        given = one if isinstance(one, tuple) else (one,)
        return not kwargs and len(given) == len(args) and all(map(_alike, given, args))


def _alike(one: Any, other: Any) -> bool:
    return isinstance(one, torch.Tensor) == isinstance(other, torch.Tensor)


def _described(one: Any) -> str:
    if isinstance(one, (list, tuple)):
        return f"a {type(one).__name__} of {len(one)} ({', '.join(type(item).__name__ for item in one[:4])})"
    if isinstance(one, Mapping):
        return f"a dict of {', '.join(map(str, list(one)[:4])) or 'nothing'}"
    return f"a {type(one).__name__}"
