"""How a call that arrives at a torch function mode is written in a graph: as readable as the model's own code."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import cache
from types import FunctionType
from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional as F

Call = tuple[str, Any, tuple[Any, ...], dict[str, Any]]  # op, target, args, kwargs of a node

_UNARY = {"neg": operator.neg, "abs": operator.abs, "__invert__": operator.invert}
_BINARY = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "__floordiv__": operator.floordiv,
    "remainder": operator.mod,
    "__pow__": operator.pow,
    "matmul": operator.matmul,
    "__and__": operator.and_,
    "__or__": operator.or_,
    "__xor__": operator.xor,
    "__lshift__": operator.lshift,
    "__rshift__": operator.rshift,
    "__eq__": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "__getitem__": operator.getitem,
    "add_": operator.iadd,
    "sub_": operator.isub,
    "mul_": operator.imul,
    "div_": operator.itruediv,
    "floor_divide_": operator.ifloordiv,
    "remainder_": operator.imod,
    "__ipow__": operator.ipow,
    "__iand__": operator.iand,
    "__ior__": operator.ior,
    "__ixor__": operator.ixor,
    "__ilshift__": operator.ilshift,
    "__irshift__": operator.irshift,
}
_REFLECTED = {
    "__rsub__": operator.sub,
    "__rdiv__": operator.truediv,
    "__rfloordiv__": operator.floordiv,
    "__rmod__": operator.mod,
    "__rpow__": operator.pow,
    "__rmatmul__": operator.matmul,
}
# Argument count, operator and whether its arguments change places, by tensor method.
_OPERATORS = {
    getattr(torch.Tensor, name): (count, target, swapped)
    for table, count, swapped in ((_UNARY, 1, False), (_BINARY, 2, False), (_REFLECTED, 2, True))
    for name, target in table.items()
} | {torch.Tensor.__setitem__: (3, operator.setitem, False)}


def _methods() -> dict[Any, str]:
    """Tensor methods by what torch passes to a mode; where two names share one function, the public one."""
    names = sorted(dir(torch.Tensor), key=lambda name: not name.startswith("_"))
    methods = {name: getattr(torch.Tensor, name) for name in names}
    return {method: name for name, method in methods.items() if callable(method) and not isinstance(method, type)}


_METHODS = _methods()

_CONVERSIONS = frozenset(
    getattr(torch.Tensor, name)
    for name in ("bfloat16", "bool", "cpu", "cuda", "double", "float", "half", "int", "long", "to", "type", "type_as")
)

SIZE_READS = frozenset(
    (
        torch.Tensor.shape.__get__,  # type: ignore[attr-defined]
        torch.Tensor.size,
        torch.Tensor.numel,
        torch.Tensor.nelement,
        torch.Tensor.stride,
        torch.numel,
    )
)
ASSERTIONS = frozenset((torch._assert, torch._assert_async))


def spell(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Say how a call is written in a graph.

    A mode gets ``x + y`` and ``x.add(y)`` as one and the same ``torch.Tensor.add``: both become the operator.

    Args:
        function: What the mode got, such as ``torch.Tensor.add``.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Returns:
        op, target, args and kwargs of the node.

    Example:
        >>> spell(torch.Tensor.__rsub__, ("x", 1), {})
        ('call_function', <built-in function sub>, (1, 'x'), {})
        >>> spell(torch.Tensor.view, ("x", -1), {})
        ('call_method', 'view', ('x', -1), {})
    """
    if (name := attribute(function)) is not None:
        return "call_function", getattr, (args[0], name), {}
    count, target, swapped = _OPERATORS.get(function, (0, None, False))
    if target is not None and len(args) == count and not kwargs:
        return "call_function", target, args[::-1] if swapped else args, {}
    if function in _METHODS:
        return "call_method", _METHODS[function], args, dict(kwargs)
    return "call_function", function, args, dict(kwargs)


@cache
def applied(function: type[Function]) -> Callable[..., Any]:
    """The ``apply`` of an autograd function as a plain function, which a graph can name."""

    def apply(*args: Any, **kwargs: Any) -> Any:
        return function.apply(*args, **kwargs)

    apply.__module__, apply.__name__ = function.__module__, f"{function.__name__}_apply"
    apply.__qualname__ = f"{function.__qualname__}.apply"
    return apply


def attribute(function: Callable[..., Any], access: str = "__get__") -> str | None:
    """The name of the tensor attribute that is read (or set: ``access="__set__"``), or None for another call."""
    if getattr(function, "__name__", "") != access:
        return None
    descriptor = function.__self__  # type: ignore[attr-defined]
    return str(getattr(descriptor, "fget", descriptor).__name__)


def is_conversion(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call changes dtype or device alone, so that one which changed nothing need not be written.

    Not so ``contiguous`` and memory formats: whether they change anything can depend on the batch size.
    """
    values = (*args, *kwargs.values())
    return function in _CONVERSIONS and not any(isinstance(one, torch.memory_format) for one in values)


def is_in_place(function: Callable[..., Any]) -> bool:
    """Whether a function's name says that it changes its first argument, as those of ``Tensor.add_`` and others do."""
    name = getattr(function, "__name__", "").partition(".")[0]
    return name.endswith("_") and not name.endswith("__")


def _opened(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which does not hand itself to a torch function mode: the calls inside it arrive there."""
    assert isinstance(function, FunctionType)
    namespace = function.__globals__ | {"has_torch_function": lambda _: False}
    opened = FunctionType(function.__code__, namespace, function.__name__, function.__defaults__, function.__closure__)
    opened.__kwdefaults__ = function.__kwdefaults__
    return opened


# Functions whose inside must be visible, and how to run them so that it is.
OPENED: Mapping[Callable[..., Any], Callable[..., Any]] = {
    F.multi_head_attention_forward: _opened(F.multi_head_attention_forward)
}
