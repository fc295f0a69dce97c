"""The modules that random networks are made of; the table in ``random_kinds`` says where each may stand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Apply(nn.Module):
    """A function of tensors with numbers that are fixed when the network is built."""

    def __init__(self, function: Callable[..., Tensor], *numbers: int) -> None:
        super().__init__()
        self.function, self.numbers = function, numbers

    def forward(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors, *self.numbers)


def cat_swapped(x: Tensor, dim: int, first: int, second: int) -> Tensor:
    """Split in two parts and join them the other way round."""
    front, back = x.split([first, second], dim)
    return torch.cat([back, front], dim)


def gate_halves(x: Tensor, dim: int) -> Tensor:
    """Multiply one half by the sigmoid of the other."""
    value, gate = x.chunk(2, dim)
    return value * gate.sigmoid()


def sum_chunks(x: Tensor, dim: int, parts: int) -> Tensor:
    """Cut into equal parts and add them."""
    chunks = x.chunk(parts, dim)
    return sum((chunks[i] for i in range(1, parts)), chunks[0])


def take_slice(x: Tensor, dim: int, start: int, stop: int, step: int) -> Tensor:
    """Slice the channels."""
    return x[(slice(None),) * dim + (slice(start, stop, step),)]


def shuffle(x: Tensor, dim: int, groups: int) -> Tensor:
    """Shuffle the channels by view and transpose."""
    return x.unflatten(dim, (groups, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def maxout(x: Tensor, dim: int, parts: int) -> Tensor:
    """Take the maximum of every ``parts`` neighbours."""
    return x.unflatten(dim, (-1, parts)).amax(dim + 1)


def pad_channels(x: Tensor, dim: int, before: int, after: int) -> Tensor:
    """Put channels of zeros on both sides."""
    return F.pad(x, (*(0, 0) * (3 - dim if dim == 1 else 0), before, after))


def to_tokens(x: Tensor) -> Tensor:
    """Make pixels tokens: (N, C, H, W) to (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def to_image(x: Tensor, side: int) -> Tensor:
    """Make tokens pixels: (N, side * side, C) to (N, C, side, side)."""
    return x.transpose(1, 2).reshape(x.shape[0], -1, side, side)


class Residual(nn.Module):
    """Add a narrower inner path to its input, of convolutions or of linear layers."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x).relu())


class ChannelsLast(nn.Module):
    """Run a module of (N, ..., C) on an image."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SqueezeExcite(nn.Module):
    """Gate channels by what two layers make of their means."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class SpatialGate(nn.Module):
    """Gate pixels by one channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x).sigmoid()


class Scale(nn.Module):
    """Multiply every channel by a raw parameter."""

    def __init__(self, width: int, trailing: int) -> None:
        super().__init__()
        self.scale, self.trailing = nn.Parameter(torch.ones(width)), trailing

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale.view(-1, *[1] * self.trailing)


class Attention(nn.Module):
    """Attention between tokens with one projection for q, k and v, and a residual."""

    def __init__(self, width: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, head_dim
        self.qkv, self.out = nn.Linear(width, 3 * heads * head_dim), nn.Linear(heads * head_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = (q @ k.transpose(-2, -1) * self.head_dim**-0.5).softmax(-1)
        return x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, -1))
