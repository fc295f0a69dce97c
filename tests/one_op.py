"""Models of one op, and the law that they must obey: compiled = masked original, over the channels that are kept."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxprune
from fxprune.analysis import Analysis, analyse
from fxprune.choices import kept_of
from fxprune.choose import cover
from fxprune.plans import Plan, make_plan
from fxprune_passes.axes import Axes, freezing
from fxprune_passes.kept import Kept
from fxprune_passes.positions import made_of
from fxprune_passes.steady import Steady

TOLERANCE = 1e-12
CHOICES = ((0, 0.5), (1, 0.7), (2, 0.99))  # seed, share of the channels that stays
SIZES = {
    "a": 4,
    "b": 3,
    "c": 8,
    "d": 5,
    "e": 10,
    "g": 4,
    "h": 6,
    "i": 6,
    "j": 5,
    "k": 7,
    "l": 5,
    "m": 3,
    "n": 4,
    "o": 6,
    "G": 2,
    "s": 7,
    "w": 5,
    "A": 4,
    "C": 8,
    "D": 5,
    "H": 6,
    "K": 3,
    "L": 5,
    "M": 3,
    "N": 4,
    "S": 7,
    "V": 8,
    "W": 6,
    "1": 1,
    "2": 2,
    "3": 3,
    "z": 6,
}
_DUMMY = torch.zeros(1)


@dataclass(frozen=True, eq=False)
class Case:
    """One call, and which axes of its tensors can be pruned.

    Attributes:
        name: Unique; the op first.
        axes: The axes of each input in one word: a small letter can be pruned, the same letter is tied, a capital
            stays whole; ``1`` is an axis of width 1.
        function: Called with the inputs, then with ``constants``; or a module.
        sizes: Of letters that are not of the default size.
        constants: Integer or boolean inputs, such as indices.
        positive: Inputs are positive.
        kept: What ``function`` does under ``statistics="kept"``, on inputs and parameters that are cut already.
        code: A line that the compiled code has, where half of the channels stay (seed 0).
    """

    name: str
    axes: str
    function: Callable[..., Any]
    sizes: dict[str, int] = field(default_factory=dict)
    constants: tuple[Tensor, ...] = ()
    positive: bool = False
    kept: Callable[..., Any] | None = None
    code: str = ""
    dtype: torch.dtype = torch.float64

    def __repr__(self) -> str:
        return self.name


class OneOp(nn.Module):
    """Its inputs are parameters, so that every axis of them may be pruned; ``_`` is never read."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.inputs: list[str] = []
        for word in case.axes.split():
            sizes = [(SIZES | case.sizes)[letter] for letter in word]
            value = torch.randn(sizes, generator=generator, dtype=case.dtype)
            self._add(nn.Parameter(value.abs() + 0.1 if case.positive else value, requires_grad=False))
        for constant in case.constants:
            self._add(constant.clone())
        self.call = copy.deepcopy(case.function)
        if isinstance(self.call, nn.Module):
            self.call.double()
            for tensor in (*self.call.parameters(), *self.call.buffers()):
                if tensor.is_floating_point():
                    tensor.data = torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + 0.1

    def _add(self, value: Tensor) -> None:
        self.inputs.append(f"p{len(self.inputs)}")
        if isinstance(value, nn.Parameter):
            self.register_parameter(self.inputs[-1], value)
        else:
            self.register_buffer(self.inputs[-1], value)

    def forward(self, _: Tensor) -> Any:
        return self.call(*(getattr(self, name) for name in self.inputs))

    def tensors(self) -> dict[str, Tensor]:
        """Inputs, then parameters and buffers of the op."""
        found = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {**{name: found[name] for name in self.inputs}, **found}


@cache
def analysed(case: Case) -> tuple[OneOp, Analysis]:
    """The model of a case and its analysis, in which the output may be pruned."""
    training = isinstance(case.function, nn.Module) and case.function.training
    model = OneOp(case).train(training)
    return model, analyse(model, _DUMMY, freeze_outputs=False)


def random_choice(case: Case, seed: int, share: float) -> dict[str, tuple[int, ...]]:
    """Kept channels of every group, at least one of every axis."""
    _, analysis = analysed(case)
    generator = torch.Generator().manual_seed(seed)
    ranked = {group.name: torch.randperm(group.size, generator=generator).tolist() for group in analysis.groups}
    keep = {name: order[: max(1, int(len(order) * share))] for name, order in ranked.items()}
    return cover(analysis, keep, ranked)


def compiled(case: Case, keep: Mapping[str, tuple[int, ...]], statistics: str) -> tuple[Plan, fx.GraphModule]:
    """The case's model without the channels that are not kept."""
    model, analysis = analysed(case)
    plan = make_plan(model, _DUMMY, analysis, keep)
    return plan, fxprune.compile(model, plan, statistics=statistics)


