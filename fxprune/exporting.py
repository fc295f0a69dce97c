"""Export: a compiled graph module written as a ``torch.export.ExportedProgram``, module hierarchy and sizes kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sympy
import torch
from torch import fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_unflatten

from fxprune.program import argument_names
from fxprune_passes.errors import UnsupportedError, explain

_Stack = dict[str, tuple[str, str]]


def export(
    small: fx.GraphModule, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], dynamic_shapes: Any = None
) -> ExportedProgram:
    """Export a compiled graph module.

    Args:
        small: What the rewrite gave; its nodes are told which module they come from.
        model: The original, for the classes of its modules.
        args: Positional example inputs.
        kwargs: Example inputs by keyword.
        dynamic_shapes: As ``torch.export.export`` takes them.

    Raises:
        UnsupportedError: PyTorch cannot export the graph.
    """
    for node in small.graph.nodes:
        if node.op not in ("placeholder", "output", "get_attr") and "nn_module_stack" not in node.meta:
            node.meta["nn_module_stack"] = _stack(model, _home(node))
    try:
        program = torch.export.export(small, args, kwargs, dynamic_shapes=dynamic_shapes)
    except Exception as error:
        first = f"torch.export.export does not take the compiled graph: {_first_line(error)}"
        raise UnsupportedError(explain(first, mend='compile(..., emit="graph") gives the graph module')) from error
    program.graph_module.meta["fxprune"] = small.meta["fxprune"]
    program.graph_module.meta["custom"] = {"fxprune": small.meta["fxprune"]}  # what torch.export.save keeps (2.15)
    _root_every_stack(program, model)
    return program


def _root_every_stack(program: ExportedProgram, model: nn.Module) -> None:
    """Put the model itself around every node: torch.export (2.15) leaves it out where a leaf module is called."""
    root = ("", _kind(model, ""))
    for node in program.graph.nodes:
        stack: _Stack = node.meta.get("nn_module_stack") or {}
        if stack and all(path for path, _ in stack.values()):
            node.meta["nn_module_stack"] = {"L__self__": root, **stack}


def dynamic_shapes_of(program: ExportedProgram) -> dict[str, Any] | None:
    """Which sizes of a program's inputs are dynamic, as ``torch.export.export`` takes them; None where none is."""
    specs = program.graph_signature.input_specs
    placeholders = program.graph.find_nodes(op="placeholder")
    values = [
        node.meta.get("val")
        for node, spec in zip(placeholders, specs, strict=True)
        if spec.kind == InputKind.USER_INPUT
    ]
    dims: dict[sympy.Symbol, Any] = {}
    shapes = [_shape(program, value, dims) for value in values]
    if not dims:
        return None
    args, kwargs = tree_unflatten(shapes, program.call_spec.in_spec)
    return dict(zip(argument_names(program), (*args, *kwargs.values()), strict=True))


def _shape(program: ExportedProgram, value: Any, dims: dict[sympy.Symbol, Any]) -> Any:
    """The dynamic sizes of one input by dim, or None."""
    if not isinstance(value, torch.Tensor):
        return None
    shape: tuple[Any, ...] = tuple(value.shape)
    symbolic = {dim: size.node.expr for dim, size in enumerate(shape) if isinstance(size, torch.SymInt)}
    sizes = {dim: _size(program, size, dims) for dim, size in symbolic.items() if not size.is_number}
    return sizes or None


def _size(program: ExportedProgram, expression: sympy.Expr, dims: dict[sympy.Symbol, Any]) -> Any:
    """One size: a symbol, or a multiple of one and a rest; anything else is inferred again."""
    symbols = sorted(expression.free_symbols, key=str)
    for symbol in symbols:
        dims.setdefault(symbol, _dim(program, symbol))
    if len(symbols) == 1 and sympy.Poly(expression, symbols[0]).degree() == 1:
        factor, rest = (int(one) for one in sympy.Poly(expression, symbols[0]).all_coeffs())
        dim = dims[symbols[0]]
        dim = dim if factor == 1 else factor * dim
        return dim if rest == 0 else dim + rest
    return Dim.AUTO


def _dim(program: ExportedProgram, symbol: sympy.Symbol) -> Any:
    """A named dimension within the symbol's range."""
    known = program.range_constraints.get(symbol)
    bounds: dict[str, int] = {}
    if known is not None and known.lower.is_Integer and int(known.lower) > 0:
        bounds["min"] = int(known.lower)
    if known is not None and known.upper.is_Integer:
        bounds["max"] = int(known.upper)
    return Dim(str(symbol), **bounds)


def _home(node: fx.Node) -> str:
    """The module whose forward a node stands in; a leaf module's own path where it calls one."""
    return str(node.target) if node.op == "call_module" else str(node.meta.get("module", ""))


def _stack(model: nn.Module, path: str) -> _Stack:
    """The modules around a node, outermost first, as torch.export notes them."""
    keys = {one: "".join(f".{part}" for part in one.split(".") if part) for one in _around(path)}
    return {f"L['self']{key}": (one, _kind(model, one)) for one, key in keys.items()}


def _around(path: str) -> Iterator[str]:
    yield ""
    parts = path.split(".") if path else []
    for end in range(len(parts)):
        yield ".".join(parts[: end + 1])


def _kind(model: nn.Module, path: str) -> str:
    """The class of a module by its full name; a container's where the rewrite added one."""
    try:
        found: nn.Module = model.get_submodule(path)
    except AttributeError:
        found = nn.Module()
    return f"{type(found).__module__}.{type(found).__qualname__}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
