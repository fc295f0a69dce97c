"""Example inputs: one way to say what a model is called with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import _PyTreeCodeGen, _PyTreeInfo
from torch.utils._pytree import SUPPORTED_NODES, TreeSpec

from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.sources import shown

ExampleInputs = torch.Tensor | tuple[Any, ...] | dict[str, Any]


def as_call(example_inputs: ExampleInputs) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Turn example inputs into the arguments of one call of the model.

    Args:
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.

    Returns:
        Positional and keyword arguments: the model is called as ``model(*args, **kwargs)``.

    Raises:
        CaptureError: Anything else was given.

    Example:
        >>> as_call({"tokens": 3})
        ((), {'tokens': 3})
    """
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, tuple):
        return example_inputs, {}
    if isinstance(example_inputs, dict) and all(isinstance(name, str) for name in example_inputs):
        return (), dict(example_inputs)
    raise CaptureError(
        explain(
            "example_inputs must be a tensor, a tuple of positional arguments or a dict of keyword arguments, "
            f"got {_described(example_inputs)}.",
            mend="a single argument of any other kind goes into a tuple: (argument,)",
        )
    )


def bind(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name, as a captured graph names its placeholders.

    Returns:
        Values by parameter name; those of ``*args`` are named ``args_0``, ``args_1``, and so on.

    Raises:
        CaptureError: The arguments do not fit the forward's signature.
    """
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError as error:
        first = f"inputs do not fit {type(model).__name__}.forward{signature}: {error}."
        mend = "example inputs are a tensor, a tuple of positional or a dict of keyword arguments"
        raise CaptureError(explain(first, at=_defined_at(model), mend=mend)) from error
    if isinstance(model, fx.GraphModule) and isinstance(model.graph._codegen, _PyTreeCodeGen):
        return _flat(model.graph, model.graph._codegen.pytree_info, bound)
    result: dict[str, Any] = {}
    for name, value in bound.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            result.update({f"{name}_{number}": one for number, one in enumerate(value)})
        elif kind is inspect.Parameter.VAR_KEYWORD:
            result.update(value)
        else:
            result[name] = value
    return result


def _defined_at(model: nn.Module) -> str:
    """The line where a model's forward begins, where that is Python."""
    code = getattr(inspect.unwrap(type(model).forward), "__code__", None)
    return f"{shown(code.co_filename)}:{code.co_firstlineno}" if code else ""


def _flat(graph: fx.Graph, form: _PyTreeInfo, bound: dict[str, Any]) -> dict[str, Any]:
    """The leaves of nested arguments, one for each placeholder of a graph that takes its arguments apart."""
    names = [str(node.target) for node in graph.nodes if node.op == "placeholder"]
    try:
        leaves = list(_leaves(_as_exported(form, bound), form.in_spec))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        first = f"inputs are not nested as the graph expects them: {error}."
        mend = f"nest them as those that the program was exported with: {form.in_spec}"
        raise CaptureError(explain(first, mend=mend)) from error
    return dict(zip(names, leaves, strict=True))


def _as_exported(form: _PyTreeInfo, bound: dict[str, Any]) -> Any:
    """Arguments in the nesting of a graph: all of them, or positional ones and those by keyword."""
    values = [bound[name] for name in form.orig_args if name in bound]
    spec = form.in_spec
    if spec.num_children != 2 or spec.child(1).type is not dict or spec.child(0).type is not tuple:
        return tuple(values)
    count = spec.child(0).num_children
    return tuple(values[:count]), dict(zip(form.orig_args[count:], values[count:], strict=False))


def _leaves(value: Any, spec: TreeSpec) -> Iterator[Any]:
    if spec.is_leaf():
        if isinstance(value, (tuple, list, dict)):
            raise ValueError(f"a {type(value).__name__} where one value belongs")
        yield value
        return
    if spec.type is dict:
        children = [value[key] for key in spec.context]
    else:
        children = list(SUPPORTED_NODES[type(value)].flatten_fn(value)[0])
    if len(value if spec.type is dict else children) != spec.num_children:
        raise ValueError(f"{len(children)} values where {spec.num_children} belong")
    for child, inner in zip(children, spec.children(), strict=True):
        yield from _leaves(child, inner)


def _described(value: object) -> str:
    """Name the type of a value, and for a dict the keys that are no argument names."""
    if isinstance(value, dict):
        return f"a dict with keys that are no strings: {[key for key in value if not isinstance(key, str)]!r:.60}"
    return type(value).__name__
