"""What an optimizer holds of one parameter, and which part of it stays when channels go."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Adagrad, Optimizer

from fxprune_passes.axes import Axes, fixed
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.masks import cut

# Second moments as means over one dim, which is gone: optimizers of these packages, dim by name of the state.
_FACTORED = {("transformers", "exp_avg_sq_row"): -1, ("transformers", "exp_avg_sq_col"): -2}


@dataclass(frozen=True, slots=True)
class Heir:
    """A parameter of the smaller model, and which part of an original it is.

    Attributes:
        name: In the smaller model.
        parameter: The smaller parameter.
        part: The axes of the original and what is kept of them, None for a parameter that has no state to take over.
    """

    name: str
    parameter: nn.Parameter
    part: tuple[Axes, Kept] | None


def inherited(optimizer: Optimizer, original: torch.Tensor, heir: Heir) -> dict[Any, Any]:
    """The state of a parameter of the smaller model.

    Args:
        optimizer: Of the original; only read.
        original: The parameter that it is a part of, or whose layer it belongs to.
        heir: Where it goes.

    Raises:
        PlanError: An entry's axes are not those of the parameter.
    """
    state: Mapping[Any, Any] = optimizer.state.get(original, {})
    if heir.part is None:
        return _fresh(optimizer, state, heir.parameter)
    return {key: _part(optimizer, key, value, original, heir) for key, value in state.items()}


def _fresh(optimizer: Optimizer, state: Mapping[Any, Any], parameter: torch.Tensor) -> dict[Any, Any]:
    """No state, but for Adagrad, which makes it with the optimizer and relies on it."""
    if not isinstance(optimizer, Adagrad) or not state:
        return {}
    total = torch.full_like(parameter, optimizer.defaults["initial_accumulator_value"])
    return {"step": torch.zeros_like(state["step"]), "sum": total.detach()}


def _part(optimizer: Optimizer, key: Any, value: Any, original: torch.Tensor, heir: Heir) -> Any:
    """What is left of one entry."""
    if not isinstance(value, torch.Tensor):
        if any(isinstance(one, torch.Tensor) for one in held(value)):
            raise _refusal(optimizer, key, heir, f"is a {type(value).__name__} of tensors")
        return deepcopy(value)
    if type(value) not in (torch.Tensor, nn.Parameter) or value.layout != torch.strided:
        raise _refusal(optimizer, key, heir, f"is a {type(value).__name__} of layout {value.layout}")
    value = value.detach()
    if all(size == 1 for size in value.shape) and value.shape != original.shape:
        return value.clone() if value.device.type == "cpu" else _placed(value, original, heir).clone()
    dims = _dims(optimizer, key, value.shape, original.shape)
    if dims is None:
        first = f"has shape {tuple(value.shape)}, for a parameter of shape {tuple(original.shape)}"
        raise _refusal(optimizer, key, heir, first)
    assert heir.part is not None
    axes, kept = heir.part
    own = tuple(fixed(1, "broadcast") if dim is None else axes[dim] for dim in dims)
    try:
        result = cut(value, own, kept)
    except LookupError as error:
        fact = "runs along channels that differ from block to block, and not along the blocks"
        raise _refusal(optimizer, key, heir, fact) from error
    return _laid_out(_placed(result, original, heir), heir.parameter)


def _dims(optimizer: Optimizer, key: Any, shape: Sequence[int], whole: Sequence[int]) -> list[int | None] | None:
    """For every dim of a state that of the parameter it runs along, None for one that broadcasts.

    None altogether where that is not known.
    """
    if len(shape) == len(whole) and all(one in (1, size) for one, size in zip(shape, whole, strict=True)):
        return [dim if one == size else None for dim, (one, size) in enumerate(zip(shape, whole, strict=True))]
    packages = {kind.__module__.partition(".")[0] for kind in type(optimizer).__mro__}
    for (package, name), gone in _FACTORED.items():
        left = [dim for dim in range(len(whole)) if dim != len(whole) + gone]
        if package in packages and key == name and list(shape) == [whole[dim] for dim in left]:
            return list(left)
    return None


def _placed(value: torch.Tensor, original: torch.Tensor, heir: Heir) -> torch.Tensor:
    """On the device and of the dtype of the new parameter, where it was so with the old one."""
    device = heir.parameter.device if value.device == original.device else value.device
    return value.to(device=device, dtype=heir.parameter.dtype if value.dtype == original.dtype else value.dtype)


def _laid_out(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A copy; in the memory format of the parameter, where the shapes agree."""
    if value.shape != parameter.shape:
        return value.clone()
    return torch.empty_like(parameter, dtype=value.dtype, device=value.device, requires_grad=False).copy_(value)


def _refusal(optimizer: Optimizer, key: Any, heir: Heir, fact: str) -> PlanError:
    return PlanError(
        explain(
            f"state {key!r} that {type(optimizer).__name__} holds of {heir.name!r} {fact}.",
            why="only numbers, and tensors that broadcast to the parameter, have a known part that stays",
            mend=f"remove it (optimizer.state[parameter].pop({key!r})) where the optimizer makes it anew, "
            "or cut it by hand after that (plan.kept, plan.cut)",
        )
    )


def held(value: Any) -> Iterator[Any]:
    """A value, and what it holds in lists, tuples, sets and dicts."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        yield one
        if isinstance(one, (list, tuple, set, frozenset)):
            waiting.extend(one)
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