def assert_axes(case: Case) -> None:
    """Exactly the axes that the case says can be pruned, and exactly the ones that it says are tied."""
    model, analysis = analysed(case)
    letters = case.axes.split()
    assert len(letters) + len(case.constants) == len(model.inputs)
    assert_letters(letters, [analysis.propagation.parameters[name] for name in model.inputs[: len(letters)]])


def assert_letters(words: Sequence[str], tensors: Sequence[Axes]) -> None:
    """Small letters can be pruned, and are the same where they are tied; capitals stay whole."""
    named: dict[str, Any] = {}
    for word, axes in zip(words, tensors, strict=True):
        for letter, axis in zip(word, axes, strict=True):
            assert bool(freezing(axis)) == (not letter.islower()), f"{letter} of {word}: {freezing(axis)}"
            if letter.islower():
                assert named.setdefault(letter, made_of(axis)) == made_of(axis), f"{letter} of {word}"
    assert len({tuple(one) for one in named.values()}) == len(named), "two letters for one axis"


def failures(case: Case) -> list[str]:
    """Reasons of frozen axes that say that a rule failed on this call or is missing."""
    _, analysis = analysed(case)
    reasons = [
        frozen.reason for axes in analysis.propagation.parameters.values() for a in axes if (frozen := freezing(a))
    ]
    return [reason for reason in reasons if "does not cover" in reason or "no rule" in reason]


def assert_law_for_random_choices(case: Case) -> None:
    """The law at three widths; where a mean or variance runs over channels, in both of its readings."""
    for seed, share in CHOICES:
        keep = random_choice(case, seed, share)
        for statistics in ("full", "kept") if takes_statistics(case) else ("full",):
            assert_law(case, keep, statistics)


def assert_law_or_refusal(case: Case) -> None:
    """A group that loses all its channels: the law holds, or the plan is refused."""
    for group in analysed(case)[1].groups:
        try:
            assert_law(case, {group.name: ()}, "full")
        except fxprune.PlanError as error:
            assert "the plan removes every channel that" in str(error)


def takes_statistics(case: Case) -> bool:
    """Whether the case has a mean or variance over channels."""
    return bool(analysed(case)[1].propagation.statistics)


def assert_law(case: Case, keep: Mapping[str, tuple[int, ...]], statistics: str) -> None:
    """Compiled is the original with zeros for what is removed, over what is kept."""
    model, analysis = analysed(case)
    plan, small = compiled(case, keep, statistics)
    kept = kept_of(analysis, plan.keep)
    with torch.no_grad(), Steady():
        got = small(_DUMMY)
        if statistics == "kept" and takes_statistics(case):
            want = _sliced(case, model, analysis, kept)
        else:
            want = _map(_masked(model, analysis, kept), _output_axes(analysis), kept, _cut)
    _compare(got, want)


def _output_axes(analysis: Analysis) -> Any:
    return next(axes for node, axes in analysis.propagation.axes.items() if node.op == "output")


def _masked(model: OneOp, analysis: Analysis, kept: Kept) -> Any:
    """The original on inputs and parameters with zeros for what is removed."""
    clone = copy.deepcopy(model)
    for name, tensor in clone.tensors().items():
        if tensor.is_floating_point():
            tensor.data = _map(tensor.data, analysis.propagation.parameters[name], kept, _zeroed)
    return clone(_DUMMY)


def _sliced(case: Case, model: OneOp, analysis: Analysis, kept: Kept) -> Any:
    """What the case says that the op does with inputs and parameters that are cut."""
    axes = analysis.propagation.parameters
    function = case.kept or case.function
    return function(*(_map(tensor, axes[name], kept, _cut) for name, tensor in model.tensors().items()))


def _map(value: Any, axes: Any, kept: Kept, function: Callable[[Tensor, int, Tensor], Tensor]) -> Any:
    if isinstance(value, (list, tuple)):
        return [_map(one, part, kept, function) for one, part in zip(value, axes, strict=True)]
    for dim, axis in enumerate(axes or ()):
        if (mask := kept.mask(axis)) is not None:
            value = function(value, dim, mask)
    return value


def _zeroed(tensor: Tensor, dim: int, mask: Tensor) -> Tensor:
    return tensor.masked_fill(~mask.view(-1, *(1 for _ in range(tensor.ndim - 1 - dim))), 0)


def _cut(tensor: Tensor, dim: int, mask: Tensor) -> Tensor:
    return tensor.index_select(dim, mask.nonzero().flatten())


def _compare(got: Any, want: Any) -> None:
    if isinstance(want, (list, tuple)):
        assert len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            _compare(one, other)
    elif isinstance(want, Tensor):
        inexact = want.is_floating_point() or want.is_complex()
        scale = float(want.abs().max()) if inexact and want.numel() else 0.0
        torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE * scale)
    else:
        assert got == want
