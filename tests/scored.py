"""What the tests of criteria need: two networks, data, and the scores of every group."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fxprune.analysis import analyse
from fxprune.criteria import (
    Evidence,
    Scorer,
    name_of,
)


class Residual(nn.Module):
    """Two convolutions write six channels; one of them, and behind a flatten the head, read them."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.head = nn.Linear(width * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.inner(x))
        return self.head(F.avg_pool2d(x, 2).flatten(1))


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_floating_point():
            values = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            tensor.data.copy_(values.abs() + 0.5 if name.endswith("running_var") else values / 2)
    return model.eval()


GENERATOR = torch.Generator().manual_seed(1)
IMAGES = torch.randn(2, 3, 8, 8, generator=GENERATOR)
BATCHES = [
    (torch.randn(count, 3, 8, 8, generator=GENERATOR), torch.randint(5, (count,), generator=GENERATOR))
    for count in (2, 3, 1)
]


def scored(
    model: nn.Module, inputs: Any, criterion: Any, batches: Any = None, loss: Any = None, **options: Any
) -> dict[str, Any]:
    """The scores of all channel groups."""
    analysis = analyse(model, inputs, **options)
    evidence = Evidence(analysis, model, inputs, batches=batches, loss=loss, criterion=name_of(criterion))
    score = Scorer(criterion, evidence)
    return {group.name: score(group) for group in analysis.groups}


def same(got: Any, want: Any, tolerance: float = 1e-6) -> None:
    want = torch.as_tensor(want, dtype=torch.float64)
    torch.testing.assert_close(got, want, rtol=tolerance, atol=1e-12 + tolerance * float(want.abs().max()))


class Chain(nn.Module):
    """Two batch norms, one of them behind a join, and a linear layer without any."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1)
        self.inner, self.outer = nn.BatchNorm2d(4), nn.BatchNorm2d(9)
        self.wide, self.head = nn.Linear(9, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.outer(torch.cat([self.inner(self.left(x)), self.right(x)], 1)).relu()
        return self.head(self.wide(x.mean((2, 3))).relu())


def state(model: nn.Module) -> dict[str, Any]:
    """What must not change: values, gradients, and where the random numbers are."""
    return {
        "values": {name: one.clone() for name, one in model.state_dict().items()},
        "gradients": [None if one.grad is None else one.grad.clone() for one in model.parameters()],
        "random": torch.get_rng_state(),
    }
