"""Transformer parts around attention: class tokens, windows, gated feed-forward, torch's own layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image, joined, sequence, tokens
from .fused import FusedUnbind

family = Family()
OUT = ("out.weight",)


@family.network("fused attention", image(), prunable=("patches.weight",), frozen=OUT)
class WindowAttention(nn.Module):
    """Windows of pixels become the batch and go back; the image is rolled before and after."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.out = nn.Conv2d(3, 12, 1), nn.Linear(12, 36), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.roll(self.patches(x).permute(0, 2, 3, 1), shifts=(-2, -2), dims=(1, 2))
        batch, height, width, channels = x.shape
        y = x.view(batch, height // 4, 4, width // 4, 4, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, channels)
        q, k, v = self.qkv(y).reshape(-1, 16, 3, 2, 6).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(-1, 4, 4, channels)
        y = y.view(batch, height // 4, width // 4, 4, 4, -1).permute(0, 1, 3, 2, 4, 5).reshape(batch, height, width, -1)
        return self.out((x + y).roll((2, 2), (1, 2)).permute(0, 3, 1, 2))


@family.network("raw parameter", image(), prunable=("patches.weight", "mlp.0.weight"), frozen=OUT)
class VisionTransformer(nn.Module):
    """Patches, a class token by expand and cat, positions by a parameter, one block, a head on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.out = nn.Conv2d(3, 20, 4, stride=4), nn.Linear(20, 5)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 20)), nn.Parameter(torch.zeros(1, 5, 20))
        self.attend, self.norm = FusedUnbind(), nn.LayerNorm(20)
        self.mlp = nn.Sequential(nn.Linear(20, 30), nn.GELU(), nn.Dropout(0.1), nn.Linear(30, 20))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        x = x + self.attend.head(self.attend.mix(self.norm(x)))
        x = x + self.mlp(self.norm(x))
        return self.out(x[:, 0])


@family.network("chunk", sequence(), prunable=("stem.weight", "gate_up.weight"), frozen=OUT)
class GatedFeedForward(nn.Module):
    """SwiGLU with both projections fused, and a residual around it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate_up = nn.Linear(7, 14), nn.Linear(14, 44, bias=False)
        self.down, self.out = nn.Linear(22, 14, bias=False), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(x + self.down(F.silu(gate) * up))


@family.network("channels last", sequence(), prunable=("stem.weight", "channels.0.weight"), frozen=OUT)
class Mixer(nn.Module):
    """MLP-Mixer: linear layers along tokens, then along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.out = nn.Linear(7, 14), nn.LayerNorm(14), nn.Linear(14, 5)
        self.along = nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 6))
        self.channels = nn.Sequential(nn.Linear(14, 22), nn.GELU(), nn.Linear(22, 14))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.along(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.out((x + self.channels(self.norm(x))).mean(dim=1))


@family.network("raw parameter", sequence(), prunable=("keys.weight", "values.weight"), frozen=OUT)
class AttentionPooling(nn.Module):
    """Learned queries, expanded over the batch, pool the tokens (Perceiver)."""

    def __init__(self) -> None:
        super().__init__()
        self.keys, self.values, self.out = nn.Linear(7, 12), nn.Linear(7, 10), nn.Linear(30, 5)
        self.latents = nn.Parameter(torch.zeros(3, 12))

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.unsqueeze(0).expand(x.size(0), -1, -1)
        weights = torch.softmax(latents @ self.keys(x).transpose(1, 2) / 12**0.5, dim=-1)
        return self.out(torch.bmm(weights, self.values(x)).flatten(1))


class TorchAttention(nn.Module):
    """torch's attention module between linear layers."""

    def __init__(self, need_weights: bool = False, **options: Any) -> None:
        super().__init__()
        self.stem, self.out, self.need_weights = nn.Linear(7, 16), nn.Linear(16, 5), need_weights
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y, weights = self.attend(x, x, x, need_weights=self.need_weights)
        return self.out(x + y) if weights is None else self.out(y) * weights.mean((1, 2), keepdim=True)


for name, options in (
    ("multihead", {}),
    ("multihead_weights", {"need_weights": True}),
    ("multihead_without_bias", {"bias": False}),
    ("multihead_extra_tokens", {"add_bias_kv": True, "add_zero_attn": True}),
):
    family.add(name, "multihead attention", lambda options=options: TorchAttention(**options), sequence(), frozen=OUT)


@family.network("multihead attention", joined(sequence(), sequence(4, 9, seed=1)), frozen=OUT)
class MultiheadCross(nn.Module):
    """Keys and values of their own widths, sequence first, averaged weights off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Linear(7, 12), nn.Linear(12, 5)
        self.attend = nn.MultiheadAttention(12, 3, kdim=9, vdim=9, dropout=0.1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        x, memory = self.stem(x).transpose(0, 1), memory.transpose(0, 1)
        y, _ = self.attend(x, memory, value=memory, average_attn_weights=False)
        return self.out((x + y).transpose(0, 1))


@family.network("multihead attention", sequence(), frozen=("2.weight",))
def encoder_layers() -> nn.Module:
    """Two of torch's encoder layers between linear layers, norm last, ReLU."""
    layer = nn.TransformerEncoderLayer(12, 4, 20, dropout=0.1, batch_first=True)
    return nn.Sequential(nn.Linear(7, 12), nn.TransformerEncoder(layer, 2), nn.Linear(12, 5))


@family.network("multihead attention", tokens(), frozen=OUT)
class EncoderNormFirst(nn.Module):
    """An encoder layer with its norm first and GELU, sequence first, behind an embedding with positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.positions, self.out = nn.Embedding(17, 12), nn.Embedding(9, 12), nn.Linear(12, 5)
        self.layer = nn.TransformerEncoderLayer(12, 4, dim_feedforward=18, activation="gelu", norm_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        return self.out(self.layer(x.transpose(0, 1)).mean(0))


@family.network("multihead attention", joined(sequence(5, 12), sequence(4, 12, seed=1)), frozen=OUT)
class DecoderLayer(nn.Module):
    """A decoder layer reads a memory; its own input is the model's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.TransformerDecoderLayer(12, 2, 20, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.out(self.layer(x, memory))
