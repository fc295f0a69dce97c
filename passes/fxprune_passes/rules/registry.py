"""The rule registry, and ``Op``: what a rule sees of one dispatched ATen op."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch._subclasses.fake_tensor import unset_fake_temporarily

from fxprune_passes.axes import Axes, Dim, Term
from fxprune_passes.equations import Equations

Result = Axes | list[Axes]
Rule = Callable[..., Result]
AnyRule = TypeVar("AnyRule", bound=Rule)
AtenOp = OpOverload | OpOverloadPacket | str

RULES: dict[Any, Rule] = {}  # by ATen op, or by a function of the user's own


@dataclass(slots=True)
class Op:
    """One ATen op at work: its name, its output shapes, and the equations it adds to.

    A rule is called with the op's own arguments, in which each tensor is replaced by its axes, and returns the axes
    of the output (a list of them for several outputs). ``values`` and ``weights`` know axes by identity: those of
    index vectors with known values, and those of parameters and their views.
    """

    name: str
    shapes: list[tuple[int, ...]]
    equations: Equations
    values: dict[int, torch.Tensor] = field(default_factory=dict)
    weights: set[int] = field(default_factory=set)
    contracted: list[Term] = field(default_factory=list)
    statistics: list[Term] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return self.shapes[0]

    def equal(self, a: Term, b: Term) -> Term:
        """State that two axes are the same; returns it."""
        self.equations.equate(a, b)
        return a

    def equal_all(self, a: Sequence[Term], b: Sequence[Term]) -> None:
        """State that two tensors have the same axes."""
        for one, other in zip(a, b, strict=True):
            self.equal(one, other)

    def contract(self, a: Axes, dim_a: int, b: Axes, dim_b: int) -> None:
        """State that an axis of each of two tensors is summed over together: where a weight reads its channels."""
        self.contracted += [axes[dim] for axes, dim in ((a, dim_a), (b, dim_b)) if id(axes) in self.weights]
        self.equal(a[dim_a], b[dim_b])

    def statistic(self, axes: Iterable[Term]) -> None:
        """Note axes over which a mean or variance is taken."""
        self.statistics.extend(axes)

    def freeze(self, axes: Iterable[Term], reason: str) -> None:
        """Keep axes whole; the reason follows the words "frozen by <op>: "."""
        for axis in axes:
            self.equations.freeze(axis, reason)

    def dim(self, size: int) -> Dim:
        """A new axis whose channels may go (uniform along it: zeros, an expanded axis)."""
        return self.equations.dim(size)

    def fixed(self, size: int, reason: str, *, dynamic: bool = False) -> Dim:
        """A new axis that stays whole."""
        return self.equations.fixed(size, reason, dynamic=dynamic)

    def spatial(self, sizes: Iterable[int]) -> Axes:
        """New spatial or sequence axes, which stay whole and may change size from call to call."""
        return tuple(self.fixed(size, "spatial axis", dynamic=True) for size in sizes)

    def value(self, axes: Axes) -> list[int] | None:
        """The values of an index vector that is known before the model runs (a buffer, a list), or None."""
        values = self.values.get(id(axes))
        if values is None or values.ndim != 1:
            return None
        with unset_fake_temporarily():
            return [int(value) for value in values]


def rule(*ops: AtenOp) -> Callable[[AnyRule], AnyRule]:
    """Register a function as the rule of ops: an overload, or a packet for all its overloads, or a packet's name.

    A name (``"torchvision.roi_align"``) serves for libraries that need not be installed.
    """

    def register(function: AnyRule) -> AnyRule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"{op} already has the rule {RULES[op].__name__}")
            RULES[op] = function
        return function

    return register


def find(op: OpOverload) -> Rule | None:
    """The rule of an op: its overload's, else its packet's, else the pointwise rule where the tag says so."""
    found = RULES.get(op) or RULES.get(op.overloadpacket) or RULES.get(str(op.overloadpacket))
    if found is None and is_pointwise(op):
        return RULES[torch.ops.aten.add]
    return found


@cache
def is_pointwise(op: OpOverload) -> bool:
    """Whether PyTorch tags an op as pointwise; an in-place op is what its plain form is."""
    if torch.Tag.pointwise in op.tags:
        return True
    name = op._schema.name.split("::")[1]
    plain = getattr(torch.ops.aten, name[:-1], None) if name.endswith("_") and op.namespace == "aten" else None
    return plain is not None and any(torch.Tag.pointwise in getattr(plain, one).tags for one in plain.overloads())


def optional(name: str, namespace: Any = torch.ops.aten) -> list[OpOverloadPacket]:
    """The op packet of that name in a list, empty where this build of PyTorch has none."""
    return [getattr(namespace, name)] if hasattr(namespace, name) else []
