"""Whole designs in miniature: dense, inception, pyramid, encoder-decoder and mobile networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)


def unit(width: int, out_width: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """Return a convolution, a batch norm and a ReLU that keep the image's size at stride 1."""
    convolution = nn.Conv2d(width, out_width, kernel, stride, kernel // 2 * dilation, dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_width), nn.ReLU(inplace=True))


@family.network("cat", image(), prunable=("stem.weight", "layers.0.weight", "transition.weight"), frozen=HEAD)
class DenseBlock(nn.Module):
    """DenseNet: every layer reads all before it; a transition halves the width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8 + 5 * i) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(8 + 5 * i, 5, 3, padding=1) for i in range(3))
        self.transition, self.head = nn.Conv2d(23, 11, 1), nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(norm(torch.cat(features, 1)).relu()))
        return self.head(F.avg_pool2d(self.transition(torch.cat(features, 1)), 2).mean((2, 3)))


@family.network("cat", image(), prunable=("branch1.0.weight", "branch3.0.0.weight"), frozen=HEAD)
class Inception(nn.Module):
    """Four branches of different widths, one behind a pooling, joined and read by a linear layer with pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.branch1, self.branch_pool = unit(3, 6, 1), unit(3, 4, 1)
        self.branch3, self.branch5 = nn.Sequential(unit(3, 5, 1), unit(5, 9)), nn.Sequential(unit(3, 7), unit(7, 8))
        self.head = nn.Linear(27 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.branch_pool(F.avg_pool2d(x, kernel_size=3, stride=1, padding=1))
        outputs = [self.branch1(x), self.branch3(x), self.branch5(x), pooled]
        return self.head(F.max_pool2d(torch.cat(outputs, 1), 2).flatten(1))


@family.network("transposed", image(), prunable=("down1.0.weight", "bottom.0.weight", "up.bias"), frozen=HEAD)
class UNet(nn.Module):
    """Down, up by a transposed convolution, padded to the skip's size and joined to it."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = unit(3, 8), unit(8, 12), unit(12, 16)
        self.up, self.join = nn.ConvTranspose2d(16, 10, 2, stride=2), unit(22, 9)
        self.head = nn.Conv2d(17, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        middle = self.down2(F.max_pool2d(high, 2))
        up = self.up(self.bottom(F.max_pool2d(middle, 2)))
        gap = middle.size(2) - up.size(2)
        middle = self.join(torch.cat([middle, F.pad(up, [gap // 2, gap - gap // 2, gap // 2, gap - gap // 2])], dim=1))
        return self.head(torch.cat([high, F.interpolate(middle, scale_factor=2.0, mode="nearest")], dim=1))


@family.network("residual add", image(), prunable=("c2.0.weight", "c3.0.weight", "lateral2.weight"), frozen=HEAD)
class FeaturePyramid(nn.Module):
    """Lateral convolutions, a path from low to high by interpolation, one head over both levels."""

    def __init__(self) -> None:
        super().__init__()
        self.c2, self.c3 = unit(3, 8, stride=2), unit(8, 14, stride=2)
        self.lateral2, self.lateral3 = nn.Conv2d(8, 10, 1), nn.Conv2d(14, 10, 1)
        self.smooth, self.head = nn.Conv2d(10, 9, 3, padding=1), nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        c2 = self.c2(x)
        p3 = self.lateral3(self.c3(c2))
        p2 = self.lateral2(c2) + F.interpolate(p3, size=c2.shape[-2:], mode="nearest")
        return {"p2": self.head(self.smooth(p2)), "p3": self.head(self.smooth(p3))}


@family.network("cat", image(), prunable=("stem.0.weight", "branches.1.0.weight", "image_level.0.weight"), frozen=HEAD)
class AtrousPyramid(nn.Module):
    """ASPP: three rates and an image-level branch that is resized back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.project = unit(3, 9), unit(6 * 3 + 7, 11, 1)
        self.branches = nn.ModuleList([unit(9, 6, 1), unit(9, 6, dilation=2), unit(9, 6, dilation=3)])
        self.image_level, self.head = unit(9, 7, 1), nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        pooled = self.image_level(F.adaptive_avg_pool2d(x, 1))
        pooled = F.interpolate(pooled, size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.head(self.project(torch.cat([*(branch(x) for branch in self.branches), pooled], dim=1)))


@family.network("channels last", image(), prunable=("stem.weight", "wide.weight"), frozen=HEAD)
class ConvNeXtBlock(nn.Module):
    """Depthwise, permute, norm, two linear layers, layer scale by a parameter, permute, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 10, 2, stride=2), nn.Conv2d(10, 10, 5, padding=2, groups=10)
        self.norm, self.wide, self.narrow = nn.LayerNorm(10, eps=1e-6), nn.Linear(10, 26), nn.Linear(26, 10)
        self.gamma, self.head = nn.Parameter(1e-2 * torch.ones(10)), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.narrow(F.gelu(self.wide(y)))
        return self.head(x + y.permute(0, 3, 1, 2))


@family.network("depthwise", image(), prunable=("expand.0.weight", "squeeze.weight"), frozen=HEAD)
class MobileBlockWithGate(nn.Module):
    """MBConv: expand, depthwise, squeeze-excite, project, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.project = unit(3, 8, stride=2), unit(8, 22, 1), nn.Conv2d(22, 8, 1)
        self.depthwise = nn.Conv2d(22, 22, 5, padding=2, groups=22)
        self.squeeze, self.excite, self.head = nn.Conv2d(22, 6, 1), nn.Conv2d(6, 22, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.silu(self.depthwise(self.expand(x)))
        y = y * self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        return self.head(x + self.project(y))


@family.network("strided slice", image(), prunable=("stem.0.weight", "narrow.0.weight"), frozen=HEAD)
class FocusAndFastPyramid(nn.Module):
    """YOLO: pixels into channels by slices, then poolings of poolings joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.narrow, self.head = unit(12, 14), unit(14, 6, 1), nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)
        x = self.narrow(self.stem(x))
        y = F.max_pool2d(x, 3, 1, 1)
        z = F.max_pool2d(y, 3, 1, 1)
        return self.head(torch.cat((x, y, z, F.max_pool2d(z, 3, 1, 1)), 1))


@family.network("residual add", image(), prunable=("high.0.weight", "low.0.weight", "down.weight"), frozen=HEAD)
class TwoResolutions(nn.Module):
    """HRNet: two resolutions exchange by a strided and by a resized path."""

    def __init__(self) -> None:
        super().__init__()
        self.high, self.low = unit(3, 8), unit(3, 13, stride=2)
        self.down, self.up = nn.Conv2d(8, 13, 3, 2, 1), nn.Conv2d(13, 8, 1)
        self.head, self.norm = nn.Conv2d(21, 5, 1), nn.BatchNorm2d(13)

    def forward(self, x: Tensor) -> Tensor:
        high, low = self.high(x), self.low(x)
        high, low = high + F.interpolate(self.up(low), scale_factor=2), self.norm(low + self.down(high))
        return self.head(torch.cat([high, F.interpolate(low, high.shape[2:], mode="bilinear")], 1))
