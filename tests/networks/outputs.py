"""Several inputs, several outputs, and what is never used."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image, joined, named, random_input

family = Family()
HEAD = ("head.weight",)


class Trunk(nn.Module):
    """Two convolutions and a head; subclasses say what leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 12, 3), nn.Conv2d(12, 5, 1)
        self.other = nn.Linear(12, 4)


@family.network(
    "several outputs", image(), prunable=("conv1.weight", "conv2.weight"), frozen=("head.weight", "other.bias")
)
class TupleOfTwoHeads(Trunk):
    """A map and a vector from the same features."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv2(self.conv1(x).relu()).relu()
        return self.head(x), self.other(x.mean((2, 3)))


@family.network("several outputs", image(), prunable=("conv1.weight",), frozen=("conv2.weight", "head.weight"))
class FeaturesLeaveToo(Trunk):
    """The features behind the head are an output as well, in a list, and so stay whole."""

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.conv2(self.conv1(x).relu())
        return [self.head(x), x]


@family.network("several outputs", image(), prunable=("conv1.weight",), frozen=("conv2.weight",))
class SameTensorTwice(Trunk):
    """One tensor leaves twice, beside a number, the input itself and nothing."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, float, Tensor, None]:
        y = self.conv2(self.conv1(x).relu())
        return y, y, 0.5, x, None


@family.network("several outputs", image(), prunable=("conv1.weight",), frozen=("conv2.weight", "head.weight"))
class NestedOutputs(Trunk):
    """Tuples inside dicts inside lists, with a part of a channel axis that leaves."""

    def forward(self, x: Tensor) -> list[dict[str, tuple[Tensor, ...] | Tensor]]:
        x = self.conv2(self.conv1(x).relu())
        return [{"pair": (self.head(x), x[:, :4]), "rest": x[:, 4:].mean((2, 3))}, {}]


@family.network("several outputs", image(), prunable=("conv1.weight",), frozen=("head.weight",))
class HalfOfTheChannelsLeave(Trunk):
    """Only the second half of the channels leaves; the first half is free."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv2(self.conv1(x).relu())
        return self.head(x), x.chunk(2, dim=1)[1]


@family.network("dict output", image(), prunable=("conv1.weight", "conv2.weight"), frozen=("head.weight", "other.bias"))
class DictOfHeads(Trunk):
    """A dict of an output and an auxiliary one, resized to the input (segmentation)."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv2(self.conv1(x).relu())
        out = F.interpolate(self.head(y), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return {"out": out, "aux": self.other(y.flatten(2).mean(-1))}


@family.network("dict output", image(), prunable=("conv1.weight", "conv2.weight"), frozen=HEAD)
class OrderedDictOutput(Trunk):
    """An OrderedDict that is filled step by step."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.conv2(self.conv1(x).relu())
        result = OrderedDict()
        result["out"] = self.head(y)
        result["energy"] = y.square().sum((1, 2, 3))
        return result


class Prediction(NamedTuple):
    """What NamedTupleOutput returns."""

    logits: Tensor
    embedding: Tensor | None = None


@family.network("several outputs", image(), prunable=("conv1.weight",), frozen=("conv2.weight", "head.weight"))
class NamedTupleOutput(Trunk):
    """A NamedTuple of logits and an embedding."""

    def forward(self, x: Tensor) -> Prediction:
        x = self.conv2(self.conv1(x).relu())
        return Prediction(self.head(x), embedding=F.normalize(x.mean((2, 3))))


@family.network("several inputs", joined(image(3), image(2, seed=1), features(4, 2, seed=2)),
                prunable=("left.weight", "right.weight", "fc.weight"), frozen=HEAD)  # fmt: skip
class ThreeInputs(nn.Module):
    """Two images and a vector meet in one sum."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.fc = nn.Conv2d(3, 10, 3), nn.Conv2d(2, 10, 3), nn.Linear(4, 10)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, left: Tensor, right: Tensor, vector: Tensor) -> Tensor:
        return self.head((self.left(left) + self.right(right) + self.fc(vector)[..., None, None]).relu())


@family.network("several inputs", named(image=image(), mask=random_input(2, 1, 8, 8, seed=1)),
                prunable=("stem.weight",), frozen=HEAD)  # fmt: skip
class KeywordInputs(nn.Module):
    """Inputs by name, one of them left at its default, a mask over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 5, 1)

    def forward(self, image: Tensor, scale: float = 2.0, mask: Tensor | None = None) -> Tensor:
        x = self.stem(image) * scale
        if mask is not None:
            x = x.masked_fill(mask < 0, 0.0)
        return self.head(x)


@family.network("several inputs", named(query=features(7, 3), key=features(5, 3, seed=1)), prunable=("key.weight",))
class KeywordsOutOfOrder(nn.Module):
    """The example names its inputs in another order than forward does; the output is a product of two encodings."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(7, 12), nn.Linear(5, 12)

    def forward(self, key: Tensor, query: Tensor) -> Tensor:
        return self.query(query) @ self.key(key).T


@family.network("several inputs", joined(image(), image(10, seed=1)), frozen=("stem.weight", "head.weight"))
class InputMultipliesFeatures(nn.Module):
    """A second input has as many channels as the features it multiplies: they stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 10, 3, padding=1), nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return self.head(self.stem(x) * gate.sigmoid())


@family.network("unused", image(), prunable=("conv1.weight", "conv2.weight"), frozen=HEAD)
class UnusedConvolution(Trunk):
    """A convolution runs and nobody reads what it makes; a linear layer never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.dead = nn.Conv2d(8, 9, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        self.dead(x).relu()
        return self.head(self.conv2(x))


@family.network("unused", image(), prunable=("conv1.weight", "conv2.weight"), frozen=HEAD)
class UnusedParameter(Trunk):
    """A parameter and a buffer that forward never touches, and a size that is read for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.never = nn.Parameter(torch.zeros(8, 12))
        self.register_buffer("steps", torch.tensor(0))
        self.register_parameter("absent", None)

    def forward(self, x: Tensor) -> Tensor:
        _batch, _channels, _height, _width = x.shape
        return self.head(self.conv2(self.conv1(x)))


@family.network("unused", image(), prunable=("conv1.weight",), frozen=HEAD)
class PartNeverRead(Trunk):
    """The first five channels of a convolution are computed and never read."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(7, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, rest = self.conv2(self.conv1(x)).split([5, 7], dim=1)
        return self.head(rest)


@family.network("several outputs", image(), prunable=("encode.weight", "decode.weight"), frozen=("write.weight",))
class VariationalAutoencoder(nn.Module):
    """Mean and log variance leave as halves of one layer; eval takes the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.moments = nn.Conv2d(3, 9, 3, stride=2, padding=1), nn.Linear(9 * 16, 12)
        self.decode, self.write = nn.Linear(6, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_variance = self.moments(self.encode(x).relu().flatten(1)).chunk(2, dim=1)
        z = mean + torch.randn_like(mean) * (0.5 * log_variance).exp() if self.training else mean
        return self.write(self.decode(z).relu()), mean, log_variance


@family.network("requires grad", image(), prunable=("conv1.weight", "conv2.weight"), frozen=HEAD)
class DetachedAuxiliary(Trunk):
    """A part of the parameters is not trained, and an auxiliary head reads detached features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.conv2(self.conv1(x).relu())
        return self.head(x), self.other(x.detach().mean((2, 3)))
