"""Settings that follow sizes: a transformers configuration's ``hidden_size``, say, after the hidden axis was pruned.

A setting follows where every module whose code reads a number of that name has the same new value. One that no code
reads follows where the module can be built from its settings, and all sizes that grow with it ask for the same value.
"""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from fxprune.numbers import is_settings

Shapes = Mapping[str, tuple[int, ...]]


def follow(model: nn.Module, small: nn.Module, read: Collection[str]) -> tuple[str, ...]:
    """Bring the settings of a smaller copy in line with its sizes.

    Args:
        model: The original; only read.
        small: Its copy with sliced parameters and new attributes; its settings objects are changed, and numbers of
            the same name and value that modules hold and no code reads.
        read: Dotted names of the attributes that the forward reads.

    Returns:
        Notes: what changed, and whether the settings describe the smaller module.
    """
    notes: list[str] = []
    for path, name, holder in _settings(small):
        owner, part = model.get_submodule(path), small.get_submodule(path)
        before = getattr(owner, name)
        held = _by_name(model, small, before, read)
        found = {key: values.pop() for key, values in held.items() if len(values) == 1}
        found = {key: value for key, value in found.items() if value != getattr(before, key)}
        described, found = _by_shape(owner, part, before, found, fixed=held.keys())
        for key, value in found.items():
            setattr(holder, key, value)
            _set_unread(small, key, getattr(before, key), value, read)
        where = f"{path}.{name}" if path else name
        notes += [f"{where}.{key} is {value} now, and was {getattr(before, key)}" for key, value in found.items()]
        if not described:
            kind = type(owner).__name__
            notes.append(f"{where} cannot describe the sizes of the smaller {kind}: save the module itself")
        elif found:
            notes.append(f"{where} describes sizes; built anew, scales and tables may differ: save the module itself")
    return tuple(notes)


def _settings(small: nn.Module) -> Iterator[tuple[str, str, Any]]:
    """Settings objects, each once, with the outermost module that holds it."""
    seen: set[int] = set()
    for path, module in small.named_modules():
        for name, value in vars(module).items():
            if is_settings(value) and id(value) not in seen:
                seen.add(id(value))
                yield path, name, value


def _numbers(settings: Any) -> dict[str, int]:
    return {name: value for name, value in vars(settings).items() if type(value) is int and value > 0}


def _set_unread(small: nn.Module, name: str, before: int, value: int, read: Collection[str]) -> None:
    for path, module in small.named_modules():
        if vars(module).get(name) == before and f"{path}.{name}" not in read:
            setattr(module, name, value)


def _by_name(model: nn.Module, small: nn.Module, settings: Any, read: Collection[str]) -> dict[str, set[int]]:
    """Of each setting that some modules read as a number of that name, the values that it has in the smaller ones."""
    held: dict[str, set[int]] = {}
    before = _numbers(settings)
    for path, module in model.named_modules():
        own, now = vars(module), vars(small.get_submodule(path))
        for name, value in before.items():
            if own.get(name) == value and type(own[name]) is int and f"{path}.{name}" in read:
                held.setdefault(name, set()).add(now[name])
    return held


def _by_shape(
    owner: nn.Module, small: nn.Module, settings: Any, found: dict[str, int], fixed: Collection[str]
) -> tuple[bool, dict[str, int]]:
    """Add the settings that bring the sizes of a module built from them nearer to those of the smaller one.

    Returns:
        Whether the settings describe the smaller module in the end (True where nothing is built from them), and they.
    """
    old, now = _shapes(owner), _shapes(small)
    if old == now or _shapes_built(type(owner), settings, {}) != old:
        return True, found
    built: Shapes | None = _shapes_built(type(owner), settings, found)
    while built is not None and built != now:
        tried = [
            one
            for name in _numbers(settings).keys() - found.keys() - set(fixed)
            for one in _tries(owner, settings, found, name, now)
        ]
        best = min(tried, key=lambda one: len(_differing(one[1], now)), default=None)
        if best is None or len(_differing(best[1], now)) >= len(_differing(built, now)):
            break
        found, built = best
    return built == now, found


def _tries(
    owner: nn.Module, settings: Any, found: dict[str, int], name: str, now: Shapes
) -> Iterator[tuple[dict[str, int], Shapes]]:
    """The settings with one more of them changed as the sizes ask for, and the sizes that result."""
    value = _numbers(settings)[name]
    built, grown = (_shapes_built(type(owner), settings, {**found, **more}) for more in ({}, {name: 2 * value}))
    if built is not None and grown is not None:
        for wanted in _wanted(value, built, grown, now):
            tried = {**found, name: wanted}
            if (shapes := _shapes_built(type(owner), settings, tried)) is not None:
                yield tried, shapes


def _differing(one: Shapes, other: Shapes) -> set[tuple[str, int]]:
    """The axes of which two modules have different sizes."""
    return {
        (name, dim)
        for name in one.keys() | other.keys()
        for dim, (a, b) in enumerate(zip(one.get(name, (-1,)), other.get(name, (-2,)), strict=False))
        if a != b
    }


def _wanted(value: int, built: Shapes, grown: Shapes, now: Shapes) -> set[int]:
    """The one new value that every size growing with a setting asks for; none where they disagree."""
    result: set[int] = set()
    for name in built.keys() & grown.keys() & now.keys():
        for before, more, after in zip(built[name], grown[name], now[name], strict=False):
            if more != before:
                step = (after - before) * value
                result.add(value + step // (more - before) if step % (more - before) == 0 else 0)
    return result - {value} if len(result) == 1 and 0 not in result else set()


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def _shapes_built(
    kind: type[nn.Module], settings: Any, changes: Mapping[str, Any]
) -> dict[str, tuple[int, ...]] | None:
    """Sizes of a module built from settings with some changes, on no device; None where that does not work."""
    changed, level = copy.deepcopy(settings), logging.root.manager.disable
    vars(changed).update(changes)
    logging.disable(logging.CRITICAL)  # a constructor may comment on settings that nobody chose
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _shapes(kind(changed))
    except Exception:  # any constructor may ask for more, or find the settings at odds
        return None
    finally:
        logging.disable(level)
