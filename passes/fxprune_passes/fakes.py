"""Fake stand-ins for a model's tensors: shapes, strides, dtypes and devices without data."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fxprune_passes.recalled import RecallingMode, like
from fxprune_passes.tensors import modules_of

_TABLES = frozenset({"_parameters", "_buffers", "_modules"})
_KINDS = frozenset({dict, OrderedDict, set})
_OWN = frozenset(name for name, value in vars(nn.Module()).items() if type(value) in _KINDS)  # which no two share
_ATOMS = frozenset({type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size})


def fake(tensor: torch.Tensor, fake_mode: FakeTensorMode) -> torch.Tensor:
    """A fake tensor like a plain one; anything special (sparse, quantised, a subclass) goes PyTorch's own way."""
    if not is_fakable(tensor):
        return fake_mode.from_tensor(tensor)
    if isinstance(fake_mode, RecallingMode):
        result = fake_mode.made(like(tensor))
    else:
        meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        result = FakeTensor(fake_mode, meta, tensor.device)
    if isinstance(tensor, nn.Parameter):
        result._is_param = True  # what isinstance(.., nn.Parameter) asks of tensor subclasses (torch 2.15)
    return result


def is_fakable(tensor: Any) -> bool:
    """Whether shape, strides, dtype and device say all of a tensor, which is not fake."""
    plain = type(tensor) in (torch.Tensor, nn.Parameter) and tensor.layout is torch.strided
    return plain and not tensor.is_quantized and not tensor.is_meta


def shadow(model: nn.Module, fake_mode: FakeTensorMode) -> nn.Module:
    """A copy of a model whose parameters, buffers and tensor attributes are fake: no data is copied.

    Tensors in lists and dicts are most often what an earlier forward left there; they stay real.

    Args:
        model: Only read.
        fake_mode: The mode that the fake tensors belong to.
    """
    memo: dict[int, Any] = {}
    modules = modules_of(model).values()
    for module in modules:
        others = [one for name, one in vars(module).items() if name not in _TABLES and not _is_bare(one)]
        attributes = (one for one in others if isinstance(one, torch.Tensor))
        for tensor in (*module._parameters.values(), *module._buffers.values(), *attributes):
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = fake(tensor, fake_mode)
        memo.update((id(tensor), tensor.detach()) for tensor in _tensors_in(others) if id(tensor) not in memo)
    plain = [
        module for module in modules if id(module) not in memo and _is_copied_by_state(cast(Hashable, type(module)))
    ]
    memo.update((id(module), type(module).__new__(type(module))) for module in plain)
    states = [(module, module.__getstate__()) for module in reversed(plain)]  # what it holds comes first
    for module, state in states:
        copied = _copied_state(state, memo)
        if type(module).__setstate__ is nn.Module.__setstate__:  # which adds what states of old versions lack
            vars(memo[id(module)]).update(copied)
        else:
            memo[id(module)].__setstate__(copied)
    return copy.deepcopy(model, memo)


@cache
def _is_copied_by_state(kind: Any) -> bool:
    """Whether ``copy.deepcopy`` copies modules of a class by their state, since the class asks for nothing else."""
    asks = any(hasattr(kind, name) for name in ("__deepcopy__", "__getnewargs__", "__getnewargs_ex__"))
    plain = all(getattr(kind, name) is getattr(object, name) for name in ("__new__", "__reduce__", "__reduce_ex__"))
    return plain and not asks


def _is_bare(value: Any) -> bool:
    """Whether a value holds nothing: a number, a name, or one of the many empty tables of a module."""
    kind = type(value)
    return kind in _ATOMS or (kind in _KINDS and not value)


def _copied_state(state: dict[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """The attributes of a module, copied; the many empty tables that each has are made anew."""
    copied: dict[str, Any] = {}
    for name, value in state.items():
        kind = type(value)
        if kind in _ATOMS:
            copied[name] = value
        elif name in _OWN and kind in _KINDS and not value:
            copied[name] = kind()
        else:
            copied[name] = _copied(value, memo)
    return copied


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    """What ``copy.deepcopy`` gives; it takes its time over the many plain attributes of a module."""
    kind = type(value)
    if kind in _ATOMS:
        return value
    if (known := memo.get(id(value))) is not None:
        return known
    if kind in _KINDS and not value:
        memo[id(value)] = result = kind()
        return result
    if kind is tuple and all(type(one) in _ATOMS for one in value):
        return value
    if kind is not dict and (kind is not OrderedDict or vars(value)):
        return copy.deepcopy(value, memo)
    result = memo[id(value)] = kind()
    for key, one in value.items():
        result[key if type(key) is str else _copied(key, memo)] = None if one is None else _copied(one, memo)
    return result


def tensors_held(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers and tensor attributes of one module, also those in its dicts, lists and tuples."""
    yield from _tensors_in(vars(module).values())


def _tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    waiting = list(values)
    while waiting:
        value = waiting.pop()
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (dict, list, tuple)):
            waiting.extend(value.values() if isinstance(value, dict) else value)


@contextmanager
def fake_tensors(module: nn.Module, fake_mode: FakeTensorMode) -> Iterator[None]:
    """Exchange the tensors of a module for fake ones, and put them back at the end.

    A recurrent module that runs meanwhile lists the weights that it has then.
    """
    tables = [table for one in module.modules() for table in (one._parameters, one._buffers)]
    lists = [(vars(one), _lists(one)) for one in module.modules() if isinstance(one, nn.RNNBase)]
    real = [dict(table) for table in tables]
    known: dict[int, torch.Tensor] = {}
    try:
        for table in tables:
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = known.setdefault(id(tensor), fake(tensor, fake_mode))  # type: ignore[assignment]
        yield
    finally:
        for table, content in zip(tables, real, strict=True):
            table.update(content)  # type: ignore[arg-type]
        for own, content in lists:
            own.update(content)


def _lists(module: nn.RNNBase) -> dict[str, Any]:
    """The weights that a recurrent module lists, and the references by which it sees that they are others."""
    return {name: list(vars(module)[name]) for name in ("_flat_weights", "_flat_weight_refs") if name in vars(module)}
