"""Depthwise and grouped convolution: with multipliers, in pairs, in residuals, after cat."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image, random_input

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)


class Grouped(nn.Module):
    """A stem, one grouped convolution of the subclass's numbers, a head."""

    width, out_width, groups, out_channels = 12, 18, 3, 5

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, self.width, 1)
        self.conv = nn.Conv2d(self.width, self.out_width, 3, padding=1, groups=self.groups)
        self.head = nn.Conv2d(self.out_width, self.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.stem(x).relu()).relu())


@family.network("grouped", image(), prunable=("stem.weight", "conv.weight"), frozen=HEAD)
class GroupedWidening(Grouped):
    """Three groups of 4 channels in and 6 out."""


@family.network("grouped", image(), prunable=STEM, frozen=HEAD)
class GroupedToOneEach(Grouped):
    """Groups of 3 channels, each of which writes one channel."""

    out_width, groups = 4, 4


@family.network("depthwise", image(), prunable=("stem.weight", "conv.weight"), frozen=HEAD)
class Depthwise(Grouped):
    """One filter a channel."""

    out_width, groups = 12, 12


@family.network("depthwise", image(), prunable=("stem.weight", "conv.weight"), frozen=HEAD)
class DepthwiseMultiplier(Grouped):
    """Three filters a channel."""

    width, out_width, groups = 6, 18, 6


@family.network("depthwise", image(), frozen=("conv.weight",))
class DepthwiseOnTheInput(nn.Module):
    """Depthwise with a multiplier on the model's input: its rows come in fours of one input channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, groups=3)
        self.conv = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.stem(x).relu())


@family.network("depthwise", image(), prunable=STEM, frozen=HEAD)
class DepthwiseMultiplierShuffled(Grouped):
    """Multiplied channels are shuffled by a transposed view, so copies of one channel spread out."""

    width, out_width, groups = 8, 16, 8

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        batch, _, height, width = x.shape
        return self.head(x.view(batch, 4, 4, height, width).transpose(1, 2).reshape(batch, -1, height, width))


@family.network("grouped pair", image(), prunable=STEM, frozen=HEAD)
class GroupedPair(Grouped):
    """Two grouped convolutions after another, 2 groups then 3: the finer one cuts across."""

    out_width, groups = 18, 2

    def __init__(self) -> None:
        super().__init__()
        self.second = nn.Conv2d(18, 18, 3, padding=1, groups=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.conv(self.stem(x)).relu()).relu())


@family.network("grouped pair", image(), prunable=("stem.weight", "conv.weight", "second.weight"), frozen=HEAD)
class GroupedPairAligned(GroupedPair):
    """Two grouped convolutions of the same three groups with a norm between."""

    groups = 3

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(18)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.norm(self.conv(self.stem(x)))))


@family.network("grouped in residual", image(), prunable=STEM, frozen=HEAD)
class GroupedResidual(Grouped):
    """The output of a grouped convolution is added to its input: groups tie on both sides."""

    out_width, groups = 12, 4

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.conv(x))


@family.network("grouped in residual", image(), prunable=("stem.weight", "expand.weight"), frozen=HEAD)
class ResNeXt(Grouped):
    """A bottleneck with a grouped convolution in its middle."""

    width, out_width, groups = 10, 10, 1

    def __init__(self) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(10, 12, 1, bias=False)
        self.spatial = nn.Conv2d(12, 12, 3, padding=1, groups=4, bias=False)
        self.expand = nn.Conv2d(12, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.expand(self.spatial(self.reduce(x).relu()).relu()))


class AfterCat(nn.Module):
    """A grouped convolution in two groups reads a cat of two widths."""

    widths = (8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, self.widths[0], 1), nn.Conv2d(3, self.widths[1], 1)
        self.conv = nn.Conv2d(16, 12, 3, groups=2)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(torch.cat([self.left(x), self.right(x)], 1)))


@family.network("grouped after cat", image(), prunable=("conv.weight",), frozen=HEAD)
class GroupedAfterCatOnTheSeam(AfterCat):
    """The seam of the cat is the seam of the groups."""


@family.network("grouped after cat", image(), prunable=("conv.weight",), frozen=HEAD)
class GroupedAfterCatOffTheSeam(AfterCat):
    """The seam of the cat lies inside the first group."""

    widths = (5, 11)


@family.network("grouped after cat", image(), frozen=HEAD)
class GroupedAfterCatOfOneTensor(AfterCat):
    """Each group reads the same tensor."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.left(x)
        return self.head(self.conv(torch.cat([x, x], 1)).relu())


@family.network("grouped", random_input(2, 3, 16), prunable=("0.weight", "4.bias"), frozen=("6.weight",))
def grouped_transposed_1d() -> nn.Module:
    """A depthwise convolution and transposed ones, grouped and depthwise, in one dimension."""
    return nn.Sequential(
        nn.Conv1d(3, 12, 3), nn.ReLU(), nn.Conv1d(12, 12, 3, groups=12), nn.ReLU(),
        nn.ConvTranspose1d(12, 18, 3, stride=2, groups=3), nn.ConvTranspose1d(18, 18, 2, groups=18),
        nn.Conv1d(18, 4, 1),
    )  # fmt: skip


@family.network("depthwise", image(), prunable=("stem.weight", "expand.weight"), frozen=HEAD)
class InvertedResidual(nn.Module):
    """MobileNet-V2: expand, depthwise, project, add; ReLU6 between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand = nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.Conv2d(8, 24, 1, bias=False)
        self.norm1, self.norm2, self.norm3 = nn.BatchNorm2d(24), nn.BatchNorm2d(24), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(24, 24, 3, padding=1, groups=24, bias=False)
        self.project = nn.Conv2d(24, 8, 1, bias=False)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu6(self.norm2(self.depthwise(F.relu6(self.norm1(self.expand(x))))))
        return self.head(x + self.norm3(self.project(y)))
