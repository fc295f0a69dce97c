"""What is said of a model that cannot be captured: worded once, for every way of capture."""

from __future__ import annotations

from typing import Any

import torch
from torch._subclasses import fake_tensor

from fxprune_passes.errors import explain

VALUE_READS = (fake_tensor.DataDependentOutputException, fake_tensor.DynamicOutputShapeException)
"""What fake tensors raise where a call needs the values of a tensor."""
KEEP_CODE = 'plan and compile with emit="module", which keeps the Python code of the model'


def needs_values(model: str, line: str, call: str, inputs: str, *, at: str = "") -> str:
    """The message for code that looks at the values of a tensor.

    Args:
        model: What is captured.
        line: The source line, ``file.py:12``.
        call: The function that looks.
        inputs: The tensors that it looks at, as :func:`described` gives them.
        at: Where in the model, if more is known than the line.
    """
    first = f"{model} cannot be captured: {line} needs the values of a tensor: {call}() of {inputs}."
    return explain(first, at=at or line, mend=f"{KEEP_CODE},\nor make the line depend on shapes and constants")


def does_not_run(model: str, line: str, error: str, inputs: str, *, at: str = "", why: str = "") -> str:
    """The message for a model that fails on the example inputs.

    Args:
        model: What is captured.
        line: The source line or the node that fails.
        error: What was raised there.
        inputs: The tensors that the failing call got, as :func:`described` gives them.
        at: Where in the model, if more is known than the line.
        why: More of the error's text.
    """
    got = f"the call got {inputs}" if inputs else ""
    return explain(
        f"{model} does not run on the example inputs: {line}{error}",
        at=at or line,
        why="\n".join(filter(None, (why, got))),
        mend="check the example inputs: rank, shape and dtype",
    )


def described(value: Any) -> str:
    """The tensors in nested arguments, each by dtype and shape.

    Example:
        >>> described((torch.zeros(2, 3), [torch.ones(4) > 0]))
        'float32(2, 3), bool(4,)'
    """
    tensors = (one for one in torch.utils._pytree.tree_leaves(value) if isinstance(one, torch.Tensor))
    return ", ".join(f"{str(one.dtype).removeprefix('torch.')}{tuple(one.shape)}" for one in tensors)
