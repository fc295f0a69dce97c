"""The tensors and the modules of a model by name."""

from __future__ import annotations

from torch import Tensor, nn


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, by each of their names, in the model's order.

    What ``named_parameters`` and ``named_buffers`` give with ``remove_duplicate=False``, from one walk.
    """
    parameters: dict[str, Tensor] = {}
    buffers: dict[str, Tensor] = {}
    _collect(model, "", parameters, buffers)
    parameters.update(buffers)
    return parameters


def _collect(module: nn.Module, prefix: str, parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> None:
    for found, table in ((parameters, module._parameters), (buffers, module._buffers)):
        for name, tensor in table.items():
            if tensor is not None:
                found[prefix + name] = tensor
    for name, child in module._modules.items():
        if child is not None:
            _collect(child, f"{prefix}{name}.", parameters, buffers)


def modules_of(model: nn.Module, *, by_every_path: bool = False) -> dict[str, nn.Module]:
    """Every module by its first path, in the model's order: what ``named_modules`` gives, from one walk.

    Args:
        model: Only read.
        by_every_path: Name a module by each of its paths, as ``remove_duplicate=False`` does.
    """
    found: dict[str, nn.Module] = {}
    _visit(model, "", found, None if by_every_path else set())
    return found


def _visit(module: nn.Module, path: str, found: dict[str, nn.Module], seen: set[int] | None) -> None:
    if seen is not None:
        if id(module) in seen:
            return
        seen.add(id(module))
    found[path] = module
    for name, child in module._modules.items():
        if child is not None:
            _visit(child, f"{path}.{name}" if path else name, found, seen)
