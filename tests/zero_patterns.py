"""Random patterns of zeros in the weights of any model: filters, columns, scales, shifts, biases, whole tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def zero_rows_and_columns(model: nn.Module, seed: int) -> None:
    """Zero a third of the output filters and of the input columns of every weight."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data[torch.rand(parameter.shape[0], generator=generator) < 1 / 3] = 0
            parameter.data[:, torch.rand(parameter.shape[1], generator=generator) < 1 / 3] = 0


def zero_at_random(model: nn.Module, seed: int) -> None:
    """Zero filters and columns of many weights, elements of many vectors, and now and then a whole tensor."""
    generator = torch.Generator().manual_seed(seed)

    def some(size: int, share: float) -> Tensor:
        return torch.rand(size, generator=generator) < share

    level = float(0.2 + 0.5 * torch.rand(1, generator=generator))
    for parameter in model.parameters():
        data = parameter.data
        data[(some(len(data), level) & some(1, 0.6)) | some(1, 0.12)] = 0
        if data.ndim > 1:
            data[:, some(data.shape[1], level) & some(1, 0.5)] = 0
