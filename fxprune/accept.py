"""Refuse, by name, the models that cannot be captured faithfully; nothing is dropped in silence."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.ao.nn.quantized import FloatFunctional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from fxprune.evaluated import evaluated
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.tensors import modules_of, tensors_of

_BACKWARD = {"_backward_hooks": "backward hook", "_backward_pre_hooks": "backward pre-hook"}
_HOOKS = {"_forward_hooks": "forward hook", "_forward_pre_hooks": "forward pre-hook", **_BACKWARD}
_WRITING = (BasePruningMethod, SpectralNorm, WeightNorm)  # each call puts another tensor into the module
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.ao.nn.sparse.quantized")


def accept(model: nn.Module, *, hooks: bool = False) -> None:
    """Check that a model can be captured.

    Args:
        model: Any module; only read.
        hooks: Forward hooks may stay, since the code does; but for those that write tensors of their module.

    Raises:
        CaptureError: It is no module, has uninitialised parameters, hooks, parametrizations without a fixed value, or
            several devices, is compiled by TorchScript, or is quantised.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(explain(f"model must be a torch.nn.Module, got {type(model).__name__}."))
    modules = modules_of(model)
    for name, module in modules.items():
        _refuse_code(name, module)
    tensors = tensors_of(model)
    for name, tensor in tensors.items():
        if isinstance(tensor, nn.Parameter):
            _refuse_parameter(name, tensor)
    for name, module in modules.items():
        _refuse_parametrized(name, module)
        _refuse_hooks(name, module, hooks)
    _refuse_devices(tensors)


def _refuse_parametrized(name: str, module: nn.Module) -> None:
    if parametrize.is_parametrized(module):
        tensors = ", ".join(module.parametrizations)  # type: ignore[arg-type]
        first = f"module {name!r} has parametrized tensors ({tensors}), expected plain parameters."
        mend = f"torch.nn.utils.parametrize.remove_parametrizations(module, {tensors.split(', ')[0]!r})"
        raise CaptureError(explain(first, why=evaluated(module, name)[1], mend=f"model.eval(), or {mend}"))


def _refuse_hooks(name: str, module: nn.Module, may_stay: bool) -> None:
    own = vars(module)
    for attribute, kind in _HOOKS.items():
        for hook in own.get(attribute, {}).values():
            if may_stay and attribute not in _BACKWARD and not isinstance(hook, _WRITING):
                continue
            shown = getattr(hook, "__qualname__", type(hook).__name__)
            first = f"module {name or type(module).__name__!r} has a {kind} ({shown}), which a graph cannot hold."
            raise CaptureError(explain(first, mend=_advice(shown)))


def refuse_other_code(model: nn.Module) -> None:
    """Refuse modules whose computation is not in Python, or not in tensors that can be sliced.

    Raises:
        CaptureError: A module is compiled, quantised, or distributed.
    """
    for name, module in modules_of(model).items():
        _refuse_code(name, module)


def _refuse_code(name: str, module: nn.Module) -> None:
    kind, shown = type(module), f"module {name!r}" if name else "the model"
    if isinstance(module, torch.jit.ScriptModule):
        first = f"{shown} is a {kind.__name__}, TorchScript code that cannot be captured."
        raise CaptureError(explain(first, mend="pass the nn.Module that it was scripted or traced from"))
    if kind.__module__.startswith(_QUANTISED) and kind is not FloatFunctional:
        first = f"{shown} is a quantised {kind.__name__} ({kind.__module__}), expected floating point."
        raise CaptureError(explain(first, mend="prune the float model, then quantise the compiled one"))
    if kind.__name__ == "OptimizedModule":
        first = f"{shown} is compiled by torch.compile inside the model."
        raise CaptureError(explain(first, mend="put its ._orig_mod there instead, and compile the result"))
    if isinstance(module, DistributedDataParallel):
        first = f"{shown} is a DistributedDataParallel inside the model."
        raise CaptureError(explain(first, mend="put its .module there instead, and wrap the compiled model"))


def _refuse_parameter(name: str, parameter: nn.Parameter) -> None:
    if is_lazy(parameter):
        first = f"parameter {name!r} is not initialised (a lazy module), expected a shape."
        raise CaptureError(explain(first, mend="run the model once on example inputs before pruning it"))
    if parameter._backward_hooks:
        first = f"parameter {name!r} has a gradient hook, which a graph cannot hold."
        raise CaptureError(explain(first, mend="remove the hook; add it to the compiled model"))
    if parameter.is_quantized or (type(parameter) is not nn.Parameter and is_traceable_wrapper_subclass(parameter)):
        kind = "quantised tensor" if parameter.is_quantized else type(parameter.data).__name__
        first = f"parameter {name!r} is a {kind}, expected a plain tensor."
        raise CaptureError(explain(first, mend="prune the plain model; quantise or distribute the compiled one"))


def _advice(hook: str) -> str:
    if hook == "WeightNorm":
        return "torch.nn.utils.remove_weight_norm(module) first"
    if hook == "SpectralNorm":
        return "torch.nn.utils.remove_spectral_norm(module) first"
    if hook == "_observer_forward_hook":
        return "prune the float model, then prepare the compiled one for quantisation"
    return "remove the hook; add it to the compiled model"


def _refuse_devices(tensors: Mapping[str, torch.Tensor]) -> None:
    devices: dict[torch.device, str] = {}
    for name, tensor in tensors.items():
        devices.setdefault(tensor.device, name)
    if len(devices) > 1:
        shown = ", ".join(f"{device} ({name})" for device, name in devices.items())
        first = f"model is on several devices: {shown}; expected one."
        raise CaptureError(explain(first, mend="model.to(device) first"))
