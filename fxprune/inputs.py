"""Example inputs: one way to say what a model is called with."""

from __future__ import annotations

from typing import Any

import torch

from fxprune_passes.errors import CaptureError, explain

ExampleInputs = torch.Tensor | tuple[Any, ...] | dict[str, Any]


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn example inputs into the arguments of one call of the model.

    Args:
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        Positional and keyword arguments: the model is called as ``model(*args, **kwargs)``.

    Raises:
        CaptureError: Anything else was given.

    Example:
        >>> as_call({"tokens": 3})
        ((), {'tokens': 3})
    """
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, dict) and all(isinstance(name, str) for name in example_inputs):
        return (), dict(example_inputs)
    raise CaptureError(
        explain(
            "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword arguments, "
            f"got {_described(example_inputs)}.",
            mend="a single argument of any other kind goes into a tuple: (argument,)",
        )
    )


def _described(value: object) -> str:
    """Name the type of a value, and for a dict the keys that are no argument names."""
    if isinstance(value, dict):
        return f"a dict with keys that are no strings: {[key for key in value if not isinstance(key, str)]!r:.60}"
    return type(value).__name__
