"""Source lines of the model: the innermost frame that is neither torch's nor ours."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import cache
from traceback import walk_tb
from types import CodeType, FrameType
from typing import Any

import torch

import fxprune_passes
from fxprune_passes.sources import shown

_FOLDERS = (torch.__file__, fxprune_passes.__file__, __file__)
_NOT_THE_MODEL = (
    "<eval_with_key>",  # code that torch.fx writes
    "<frozen ",
    *(os.path.join(os.path.dirname(os.path.abspath(file)), "") for file in _FOLDERS if file),
)

_TRACED = re.compile(r'File "(?P<file>[^"]+)", line (?P<number>\d+)')


def call_model(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run a model's forward: whoever calls this function is not the model."""
    return forward(*args, **kwargs)


def current_line() -> str:
    """The line of the model that is running, as ``package/file.py:12``."""
    frame = _running(sys._getframe(1))
    return "" if frame is None else _line(frame.f_code, frame.f_lineno)


def current_globals() -> dict[str, Any] | None:
    """The globals of the model's function that is running; None if that is torch's own."""
    frame = _running(sys._getframe(1))
    return frame.f_globals if frame is not None and _is_model(frame.f_code) else None


def failing_line(error: BaseException) -> str:
    """The line of the model that raised an exception, as ``package/file.py:12``; empty if it was not the model."""
    places = [(frame.f_code, number) for frame, number in walk_tb(error.__traceback__)]
    inside = [number for number, (code, _) in enumerate(places) if code is call_model.__code__]
    places = places[inside[-1] + 1 :] if inside else []
    own = [place for place in places if _is_model(place[0])]
    return _line(*(own[-1] if own else places[0])) if places else ""


def traced_line(stack_trace: str) -> str:
    """The innermost line of the model in a formatted stack trace, as ``package/file.py:12``; empty if there is none."""
    lines = [(match["file"], match["number"]) for match in _TRACED.finditer(stack_trace)]
    own = [line for line in lines if not line[0].startswith(_NOT_THE_MODEL)]
    return "" if not lines else f"{shown((own or lines)[-1][0])}:{(own or lines)[-1][1]}"


def _running(frame: FrameType | None) -> FrameType | None:
    """The innermost frame of the model, or the outermost one of a model that is all torch's own."""
    outermost = None
    while frame is not None and frame.f_code is not call_model.__code__:
        if _is_model(frame.f_code):
            return frame
        outermost, frame = frame, frame.f_back
    return outermost


def _line(code: CodeType, number: int) -> str:
    return f"{shown(code.co_filename)}:{number}"


def _is_model(code: CodeType) -> bool:
    return _is_of_model(code.co_filename)


@cache
def _is_of_model(filename: str) -> bool:
    return not filename.startswith(_NOT_THE_MODEL)
