"""Modules called twice, parameters shared by modules, weights that are used elsewhere too."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image, joined, tokens

family = Family()
HEAD = ("head.weight",)


@family.network("module called twice", image(), prunable=("stem.weight", "conv.weight"), frozen=HEAD)
class CalledTwiceInAChain(nn.Module):
    """One convolution after itself: its input and output channels are the same."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 10, 3, padding=1), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(self.conv(self.stem(x)).relu()).relu())


@family.network("module called twice", image(), prunable=("a.weight", "b.weight", "shared.weight"), frozen=HEAD)
class CalledOnTwoTensors(nn.Module):
    """One convolution and one norm on two tensors of equal width: their channels tie."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3), nn.Conv2d(8, 11, 1)
        self.norm, self.head = nn.BatchNorm2d(11), nn.Conv2d(22, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.norm(self.shared(self.a(x))), self.norm(self.shared(self.b(x).relu()))
        return self.head(torch.cat([a, b], 1))


@family.network("module called twice", image(), prunable=("stem.weight", "low.weight", "tower.0.weight"), frozen=HEAD)
class SharedHeadOverLevels(nn.Module):
    """RetinaNet: one tower runs on two levels of different size; both results are joined over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.low = nn.Conv2d(3, 9, 3, padding=1), nn.Conv2d(9, 9, 3, stride=2, padding=1)
        self.tower = nn.Sequential(nn.Conv2d(9, 12, 1), nn.GroupNorm(2, 12), nn.ReLU())
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.stem(x)
        levels = [self.head(self.tower(level)).flatten(2) for level in (high, self.low(high))]
        return torch.cat(levels, dim=2).permute(0, 2, 1)


@family.network(
    "module called twice", joined(features(7), features(7, seed=1)), prunable=("encode.0.weight", "encode.2.weight"),
    frozen=HEAD,
)  # fmt: skip
class Siamese(nn.Module):
    """One encoder on two inputs, difference and product joined."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(7, 14), nn.ReLU(), nn.Linear(14, 10), nn.BatchNorm1d(10))
        self.head = nn.Linear(20, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.encode(x), self.encode(y)
        return self.head(torch.cat([(x - y).abs(), x * y], 1))


@family.network("module called twice", image(), prunable=("stem.weight", "block.conv.weight"), frozen=HEAD)
class OneModuleUnderTwoNames(nn.Module):
    """The same block under two names, in a list and as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 5, 1)
        self.block = nn.Sequential()
        self.block.add_module("conv", nn.Conv2d(10, 10, 3, padding=1))
        self.block.add_module("act", nn.ReLU())
        self.blocks = nn.ModuleList([self.block, self.block])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(self.block(x))


@family.network("shared parameter", image(), prunable=("a.weight", "stem.weight"), frozen=HEAD)
class WeightOfTwoModules(nn.Module):
    """Two convolutions hold one weight, with biases and strides of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.a, self.b = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(8, 12, 3, padding=2, dilation=2)
        self.b.weight = self.a.weight
        self.head = nn.Conv2d(24, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(torch.cat([self.a(x), self.b(x)], 1))


@family.network("shared parameter", image(), prunable=("a.weight", "norm1.weight"), frozen=HEAD)
class ScaleOfTwoNorms(nn.Module):
    """Two norms of independent branches hold one scale: the branches' channels tie through it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 10, 3), nn.Conv2d(3, 10, 3, dilation=2)
        self.norm1, self.norm2 = nn.BatchNorm2d(10), nn.BatchNorm2d(10)
        self.norm2.weight = self.norm1.weight
        self.head, self.other = nn.Conv2d(10, 5, 1), nn.Conv2d(10, 6, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.head(self.norm1(self.a(x))), self.other(self.norm2(self.b(x)))


@family.network("shared parameter", features(), prunable=("encode.weight",), frozen=("decode_bias",))
class TiedAutoencoder(nn.Module):
    """The decoder is the encoder's weight transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.decode_bias = nn.Linear(7, 12), nn.Parameter(torch.zeros(7))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.encode(x).relu(), self.encode.weight.t(), self.decode_bias)


@family.network("shared parameter", image(), prunable=("conv.weight",))
class TiedTransposedConvolution(nn.Module):
    """A transposed convolution uses the weight of the convolution before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 9, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(self.conv(x).relu(), self.conv.weight, stride=2, padding=1, output_padding=1)


@family.network("shared parameter", image(), prunable=("stem.weight", "conv.weight"), frozen=HEAD)
class WeightReusedAtOtherStride(nn.Module):
    """TridentNet: a module's weight and bias also go through a function with another dilation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 10, 3, padding=1), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        wide = F.conv2d(x, self.conv.weight, bias=self.conv.bias, stride=1, padding=2, dilation=2)
        return self.head(self.conv(x) + wide)


@family.network("shared parameter", image(), prunable=("stem.weight", "large.weight"), frozen=HEAD)
class KernelsMergedAtRunTime(nn.Module):
    """RepVGG: a 1x1 kernel is padded and added to a 3x3 kernel, plus the pixel difference of their sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(10, 5, 1)
        self.large, self.small = nn.Conv2d(8, 10, 3), nn.Conv2d(8, 10, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.large.weight + F.pad(self.small.weight, (1, 1, 1, 1))
        central = weight.sum(dim=(2, 3), keepdim=True)
        x = self.stem(x)
        return self.head(F.conv2d(x, weight, self.large.bias, padding=1) - F.conv2d(x, central))


@family.network("shared parameter", features(), prunable=("wide.weight",), frozen=HEAD)
class SlimmableLinear(nn.Module):
    """A slice of a module's rows and columns serves a narrow pass next to the full one."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.head = nn.Linear(7, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.linear(x, self.wide.weight[:6], self.wide.bias[:6]).relu()
        return self.head(self.wide(x).relu()) + F.linear(narrow, self.head.weight[:, :6])


@family.network("tied embedding", tokens(), prunable=("embed.weight",))
class TiedLanguageModel(nn.Module):
    """The output layer holds the embedding's table."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.norm = nn.Embedding(17, 12), nn.Linear(12, 12), nn.LayerNorm(12)
        self.decode = nn.Linear(12, 17, bias=False)
        self.decode.weight = self.embed.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.decode(self.norm(x + self.fc(x).relu()))


@family.network("tied embedding", tokens(), prunable=("embed.weight",), frozen=("bias",))
class TiedByFunction(nn.Module):
    """Logits by the table as a function's weight, by its transpose in a matmul, and scaled by the table's width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.bias = nn.Embedding(17, 10), nn.Linear(10, 10), nn.Parameter(torch.zeros(17))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids) * self.embed.embedding_dim**0.5
        x = self.fc(x).relu()
        return F.linear(x, self.embed.weight, self.bias) + torch.matmul(x.flip(1), self.embed.weight.t())


@family.network("tied embedding", tokens(), prunable=("project.weight",))
class FactorisedTiedEmbedding(nn.Module):
    """ALBERT: a narrow table and a projection, both used again backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.project = nn.Embedding(17, 6), nn.Linear(6, 14, bias=False)
        self.fc = nn.Linear(14, 14)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.fc(self.project(self.embed(ids))).relu()
        return x @ self.project.weight @ self.embed.weight.T
