"""The tensors of a model by name."""

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
