"""Residual adds and their relatives: every tensor at the join keeps the same channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image
from .skeletons import Between, add_rows

family = Family()


@family.network(
    "residual add", image(), prunable=("stem.weight", "conv1.weight", "conv2.weight"), frozen=("head.weight",)
)
class BasicBlock(nn.Module):
    """ResNet's basic block with in-place activations and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.conv1 = nn.Conv2d(12, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.head(self.relu(out).mean((2, 3)))


class Bottleneck(nn.Module):
    """ResNet's bottleneck with a projection where the width or the stride changes."""

    def __init__(self, width: int, inner: int, out_width: int, stride: int = 1) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU())
        self.spatial = nn.Sequential(
            nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()
        )
        self.expand = nn.Sequential(nn.Conv2d(inner, out_width, 1, bias=False), nn.BatchNorm2d(out_width))
        same = width == out_width and stride == 1
        self.downsample = None if same else nn.Conv2d(width, out_width, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        return F.relu(identity + self.expand(self.spatial(self.reduce(x))))


@family.network(
    "residual add", image(), prunable=("0.weight", "1.reduce.0.weight", "2.spatial.0.weight", "3.downsample.weight")
)
def bottlenecks_of_several_widths() -> nn.Module:
    """Four bottlenecks over three widths: one tie a width, free channels inside each block."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), Bottleneck(12, 6, 12), Bottleneck(12, 7, 20, stride=2), Bottleneck(20, 9, 28),
        Bottleneck(28, 6, 28), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(28, 5),
    )  # fmt: skip


@family.network("residual add", image(), prunable=("stem.weight",), frozen=("head.weight",))
class PreActivation(nn.Module):
    """Norm and activation come before the convolution, so the skip carries raw sums; depth comes from a ModuleList."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(10) for _ in range(4))
        self.convs = nn.ModuleList(nn.Conv2d(10, 10, 3, padding=1) for _ in range(4))
        self.head = nn.Conv2d(10, 6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = x + conv(F.relu(norm(x)))
        return self.head(x)


@family.network("residual add", image(), prunable=("a.weight", "b.weight", "c.weight"), frozen=("head.weight",))
class ChainOfTies(nn.Module):
    """a ties to b, b to c, and c back to a, each by another operation."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 11, 3, padding=1) for _ in range(3))
        self.head = nn.Conv2d(11, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.a(x), self.b(x), self.c(x)
        joined = sum([torch.add(a, b, alpha=0.5), torch.maximum(b, c), c.sub(a, alpha=2)])
        return self.head(torch.lerp(joined, a, 0.25).addcmul(b, c, value=0.1))


@family.network("residual add", image(), prunable=("stem.weight", "branch.weight"), frozen=("head.weight",))
class BranchReusedThreeTimes(nn.Module):
    """One tensor feeds an add, a product and a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.branch = nn.Conv2d(10, 10, 1)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.branch(x)
        return self.head(x + y + y * torch.sigmoid(y) + y.relu())


@family.network("input skip", image(), prunable=("inner.weight",), frozen=("outer.weight",))
class DenoisingSkip(nn.Module):
    """The input is added to the last layer's output: that layer keeps the input's channels."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 14, 3, padding=1)
        self.outer = nn.Conv2d(14, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x - self.outer(self.inner(x).relu())


@family.network("input skip", image(), prunable=("inner.weight",), frozen=("outer.weight", "head.weight"))
class InputAddedInTheMiddle(nn.Module):
    """The input is added in the middle, not at the end: the layer it is added to is frozen all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(3, 14, 3, padding=1)
        self.outer = nn.Conv2d(14, 3, 3, padding=1)
        self.head = nn.Conv2d(3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x + self.outer(self.inner(x).relu())).relu())


@family.network("input skip", image(1), prunable=("conv.weight",), frozen=("head.weight",))
class OneChannelInputBroadcast(nn.Module):
    """A one-channel input is added to many channels by broadcasting, which ties nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 9, 3, padding=1)
        self.head = nn.Conv2d(9, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x + self.conv(x))


@family.network("vanishing branch", image(), prunable=("inner.weight", "stem.weight"), frozen=("head.weight",))
class ResidualBranchThatCanVanish(nn.Module):
    """Without its inner channels the branch is only the constant of its last bias and norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1)
        self.inner = nn.Conv2d(10, 4, 3, padding=1)
        self.outer = nn.Conv2d(4, 10, 1)
        self.norm = nn.BatchNorm2d(10)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.norm(self.outer(self.inner(x).relu())))


@family.network("vanishing branch", image(), prunable=("left.weight", "right.weight"), frozen=("head.weight",))
class ConcatenatedBranchThatCanVanish(nn.Module):
    """One side of a cat may lose all its channels, the depthwise convolution and the norm on it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(4)
        self.right = nn.Conv2d(3, 9, 1)
        self.head = nn.Conv2d(13, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.norm(self.depthwise(self.left(x))), self.right(x)], 1))


@family.network("vanishing branch", image(), frozen=("head.weight",))
class MultipliedByZero(nn.Module):
    """A branch that counts for nothing, and a sum that starts from the integer zero."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(sum((self.a(x), 0 * self.b(x))))


@family.network("residual add", image(), prunable=("stem.weight", "transform.weight"), frozen=("head.weight",))
class Highway(nn.Module):
    """A gate of the full width mixes the transformed and the untouched tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3)
        self.transform, self.gate = nn.Conv2d(10, 10, 1), nn.Conv2d(10, 10, 1)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.gate(x))
        return self.head(gate * F.relu(self.transform(x)) + (1 - gate) * x)


@family.network("residual add", image(), prunable=("stem.weight",), frozen=("head.weight",))
class Reversible(nn.Module):
    """RevNet: halves of the channels update each other in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3)
        self.f, self.g = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2 = torch.chunk(self.stem(x), 2, dim=1)
        y1 = x1 + self.f(x2)
        return self.head(torch.cat([y1, x2 + self.g(y1)], dim=1))


add_rows(family, Between, (
    ("pooled_vector_added_back", "residual add", lambda x: x + x.mean((2, 3), keepdim=True), 10, 10),
    ("pooled_vector_by_indexing", "residual add", lambda x: x * x.amax((2, 3))[:, :, None, None], 10, 10),
    ("pooled_vector_expanded", "residual add",
     lambda x: x - F.adaptive_avg_pool2d(x, 1).expand_as(x) + x.mean(2, keepdim=True).expand(-1, 10, -1, -1), 10, 10),
    ("added_to_its_own_transpose", "residual add", lambda x: x + x.transpose(2, 3), 10, 10),
))  # fmt: skip
