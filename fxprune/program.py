"""Exported programs: read as graph modules whose parameters, buffers and constants have their own names again."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn
from torch._ops import HigherOrderOperator
from torch.export import ExportedProgram

from fxprune.frames import traced_line
from fxprune.inputs import ExampleInputs
from fxprune_passes.errors import CaptureError, explain

Model = nn.Module | ExportedProgram
_GUARDS = "_guards_fn"


def as_module(program: ExportedProgram) -> fx.GraphModule:
    """An exported program, read as a graph module.

    Args:
        program: What ``torch.export.export`` gave (any decomposition); only read.

    Returns:
        A graph module that shares the program's tensors, with ``source`` and ``module`` in ``node.meta``.

    Raises:
        CaptureError: The program holds what a plain graph cannot.
    """
    _refuse_regions(program)
    try:
        stateful = program.module()
    except Exception as error:
        first = f"the exported program cannot be read as a module: {error}"
        raise CaptureError(explain(first, mend="run torch.export.export again")) from error
    graph = stateful.graph
    for node in list(graph.nodes):
        if (node.op == "call_module" and node.target == _GUARDS) or (node.op == "get_attr" and not node.users):
            graph.erase_node(node)
    result = fx.GraphModule(stateful, graph, _class_name(program))
    _adopt(result, stateful)
    _add_unread(result, program)
    result.meta.update(program.graph_module.meta)
    for node in graph.nodes:
        node.meta["module"] = _module_path(node)
        node.meta["source"] = traced_line(node.meta.get("stack_trace") or "")
    return result


def inputs_of(model: Model, example_inputs: ExampleInputs | None) -> ExampleInputs:
    """Example inputs as given, or those that an exported program holds.

    Raises:
        CaptureError: There are none.
    """
    if example_inputs is not None:
        return example_inputs
    if not isinstance(model, ExportedProgram):
        first = "example_inputs is None, expected a tensor, a tuple of positional arguments or a dict of keyword ones."
        raise CaptureError(explain(first, mend="only an exported program holds example inputs of its own"))
    if model.example_inputs is None:
        first = "the exported program holds no example inputs."
        raise CaptureError(explain(first, mend="pass example_inputs"))
    args, kwargs = model.example_inputs
    if not kwargs:
        return tuple(args)
    return {**dict(zip(argument_names(model), args, strict=False)), **kwargs}


def argument_names(program: ExportedProgram) -> list[str]:
    """The names of a program's arguments, positional ones first, as its module's forward has them."""
    codegen: Any = program.module().graph._codegen
    return list(codegen.pytree_info.orig_args)


def _class_name(program: ExportedProgram) -> str:
    """The class that was exported, where a node still says so."""
    for node in program.graph.nodes:
        for path, kind in (node.meta.get("nn_module_stack") or {}).values():
            if path == "":
                name = (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]
                return name if name.isidentifier() else "GraphModule"
    return "GraphModule"


def _adopt(result: fx.GraphModule, stateful: nn.Module) -> None:
    """Hold every tensor as the program does: parameter, buffer, buffer that is not saved, or plain constant."""
    for path, source in stateful.named_modules():
        if path == _GUARDS or (isinstance(source, fx.GraphModule) and path):
            continue
        owner = _submodule(result, path)
        owner.training = source.training
        for name, parameter in source._parameters.items():
            owner.register_parameter(name, parameter)
        for name, value in vars(source).items():
            if isinstance(value, torch.Tensor):
                owner._buffers.pop(name, None)
                setattr(owner, name, value)
        for name, buffer in source._buffers.items():
            owner.register_buffer(name, buffer, persistent=name not in source._non_persistent_buffers_set)


def _add_unread(result: fx.GraphModule, program: ExportedProgram) -> None:
    """What the state dict holds and the graph does not take: a strict export leaves out what is never read."""
    held = {
        name for kind in (result.named_parameters, result.named_buffers) for name, _ in kind(remove_duplicate=False)
    }
    for name, tensor in program.state_dict.items():
        if name not in held:
            path, _, last = name.rpartition(".")
            owner = _submodule(result, path)
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(last, tensor)
            else:
                owner.register_buffer(last, tensor)


def _submodule(root: nn.Module, path: str) -> nn.Module:
    for part in path.split(".") if path else ():
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    return root


def _module_path(node: fx.Node) -> str:
    """The module whose forward the node was traced in."""
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return str(stack[-1][0]).partition("@")[0] if stack else ""


def _refuse_regions(program: ExportedProgram) -> None:
    """A region of control flow, of another gradient mode or of autocast is a graph of its own."""
    for node in program.graph.nodes:
        if node.op == "call_function" and isinstance(node.target, HigherOrderOperator):
            raise CaptureError(
                explain(
                    f"the exported program holds a region of its own ({node.target}), expected one plain graph.",
                    at=f"{_module_path(node)} {traced_line(node.meta.get('stack_trace') or '')}".strip(),
                    mend="export without torch.cond, torch.no_grad or torch.autocast inside the forward",
                )
            )
