"""Input specifications: what a plan remembers of the example inputs, as plain data."""

from __future__ import annotations

from typing import Any

import torch

from fxprune.inputs import ExampleInputs
from fxprune_passes.errors import ArtifactError, CaptureError, explain


def to_spec(example_inputs: Any) -> Any:
    """Describe example inputs as JSON: shape, dtype and device of tensors, plain values as they are.

    Raises:
        CaptureError: A value is neither a tensor nor a plain value nor a container of them.
    """
    if isinstance(example_inputs, torch.Tensor):
        dtype = str(example_inputs.dtype).removeprefix("torch.")
        return {"tensor": list(example_inputs.shape), "dtype": dtype, "device": str(example_inputs.device)}
    if isinstance(example_inputs, (tuple, list)):
        return {type(example_inputs).__name__ if type(example_inputs) in (tuple, list) else "tuple":
                [to_spec(one) for one in example_inputs]}  # fmt: skip
    if isinstance(example_inputs, dict):
        return {"dict": {key: to_spec(value) for key, value in example_inputs.items()}}
    if example_inputs is None or isinstance(example_inputs, (bool, int, float, str)):
        return {"value": example_inputs}
    raise CaptureError(
        explain(f"example inputs hold a {type(example_inputs).__name__}, expected tensors and plain values.")
    )


def from_spec(spec: Any) -> ExampleInputs:
    """Make example inputs of a description; floating-point tensors are random, others zero.

    Raises:
        ArtifactError: The description is not one that :func:`to_spec` gives.
    """
    try:
        (kind, value), *_ = spec.items()
        if kind == "tensor":
            return _tensor(value, getattr(torch, spec["dtype"]), spec["device"])
        if kind == "dict":
            return {key: from_spec(one) for key, one in value.items()}
        if kind in ("tuple", "list"):
            parts = [from_spec(one) for one in value]
            return tuple(parts) if kind == "tuple" else parts  # type: ignore[return-value]
        return spec["value"]  # type: ignore[no-any-return]
    except (AttributeError, KeyError, ValueError) as error:
        raise ArtifactError(explain(f"input specification {spec!r} is not understood.")) from error


def _tensor(shape: list[int], dtype: torch.dtype, device: str) -> torch.Tensor:
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(shape, dtype=dtype, device=device)
    return torch.zeros(shape, dtype=dtype, device=device)


def show_spec(spec: Any) -> str:
    """A description in one line: ``float32(1, 3, 224, 224)``."""
    (kind, value), *_ = spec.items()
    if kind == "tensor":
        return f"{spec['dtype']}({', '.join(map(str, value))})"
    if kind == "dict":
        return ", ".join(f"{key}={show_spec(one)}" for key, one in value.items())
    if kind in ("tuple", "list"):
        return ", ".join(show_spec(one) for one in value)
    return repr(value)
