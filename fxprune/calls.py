"""Runs the calls that a recording sees, and has one node written for each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxprune.frames import current_line
from fxprune.sizes import Recipe, map_values
from fxprune.spelling import Call
from fxprune.writer import GraphWriter
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.refusals import KEEP_CODE, described


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that raised an exception: its name, and the tensors that it got."""

    error: Exception
    call: str
    inputs: str


class Calls:
    """The calls of one recording.

    Attributes:
        writer: Writes the nodes.
        inside: Whether a call is running, inside of which nothing is recorded.
        effects: Nodes that stay even if nobody reads them.
        failed: The innermost call that raised the last exception.
    """

    def __init__(self, writer: GraphWriter) -> None:
        self.writer = writer
        self.inside = False
        self.effects: set[fx.Node] = set()
        self.failed: Failed | None = None

    def run(
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
        with self.unseen():
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
                self.effects.add(node)
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
    def noting_failure(self, call: str, arguments: Any) -> Iterator[None]:
        """Remember the innermost call that raised an exception, and what it got."""
        try:
            yield
        except Exception as error:
            if self.failed is None or self.failed.error is not error:
                self.failed = Failed(error, call, described(arguments))
            raise

    @contextmanager
    def unseen(self) -> Iterator[None]:
        """Record nothing of what runs."""
        self.inside = self.writer.quiet = True
        try:
            yield
        finally:
            self.inside = self.writer.quiet = False


def tensors_in(value: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts."""
    found: list[Tensor] = []
    map_values(value, lambda one: found.append(one) if isinstance(one, Tensor) else None)
    return found
