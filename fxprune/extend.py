"""Rules and mends of the user's own ops: ``torch.library`` ops, autograd functions, and plain functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch._ops import OpOverload, OpOverloadPacket
from torch.autograd import Function

from fxprune.spelling import applied
from fxprune_passes.errors import RuleError, explain
from fxprune_passes.mend import MENDS
from fxprune_passes.rules import RULES

_Function = TypeVar("_Function", bound=Callable[..., Any])


def rule(*ops: Any) -> Callable[[_Function], _Function]:
    """Register a function as the rule of ops: which axes of their tensors keep the same channels.

    The function is called with an :class:`~fxprune.Op` to state equations with, and the op's own arguments, in which
    each tensor is replaced by its axes, a tuple. It returns the axes of the output (a list of them for several).

    Args:
        ops: What ``torch.library.custom_op`` returns, ``torch.ops.library.name``, a ``torch.autograd.Function`` class,
            or a function that ``torch.fx.wrap`` keeps whole.

    Raises:
        RuleError: An op has a rule already, or is none of these.
    """
    return _register("rule", RULES, [list(_targets(op)) for op in ops])


def mend(*ops: Any) -> Callable[[_Function], _Function]:
    """Register a function that writes a call of ops anew when its tensors get smaller: where it names sizes.

    The function is called with a :class:`~fxprune.Call`: ``call.node`` is the old node, ``call.data(argument)`` an
    argument as it is written now, ``call.kept.size(axis)`` the new size of an axis of ``call.axes(node)``, and
    ``call.emit(op, target, args, kwargs)`` writes the new node, which the function returns.

    Args:
        ops: As for :func:`rule`.

    Raises:
        RuleError: An op has a mend already, or is none of these.
    """
    return _register("mend", MENDS, [list(_targets(op, packets=True)) for op in ops])


def _register(kind: str, table: dict[Any, Any], targets: list[list[Any]]) -> Callable[[_Function], _Function]:
    def register(function: _Function) -> _Function:
        for target in (one for group in targets for one in group):
            if target in table or getattr(target, "overloadpacket", None) in table:
                first = f"{_shown(target)} already has a {kind}, one is expected."
                raise RuleError(explain(first, at=f"{table.get(target, function).__module__}"))
        table.update(dict.fromkeys((one for group in targets for one in group), function))
        return function

    return register


def _targets(op: Any, *, packets: bool = False) -> Iterator[Any]:
    """What stands in graphs for an op."""
    op = getattr(op, "_opoverload", op)  # of torch.library.custom_op
    if isinstance(op, OpOverload):
        yield op
        if packets:
            yield op.overloadpacket
    elif isinstance(op, OpOverloadPacket):
        yield from (getattr(op, name) for name in op.overloads())
        if packets:
            yield op
    elif isinstance(op, type) and issubclass(op, Function):
        yield applied(op)
    elif callable(op) and not isinstance(op, type):
        yield op
    else:
        first = f"{op!r} is no op, expected a torch.library op, a torch.autograd.Function or a function."
        raise RuleError(
            explain(first, mend="give a module's computation to one of these, and call that in its forward")
        )


def _shown(target: Any) -> str:
    return (
        str(target)
        if isinstance(target, (OpOverload, OpOverloadPacket))
        else str(getattr(target, "__qualname__", target))
    )
