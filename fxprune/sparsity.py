"""Sparse training: penalties that drive whole channels to zero, over the groups that a plan removes them from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from fxprune.analysis import Analysis, analyse
from fxprune.choices import lists_of
from fxprune.choose import plan as choose
from fxprune.choose import prunable
from fxprune.indices import kept_mask
from fxprune.inputs import ExampleInputs
from fxprune.members import Member, counts, members_of, totals
from fxprune.plans import Plan
from fxprune.wrappers import remembered, unwrap
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup

KINDS = ("group_lasso", "bn_scale", "growing")
_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@dataclass(frozen=True, slots=True)
class _Watched:
    """A channel group, where its channels are, and a factor for each of them."""

    name: str
    size: int
    members: tuple[Member, ...]
    factor: Tensor


class Regularizer:
    """A penalty on the channels of a model, for any training loop.

    It works over the channel groups that :func:`fxprune.plan` chooses from, and counts all elements of all parameters
    that a channel goes with: filters, biases, scales and shifts of norms, and the columns of the layers that read it.
    Below, ``w_c`` is all of these of channel ``c``, and ``n_c`` is how many.

    ``"group_lasso"``
        ``strength * sum_c sqrt(n_c) * ||w_c||_2``. Its gradient does not fade with ``w_c``, so that whole channels end
        near zero: within a step of SGD, ``lr * strength * sqrt(n_c)``. Let the learning rate fall at the end.
        Source: Yuan & Lin, Model Selection and Estimation in Regression with Grouped Variables, 2006, equation 2.1
        with the weights sqrt(p_j); Wen et al., Learning Structured Sparsity in Deep Neural Networks, 2016.
    ``"bn_scale"``
        ``strength * sum_c |g_c|`` over the scales of norms (batch, instance, group, layer, RMS) in the groups.
        Source: Liu et al., Learning Efficient Convolutional Networks through Network Slimming, 2017, equation 1.
    ``"growing"``
        ``lambda / 2 * sum_c ||w_c||^2`` over the channels that a plan removes, chosen at the start by the least sum of
        absolute weights. ``lambda`` is ``strength`` in the first ``every`` steps and grows by as much after each
        ``every`` steps, up to ``limit``. The other channels are not touched.
        Source: Wang et al., Neural Pruning via Growing Regularization, 2021 (GReg-1), here over the whole group and not
        its filters alone. They grow by 1e-4 every 5 to 10 steps, up to 1.

    Either add :meth:`penalty` to the loss, or call :meth:`step_` between ``backward`` and the optimizer's step (with
    ``torch.amp.GradScaler``: after ``unscale_``; when gradients are accumulated: once). Afterwards
    ``Plan.from_zeros(model, x, tolerance=1e-3)`` removes what came near zero, and ``regularizer.plan`` what was chosen.

    The model is not changed. Its parameters are looked up by name at every call: it may move, and be wrapped for
    distributed training or compilation. What is frozen (``requires_grad``) counts and stays.

    Args:
        model: Any module; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        kind: ``"group_lasso"``, ``"bn_scale"`` or ``"growing"``.
        strength: The factor above, more than 0.
        ignore: Modules, parameters or globs of them whose output channels are left alone, as in :func:`fxprune.plan`.
        emit: What the model is to be compiled to later: ``"graph"`` or ``"module"``.
        channels: For ``"growing"``: fraction of each group's channels that stays, 0.5 by default, as in ``plan``.
        plan: For ``"growing"``, in place of ``channels`` and ``ignore``: removes the channels that are to go.
        every: For ``"growing"``: steps between two rises, 10 by default.
        limit: For ``"growing"``: the largest ``lambda``, 1 by default.
        by_block: In grouped convolutions and heads, where no tensor forbids it, every channel of every block counts by
            itself, as :func:`fxprune.plan` keeps them by default. With ``plan``, it says so.

    Attributes:
        kind: As given.
        strength: As given; may be changed between steps.
        plan: For ``"growing"``: the plan whose channels go; None for the others.
        steps: For ``"growing"``: steps taken so far, which is all its state: save it and put it back.

    Raises:
        PlanError: An option is out of range or goes with another kind, the model has masks or parametrizations, or
            nothing is left to work on.
        CaptureError: The model cannot be captured.

    Example:
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> regularizer = fxprune.Regularizer(model, torch.zeros(1, 8), kind="group_lasso", strength=1e-3)
        >>> loss = model(torch.zeros(1, 8)).square().mean() + regularizer.penalty()
        >>> loss.backward()
        >>> regularizer.norms()["0"].shape
        torch.Size([6])
    """

    def __init__(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs,
        kind: str = "group_lasso",
        *,
        strength: float = 1e-4,
        ignore: Sequence[str] = (),
        emit: str | None = None,
        channels: float | None = None,
        plan: Plan | None = None,
        every: int | None = None,
        limit: float | None = None,
        by_block: bool = True,
    ) -> None:
        options = {"channels": channels, "plan": plan, "every": every, "limit": limit}
        _check_options(kind, strength, {**options, "ignore": tuple(ignore) or None, "emit": emit})
        self.kind, self.strength, self.steps = kind, strength, 0
        self._every, self._limit = every or 10, 1.0 if limit is None else limit
        self._module = _trained(model)
        emit = emit or (plan.emit if plan else "graph")
        if kind == "growing" and plan is None:
            stays = 0.5 if channels is None else channels
            plan = choose(
                model, example_inputs, channels=stays, criterion="l1", ignore=ignore, by_block=by_block, emit=emit
            )
        self.plan = plan
        analysis = plan.analysis_of(model, emit) if plan else analyse(model, example_inputs, emit=emit)
        if plan is not None:
            groups = [group for group in analysis.groups if group.name in plan.keep]
        else:
            groups = prunable(analysis.groups, self._module, ignore)
        scales = {id(one.weight) for one in self._module.modules() if isinstance(one, _NORMS)}
        free = {one.name for one in groups if by_block} if plan is None else set(plan.blocks)
        seen = [analysis.by_block(one) if one.name in free else one for one in groups]
        self._watched = [found for one in seen if (found := self._watch(one, scales, analysis)).members]
        if not self._watched:
            what = "scale of a norm" if kind == "bn_scale" else "channel"
            first = f"kind={kind!r} finds no {what} to work on in {len(analysis.groups)} channel groups."
            raise PlanError(
                explain(first, mend="print fxprune.analyze(model, example_inputs) to see what can be pruned")
            )

    def penalty(self) -> Tensor:
        """The penalty on the weights of now, to be added to the loss.

        Returns:
            A scalar; gradients flow from it to the model's parameters. Where ``w_c`` is zero, so is its gradient.

        Raises:
            PlanError: The model's parameters are no longer those that were analysed.
        """
        values = self._values(torch.abs if self.kind == "bn_scale" else _squares)
        parts = []
        for one in self._watched:
            sums = totals(one.members, values, one.size)
            sums = _roots(sums) if self.kind == "group_lasso" else sums
            parts.append((sums * one.factor.to(sums)).sum())
        factor = self.growth / 2 if self.kind == "growing" else self.strength
        return torch.stack(parts).sum() * factor

    def step_(self) -> None:
        """Add the gradient of the penalty to the gradients of the parameters, and advance what grows.

        Call it after ``backward`` and before the optimizer's step, in place of :meth:`penalty`.

        Raises:
            PlanError: The model's parameters are no longer those that were analysed.
        """
        parameters = [one for one in self._parameters().values() if one.requires_grad]
        if parameters:
            with torch.enable_grad():
                penalty = self.penalty()
            for one, gradient in zip(parameters, torch.autograd.grad(penalty, parameters), strict=True):
                if one.grad is None or one.grad.layout != torch.strided:
                    one.grad = gradient if one.grad is None else gradient + one.grad
                else:
                    one.grad.add_(gradient)
        self.advance()

    def advance(self) -> None:
        """Count a step, by which ``"growing"`` grows: :meth:`step_` does; after :meth:`penalty` it is for you to do."""
        self.steps += 1

    @property
    def growth(self) -> float:
        """``lambda`` of the step to come, for ``"growing"``."""
        return min(self._limit, self.strength * (1 + self.steps // self._every))

    @torch.no_grad()
    def norms(self) -> dict[str, Tensor]:
        """By channel group (size,): the Euclidean norm of what counts of each channel, ``w_c`` or ``g_c``.

        Where channels count by block (groups of a convolution, heads), channel c of block b is ``b * width + c``.

        Raises:
            PlanError: The model's parameters are no longer those that were analysed.
        """
        values = self._values(_squares)
        return {one.name: totals(one.members, values, one.size).sqrt() for one in self._watched}

    def __repr__(self) -> str:
        """Read as ``Regularizer(group_lasso, strength=0.0001, 3 groups, 28 channels)``."""
        channels = sum(int((one.factor > 0).sum()) for one in self._watched)
        return f"Regularizer({self.kind}, strength={self.strength}, {len(self._watched)} groups, {channels} channels)"

    def _watch(self, group: ChannelGroup, scales: set[int], analysis: Analysis) -> _Watched:
        parameters = analysis.groups.parameters
        members = members_of(group, lambda site: self.kind != "bn_scale" or id(site.tensor) in scales, parameters)
        factor = torch.ones(group.size)
        if self.kind == "group_lasso" and members:
            factor = counts(members, group.size).sqrt()
        elif self.plan is not None:
            lists = lists_of(self.plan.keep[group.name])
            factor = torch.cat([1.0 - kept_mask(group.width, one).float() for one in lists])
        return _Watched(group.name, group.size, members, factor)

    def _parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that count, as the model has them now."""
        result: dict[str, nn.Parameter] = {}
        for member in (member for one in self._watched for member in one.members):
            try:
                found = self._module.get_parameter(member.parameter)
            except AttributeError as error:
                first = f"the {type(self._module).__name__} has no parameter {member.parameter!r} any more."
                raise PlanError(explain(first, mend="make a new Regularizer after changing the model")) from error
            if tuple(found.shape) != member.shape:
                first = f"{member.parameter!r} has shape {tuple(found.shape)}, expected {member.shape}."
                raise PlanError(explain(first, mend="make a new Regularizer after changing the model"))
            result[member.parameter] = found
        return result

    def _values(self, of: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """One number for each element of every parameter, in float32 at least."""
        return {name: of(one.to(_wide(one.dtype))) for name, one in self._parameters().items()}


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _squares(values: Tensor) -> Tensor:
    return (values.abs() if values.is_complex() else values).square()


def _roots(values: Tensor) -> Tensor:
    """Square roots whose gradient at zero is zero."""
    zero = values <= 0
    return values.masked_fill(zero, 1.0).sqrt().masked_fill(zero, 0.0)


def _trained(model: nn.Module) -> nn.Module:
    """The module inside wrappers, whose parameters are those that are trained.

    Raises:
        PlanError: It is an exported program, or has tensors that are made of others.
    """
    if isinstance(model, ExportedProgram):
        first = "an exported program is not trained itself, expected a module."
        raise PlanError(explain(first, mend="pass program.module(), and the example inputs"))
    inside = remembered(model)
    plain, notes = unwrap(model)
    assert isinstance(inside, nn.Module)
    if plain is not inside:
        first = f"the {type(inside).__name__} has masked or parametrized tensors, expected plain parameters."
        mend = "torch.nn.utils.prune.remove or torch.nn.utils.parametrize.remove_parametrizations, then train"
        raise PlanError(explain(first, why="\n".join(notes), mend=mend))
    return inside


def _check_options(kind: str, strength: float, options: Mapping[str, Any]) -> None:
    """Refuse options that are out of range, and those that do not go together."""
    if kind not in KINDS:
        raise PlanError(explain(f"kind={kind!r}, expected one of {', '.join(map(repr, KINDS))}."))
    given = {name for name, value in options.items() if value is not None}
    if foreign := sorted(given & {"channels", "plan", "every", "limit"}) if kind != "growing" else []:
        first = f"kind={kind!r} takes no {foreign[0]}={options[foreign[0]]!r}."
        raise PlanError(explain(first, mend="leave it out, or kind='growing'"))
    if "plan" in given and (double := sorted(given & {"channels", "ignore", "emit"})):
        first = f"{double[0]}={options[double[0]]!r} and plan were both given, expected one of them."
        raise PlanError(explain(first, mend="the plan says which channels stay and for what it is compiled"))
    for name, value in (("strength", strength), ("limit", options["limit"]), ("every", options["every"])):
        kinds = int if name == "every" else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and value > 0
        if not right and (name == "strength" or value is not None):
            expected = "a positive integer" if name == "every" else "a number above 0"
            raise PlanError(explain(f"{name}={value!r}, expected {expected}."))
