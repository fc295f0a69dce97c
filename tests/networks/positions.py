"""What happens to q, k and the scores on their way: rotary angles, norms, relative positions, talking heads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Separate
from .entry import Family, sequence
from .fused import FusedUnbind

family = Family()
OUT = ("out.weight",)


class Positioned(Separate):
    """Separate projections whose q and k are changed before they meet."""

    def place(self, x: Tensor) -> Tensor:
        """Change q or k (N, H, L, D)."""
        raise NotImplementedError

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(self.place(q), self.place(k), v).transpose(1, 2).flatten(2)


class Rotary(Positioned):
    """Tables of angles as buffers of (1, 1, L, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("cos", torch.zeros(1, 1, 8, self.head_dim))
        self.register_buffer("sin", torch.zeros(1, 1, 8, self.head_dim), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        """Return x turned by a right angle in pairs of channels."""
        raise NotImplementedError

    def place(self, x: Tensor) -> Tensor:
        length = x.shape[2]
        return x * self.cos[:, :, :length] + self.turn(x) * self.sin[:, :, :length]


@family.network("separate attention", sequence(), prunable=("stem.weight", "v.weight"), frozen=OUT)
class RotaryHalves(Rotary):
    """LLaMA: the halves of a head swap, one with its sign changed."""

    def turn(self, x: Tensor) -> Tensor:
        first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
        return torch.cat((-second, first), dim=-1)


@family.network("separate attention", sequence(), prunable=("stem.weight", "v.weight"), frozen=OUT)
class RotaryPairs(Rotary):
    """GPT-J: neighbours swap, by strided slices and a stack."""

    def turn(self, x: Tensor) -> Tensor:
        return torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)


@family.network("separate attention", sequence(), prunable=("stem.weight", "v.weight"), frozen=OUT)
class RotaryPartial(Rotary):
    """Only the first four channels of a head turn, the others pass."""

    def place(self, x: Tensor) -> Tensor:
        turned, passed = x.split([4, 2], dim=-1)
        first, second = turned.chunk(2, -1)
        turned = turned * self.cos[:, :, :6, :4] + torch.cat([-second, first], -1) * self.sin[:, :, :6, :4]
        return torch.cat([turned, passed], -1)


@family.network("separate attention", sequence(), prunable=("stem.weight", "v.weight"), frozen=OUT)
class NormedQueries(Positioned):
    """A layer norm on each head's q and k, and one temperature a head."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.temperature = nn.LayerNorm(6), nn.Parameter(torch.ones(4, 1, 1))

    def place(self, x: Tensor) -> Tensor:
        return self.norm(x) * self.temperature


@family.network("fused attention", sequence(), prunable=("stem.weight",), frozen=OUT)
class RelativePositions(FusedUnbind):
    """Swin: a table of biases, one a head, gathered by a fixed index; heads live in the table's second axis."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(11, 4))
        places = torch.arange(6)
        self.register_buffer("index", places[:, None] - places[None, :] + 5)

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.take_apart(x)
        bias = self.table[self.index.view(-1)].view(6, 6, -1).permute(2, 0, 1).contiguous()
        weights = (q * self.scale) @ k.transpose(-2, -1) + bias.unsqueeze(0)
        return (weights.softmax(-1) @ v).transpose(1, 2).flatten(2)


@family.network("fused attention", sequence(), frozen=OUT)
class TalkingHeads(FusedUnbind):
    """Linear layers mix the heads before and after the softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.after = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.take_apart(x)
        weights = self.before((q @ k.mT * self.scale).permute(0, 2, 3, 1)).softmax(dim=2)
        return (self.after(weights).permute(0, 3, 1, 2) @ v).transpose(1, 2).flatten(2)
