"""Numbers that modules hold as attributes, made recorded ones: the graph then shows where each of them is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import nn

from fxprune.writer import GraphWriter

IsLeaf = Callable[[nn.Module, str], bool]

_NOT_SETTINGS = (nn.Module, torch.Tensor, Mapping, Sequence, Set, type, ModuleType, FunctionType, MethodType)
_SIZES_OF_LEAVES = frozenset(
    (
        "embedding_dim",
        "hidden_size",
        "in_channels",
        "in_features",
        "input_size",
        "num_channels",
        "num_features",
        "out_channels",
        "out_features",
    )
)


def numbers_left(model: nn.Module, is_leaf: IsLeaf, writer: GraphWriter) -> AbstractContextManager[None]:
    """Leave the attributes as they are: they become literals of the graph."""
    return nullcontext()


@contextmanager
def numbers_recorded(model: nn.Module, is_leaf: IsLeaf, writer: GraphWriter) -> Iterator[None]:
    """Exchange the ints, and tuples of them, that modules, and the settings that modules refer to, hold as attributes.

    Args:
        model: A private copy of the model.
        is_leaf: Of leaf modules, only the sizes that other modules may read are exchanged.
        writer: The graph that is being recorded.
    """
    changed: list[tuple[dict[str, Any], dict[str, Any]]] = []
    seen: set[int] = set()
    for path, holder, names in _holders(model, is_leaf):
        if id(holder) in seen:
            continue
        seen.add(id(holder))
        own = vars(holder)
        plain = {name: value for name, value in own.items() if _is_number(value) and (not names or name in names)}
        changed.append((own, plain))
        for name, value in plain.items():
            own[name] = writer.number(f"{path}.{name}" if path else name, value)
    try:
        yield
    finally:
        for own, plain in changed:
            own.update(plain)


def _holders(model: nn.Module, is_leaf: IsLeaf) -> Iterator[tuple[str, Any, frozenset[str]]]:
    """Everything that holds numbers: path, object, and the names that count (all, where none is given)."""
    for path, module in model.named_modules():
        if path and is_leaf(module, path):
            yield path, module, _SIZES_OF_LEAVES
            continue
        yield path, module, frozenset()
        for name, value in list(vars(module).items()):
            if is_settings(value):
                yield f"{path}.{name}" if path else name, value, frozenset()


def _is_number(value: object) -> bool:
    if type(value) is tuple:
        return bool(value) and all(type(one) is int for one in value)
    return type(value) is int


def is_settings(value: object) -> bool:
    """Whether a module's attribute is an object that holds settings, such as a configuration."""
    if isinstance(value, _NOT_SETTINGS) or callable(value):
        return False
    return any(_is_number(one) for one in getattr(value, "__dict__", {}).values())
