"""Transfer: the optimizer of a model goes on with the compiled one, and what it has learnt of each weight stays."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from fxprune.evaluated import masks_of
from fxprune.plans import Plan, check_shapes
from fxprune.program import Model, as_module
from fxprune.states import Heir, held, inherited
from fxprune.wrappers import remembered, unwrap
from fxprune_passes.axes import Axes, fixed
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.kept import Kept

_Optimizer = TypeVar("_Optimizer", bound=Optimizer)
_Heirs = Mapping[int, list[Heir]]
_REBUILT = ("defaults", "state", "param_groups", "step", "_zero_grad_profile_name")


class _Watch(LRScheduler):
    """Changes no rate, but has the optimizer note its steps, as a scheduler asks of the one that it goes on with."""

    def get_lr(self) -> list[Any]:
        """The rates as they are."""
        return [group["lr"] for group in self.optimizer.param_groups]


def transfer(
    optimizer: _Optimizer, plan: Plan, model: Model, small: Model, *, others: Iterable[torch.Tensor] = ()
) -> _Optimizer:
    """An optimizer for the compiled model that goes on where the one of the original stands.

    Its class, parameter groups and options (learning rates as schedulers left them) are those of the original's. State
    of a parameter's shape (momentum, moments of Adam and its kin) is cut like the parameter, along each dim that it
    has: so are the row and column means of Adafactor, which stay means over what was there, and become means over what
    is left as they move on. Numbers and step counters are copied. A parameter that the compiled model does not have is
    left out; one that it gained (a bias for constants of removed channels) joins the group of its layer's weight, with
    no state. After that, training goes on as it would with the gradients of removed channels at zero, wherever the
    optimizer treats elements one by one.

    Step hooks stay with the old optimizer, which is not changed. A learning rate scheduler of any kind goes on with
    ``copy.deepcopy(scheduler, {id(optimizer): new_optimizer})``. (Made anew it would take today's rates for the
    initial ones.)

    Args:
        optimizer: Holds parameters of ``model``.
        plan: What ``small`` was compiled with.
        model: The original, of which ``optimizer`` holds the parameters; a module or an exported program.
        small: What :func:`fxprune.compile` made of it, of any ``emit``.
        others: Parameters that the optimizer holds besides the model's (of a loss): they go on as they are.

    Returns:
        An optimizer of the same class over parameters of ``small``; it shares no state with the old one.

    Raises:
        PlanError: The optimizer does not hold the model's parameters or holds unknown ones, plan and models do not
            belong together, or a state has other axes than its parameter.

    Example:
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        >>> model(torch.ones(1, 8)).sum().backward()
        >>> optimizer.step()
        >>> plan = fxprune.plan(model, torch.ones(1, 8), channels=0.5)
        >>> small = fxprune.compile(model, plan)
        >>> optimizer = fxprune.transfer(optimizer, plan, model, small)
        >>> optimizer.state[small.get_parameter("0.weight")]["exp_avg"].shape
        torch.Size([3, 8])
    """
    if not isinstance(optimizer, Optimizer):
        first = f"optimizer is a {type(optimizer).__name__}, expected a torch.optim.Optimizer."
        raise PlanError(explain(first))
    check_shapes(plan.shapes, unwrap(model)[0])
    originals = _originals(model)
    heirs = _heirs(plan, model, originals, _module(small))
    known = {id(one) for one in originals.values()}
    unknown = {id(one): one for group in optimizer.param_groups for one in group["params"] if id(one) not in known}
    _check_held(optimizer, model, originals, unknown.keys() - {id(one) for one in others})
    groups, state = [], defaultdict[Any, Any](dict, _general(optimizer))
    for group in optimizer.param_groups:
        groups.append(_group(group, heirs, unknown))
        for original in group["params"]:
            for heir in heirs.get(id(original), ()):
                if part := inherited(optimizer, original, heir):
                    state[heir.parameter] = part
            if id(original) in unknown and original in optimizer.state:
                state[original] = deepcopy(optimizer.state[original])
    return _remade(optimizer, groups, state)


def _module(model: Model) -> nn.Module:
    """The module inside wrappers, with the tensors that it is trained by."""
    inside = remembered(model)
    return inside if isinstance(inside, nn.Module) else as_module(inside)


def _originals(model: Model) -> dict[str, nn.Parameter]:
    """The parameters of a model by the names that a plan has for them; what a mask lies on stands for the masked."""
    module = _module(model)
    result = dict(module.named_parameters(remove_duplicate=False))
    for path, inner in module.named_modules(remove_duplicate=False):
        for name in masks_of(inner):
            whole = f"{path}.{name}".lstrip(".")
            if f"{whole}_orig" in result:
                result[whole] = result.pop(f"{whole}_orig")
    return result


def _heirs(plan: Plan, model: Model, originals: Mapping[str, nn.Parameter], small: nn.Module) -> _Heirs:
    """By identity of the original: the parameters of the smaller model that are part of it, or belong to its layer."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, nn.Parameter] = {}
    for name, parameter in small.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    result: dict[int, list[Heir]] = {}
    gained: list[Heir] = []
    for key, all_names in names.items():
        known = next((one for one in all_names if one in originals), None)
        if known is None:
            gained.append(Heir(all_names[0], parameters[key], None))
            continue
        heir = Heir(known, parameters[key], _part(plan, known, originals[known], parameters[key]))
        result.setdefault(id(originals[known]), []).append(heir)
    for heir in gained:
        if (home := _home(heir.name, originals, model)) is not None:
            result.setdefault(id(home), []).append(heir)
    return result


