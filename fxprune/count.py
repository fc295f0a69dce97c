"""Parameters, multiply-accumulates and bytes of a model, counted without computing anything."""

from __future__ import annotations

import contextlib
import copy
import itertools
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from fxprune.accept import refuse_other_code
from fxprune.inputs import ExampleInputs, as_call
from fxprune.program import Model, inputs_of
from fxprune.units import scaled
from fxprune.wrappers import unwrap
from fxprune_passes.errors import CaptureError, explain

_Call = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Count:
    """What a model costs.

    Attributes:
        params: Elements of all parameters; a tied parameter counts once.
        macs: Multiply-accumulates of one forward call, half of what ``torch.utils.flop_counter`` counts.
        bytes: Bytes of all parameters and buffers.
    """

    params: int
    macs: int
    bytes: int

    def __str__(self) -> str:
        """Read as one line."""
        return f"{scaled(self.params)} parameters, {scaled(self.macs, 'MACs')}, {scaled(self.bytes, 'B')}"


def count(model: Model, example_inputs: ExampleInputs | None = None) -> Count:
    """Count parameters, multiply-accumulates and bytes of a model, in the mode (train or eval) that it is in.

    The forward call runs on a copy without data and without forward hooks; the model is not changed.

    Args:
        model: Any module, or an exported program.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those that
            an exported program holds.

    Returns:
        The counts, exact integers.

    Raises:
        CaptureError: The inputs are of no known kind, a module is compiled or quantised, or the model cannot run
            without data.

    Example:
        >>> print(count(nn.Linear(8, 4), torch.zeros(2, 8)))
        36 parameters, 64 MACs, 144 B
    """
    args, kwargs = as_call(inputs_of(model, example_inputs))
    model, _ = unwrap(model)
    refuse_other_code(model)
    _refuse_lazy(model)
    parameters = list(model.parameters())
    return Count(
        params=sum(parameter.numel() for parameter in parameters),
        macs=_flops(model, args, kwargs) // 2,
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in itertools.chain(parameters, model.buffers())),
    )


def _refuse_lazy(model: nn.Module) -> None:
    """Raise where a parameter or buffer has no shape yet."""
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if nn.parameter.is_lazy(tensor):
            raise CaptureError(
                explain(
                    "expected a model whose parameters have shapes, got an uninitialised lazy parameter.",
                    at=name,
                    mend="call the model once on example inputs",
                )
            )


def _flops(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Count on meta tensors, and on fake tensors where the model names a device or reads a constant."""
    try:
        with torch.device("meta"):
            return _flops_of(*_converted((model, args, kwargs), lambda tensor: tensor.to("meta")))
    except Exception:
        fake_mode = FakeTensorMode()
    try:
        call = _converted((model, args, kwargs), fake_mode.from_tensor)
        # The fused CPU kernels have no FLOP formula: oneDNN's LSTM would count as nothing (torch 2.15).
        with fake_mode, _onednn_off():
            return _flops_of(*call)
    except Exception as error:
        raise CaptureError(
            explain(
                f"expected a model that runs on tensors without data, got {type(error).__name__}.",
                at=_where(error),
                why=(str(error).strip().splitlines() or [""])[0],
                mend="check that the model runs on these inputs; shapes must not depend on values",
            )
        ) from error


def _flops_of(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    """Run a model without its forward hooks and count FLOPs."""
    for module in model.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    with torch.no_grad(), _fast_path_off(), FlopCounterMode(display=False) as counter:
        model(*args, **kwargs)
    return int(counter.get_total_flops())


def _converted(call: _Call, convert: Callable[[torch.Tensor], torch.Tensor]) -> _Call:
    """Copy a model and its arguments, every tensor in them converted."""
    with _CopyConverted(convert):
        return copy.deepcopy(call)


class _CopyConverted(TorchFunctionMode):
    """While active, ``copy.deepcopy`` converts each tensor that it meets, in attributes and containers as well."""

    def __init__(self, convert: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.convert = convert

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A tensor copies itself by __deepcopy__; a parameter wraps a clone of its data.
        if func in (torch.Tensor.__deepcopy__, torch.Tensor.clone):
            return self.convert(args[0].detach())
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _fast_path_off() -> Iterator[None]:
    """Keep attention modules off their fused kernels, which have no FLOP formula."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextlib.contextmanager
def _onednn_off() -> Iterator[None]:
    """Keep recurrent modules off oneDNN's fused kernels."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


def _where(error: Exception) -> str:
    """Name the deepest source line outside PyTorch and this file that led to an error."""
    ours = (str(Path(torch.__file__).parent), __file__)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    return f"{frames[-1].filename}:{frames[-1].lineno}  {frames[-1].line}" if frames else ""
