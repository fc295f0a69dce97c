"""Functions behind ``functools.lru_cache``, whose caches are left alone while a model is recorded."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any

from torch import nn

_CACHED = type(functools.cache(len))
_NO_MODELS = ("torch.", "builtins")


@contextmanager
def caches_bypassed(model: nn.Module) -> Iterator[None]:
    """Let functions behind ``functools.lru_cache`` run, as far as the code of the model's classes names them.

    A tensor that an earlier call left in a cache would be a constant from nowhere, and a fake one that this call
    leaves there would end up in the next real one.
    """
    classes = {one for module in model.modules() for one in type(module).__mro__}
    classes = {one for one in classes if not one.__module__.startswith(_NO_MODELS)}
    homes = {one.__module__ for one in classes}
    undo: list[Callable[[], None]] = []
    try:
        for owner in (*classes, *(sys.modules[home] for home in homes if home in sys.modules)):
            for name, value in list(vars(owner).items()):
                _bypass(owner, name, value, undo)
        yield
    finally:
        for one in reversed(undo):
            one()


def _bypass(owner: Any, name: str, value: Any, undo: list[Callable[[], None]]) -> None:
    """Put what is cached in the place of its cache: as an attribute, or inside a decorator's wrapper."""
    function = value.__func__ if isinstance(value, (staticmethod, classmethod)) else value
    if isinstance(function, _CACHED):
        plain = function.__wrapped__
        setattr(owner, name, plain if function is value else type(value)(plain))
        undo.append(lambda: setattr(owner, name, value))
        return
    for cell in getattr(function, "__closure__", None) or ():
        if _holds_cache(cell):
            _open_cell(cell, undo)


def _open_cell(cell: CellType, undo: list[Callable[[], None]]) -> None:
    cached = cell.cell_contents
    cell.cell_contents = cached.__wrapped__
    undo.append(lambda: setattr(cell, "cell_contents", cached))


def _holds_cache(cell: CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, _CACHED)
    except ValueError:  # not filled yet
        return False
