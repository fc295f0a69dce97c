"""Attention with separate projections: sizes from tensors and from literals, masks, grouped queries, other inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image, joined, sequence

family = Family()
SEPARATE = ("stem.weight", "q.weight", "v.weight")
OUT = ("out.weight",)


class Attention(nn.Module):
    """Four heads of six on tokens of width 20, with a residual; subclasses project and mix."""

    heads, head_dim, kv_heads = 4, 6, 4

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.out = nn.Linear(7, 20), nn.Linear(24, 20), nn.Linear(20, 5)
        self.scale = self.head_dim**-0.5

    def mix(self, x: Tensor) -> Tensor:
        """Attend (N, L, 20) and return (N, L, 24)."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(x + self.head(self.mix(x)))


class Separate(Attention):
    """Projections q, k, v of their own; keys and values may have fewer heads."""

    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(20, self.heads * self.head_dim)
        self.k, self.v = (nn.Linear(20, self.kv_heads * self.head_dim) for _ in range(2))


@family.network("separate attention", sequence(), prunable=SEPARATE, frozen=OUT)
class AttentionSeparate(Separate):
    """Head count from an attribute, sizes from the tensor, the scale by a square root of a size."""

    def mix(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        weights = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head_dim)
        return torch.matmul(F.softmax(weights, dim=-1), v).transpose(1, 2).contiguous().view(batch, length, -1)


@family.network("literal heads", sequence(), prunable=SEPARATE, frozen=OUT)
class AttentionLiteral(Separate):
    """Every size is a literal, and the scale is read from a shape at run time."""

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).reshape(-1, 6, 4, 6).permute(0, 2, 1, 3) for p in (self.q, self.k, self.v))
        weights = (q * q.shape[-1] ** -0.5) @ k.mT
        return (weights.softmax(-1) @ v).permute(0, 2, 1, 3).reshape(-1, 6, 24)


@family.network("separate attention", sequence(), prunable=SEPARATE, frozen=OUT)
class AttentionMergedHeads(Separate):
    """Batch and heads are one axis for bmm, as in fairseq; sequence first."""

    def mix(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1)
        length, batch, _ = x.shape
        heads = self.heads
        q, k, v = (p(x).contiguous().view(length, batch * heads, -1).transpose(0, 1) for p in (self.q, self.k, self.v))
        weights = torch.bmm(q * q.size(-1) ** -0.5, k.transpose(1, 2)).softmax(-1)
        y = torch.bmm(weights, v)
        return y.transpose(0, 1).reshape(length, batch, -1).transpose(0, 1)


@family.network("einsum", sequence(), prunable=SEPARATE, frozen=OUT)
class AttentionEinsum(Separate):
    """Scores, mixture and output by einsum, heads third."""

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (4, 6)) for p in (self.q, self.k, self.v))
        weights = torch.einsum("blhd,bmhd->bhlm", q, k).mul(self.scale).softmax(-1)
        return torch.einsum("bhlm,bmhd->blhd", weights, v).flatten(-2)


@family.network("scaled dot product", sequence(), prunable=SEPARATE, frozen=OUT)
class AttentionDefaultScale(Separate):
    """The fused function with its default scale, which a smaller head must not change."""

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (
            p(x).view(x.size(0), -1, self.heads, self.head_dim).transpose(1, 2) for p in (self.q, self.k, self.v)
        )
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


@family.network("scaled dot product", sequence(), prunable=SEPARATE, frozen=OUT)
class AttentionMasked(Separate):
    """The fused function with an explicit scale and a boolean mask from a buffer that is cut to length."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.ones(9, 9, dtype=torch.bool).tril().view(1, 1, 9, 9))

    def mix(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, 4, -1).transpose(1, 2) for p in (self.q, self.k, self.v))
        mask = self.mask[:, :, :length, :length]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=0.0, scale=0.3)
        return y.transpose(1, 2).reshape(batch, length, -1)


class GroupedQuery(Separate):
    """Two heads of keys and values for four of queries."""

    kv_heads = 2

    def spread(self, x: Tensor) -> Tensor:
        """Repeat (N, 2, L, D) to (N, 4, L, D)."""
        raise NotImplementedError

    def mix(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, self.heads, self.head_dim).transpose(1, 2)
        k, v = (p(x).view(batch, length, -1, self.head_dim).transpose(1, 2) for p in (self.k, self.v))
        weights = (q @ self.spread(k).transpose(-1, -2)) * self.scale
        return (weights.softmax(-1) @ self.spread(v)).transpose(1, 2).reshape(batch, length, -1)


@family.network("grouped query", sequence(), prunable=SEPARATE, frozen=OUT)
class GroupedQueryInterleaved(GroupedQuery):
    """Spread by repeat_interleave."""

    def spread(self, x: Tensor) -> Tensor:
        return x.repeat_interleave(self.heads // self.kv_heads, dim=1)


@family.network("grouped query", sequence(), prunable=SEPARATE, frozen=OUT)
class GroupedQueryExpanded(GroupedQuery):
    """Spread by expand and reshape (LLaMA)."""

    def spread(self, x: Tensor) -> Tensor:
        batch, heads, length, width = x.shape
        return x[:, :, None].expand(batch, heads, 2, length, width).reshape(batch, heads * 2, length, width)


@family.network("grouped query", sequence(), prunable=("stem.weight",), frozen=OUT)
class GroupedQueryFlag(GroupedQuery):
    """Spread inside the fused function."""

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = (p(x).unflatten(-1, (-1, 6)).transpose(1, 2) for p in (self.q, self.k, self.v))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2)


@family.network("grouped query", sequence(), prunable=SEPARATE, frozen=OUT)
class MultiQuery(GroupedQuery):
    """One head of keys and values, broadcast by matmul."""

    kv_heads = 1

    def spread(self, x: Tensor) -> Tensor:
        return x


@family.network("separate attention", image(), prunable=("stem.weight", "query.weight"), frozen=OUT)
class NonLocal(nn.Module):
    """Attention between pixels with 1x1 convolutions and a learned scalar (SAGAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 1)
        self.query, self.key, self.value = nn.Conv2d(12, 4, 1), nn.Conv2d(12, 4, 1), nn.Conv2d(12, 12, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, channels, height, width = x.size()
        query = self.query(x).view(batch, -1, width * height).permute(0, 2, 1)
        weights = F.softmax(torch.bmm(query, self.key(x).view(batch, -1, width * height)), dim=-1)
        value = self.value(x).view(batch, -1, width * height)
        attended = torch.bmm(value, weights.permute(0, 2, 1)).view(batch, channels, height, width)
        return self.out(self.gamma * attended + x)


@family.network("separate attention", joined(sequence(), sequence(4, 9, seed=1)), prunable=("k.weight",), frozen=OUT)
class CrossAttention(nn.Module):
    """Queries from one input, keys and values from another of another length and width, split by one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(7, 12), nn.Linear(9, 12), nn.Linear(9, 15), nn.Linear(15, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q, k = (t.unflatten(-1, (3, -1)).transpose(1, 2) for t in (self.q(x), self.k(memory)))
        v = self.v(memory).unflatten(-1, (3, -1)).transpose(1, 2)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
