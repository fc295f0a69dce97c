"""A model and its inputs, named by text in a shell."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxprune_passes.errors import CaptureError, explain


def load_model(spec: str) -> nn.Module:
    """Build the model that a text names.

    Args:
        spec: ``torchvision:NAME`` for one of torchvision's models with random weights, or ``MODULE:CALLABLE`` for
            anything importable, from the working folder as well, that returns a module when it is called.

    Returns:
        The model.

    Raises:
        CaptureError: The text names no model.

    Example:
        >>> load_model("torch.nn:Identity")
        Identity()
    """
    source, _, name = spec.partition(":")
    if not source or not name:
        raise CaptureError(f"a model is named as torchvision:NAME or MODULE:CALLABLE, got {spec!r}.")
    return _torchvision_model(name) if source == "torchvision" else _called(source, name)


def parse_input(text: str, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Build the example input that a text describes.

    Args:
        text: Sizes between commas, then a colon and a dtype where it is not the usual one: ``1,16:int64``.
        dtype: The usual one.

    Returns:
        A tensor of zeros.

    Raises:
        CaptureError: The text is no shape, or the dtype is unknown.

    Example:
        >>> parse_input("1,16:int64").dtype
        torch.int64
    """
    sizes, _, dtype_name = text.partition(":")
    try:
        shape = [int(size) for size in sizes.split(",")]
        return torch.zeros(shape, dtype=parse_dtype(dtype_name) if dtype_name else dtype)
    except (ValueError, RuntimeError) as error:
        raise CaptureError(f"an input is described as 1,3,224,224 or 1,16:int64, got {text!r}.") from error


def parse_dtype(name: str) -> torch.dtype:
    """Look up a dtype by PyTorch's name for it."""
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise CaptureError(f"a dtype has a name that PyTorch knows, such as float64 or int64, got {name!r}.")
    return dtype


def _torchvision_model(name: str) -> nn.Module:
    """Build one of torchvision's models without weights."""
    if importlib.util.find_spec("torchvision") is None:
        raise CaptureError(
            explain(
                f"torchvision:{name} expects torchvision, which is not installed.",
                mend='pip install "fxprune[vision]"',
            )
        )
    import torchvision

    known = torchvision.models.list_models()
    if name not in known:
        raise CaptureError(
            explain(f"torchvision has {len(known)} models, none is called {name!r}.", mend=_suggested(name, known))
        )
    builder = torchvision.models.get_model_builder(name)
    # Segmentation and detection models fetch a backbone's weights unless they are told not to.
    none = dict.fromkeys({"weights", "weights_backbone"} & inspect.signature(builder).parameters.keys())
    model: nn.Module = builder(**none)
    return model


def _called(source: str, name: str) -> nn.Module:
    """Import a callable and call it."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        target: Any = functools.reduce(getattr, name.split("."), importlib.import_module(source))
    except ModuleNotFoundError as error:
        if error.name is None or not f"{source}.".startswith(f"{error.name}."):
            raise  # the module was found, and imports something that is missing
        raise CaptureError(f"expected an importable module before the colon, got {source!r}: {error}.") from error
    except AttributeError as error:
        raise CaptureError(f"expected a callable behind the colon, got {name!r}: {error}.") from error
    model = target if isinstance(target, nn.Module) or not _callable_without_arguments(target) else target()
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"expected {source}:{name} to return a torch.nn.Module when called without arguments, "
            f"got {type(model).__name__}."
        )
    return model


def _callable_without_arguments(target: Any) -> bool:
    """Tell whether a call needs no arguments, as far as its signature says."""
    try:
        inspect.signature(target).bind()
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return callable(target)
    return True


def _suggested(name: str, known: list[str]) -> str:
    """Offer the names that look alike."""
    close = difflib.get_close_matches(name, known)
    return f"did you mean {' or '.join(close)}?" if close else "torchvision.models.list_models() lists them"
