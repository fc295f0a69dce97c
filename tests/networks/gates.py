"""Gates: squeeze-excite, spatial and one-channel gates, mixtures of branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image
from .skeletons import Between, add_rows

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)


class Gated(nn.Module):
    """A stem of twelve channels and a head; subclasses gate what lies between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 5, 1)


@family.network("squeeze excite", image(), prunable=("stem.weight", "squeeze.weight"), frozen=HEAD)
class SqueezeExciteByConvolution(Gated):
    """Pooling by function, two 1x1 convolutions, a hard sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = F.hardsigmoid(self.excite(F.relu(self.squeeze(F.adaptive_avg_pool2d(x, 1)), inplace=True)))
        return self.head(gate * x)


@family.network("squeeze excite", image(), prunable=("stem.weight", "squeeze.weight"), frozen=HEAD)
class SqueezeExciteByLinear(Gated):
    """Pooling by mean, two linear layers, a view back to (N, C, 1, 1), ``expand_as``."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(12, 5, bias=False), nn.Linear(5, 12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, channels, _, _ = x.size()
        gate = self.excite(self.squeeze(x.mean((2, 3)).view(batch, channels)).relu()).sigmoid()
        return self.head(x * gate.view(batch, channels, 1, 1).expand_as(x))


@family.network("squeeze excite", image(), prunable=("stem.weight",), frozen=HEAD)
class GlobalContext(Gated):
    """Pixels are pooled by a softmax of one channel, then excite by an add (GCNet, in its matmul form)."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.Conv2d(12, 1, 1)
        self.transform = nn.Sequential(nn.Conv2d(12, 6, 1), nn.LayerNorm([6, 1, 1]), nn.ReLU(), nn.Conv2d(6, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, channels, height, width = x.size()
        weight = F.softmax(self.attend(x).view(batch, 1, height * width), dim=2).unsqueeze(-1)
        context = torch.matmul(x.view(batch, channels, height * width).unsqueeze(1), weight)
        return self.head(x + self.transform(context.view(batch, channels, 1, 1)))


@family.network("spatial gate", image(), frozen=HEAD)
class SpatialGateOfMeanAndMax(Gated):
    """CBAM's spatial gate: mean and maximum over channels, a convolution to one channel."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        pooled = torch.cat([x.mean(1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], dim=1)
        return self.head(x * torch.sigmoid(self.gate(pooled)))


@family.network("spatial gate", image(), prunable=STEM, frozen=HEAD)
class SpatialGateOfMean(Gated):
    """A mean over channels without its axis, put back by unsqueeze."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x * x.abs().mean(1).tanh().unsqueeze(dim=1))


@family.network("squeeze excite", image(), frozen=("stem.weight", "head.weight"))
class EfficientChannelAttention(Gated):
    """ECA: a 1d convolution runs along the channel axis, which therefore stays."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x.mean((2, 3), keepdim=True).squeeze(-1).transpose(-1, -2))
        return self.head(x * y.transpose(-1, -2).unsqueeze(-1).sigmoid())


@family.network("one-channel gate", image(), prunable=STEM, frozen=HEAD)
class OneChannelGate(Gated):
    """A gate of one channel is broadcast over all; it must not tie them to its own width."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x * torch.sigmoid(self.gate(x)) + x)


@family.network("one-channel gate", image(), prunable=STEM, frozen=HEAD)
class OneChannelGateExpanded(Gated):
    """The same gate, expanded to the full width before it is used; its inner width may shrink."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate = nn.Conv2d(3, 7, 1), nn.Conv2d(7, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.gate(self.inner(x).relu())
        x = self.stem(x)
        return self.head(x * gate.expand(-1, x.shape[1], -1, -1) + gate.expand_as(x).tanh())


@family.network("one-channel gate", features(), prunable=("experts.0.weight", "experts.1.weight"), frozen=HEAD)
class MixtureOfExperts(nn.Module):
    """A softmax over two experts weighs their outputs, stacked behind the features."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(7, 10) for _ in range(2))
        self.router, self.head = nn.Linear(7, 2), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.router(x), dim=-1)
        outputs = torch.stack([expert(x).relu() for expert in self.experts], dim=-1)
        return self.head((outputs * weights.unsqueeze(1)).sum(-1))


@family.network("stack and unbind", image(), prunable=("stem.weight",), frozen=HEAD)
class SelectiveKernel(Gated):
    """SKNet: two branches, a softmax over the stacked branch axis chooses for every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(12, 10, 3, padding=d, dilation=d) for d in (1, 2))
        self.reduce, self.choose = nn.Linear(10, 6), nn.ModuleList(nn.Linear(6, 10) for _ in range(2))
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        branches = torch.stack([branch(x) for branch in self.branches], dim=1)
        z = self.reduce(branches.sum(1).mean([-2, -1])).relu()
        weights = torch.stack([choose(z) for choose in self.choose], 1).softmax(dim=1)
        return self.head((branches * weights[..., None, None]).sum(dim=1))


@family.network("unflatten", image(), prunable=("reduce.weight",), frozen=HEAD)
class SplitAttention(Gated):
    """ResNeSt: a convolution writes two radices, viewed as (radix, channels), weighed by a softmax over the radix."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 20, 3, padding=1, groups=2)
        self.reduce, self.excite, self.head = nn.Conv2d(10, 6, 1), nn.Conv2d(6, 20, 1), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        parts = x.reshape(x.shape[0], 2, 10, *x.shape[2:])
        gate = self.excite(self.reduce(parts.sum(1).mean((2, 3), keepdim=True)).relu())
        gate = gate.view(gate.size(0), 1, 2, -1).transpose(1, 2).softmax(1).reshape(gate.size(0), 2, -1, 1, 1)
        return self.head((parts * gate).sum(dim=1))


@family.network("squeeze excite", image(), prunable=("stem.weight",), frozen=HEAD)
class FeatureModulation(Gated):
    """FiLM: a condition writes scale and shift, chunked, for every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = nn.Linear(3, 24)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.condition(x.mean((2, 3)))[:, :, None, None].chunk(2, 1)
        return self.head(torch.addcmul(shift, self.stem(x), 1 + scale).relu())


@family.network("squeeze excite", image(), prunable=("stem.weight",), frozen=HEAD)
class CoordinateAttention(Gated):
    """Rows and columns are pooled, joined along space, encoded together and split again."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.rows, self.columns = nn.Conv2d(12, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        height, width = x.shape[2:]
        joined = torch.cat([x.mean(3, keepdim=True), x.mean(2, keepdim=True).permute(0, 1, 3, 2)], dim=2)
        rows, columns = torch.split(F.hardswish(self.encode(joined)), [height, width], dim=2)
        return self.head(x * self.rows(rows).sigmoid() * self.columns(columns.permute(0, 1, 3, 2)).sigmoid())


add_rows(family, Between, (
    ("gate_of_first_channel", "one-channel gate", lambda x: x[:, 1:] * torch.sigmoid(x[:, :1]), 12, 11),
    ("gate_of_two_of_three_parts", "chunk",
     lambda x: torch.sigmoid(x.chunk(3, 1)[0]) * x.chunk(3, 1)[1].tanh() + x.chunk(3, 1)[2], 15, 5),
))  # fmt: skip
