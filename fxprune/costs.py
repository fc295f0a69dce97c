"""What a choice of channels costs: parameters, bytes and multiply-accumulate operations, from the terms alone.

Every cost is a sum of products of axis sizes, and every axis size is a polynomial in the numbers of channels that the
groups keep. So thousands of choices are evaluated in a second, and no model is built.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from fxprune.analysis import Analysis
from fxprune.notes import homes
from fxprune_passes.axes import Cat, Dim, Prod, Take, Term, resolve
from fxprune_passes.effects import is_impure
from fxprune_passes.kept import Kept
from fxprune_passes.tensors import tensors_of

METRICS = ("params", "macs", "bytes")
_Monomial = tuple[int, ...]  # numbers of groups, with repetitions, ascending
Polynomial = dict[_Monomial, float]


@dataclass(frozen=True, slots=True)
class _Cost:
    """One product of axis sizes, and how much of each metric it makes."""

    axes: tuple[Term, ...]
    weights: tuple[float, float, float]


class Costs:
    """The costs of a model as functions of what its groups keep.

    Attributes:
        names: The groups, in the order in which counts are given.
        widths: ``(groups,)``: all of their channels.
    """

    def __init__(self, analysis: Analysis, model: nn.Module) -> None:
        self.names = [group.name for group in analysis.groups]
        self.widths = torch.tensor([group.size for group in analysis.groups], dtype=torch.float64)
        self._costs = [*_tensors(analysis, model), *_operations(analysis)]
        numbers = {group.dim: number for number, group in enumerate(analysis.groups)}
        total: dict[_Monomial, list[float]] = {}
        for cost in self._costs:
            for monomial, factor in _product(polynomial(axis, numbers) for axis in cost.axes).items():
                before = total.get(monomial, (0.0, 0.0, 0.0))
                total[monomial] = [one + factor * weight for one, weight in zip(before, cost.weights, strict=True)]
        self._places, self._factors = _table(total, len(self.names))

    def of_counts(self, counts: Tensor) -> Tensor:
        """What numbers of channels cost.

        Args:
            counts: ``(.., groups)`` channels that each group keeps.

        Returns:
            ``(.., 3)``: parameters, multiply-accumulate operations, bytes. Exact where no axis picks channels by an
            index; there, channels are taken to go evenly.
        """
        padded = torch.cat([counts.double(), counts.new_ones((*counts.shape[:-1], 1), dtype=torch.float64)], -1)
        return padded[..., self._places].prod(-1) @ self._factors

    def of_kept(self, kept: Kept) -> dict[str, int]:
        """What one choice costs, exactly: by metric."""
        totals = [0.0, 0.0, 0.0]
        for cost in self._costs:
            size = 1
            for axis in cost.axes:
                size *= kept.size(axis)
            totals = [total + size * weight for total, weight in zip(totals, cost.weights, strict=True)]
        return {name: round(total) for name, total in zip(METRICS, totals, strict=True)}


def _tensors(analysis: Analysis, model: nn.Module) -> Iterable[_Cost]:
    """Every parameter and buffer that the compiled model holds, a tied one once."""
    nodes = needed(analysis.capture.graph_module.graph)
    read = {str(node.target) for node in nodes if node.op in ("get_attr", "call_module")}
    seen: set[int] = set()
    for name, tensor in tensors_of(model).items():
        if name in analysis.propagation.parameters and id(tensor) not in seen and not read.isdisjoint(homes(name)):
            seen.add(id(tensor))
            counts = float(isinstance(tensor, nn.Parameter))
            yield _Cost(analysis.propagation.parameters[name], (counts, 0.0, float(tensor.element_size())))


def _operations(analysis: Analysis) -> Iterable[_Cost]:
    """The products of every op; equal ones are counted together."""
    found: Counter[tuple[int, ...]] = Counter()
    axes: dict[tuple[int, ...], tuple[Term, ...]] = {}
    nodes = needed(analysis.capture.graph_module.graph)
    for node, operations in analysis.propagation.operations.items():
        for product in (one for operation in operations for one in operation.products if node in nodes):
            key = tuple(map(id, product))
            found[key] += 1
            axes[key] = product
    for key, times in found.items():
        yield _Cost(axes[key], (0.0, float(times), 0.0))


def needed(graph: fx.Graph) -> set[fx.Node]:
    """Nodes that the outputs depend on, or that do more than give a value; the others are not compiled."""
    result: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op in ("output", "placeholder") or is_impure(node) or any(user in result for user in node.users):
            result.add(node)
    return result


def polynomial(term: Term, numbers: Mapping[Dim, int]) -> Polynomial:
    """The size of an axis, in the numbers of channels that groups keep: monomials of numbers of groups, and factors."""
    term = resolve(term)
    if isinstance(term, Dim):
        return {(numbers[term],): 1.0} if term in numbers else {(): float(term.size)}
    if isinstance(term, Prod):
        return _product(polynomial(factor, numbers) for factor in term.factors)
    if isinstance(term, Take):
        share = len(term.index) / term.base.size
        return {monomial: factor * share for monomial, factor in polynomial(term.base, numbers).items()}
    assert isinstance(term, Cat)
    total: Polynomial = {}
    for part in term.parts:
        for monomial, factor in polynomial(part, numbers).items():
            total[monomial] = total.get(monomial, 0.0) + factor
    return total


def _product(polynomials: Iterable[Polynomial]) -> Polynomial:
    result: Polynomial = {(): 1.0}
    for other in polynomials:
        product: Polynomial = {}
        for a, factor in result.items():
            for b, more in other.items():
                monomial = tuple(sorted((*a, *b)))
                product[monomial] = product.get(monomial, 0.0) + factor * more
        result = product
    return result


def _table(total: Mapping[_Monomial, Sequence[float]], groups: int) -> tuple[Tensor, Tensor]:
    """(monomials, degree) places of groups, the last place for none; and (monomials, 3) factors."""
    degree = max((len(one) for one in total), default=0)
    rows: list[Sequence[int]] = [(*one, *([groups] * (degree - len(one)))) for one in total]
    places = torch.tensor(rows, dtype=torch.int64).view(len(rows), degree)
    return places, torch.tensor(list(total.values()), dtype=torch.float64).view(len(rows), 3)
