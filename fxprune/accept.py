"""Refuse, by name, the models that cannot be captured faithfully; nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from fxprune_passes.errors import CaptureError, explain

_BACKWARD = {"_backward_hooks": "backward hook", "_backward_pre_hooks": "backward pre-hook"}
_HOOKS = {"_forward_hooks": "forward hook", "_forward_pre_hooks": "forward pre-hook", **_BACKWARD}


def accept(model: nn.Module, *, hooks: bool = False) -> None:
    """Check that a model can be captured.

    Args:
        model: Any module; only read.
        hooks: Forward hooks may stay, since the code does.

    Raises:
        CaptureError: It is no module, has uninitialised parameters, hooks, parametrizations, or several devices.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(explain(f"model must be a torch.nn.Module, got {type(model).__name__}."))
    for name, parameter in model.named_parameters():
        _refuse_lazy(name, parameter)
        if parameter._backward_hooks:
            first = f"parameter {name!r} has a gradient hook, which a graph cannot hold."
            raise CaptureError(explain(first, mend="remove the hook; add it to the compiled model"))
    for name, module in model.named_modules():
        _refuse_parametrized(name, module)
        _refuse_hooks(name, module, _BACKWARD if hooks else _HOOKS)
    _refuse_devices(model)


def _refuse_parametrized(name: str, module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        tensors = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        first = f"module {name!r} has parametrized tensors ({tensors}), expected plain parameters."
        mend = f"torch.nn.utils.parametrize.remove_parametrizations(module, {tensors.split(', ')[0]!r})"
        raise CaptureError(explain(first, mend=mend))


def _refuse_hooks(name: str, module: nn.Module, kinds: Mapping[str, str]) -> None:
    for attribute, kind in kinds.items():
        for hook in getattr(module, attribute, {}).values():
            shown = getattr(hook, "__qualname__", type(hook).__name__)
            first = f"module {name or type(module).__name__!r} has a {kind} ({shown}), which a graph cannot hold."
            raise CaptureError(explain(first, mend=_advice(type(hook).__name__)))


def _advice(hook: str) -> str:
    if hook == "WeightNorm":
        return "torch.nn.utils.remove_weight_norm(module) first"
    if hook == "SpectralNorm":
        return "torch.nn.utils.remove_spectral_norm(module) first"
    return "remove the hook; add it to the compiled model"


def _refuse_lazy(name: str, parameter: nn.Parameter) -> None:
    if is_lazy(parameter):
        first = f"parameter {name!r} is not initialised (a lazy module), expected a shape."
        raise CaptureError(explain(first, mend="run the model once on example inputs before pruning it"))


def _refuse_devices(model: nn.Module) -> None:
    devices: dict[str, str] = {}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        devices.setdefault(str(tensor.device), name)
    if len(devices) > 1:
        shown = ", ".join(f"{device} ({name})" for device, name in devices.items())
        first = f"model is on several devices: {shown}; expected one."
        raise CaptureError(explain(first, mend="model.to(device) first"))