def _part(plan: Plan, name: str, original: nn.Parameter, smaller: nn.Parameter) -> tuple[Axes, Kept]:
    whole = tuple(fixed(size, "whole") for size in original.shape)
    axes, kept = plan.part(name) if name in plan.axes else (whole, Kept({}))
    expected = kept.shape(axes)
    if tuple(smaller.shape) != expected:
        first = f"{name!r} of the compiled model has shape {tuple(smaller.shape)}, the plan gives {expected}."
        raise PlanError(explain(first, mend="pass the plan that it was compiled with: small = compile(model, plan)"))
    return axes, kept


def _home(name: str, originals: Mapping[str, nn.Parameter], model: Model) -> nn.Parameter | None:
    """The original next to which a gained parameter belongs; None where a tensor of this name was no parameter."""
    path = name.rpartition(".")[0]
    module = _module(model)
    if parametrize.is_parametrized(_submodule(module, path)):
        return None
    beside = [f"{path}.weight".lstrip(".")]
    beside += [one for one in originals if one.rpartition(".")[0] == path]
    for one in beside:
        if one in originals:
            return originals[one]
    first = f"the compiled model has a parameter {name!r}, and the {type(module).__name__} has nothing in {path!r}."
    raise PlanError(explain(first, mend="pass what fxprune.compile(model, plan) gave"))


def _submodule(module: nn.Module, path: str) -> nn.Module:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return nn.Module()


def _check_held(
    optimizer: Optimizer, model: Model, originals: Mapping[str, nn.Parameter], unknown: Iterable[int]
) -> None:
    """Refuse an optimizer of another model, one of unknown tensors, and one of what parametrizations are made of."""
    kind, module = type(optimizer).__name__, _module(model)
    wanted = set(unknown)
    names = {id(one): name for name, one in originals.items()}
    places = [(number, one) for number, group in enumerate(optimizer.param_groups) for one in group["params"]]
    if not any(id(one) in names for _, one in places):
        first = f"{kind} holds {len(places)} parameters, none of them of the {type(module).__name__} that was passed."
        mend = "pass the model whose parameters() made the optimizer: not a copy, not the compiled one"
        raise PlanError(explain(first, mend=mend))
    for number, one in places:
        if id(one) in wanted:
            first = f"{kind} holds a parameter of shape {tuple(one.shape)} in group {number} that is not the model's."
            why = "it was replaced in the model since, or belongs to another one"
            raise PlanError(explain(first, why=why, mend="name it in others= to go on with it as it is"))
        parent = names[id(one)].rpartition(".")[0] if id(one) in names else ""
        if isinstance(_submodule(module, parent), parametrize.ParametrizationList):
            first = f"{kind} holds {names[id(one)]!r}, and the compiled model has the one tensor made of it."
            mend = "torch.nn.utils.parametrize.remove_parametrizations before making the optimizer, or make a new one"
            raise PlanError(explain(first, mend=mend))


def _general(optimizer: Optimizer) -> dict[Any, Any]:
    """State that belongs to no parameter: numbers and names."""
    result = {key: value for key, value in optimizer.state.items() if not isinstance(key, torch.Tensor)}
    _refuse_tensors(optimizer, result, "state")
    return deepcopy(result)


def _group(group: Mapping[str, Any], heirs: _Heirs, others: Mapping[int, torch.Tensor]) -> dict[str, Any]:
    """A parameter group over the heirs; it may be empty, so that there are as many groups as before."""
    names = group.get("param_names", [""] * len(group["params"]))
    options = {key: deepcopy(value) for key, value in group.items() if key not in ("params", "param_names")}
    parameters, new_names = [], []
    for original, name in zip(group["params"], names, strict=True):
        if id(original) in others:
            parameters.append(original)
            new_names.append(name)
        for heir in heirs.get(id(original), ()):
            parameters.append(heir.parameter)
            new_names.append(heir.name if heir.part is None else name)
    named = {"param_names": new_names} if "param_names" in group else {}
    return {"params": parameters, **named, **options}


def _remade(optimizer: _Optimizer, groups: list[dict[str, Any]], state: defaultdict[Any, Any]) -> _Optimizer:
    """An optimizer of the same class and settings, made as unpickling makes one."""
    attributes = {
        key: value
        for key, value in vars(optimizer).items()
        if key not in _REBUILT and not key.startswith("_optimizer_")  # its hooks
    }
    for key, value in attributes.items():
        _refuse_tensors(optimizer, value, key)
    result = type(optimizer).__new__(type(optimizer))
    vars(result).update(deepcopy(attributes, {id(optimizer): result}))
    result.__setstate__({"defaults": deepcopy(optimizer.defaults), "state": state, "param_groups": groups})
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        _Watch(result)
    return result


def _refuse_tensors(optimizer: Optimizer, value: Any, name: str) -> None:
    """An optimizer that keeps tensors or models elsewhere than in its state by parameter is not known well enough."""
    for one in held(value):
        if isinstance(one, (torch.Tensor, nn.Module, Optimizer)):
            first = f"{type(optimizer).__name__} keeps a {type(one).__name__} in {name!r}, not by parameter."
            mend = "transfer the optimizer inside" if isinstance(one, Optimizer) else "make a new optimizer"
            raise PlanError(explain(first, mend=f"{mend} for the compiled model's parameters"))
