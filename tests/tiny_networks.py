"""Tiny networks by number, with random zeros: 2 to 4 channels, images or vectors, constants and dead ends in plenty."""

from __future__ import annotations

import random

import torch
from networks import randomize
from torch import Tensor, nn

_SIDE = 5
_KINDS = ("layer", "layer", "border", "norm", "relu", "sigmoid", "residual", "join", "gate")


class Gate(nn.Module):
    """Squeeze and excite: channels are multiplied by what two layers make of their means."""

    def __init__(self, width: int, inner: int, *, image: bool) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(width, inner), nn.Linear(inner, width)
        self.image = image

    def forward(self, x: Tensor) -> Tensor:
        factor = self.excite(self.squeeze(x.mean((2, 3)) if self.image else x).relu()).sigmoid()
        return x * (factor[:, :, None, None] if self.image else factor)


class Residual(nn.Module):
    """x + second(relu(first(x)))."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())


class Tiny(nn.Module):
    """The network of a number: three to seven steps and a linear head."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.choice = random.Random(number)
        self.image = self.choice.random() < 0.7
        self.steps, self.joins = nn.ModuleList(), list[int | None]()
        widths = [2]
        for kind in ["layer", *self.choice.choices(_KINDS, k=self.choice.randint(2, 6))]:
            other = self.choice.randrange(len(widths)) if kind == "join" else None
            self.joins.append(other)
            module, width = (
                (nn.Identity(), widths[-1] + widths[other]) if other is not None else self._step(kind, widths[-1])
            )
            self.steps.append(module)
            widths.append(width)
        self.head = nn.Linear(widths[-1], 2)
        randomize(self.double().eval(), number)
        self._zero(number)

    def _layer(self, before: int, after: int, *, border: bool = False) -> nn.Module:
        bias = self.choice.random() < 0.8
        if not self.image:
            return nn.Linear(before, after, bias=bias)
        return nn.Conv2d(before, after, 3 if border else 1, padding=int(border), bias=bias)

    def _step(self, kind: str, before: int) -> tuple[nn.Module, int]:
        inner = self.choice.randint(2, 4)
        if kind in ("layer", "border"):
            return self._layer(before, inner, border=kind == "border"), inner
        if kind == "residual":
            first, second = (
                self._layer(*one, border=self.choice.random() < 0.4) for one in ((before, inner), (inner, before))
            )
            return Residual(first, second), before
        if kind == "gate":
            return Gate(before, inner, image=self.image), before
        norm: type[nn.Module] = nn.BatchNorm2d if self.image else nn.BatchNorm1d
        return norm(before) if kind == "norm" else nn.ReLU() if kind == "relu" else nn.Sigmoid(), before

    def _zero(self, number: int) -> None:
        """Zero filters, columns, norm scales and shifts, biases, and now and then a whole tensor."""
        generator = torch.Generator().manual_seed(number)

        def some(size: int, share: float = 0.4) -> Tensor:
            return torch.rand(size, generator=generator) < share

        for parameter in self.parameters():
            data = parameter.data
            data[some(len(data)) & some(1, 0.6)] = 0
            if data.ndim > 1:
                data[:, some(data.shape[1]) & some(1, 0.4)] = 0
            data[some(1, 0.06).expand(len(data))] = 0

    def example(self, batch: int = 3, side: int = _SIDE) -> Tensor:
        """Return random inputs."""
        sides = (side, side) if self.image else ()
        return torch.randn(batch, 2, *sides, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))

    def forward(self, x: Tensor) -> Tensor:
        tensors = [x]
        for step, other in zip(self.steps, self.joins, strict=True):
            tensors.append(step(tensors[-1]) if other is None else torch.cat([tensors[-1], tensors[other]], 1))
        return self.head(tensors[-1].mean((2, 3)) if self.image else tensors[-1])  # type: ignore[no-any-return]
