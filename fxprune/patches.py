"""What is changed in Python and in the model while a model is recorded, and is undone behind it."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def calls_seen(call_module: Callable[..., Any]) -> Iterator[None]:
    """Let module calls arrive at ``call_module(original, module, args, kwargs)``, and ``len(tensor)`` at its shape.

    ``len`` itself would turn whatever ``Tensor.__len__`` returns into a plain int: most often, the batch size.
    """
    call, length = nn.Module.__call__, builtins.len

    def patched_call(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return call_module(call, module, args, kwargs)

    def patched_len(value: Any) -> int:
        return value.shape[0] if isinstance(value, Tensor) and value.dim() else length(value)

    patches = ((nn.Module, "__call__", patched_call, call), (builtins, "len", patched_len, length))
    try:
        for owner, name, patched, _ in patches:
            setattr(owner, name, patched)
        yield
    finally:
        for owner, name, _, original in patches:
            setattr(owner, name, original)


@contextmanager
def attributes_kept(model: nn.Module) -> Iterator[None]:
    """Undo what the forward assigns to modules, so that the graph's names lead to what they led to before."""
    kept = []
    for module in model.modules():
        own = vars(module)
        kept += [(one, dict(one)) for one in (own, own["_parameters"], own["_buffers"], own["_modules"])]
    try:
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)
