"""Rules of ops that have none: what running them showed, stated as equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.utils._pytree import tree_flatten, tree_unflatten

from fxprune_passes.axes import Axes, Term, freezing
from fxprune_passes.probe import Found, Like, Moved, probe, tensors_of
from fxprune_passes.rules import Op

_NOT_ALONE = ("c10d", "_c10d_functional", "_c10d_functional_autograd", "fsdp", "rpc", "symm_mem")
NO_RULE = "no rule for this op"


@dataclass(frozen=True, slots=True)
class Inferred:
    """The rule that was inferred for a node: the op, and the movement that it is, if it is one."""

    op: str
    moved: Moved | None


@dataclass(slots=True)
class Prober:
    """Runs ops on made-up tensors, each kind of call once.

    Attributes:
        value: The values of an integer tensor, where they are known, by its axes.
    """

    value: Callable[[Axes], Tensor | None]
    _known: dict[Any, Found | None] = field(default_factory=dict)

    def call(self, function: Callable[..., Any], args: Any, kwargs: Any, axes: Sequence[Axes], op: Op) -> Found | None:
        """What running a function shows.

        Args:
            function: A function of tensors without side effects.
            args: Its arguments; their tensors are fake.
            kwargs: Its keyword arguments.
            axes: The axes of every tensor among the arguments, in order.
            op: The outputs' shapes.
        """
        flat, spec = tree_flatten((args, kwargs))
        places = [place for place, one in enumerate(flat) if isinstance(one, Tensor)]
        likes = [_like(flat[place], one, self.value(one)) for place, one in zip(places, axes, strict=True)]
        literals = tuple(repr(one) for one in flat if not isinstance(one, Tensor))
        key = (function, str(spec), literals, tuple((one.shape, one.dtype, one.whole, id(one.values)) for one in likes))
        if key not in self._known:

            def run(tensors: list[Tensor]) -> list[Tensor]:
                filled = list(flat)
                for place, tensor in zip(places, tensors, strict=True):
                    filled[place] = tensor
                given, named = tree_unflatten(filled, spec)
                return tensors_of(function(*given, **named))

            with unset_fake_temporarily():
                self._known[key] = probe(run, likes, op.shapes)
        return self._known[key]


def _like(tensor: Tensor, axes: Axes, values: Tensor | None) -> Like:
    whole = tuple(dim for dim, axis in enumerate(axes) if freezing(axis))
    return Like(tuple(tensor.shape), tensor.dtype, values, whole)


def may_run(func: OpOverload) -> bool:
    """Whether an op may be run for what it gives alone: it changes nothing, draws nothing, and talks to no one."""
    if func._schema.is_mutable or func.namespace in _NOT_ALONE:
        return False
    return not {torch.Tag.nondeterministic_seeded, torch.Tag.inplace_view} & set(func.tags)


def state(op: Op, found: Found, axes: Sequence[Axes], *, moves: bool, reason: str = NO_RULE) -> list[Axes]:
    """State what running an op showed, and freeze every other axis.

    Args:
        op: The op.
        found: What it showed.
        axes: The axes of every input, in order.
        moves: Whether a call of the op can be written as index vectors.
        reason: Why every other axis is frozen.

    Returns:
        The axes of every output.
    """
    results: list[list[Term | None]] = [[None] * len(shape) for shape in op.shapes]
    stated: set[tuple[int, int]] = set()
    for one in found.alike:
        terms = [axes[number][dim] for number, dim in one.inputs]
        for other in terms[1:]:
            op.equal(terms[0], other)
        for number, dim in one.outputs:
            results[number][dim] = terms[0]
        stated.update(one.inputs)
    if moves and found.moved is not None:
        stated |= _state_picks(op, found.moved, axes[found.moved.source], results[0])
    for number, whole in enumerate(axes):
        op.freeze((axis for dim, axis in enumerate(whole) if (number, dim) not in stated), reason)
    return [
        tuple(op.fixed(size, reason) if term is None else term for term, size in zip(terms, shape, strict=True))
        for terms, shape in zip(results, op.shapes, strict=True)
    ]


def _state_picks(op: Op, moved: Moved, x: Axes, result: list[Term | None]) -> set[tuple[int, int]]:
    """Picked positions of one axis; the others keep theirs, whatever their sizes in another call."""
    picked = [dim for dim, term in enumerate(result) if term is None and op.shape[dim] > 1]
    if len(picked) != 1:
        return set()
    dim = picked[0]
    source = moved.order[dim]
    result[dim] = op.equations.take(x[source], moved.index[dim])
    return {(moved.source, source)}
