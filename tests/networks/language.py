"""What language models do around attention: frequencies, decorated forwards, cubes, biases added by baddbmm, scans."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import GroupedQuery
from .entry import Family, named, sequence, tokens

family = Family()
OUT = ("out.weight",)


class Frequencies(nn.Module):
    """Cosines and sines of (1, L, D), computed anew from frequencies in every forward."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", 100.0 ** -(torch.arange(0, width, 2) / width), persistent=False)

    @torch.no_grad()
    def forward(self, x: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        angles = places[:, :, None].float() * self.frequencies.to(device=x.device, dtype=torch.float)
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos().to(dtype=x.dtype), angles.sin().to(dtype=x.dtype)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the two halves of a head (N, H, L, D) into each other."""
    first, second = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return x * cos[:, None] + torch.cat((-second, first), dim=-1) * sin[:, None]


@family.network("grouped query", sequence(), prunable=("stem.weight", "q.weight", "v.weight"), frozen=OUT)
class RotaryGroupedQuery(GroupedQuery):
    """LLaMA: pairs of channels of each head go together, in all heads of queries and keys."""

    rotated = 6

    def __init__(self) -> None:
        super().__init__()
        self.angles = Frequencies(self.rotated)

    def spread(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        return x[:, :, None].expand(batch, heads, 2, length, width).reshape(batch, heads * 2, length, width)

    def place(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return turned(x, cos, sin)

    def mix(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        cos, sin = self.angles(x, torch.arange(length).unsqueeze(0))
        q, k, v = (p(x).view(batch, length, -1, self.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v))
        q, k = self.place(q, cos, sin), self.place(k, cos, sin)
        y = F.scaled_dot_product_attention(q, self.spread(k), self.spread(v), scale=self.head_dim**-0.5)
        return y.transpose(1, 2).reshape(batch, length, -1).contiguous()


@family.network("grouped query", sequence(), prunable=("stem.weight", "q.weight", "v.weight"), frozen=OUT)
class RotaryOfAWholeHead(RotaryGroupedQuery):
    """Phi-3: the channels that turn are all that there are, and those that pass are none."""

    def place(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        part, rest = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
        return torch.cat((turned(part, cos, sin), rest), dim=-1)


@family.network("grouped query", sequence(), prunable=("stem.weight", "q.weight", "v.weight"), frozen=OUT)
class RotaryOfAPart(RotaryOfAWholeHead):
    """StableLM: four channels of six turn."""

    rotated = 4


@family.network("embedding", tokens(), prunable=("embed.weight", "places.weight", "fc.weight"), frozen=OUT)
class ShapeOfOneChannel(nn.Module):
    """BART: one channel stands for the tokens, of which only the sizes are read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places = nn.Embedding(17, 12), nn.Embedding(9, 12)
        self.fc, self.out = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        batch, length = x[:, :, -1].shape[0], x[..., 3].size(1)
        return self.out(F.gelu(self.fc(x + self.places(torch.arange(2, 2 + length).expand(batch, -1)))))


def returning(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Take options out of the keyword arguments, as decorators of forwards do."""

    @functools.wraps(forward)
    def wrapper(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        as_dict = kwargs.pop("return_dict", True)
        result = forward(self, *args, **kwargs)
        return result if as_dict else result["logits"]

    return wrapper


@family.network("dict output", named(x=sequence(), mask=sequence(width=1)), prunable=("fc.weight",), frozen=OUT)
class DecoratedForward(nn.Module):
    """A forward behind a decorator, with keyword arguments that it hands on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(7, 12), nn.Linear(12, 5)

    @returning
    def forward(self, x: Tensor, mask: Tensor | None = None, **options: Any) -> dict[str, Tensor]:
        return {"logits": self.out(self.hidden(x, mask=mask, **options))}

    def hidden(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        x = self.fc(x) * scale
        return x if mask is None else x * mask


def cubic(x: Tensor) -> Tensor:
    """GELU as GPT-2 writes it; what is no tensor is refused."""
    if not isinstance(x, Tensor):
        raise TypeError(type(x).__name__)
    return 0.5 * x * (1.0 + torch.tanh(0.8 * (x + 0.044715 * torch.pow(x, 3.0))))


class Conv1D(nn.Module):
    """GPT-2's linear layer, with a weight of (in, out)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        sizes = (*x.size()[:-1], self.bias.shape[0])
        return torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight).view(sizes)


@family.network("separate attention", sequence(), prunable=("stem.bias", "up.bias", "qkv.bias"), frozen=OUT)
class Bloom(nn.Module):
    """Scores on top of a bias by baddbmm, linear layers as addmm, a cube in the activation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.head = Conv1D(7, 12), Conv1D(12, 36), Conv1D(12, 12)
        self.up, self.down, self.out = Conv1D(12, 20), Conv1D(20, 12), nn.Linear(12, 5)
        self.register_buffer("slopes", torch.zeros(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, length, width = x.shape
        q, k, v = (
            one.view(batch, length, 3, -1).transpose(1, 2).reshape(batch * 3, length, -1)
            for one in self.qkv(x).split(width, dim=2)
        )
        bias = (self.slopes * torch.arange(length)).expand(3, length, length).repeat(batch, 1, 1)
        scores = torch.baddbmm(bias, q, k.transpose(1, 2), beta=1.0, alpha=4**-0.5)
        y = torch.bmm(scores.softmax(-1), v).view(batch, 3, length, -1).permute(0, 2, 1, 3).reshape(batch, length, -1)
        x = x + self.head(y)
        return self.out(x + self.down(cubic(self.up(x))))


@family.network("raw parameter", sequence(), prunable=("stem.weight", "rates"), frozen=OUT)
class StateSpace(nn.Module):
    """Mamba, step by step: a state of (N, C, S) decays and takes in each place in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.select, self.step = nn.Linear(7, 24), nn.Linear(12, 3 + 4 + 4), nn.Linear(3, 12)
        self.conv = nn.Conv1d(12, 12, 3, padding=2, groups=12)
        self.rates, self.skip, self.out = (
            nn.Parameter(torch.zeros(12, 4)),
            nn.Parameter(torch.ones(12)),
            nn.Linear(12, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.stem(x).transpose(1, 2).chunk(2, dim=1)
        x = F.silu(self.conv(x)[..., : x.shape[2]])
        step, into, out_of = torch.split(self.select(x.transpose(1, 2)), [3, 4, 4], dim=-1)
        step = F.softplus(self.step(step)).transpose(1, 2)
        decay = torch.exp(-torch.exp(self.rates)[None, :, None, :] * step[..., None])
        taken = step[..., None] * into[:, None].float() * x[..., None].float()
        state, outputs = torch.zeros_like(taken[:, :, 0]), []
        for place in range(x.shape[2]):
            state = decay[:, :, place] * state + taken[:, :, place]
            outputs.append(torch.matmul(state, out_of[:, place, :, None])[:, :, 0])
        y = torch.stack(outputs, dim=-1) + x * self.skip[None, :, None]
        return self.out((y * F.silu(gate)).transpose(1, 2))


@family.network("raw buffer", sequence(), prunable=("fc.weight",), frozen=OUT)
class TableAsAttribute(nn.Module):
    """VideoMAE: positions in a tensor that is neither a parameter nor a buffer, of a module inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.fc, self.out = nn.Module(), nn.Linear(7, 12), nn.Linear(12, 5)
        self.inner.table = torch.arange(72.0).sin().view(1, 6, 12)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(x) + self.inner.table.type_as(x).to(x.device).clone().detach())
