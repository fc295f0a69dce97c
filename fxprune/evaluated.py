"""What masks and parametrizations make of a module's tensors, computed now and without moving anything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod

from fxprune_passes.errors import CaptureError, explain

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_CHANGES = "its value changes from call to call"


def masks_of(module: nn.Module) -> dict[str, BasePruningMethod]:
    """The masks of one module, by the tensor's plain name, in the order in which they are applied.

    Not among them, and so refused where other hooks are: hooks that do something else when they are called, and masks
    on parameters that have a gradient hook, which would be lost.
    """
    hooks = [one for one in getattr(module, "_forward_pre_hooks", {}).values() if hasattr(one, "_tensor_name")]
    named = {str(hook._tensor_name): hook for hook in hooks}
    foreign = {hook._tensor_name for hook in hooks if not is_mask(hook)}
    return {
        name: hook
        for name, hook in named.items()
        if name not in foreign and not _watched(_held(module, f"{name}_orig"))
    }


def is_mask(hook: Any) -> bool:
    """Whether a hook multiplies a tensor by a mask, as ``torch.nn.utils.prune`` has it."""
    return isinstance(hook, BasePruningMethod) and type(hook).__call__ is BasePruningMethod.__call__


def masked(module: nn.Module, path: str, values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Original times mask of every masked tensor of a module, by plain name.

    The attribute under the plain name is not read: it is what the last call left, and a state dict may have been
    loaded since. (``nn.MultiheadAttention`` never calls its ``out_proj``, and reads what pruning left there; as after
    ``prune.remove``, it gets the product of now all the same.)

    Args:
        module: Only read.
        path: Its name in the model.
        values: Of its parametrized tensors, since a mask may lie on one of them.

    Raises:
        CaptureError: Mask or original is missing, their shapes differ, or a method of the user's own does not run or
            gives another value at each call.
    """
    result = {}
    for name, hook in masks_of(module).items():
        original, mask = _pair(module, path, name, values)
        if type(hook).apply_mask is BasePruningMethod.apply_mask:
            result[name] = mask.detach().to(original.dtype) * original.detach()
        else:
            result[name] = _applied(module, path, name, hook, values)
    return result


