"""A fake tensor mode that remembers: most ops of a model run again and again on tensors of the same shapes.

PyTorch caches results of fake ops too, but takes 0.4 ms to find one (torch 2.15), ten times what is done here. An op
that is not plainly a function of its arguments' shapes goes PyTorch's own way.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import cache
from typing import Any, TypeGuard

import torch
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
_PLAIN = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
_MASKS = (torch.bool, torch.uint8, torch.int8)
_UNSETTLED = frozenset(
    {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
)  # the shape of an output depends on values; the tag of aten.index.Tensor holds for masks alone
_LIFTS = frozenset({aten.lift.default, aten.lift_fresh.default, aten.lift_fresh_copy.default})
Like = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


class RecallingMode(FakeTensorMode):
    """Answers an op that it has seen on tensors of the same shapes from memory."""

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.recalled = 0  # ops that were answered from memory
        self._outputs: dict[Hashable, Like | list[Like]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: D105
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor) and not self.in_kernel_invocation:
            return args[0].fake_device
        if _is_settled(func):
            try:
                key = (func, torch.get_default_dtype(), *self._key(func, args), *self._key(func, tuple(kwargs.items())))
            except _UnknownError:
                pass
            else:
                return self._recall(func, types, args, kwargs, key)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _recall(self, func: OpOverload, types: Any, args: Any, kwargs: Any, key: Hashable) -> Any:
        known = self._outputs.get(key)
        self.recalled += known is not None
        if known is not None and func._schema.is_mutable:
            return args[0]
        if isinstance(known, list):
            return tuple(self._made(one) for one in known)
        if known is not None:
            return self._viewed(func, args, kwargs, known) if func.is_view else self._made(known)
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if (likes := _likes(func, out, (args, kwargs))) is not None:
            self._outputs[key] = likes
        return out

    def _made(self, like: Like) -> FakeTensor:
        shape, stride, dtype, device = like
        with in_kernel_invocation_manager(self):
            meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        return FakeTensor(self, meta, device)

    def _viewed(self, func: OpOverload, args: Any, kwargs: Any, like: Like) -> FakeTensor:
        """A view shares the storage of what it shows, so the op itself is run, which is quick."""
        with in_kernel_invocation_manager(self):
            meta = func(*args, **kwargs)
        return FakeTensor(self, meta, like[3])

    def _key(self, func: OpOverload, value: Any) -> Iterator[Hashable]:
        """What the outputs of an op depend on.

        Raises:
            _UnknownError: It may depend on more.
        """
        for one in value:
            kind = type(one)
            if kind is FakeTensor:
                yield self._tensor_key(func, one)
            elif kind is list or kind is tuple:
                yield (kind, *self._key(func, one))
            elif kind in _PLAIN:
                yield kind, one
            else:
                raise _UnknownError

    def _tensor_key(self, func: OpOverload, tensor: FakeTensor) -> Like:
        if tensor.fake_mode is not self or not _is_plain(tensor) or tensor.requires_grad or tensor.is_complex():
            raise _UnknownError
        if func is aten.index.Tensor and tensor.dtype in _MASKS:
            raise _UnknownError
        return _like(tensor)


class _UnknownError(Exception):
    """An op whose outputs may depend on more than shapes."""


def _is_plain(value: Any) -> TypeGuard[FakeTensor]:
    """Whether a value is a tensor of which shape, strides, dtype and device say all."""
    return type(value) is FakeTensor and value.constant is None and value.layout is torch.strided


def _likes(func: OpOverload, out: Any, arguments: Any) -> Like | list[Like] | None:
    """What to remember of an op: of one view, or of tensors with memory of their own; None for anything else."""
    outputs = [*out] if type(out) is tuple else [out]
    if not all(_is_plain(one) for one in outputs):
        return None
    if func._schema.is_mutable:
        return _like(out) if out is arguments[0][0] else None
    if func.is_view:
        return None if type(out) is tuple else _like(out)
    tensors = [*outputs, *(one for one in tree_leaves(arguments) if isinstance(one, torch.Tensor))]
    memory = [one.untyped_storage()._cdata for one in tensors]
    if any(memory.count(one) > 1 for one in memory[: len(outputs)]):  # it is shared, which no schema told
        return None
    return [_like(one) for one in outputs] if type(out) is tuple else _like(out)


def _like(tensor: FakeTensor) -> Like:
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.fake_device


def _writes_self_alone(func: OpOverload) -> bool:
    """Whether an op writes into its first argument, which is also what it gives, and leaves its shape alone."""
    written = [one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments]
    return written[:1] == [True] and not any(written[1:]) and func._schema.name.endswith("_")


@cache
def _is_settled(func: Any) -> bool:
    """Whether an op gives new tensors, one view, or what it writes into, whose shapes follow from its arguments."""
    if not isinstance(func, OpOverload) or func.namespace != "aten" or func in _LIFTS:
        return False
    if func._schema.is_mutable and not _writes_self_alone(func):
        return False
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), torch._C.DispatchKey.CompositeImplicitAutograd):
        return False  # made of other ops, and may hand on its very argument
    return func is aten.index.Tensor or not _UNSETTLED.intersection(func.tags)
