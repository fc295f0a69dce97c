"""A fake tensor mode that remembers: most ops of a model run again and again on tensors of the same shapes.

PyTorch caches results of fake ops too, but takes 0.4 ms to find one (torch 2.15), ten times what is done here. An op
that is not plainly a function of its arguments' shapes goes PyTorch's own way.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._prims_common import make_contiguous_strides_for
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, in_kernel_invocation_manager
from torch.utils._pytree import tree_leaves

from fxprune_passes.plain_shapes import plain_shapes, tensors_among

aten = torch.ops.aten
_PLAIN = frozenset(
    {int, float, bool, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
_MASKS = (torch.bool, torch.uint8, torch.int8)
_UNSETTLED = frozenset(
    {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape, torch.Tag.inplace_view}
)  # the shape of an output depends on values; the tag of aten.index.Tensor holds for masks alone
_MOST = 1 << 17  # entries, of about a kilobyte
_LIFTS = frozenset({aten.lift.default, aten.lift_fresh.default, aten.lift_fresh_copy.default})
Like = tuple[torch.Size, tuple[int, ...], torch.dtype, torch.device]


@dataclass(slots=True)
class Memory:
    """What is known of ops and of whole calls, under some settings of PyTorch.

    Attributes:
        outputs: What the outputs of an op are like.
        calls: What whole calls did, for :mod:`fxprune_passes.replay`, which fills it.
    """

    outputs: dict[Hashable, Like | list[Like]] = field(default_factory=dict)
    calls: dict[Hashable, Any] = field(default_factory=dict)

    def forget_if_full(self) -> None:
        """Start anew where more is known than one process ever needs."""
        if len(self.outputs) + len(self.calls) > _MOST:
            self.outputs.clear()
            self.calls.clear()


_MEMORIES: dict[Hashable, Memory] = {}


def _settings() -> Hashable:
    """What PyTorch may choose its kernels by, besides the arguments of a call."""
    cuda = torch.backends.cuda
    sdp = cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled(), cuda.cudnn_sdp_enabled()
    libraries = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled, torch.backends.cudnn.benchmark
    return *sdp, *libraries, torch.are_deterministic_algorithms_enabled(), torch.get_default_device()


class RecallingMode(FakeTensorMode):
    """Answers an op that it has seen on tensors of the same shapes from memory, which lasts as long as the process.

    Attributes:
        recalled: How many ops were answered from memory.
        memory: What is known.
    """

    def __init__(self) -> None:
        super().__init__(allow_non_fake_inputs=True)
        self.recalled = 0
        self.memory = _MEMORIES.setdefault(_settings(), Memory())
        self.memory.forget_if_full()
        self._patterns: dict[torch.device, FakeTensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: D105
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor) and not self.in_kernel_invocation:
            return args[0].fake_device
        if is_settled(func):
            try:
                key = (func, torch.get_default_dtype(), *self.key(func, args), *self.key(func, tuple(kwargs.items())))
            except UnknownError:
                pass
            else:
                return self._recall(func, types, args, kwargs, key)
        return super().__torch_dispatch__(func, types, args, kwargs)

    def _recall(self, func: OpOverload, types: Any, args: Any, kwargs: Any, key: Hashable) -> Any:
        known = self.memory.outputs.get(key)
        self.recalled += known is not None
        if known is not None and func._schema.is_mutable:
            return args[0]
        if isinstance(known, list):
            return tuple(self.made(one) for one in known)
        if known is not None:
            return self.viewed(func, args, kwargs)[0] if is_view(func) else self.made(known)
        if (shapes := plain_shapes(func, args, kwargs)) is not None:
            made = self._plainly(func, tensors_among(args)[0], shapes)
            self.memory.outputs[key] = [like(one) for one in made] if len(made) > 1 else like(made[0])
            return tuple(made) if len(made) > 1 else made[0]
        out = super().__torch_dispatch__(func, types, args, kwargs)
        if (likes := _likes(func, out, (args, kwargs))) is not None:
            self.memory.outputs[key] = likes
        return out

    def _plainly(self, func: OpOverload, first: Any, shapes: Iterable[tuple[int, ...]]) -> list[FakeTensor]:
        """Contiguous outputs of these shapes; an op that works in place gives what it works on."""
        if func._schema.is_mutable:
            return [first]
        strides = [make_contiguous_strides_for(shape) for shape in shapes]
        return [
            self.made((torch.Size(shape), stride, first.dtype, first.fake_device))
            for shape, stride in zip(shapes, strides, strict=True)
        ]

    def made(self, like: Like) -> FakeTensor:
        """A new tensor with memory of its own."""
        shape, stride, dtype, device = like
        with torch._C._DisableTorchDispatch():
            meta = torch.empty_strided(shape, stride, dtype=dtype, device="meta")
        return self.wrapped(meta, device)

    def viewed(self, func: OpOverload, args: Any, kwargs: Any) -> list[FakeTensor]:
        """A view shares the storage of what it shows, so the op itself is run, which is quick."""
        with in_kernel_invocation_manager(self):
            out = func(*args, **kwargs)
        device = args[0].fake_device
        return [self.wrapped(meta, device) for meta in (out if isinstance(out, (list, tuple)) else [out])]

    def wrapped(self, meta: Tensor, device: torch.device) -> FakeTensor:
        """A fake tensor of a device around a meta tensor.

        The constructor takes 20 microseconds, most of them for attributes that are the same each time (torch 2.15).
        """
        if (pattern := self._patterns.get(device)) is None:
            with in_kernel_invocation_manager(self):
                nothing = torch.empty(0, device="meta")
            pattern = self._patterns[device] = FakeTensor(self, nothing, device)
        result: FakeTensor = torch.Tensor._make_subclass(
            FakeTensor, meta, False, dispatch_device=True, device_for_backend_keys=pattern.fake_device
        )
        torch._C._set_throw_on_mutable_data_ptr(result)
        vars(result).update(vars(pattern))
        return result

    def key(self, func: Any, value: Iterable[Any]) -> Iterator[Hashable]:
        """What the outputs of an op depend on.

        Raises:
            UnknownError: It may depend on more.
        """
        for one in value:
            kind = type(one)
            if kind is FakeTensor:
                yield self.tensor_key(func, one)
            elif kind is list or kind is tuple:
                yield (kind, *self.key(func, one))
            elif kind in _PLAIN:
                yield kind, one
            else:
                raise UnknownError

    def tensor_key(self, func: Any, tensor: FakeTensor) -> Like:
        """What an op may know of a tensor.

        Raises:
            UnknownError: There is more to it.
        """
        if tensor.fake_mode is not self or not is_plain(tensor) or tensor.requires_grad or tensor.dtype.is_complex:
            raise UnknownError
        if func is aten.index.Tensor and tensor.dtype in _MASKS:
            raise UnknownError
        return tensor.shape, tensor.stride(), tensor.dtype, tensor.fake_device


class UnknownError(Exception):
    """An op whose outputs may depend on more than shapes."""


_layout = vars(torch._C.TensorBase)["layout"].__get__  # FakeTensor has a slower way to it


def is_plain(value: Any) -> TypeGuard[FakeTensor]:
    """Whether a value is a tensor of which shape, strides, dtype and device say all."""
    return type(value) is FakeTensor and value.constant is None and _layout(value) is torch.strided


def _likes(func: OpOverload, out: Any, arguments: Any) -> Like | list[Like] | None:
    """What to remember of an op: of one view, or of tensors with memory of their own; None for anything else."""
    outputs = [*out] if type(out) is tuple else [out]
    if not all(is_plain(one) for one in outputs):
        return None
    if func._schema.is_mutable:
        return like(out) if out is arguments[0][0] else None
    if is_view(func):
        return None if type(out) is tuple else like(out)
    tensors = [*outputs, *(one for one in tree_leaves(arguments) if isinstance(one, Tensor))]
    memory = [one.untyped_storage()._cdata for one in tensors]
    if any(memory.count(one) > 1 for one in memory[: len(outputs)]):  # it is shared, which no schema told
        return None
    return [like(one) for one in outputs] if type(out) is tuple else like(out)


def is_view(func: OpOverload) -> bool:
    """Whether the output of an op shares the memory of its first argument; one op does so though it does not say it."""
    return func.is_view or func is aten._unsafe_view.default


def like(tensor: Tensor) -> Like:
    """What a plain tensor is like."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _writes_self_alone(func: OpOverload) -> bool:
    """Whether an op writes into its first argument, which is also what it gives, and leaves its shape alone."""
    written = [one.alias_info is not None and one.alias_info.is_write for one in func._schema.arguments]
    return written[:1] == [True] and not any(written[1:]) and func._schema.name.endswith("_")


@cache
def is_settled(func: Any) -> bool:
    """Whether an op gives new tensors, one view, or what it writes into, whose shapes follow from its arguments."""
    if not isinstance(func, OpOverload) or func.namespace != "aten" or func in _LIFTS:
        return False
    if func._schema.is_mutable and not _writes_self_alone(func):
        return False
    if torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), torch._C.DispatchKey.CompositeImplicitAutograd):
        return False  # made of other ops, and may hand on its very argument
    return func is aten.index.Tensor or not _UNSETTLED.intersection(func.tags)
