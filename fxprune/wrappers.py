"""What is around a model or its tensors and computes the same: it is taken off, and that is said."""

from __future__ import annotations

from typing import cast

from torch import nn
from torch.export import ExportedProgram
from torch.nn.parallel import DistributedDataParallel

from fxprune.plain import plain
from fxprune.program import Model, as_module

_INSIDE = {
    "OptimizedModule": ("_orig_mod", "torch.compile"),  # its class lives in torch._dynamo, slow to import
    "DataParallel": ("module", "DataParallel"),
    "DistributedDataParallel": ("module", "DistributedDataParallel"),
}


def unwrap(model: Model) -> tuple[nn.Module, tuple[str, ...]]:
    """Take off ``torch.compile``, ``DataParallel``, ``DistributedDataParallel``, and masks and parametrizations.

    Args:
        model: Any module, or an exported program, which is read as a module; only read.

    Returns:
        The model inside, with plain tensors (see :func:`fxprune.plain.plain`), whose parameter names are the ones that
        count; and a note for each thing taken off.

    Raises:
        CaptureError: Masks or parametrizations cannot be applied.

    Example:
        >>> unwrap(nn.DataParallel(nn.ReLU()))
        (ReLU(), ('DataParallel is taken off: names are those of the ReLU inside',))
    """
    if isinstance(model, ExportedProgram):
        return as_module(model), ()
    module, notes = _inside(model)
    module, applied = plain(module)
    return module, notes + applied


def remembered(model: Model) -> Model:
    """What a plan remembers its model by: the user's own object inside wrappers, though its tensors be masked."""
    return model if isinstance(model, ExportedProgram) else _inside(model)[0]


def _inside(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    notes: tuple[str, ...] = ()
    while isinstance(model, nn.Module) and (found := _wrapper(model)) is not None:
        attribute, shown = found
        model = cast(nn.Module, getattr(model, attribute))
        notes += (f"{shown} is taken off: names are those of the {type(model).__name__} inside",)
    return model, notes


def _wrapper(model: nn.Module) -> tuple[str, str] | None:
    """Where the model inside a wrapper is, and what the wrapper is called; None for any other module."""
    if isinstance(model, (nn.DataParallel, DistributedDataParallel)):
        return _INSIDE["DataParallel" if isinstance(model, nn.DataParallel) else "DistributedDataParallel"]
    return _INSIDE["OptimizedModule"] if type(model).__name__ == "OptimizedModule" else None
