"""Attention with q, k and v from one projection, taken apart in every usual way."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import Attention
from .entry import Family, sequence

family = Family()
FUSED = ("stem.weight", "qkv.weight", "head.weight")
OUT = ("out.weight",)
Heads = tuple[Tensor, Tensor, Tensor]


class Fused(Attention):
    """One projection for q, k and v; a subclass says how they are taken apart to (N, H, L, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(20, 72)

    def take_apart(self, x: Tensor) -> Heads:
        """Project and split (N, L, 20) to q, k, v."""
        raise NotImplementedError

    def mix(self, x: Tensor) -> Tensor:
        q, k, v = self.take_apart(x)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1)
        return (weights @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], -1)


@family.network("fused attention", sequence(), prunable=FUSED, frozen=OUT)
class FusedUnbind(Fused):
    """timm: reshape to (N, L, 3, H, D), permute, unbind."""

    def take_apart(self, x: Tensor) -> Heads:
        batch, length, _ = x.shape
        qkv = self.qkv(x).reshape(batch, length, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return qkv.unbind(0)


@family.network("fused attention", sequence(), prunable=FUSED, frozen=OUT)
class FusedIndexed(Fused):
    """The same, indexed, with literal sizes."""

    def take_apart(self, x: Tensor) -> Heads:
        qkv = self.qkv(x).view(x.size(0), x.size(1), 3, 4, 6).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]


@family.network("fused attention", sequence(), prunable=FUSED, frozen=OUT)
class FusedChunked(Fused):
    """Three chunks of the last axis, each viewed as heads (ViT-PyTorch)."""

    def take_apart(self, x: Tensor) -> Heads:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v


@family.network("fused attention", sequence(), prunable=FUSED, frozen=OUT)
class FusedSplit(Fused):
    """nanoGPT: split by the width of one part, view by a computed head size."""

    def take_apart(self, x: Tensor) -> Heads:
        batch, length, _ = x.size()
        q, k, v = self.qkv(x).split(24, dim=2)
        q, k, v = (part.view(batch, length, self.heads, 24 // self.heads).transpose(1, 2) for part in (q, k, v))
        return q, k, v


@family.network("fused attention", sequence(), prunable=FUSED, frozen=OUT)
class FusedHeadsFirst(Fused):
    """GPT-NeoX: heads outermost, then q, k, v inside each head, taken by slices."""

    def take_apart(self, x: Tensor) -> Heads:
        qkv = self.qkv(x).view(*x.shape[:2], self.heads, 3 * self.head_dim).transpose(1, 2)
        return qkv[..., :6], qkv[..., 6:12], qkv[..., 12:]


@family.network("fused attention", sequence(), prunable=("stem.weight", "head.weight"), frozen=OUT)
class FusedInnermost(Fused):
    """q, k and v alternate on the innermost axis."""

    def take_apart(self, x: Tensor) -> Heads:
        return self.qkv(x).reshape(x.shape[0], -1, self.heads, self.head_dim, 3).transpose(1, 2).unbind(dim=-1)


def attend_over_channels(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """XCiT: the softmax runs over the channels of a head, which must stay."""
    q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
    return v @ (q.mT @ k).softmax(-1).mT


def linear_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Keys meet values first; positive features of q and k, normalised by their sum."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    mixed = torch.einsum("bhld,bhlv->bhdv", k, v)
    return torch.einsum("bhld,bhdv->bhlv", q, mixed) / (q @ k.sum(-2).unsqueeze(-1) + 1e-3)


class MixedBy(FusedUnbind):
    """The fused projection of timm around another mixture of q, k and v."""

    def __init__(self, attend: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.attend = attend

    def mix(self, x: Tensor) -> Tensor:
        return self.attend(*self.take_apart(x)).transpose(1, 2).flatten(2)


family.add("channel_attention", "fused attention", lambda: MixedBy(attend_over_channels), sequence(), frozen=OUT)
family.add("linear_attention", "fused attention", lambda: MixedBy(linear_attention), sequence(),
           prunable=("stem.weight", "qkv.weight"), frozen=OUT)  # fmt: skip
