"""What is known of a graph once it ran: the axes of every tensor, the ops at work, and the equations between axes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from fxprune_passes.axes import Axes, Term
from fxprune_passes.equations import Equations
from fxprune_passes.inferred import Inferred
from fxprune_passes.rules import Product, Rule


@dataclass(frozen=True, slots=True)
class Operation:
    """One dispatched ATen op: name, output axes, numbers that are not sizes, and whether it is pointwise.

    ``products`` are the axes whose sizes, multiplied, are its multiply-accumulate operations. ``rule`` is what stated
    its equations (None for what was inferred or stated of a whole call), ``arguments`` are its own, axes for tensors.
    """

    name: str
    axes: list[Axes]
    numbers: tuple[float, ...]
    pointwise: bool
    products: Sequence[Product] = ()
    rule: Rule | None = None
    arguments: Any = ()


@dataclass(slots=True)
class Propagation:
    """What is known of a graph: the axes and the fake value of every node, and the equations between them."""

    graph_module: fx.GraphModule
    fake_mode: FakeTensorMode | None
    equations: Equations = field(default_factory=Equations)
    axes: dict[fx.Node, Any] = field(default_factory=dict)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    parameters: dict[str, Axes] = field(default_factory=dict)
    operations: dict[fx.Node, list[Operation]] = field(default_factory=dict)
    statistics: dict[fx.Node, list[Term]] = field(default_factory=dict)
    readers: set[int] = field(default_factory=set)
    writers: set[int] = field(default_factory=set)
    constants: dict[fx.Node, torch.Tensor] = field(default_factory=dict)
    inferred: dict[fx.Node, Inferred] = field(default_factory=dict)


def flat_axes(tree: Any) -> Iterator[Axes]:
    """Every tensor's axes in a node's value (lists and dicts hold several tensors, None stands for no tensor)."""
    if isinstance(tree, tuple):
        yield tree
    elif isinstance(tree, (list, dict)):
        for one in tree.values() if isinstance(tree, dict) else tree:
            if isinstance(one, tuple):
                yield one
            elif one is not None:
                yield from flat_axes(one)
