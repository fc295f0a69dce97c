"""Fake stand-ins for a model's tensors: shapes, strides, dtypes and devices without data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


def fake(tensor: torch.Tensor, fake_mode: FakeTensorMode) -> torch.Tensor:
    """A fake tensor like a plain one; anything special (sparse, quantised, a subclass) goes PyTorch's own way."""
    if type(tensor) not in (torch.Tensor, nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        return fake_mode.from_tensor(tensor)
    if tensor.device.type == "meta":
        return fake_mode.from_tensor(tensor)
    meta = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    result = FakeTensor(fake_mode, meta, tensor.device)
    if isinstance(tensor, nn.Parameter):
        result._is_param = True  # what isinstance(.., nn.Parameter) asks of tensor subclasses (torch 2.15)
    return result


def shadow(model: nn.Module, fake_mode: FakeTensorMode) -> nn.Module:
    """A copy of a model whose parameters, buffers and tensor attributes are fake: no data is copied.

    Tensors in lists and dicts are most often what an earlier forward left there; they stay real.

    Args:
        model: Only read.
        fake_mode: The mode that the fake tensors belong to.
    """
    memo: dict[int, Any] = {}
    for module in model.modules():
        attributes = (value for value in vars(module).values() if isinstance(value, torch.Tensor))
        for tensor in [*module._parameters.values(), *module._buffers.values(), *attributes]:
            if tensor is not None and id(tensor) not in memo:
                memo[id(tensor)] = fake(tensor, fake_mode)
        memo.update((id(tensor), tensor.detach()) for tensor in tensors_held(module) if id(tensor) not in memo)
    return copy.deepcopy(model, memo)


def tensors_held(module: nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers and tensor attributes of one module, also those in its dicts, lists and tuples."""
    waiting: list[Any] = list(vars(module).values())
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
