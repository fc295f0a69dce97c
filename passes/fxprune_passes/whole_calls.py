"""Equations of a node's call as a whole, where those of the ops inside it do not say enough, or too much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

from fxprune_passes.axes import Axes, Where
from fxprune_passes.inferred import Inferred, state
from fxprune_passes.ledger import Ledger
from fxprune_passes.probe import tensors_of
from fxprune_passes.propagation import Operation, flat_axes
from fxprune_passes.rules import Rule, recurrent, recurrent_products


@dataclass(frozen=True, slots=True)
class WholeCall:
    """A node that has run.

    Attributes:
        node: The node.
        callee: The module or function that it calls (a name for a method or an attribute).
        args: Positional arguments, with their values.
        kwargs: Keyword arguments, with their values.
        value: What it gave.
        where: What errors and frozen axes say of it.
    """

    node: fx.Node
    callee: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    value: Any
    where: Where


def state_own(ledger: Ledger, call: WholeCall, rule: Rule) -> None:
    """A function of the user's own that has a rule."""
    args, kwargs = _as_axes(ledger, call)
    outputs = tensors_of(call.value)
    op = ledger.op(call.where.op, outputs)
    ledger.equations.where = call.where
    try:
        stated = rule(op, *args, **kwargs)
    except (ArithmeticError, AssertionError, LookupError, TypeError, ValueError) as error:
        freeze_around(ledger, call, f"rule does not cover this call ({error})")
        return
    results = stated if isinstance(stated, list) else [stated]
    if [tuple(axis.size for axis in axes) for axes in results] != op.shapes:
        freeze_around(ledger, call, "rule does not cover this call (shape)")
        return
    for tensor, axes in zip(outputs, results, strict=True):
        ledger.learn(tensor, axes)
    ledger.note_uses(op, [args, kwargs])
    ledger.result.operations[call.node] = [Operation(call.where.op, results, (), False)]


def state_recurrent(ledger: Ledger, call: WholeCall) -> None:
    """A recurrent module, cell or function."""
    args, kwargs = _as_axes(ledger, call)
    outputs = [one for one in tree_leaves(call.value) if isinstance(one, torch.Tensor)]
    parameters = {name.rpartition(".")[2]: axes for name, axes in _inside(ledger, call.node)}
    op = ledger.op(call.where.op, outputs)
    try:
        results = recurrent(op, call.callee, parameters, args, kwargs)
    except (LookupError, ValueError) as error:
        freeze_around(ledger, call, f"a recurrent call of another form ({error})")
        return
    for tensor, axes in zip(outputs, results, strict=True):
        ledger.learn(tensor, axes)
    ledger.note_uses(op, [args, kwargs, parameters], is_view=False)
    given = [one for one in flat_axes([args, kwargs]) if ledger.is_weight(one)]
    costs = recurrent_products([*parameters.values(), *given], results)
    ledger.result.operations[call.node] = [Operation(call.where.op, results, (), False, costs)]


def state_opaque(ledger: Ledger, call: WholeCall, reason: str) -> None:
    """A node whose inside cannot be rewritten: what is known of it all the same, and otherwise nothing may change."""
    if not (_is_switch(ledger, call) or _infer_function(ledger, call, reason)):
        freeze_around(ledger, call, reason)


def freeze_around(ledger: Ledger, call: WholeCall, reason: str) -> None:
    """Keep all axes that go in, come out or lie inside."""
    ledger.equations.where = call.where
    trees = [ledger.result.axes[one] for one in call.node.all_input_nodes] + [ledger.tree(call.value)]
    if call.node.op == "call_module":
        trees += [axes for _, axes in _inside(ledger, call.node)]
    for axes in flat_axes(trees):
        for axis in axes:
            ledger.equations.freeze(axis, reason)


def _is_switch(ledger: Ledger, call: WholeCall) -> bool:
    """Whether a module hands on its very input in evaluation, and what it does in training is all pointwise.

    Such as dropped paths. The equations are stated for both modes.
    """
    module = call.callee if call.node.op == "call_module" else None
    if module is None or module._parameters or module._buffers or module._modules or not call.args:
        return False
    before = module.training
    operations, statistics = ledger.operations, list(ledger.statistics)
    ledger.operations = []  # those of the trial runs are none of the node's
    try:
        outputs = []
        for module.training in (False, True):
            with ledger:
                outputs.append(module(*call.args, **call.kwargs))
        same = outputs[0] is call.args[0] and isinstance(outputs[1], torch.Tensor) and ledger.statistics == statistics
        if same and outputs[1].shape == outputs[0].shape:
            for one, other in zip(ledger.axes(outputs[1]), ledger.axes(call.value), strict=True):
                ledger.equations.equate(one, other)
            return True
        return False
    except Exception:  # any Python may fail in a mode that nobody asked for
        return False
    finally:
        module.training = before
        ledger.operations, ledger.statistics = operations, statistics


def _infer_function(ledger: Ledger, call: WholeCall, reason: str) -> bool:
    """A function of the user's own: what running it whole shows, since a call of it is written as it is."""
    outputs = tensors_of(call.value)
    if isinstance(call.node.target, str) or not outputs:
        return False
    axes = [ledger.axes(one) for one in tree_leaves((call.args, call.kwargs)) if isinstance(one, torch.Tensor)]
    op = ledger.op(reason, outputs)
    found = ledger.prober.call(call.callee, call.args, call.kwargs, axes, op)
    if found is None or not found.alike:
        return False
    for tensor, shown in zip(outputs, state(op, found, axes, moves=False, reason=reason), strict=True):
        op.equal_all(ledger.axes(tensor), shown)
    ledger.inferred = Inferred(call.where.op, None)
    return True


def _as_axes(ledger: Ledger, call: WholeCall) -> tuple[list[Any], dict[str, Any]]:
    """The arguments, with axes in place of tensors."""
    return [ledger.as_axes(one) for one in call.args], {key: ledger.as_axes(one) for key, one in call.kwargs.items()}


def _inside(ledger: Ledger, node: fx.Node) -> Iterator[tuple[str, Axes]]:
    """The parameters and buffers of the module that a node calls."""
    prefix = f"{node.target}."
    return ((name, axes) for name, axes in ledger.result.parameters.items() if name.startswith(prefix))
