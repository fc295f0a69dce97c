"""Source lines of the model: the innermost frame that is neither torch's nor ours."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from traceback import walk_tb
from types import CodeType, FrameType
from typing import Any

import torch

import fxprune_passes

_NOT_THE_MODEL = tuple(
    os.path.join(os.path.dirname(os.path.abspath(file)), "")
    for file in (torch.__file__, fxprune_passes.__file__, __file__)
    if file
)


def call_model(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a model's forward: whoever calls this function is not the model."""
    return forward(*args, **kwargs)


def current_line() -> str:
    """The line of the model that is running, as ``package/file.py:12``."""
    return _innermost(_outwards(sys._getframe(1)))


def failing_line(error: BaseException) -> str:
    """The line of the model that raised an exception, as ``package/file.py:12``; empty if it was not the model."""
    places = [(frame.f_code, number) for frame, number in walk_tb(error.__traceback__)]
    inside = [number for number, (code, _) in enumerate(places) if code is call_model.__code__]
    return _innermost(reversed(places[inside[-1] + 1 :])) if inside else ""


def _outwards(frame: FrameType | None) -> Iterator[tuple[CodeType, int]]:
    while frame is not None and frame.f_code is not call_model.__code__:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


def _innermost(places: Iterable[tuple[CodeType, int]]) -> str:
    """The first place outside torch and fxprune, or the last one, the forward of a model that is all torch's own."""
    place = None
    for place in places:
        if _is_model(place[0]):
            break
    return f"{_shown(place[0].co_filename)}:{place[1]}" if place else ""


def _is_model(code: CodeType) -> bool:
    return not code.co_filename.startswith(_NOT_THE_MODEL) and not code.co_filename.startswith("<")


@cache
def _shown(filename: str) -> str:
    """A file's name from the import path on: the same on every machine."""
    for folder in sorted(sys.path, key=len, reverse=True):
        if folder and filename.startswith(os.path.join(folder, "")):
            return os.path.relpath(filename, folder).replace(os.sep, "/")
    return os.path.basename(filename)