def _pair(
    module: nn.Module, path: str, name: str, values: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The original and the mask of a tensor, of one shape and on one device."""
    original = values.get(f"{name}_orig", _held(module, f"{name}_orig"))
    mask = _held(module, f"{name}_mask")
    if original is None or mask is None:
        first = f"{name}_{'orig' if original is None else 'mask'} is missing, and a pruning hook asks for it."
        raise CaptureError(explain(first, at=_at(module, path), mend=_remove(name)))
    if mask.shape != original.shape:
        first = f"{name}_mask has shape {tuple(mask.shape)}, expected that of {name}_orig, {tuple(original.shape)}."
        raise CaptureError(explain(first, at=_at(module, path), mend=f"give {name}_mask that shape"))
    if mask.device != original.device:
        first = f"{name}_mask is on {mask.device}, expected the device of {name}_orig, {original.device}."
        raise CaptureError(explain(first, at=_at(module, path), mend="model.to(device) first"))
    return original, mask


def _applied(
    module: nn.Module, path: str, name: str, hook: BasePruningMethod, values: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """What a pruning method with an ``apply_mask`` of its own makes of a private module."""
    private: nn.Module = object.__new__(parametrize.type_before_parametrizations(module))
    vars(private).update(vars(module))
    for kind in ("_parameters", "_buffers"):
        own = {key: None if one is None else one.detach().clone() for key, one in vars(module)[kind].items()}
        vars(private)[kind] = own | ({key: one.clone() for key, one in values.items()} if kind == "_buffers" else {})
    what = f"{type(hook).__name__}.apply_mask for {name!r}"
    try:
        copy = deepcopy(hook)
        value, reason = _steady(lambda: copy.apply_mask(private), [private, copy])
    except Exception as error:
        first = f"{what} does not run: {error}"
        raise CaptureError(explain(first, at=_at(module, path), mend=_remove(name))) from error
    if reason or not isinstance(value, torch.Tensor):
        first = f"{what} gives no fixed tensor: {reason or f'it is a {type(value).__name__}'}."
        raise CaptureError(explain(first, at=_at(module, path), mend=_remove(name)))
    return value.detach()


def evaluated(module: nn.Module, path: str) -> tuple[dict[str, torch.Tensor], str]:
    """The values of a module's parametrized tensors, by name, and why they cannot stand for them (or "").

    Each parametrization is run twice on a private copy. What leaves its own tensors and numbers, the generators of
    random numbers and its value as the call before left them does so at every further call: one value holds for all.
    So spectral norm is taken in evaluation, and in training once its power iteration stands still; a dropped weight
    never is, not even if both draws agree. Looking at ``training`` instead would refuse what is fixed and miss what
    is random in evaluation.

    Args:
        module: Only read; any module.
        path: Its name in the model.

    Raises:
        CaptureError: A parametrization does not run, or gives no tensor.
    """
    values: dict[str, torch.Tensor] = {}
    if not parametrize.is_parametrized(module):
        return values, ""
    for name, one in module.parametrizations.items():  # type: ignore[union-attr, operator]
        if any(getattr(inner, kind) for inner in one.modules() for kind in _HOOKS):
            return {}, f"{name!r}: a hook watches its computation"
        if any(map(_watched, one.parameters())):
            return {}, f"{name!r}: a gradient hook watches its original"
        try:
            tensors = [tensor for inner in one.modules() for tensor in _tensors(inner) if not tensor.is_leaf]
            private = deepcopy(one, {id(tensor): tensor.detach().clone() for tensor in tensors})
            value, reason = _steady(private, list(private.modules()))
        except Exception as error:
            first = f"the parametrization of {name!r} does not run: {error}"
            raise CaptureError(explain(first, at=_at(module, path), mend=f"check module.{name}")) from error
        if not isinstance(value, torch.Tensor):
            first = f"the parametrization of {name!r} gives a {type(value).__name__}, expected a tensor."
            raise CaptureError(explain(first, at=_at(module, path), mend=f"check module.{name}"))
        if reason:
            return {}, f"{name!r}: {reason}"
        values[name] = value.detach()
    return values, ""


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; tensors element by element in shape and dtype, NaN being like NaN."""
    if not isinstance(one, torch.Tensor) or not isinstance(other, torch.Tensor):
        return type(one) is type(other) and bool(one == other)
    if (one.shape, one.dtype, one.device) != (other.shape, other.dtype, other.device):
        return False
    return one is other or one.is_meta or bool(((one == other) | ((one != one) & (other != other))).all())


def _steady(run: Callable[[], Any], owners: Sequence[Any]) -> tuple[Any, str]:
    """What a computation gives, and why that is not what it gives each time (or "")."""
    tensors = [tensor for one in owners for tensor in _tensors(one)]
    devices = sorted({tensor.device for tensor in tensors if tensor.device.type == "cuda"}, key=str)
    with torch.no_grad(), torch.random.fork_rng(devices=devices):
        first, before = run(), _state(owners, devices)
        again, after = run(), _state(owners, devices)
        fixed = len(before) == len(after) and all(map(same, before, after)) and same(first, again)
    return first, "" if fixed else _CHANGES


def _state(owners: Sequence[Any], devices: Sequence[torch.device]) -> list[Any]:
    """Copies of the tensors and plain numbers that objects hold, and where the random numbers are."""
    numbers = [value for one in owners for value in vars(one).values() if isinstance(value, (bool, int, float, str))]
    tensors = [tensor.detach().clone() for one in owners for tensor in _tensors(one)]
    return [*numbers, *tensors, torch.get_rng_state(), *map(torch.cuda.get_rng_state, devices)]


def _tensors(owner: Any) -> Iterator[torch.Tensor]:
    """The tensors among the attributes of an object, a module's parameters and buffers included."""
    for value in vars(owner).values():
        for one in value.values() if isinstance(value, dict) else (value,):
            if isinstance(one, torch.Tensor):
                yield one


def _held(module: nn.Module, name: str) -> torch.Tensor | None:
    """A parameter or buffer of a module by name."""
    return module._parameters.get(name, module._buffers.get(name))


def _watched(parameter: torch.Tensor | None) -> bool:
    return parameter is not None and bool(parameter._backward_hooks)


def _at(module: nn.Module, path: str) -> str:
    return f"module {path!r} ({type(module).__name__})" if path else f"the model ({type(module).__name__})"


def _remove(name: str) -> str:
    return f"torch.nn.utils.prune.remove(module, {name!r}), or prune it anew"
