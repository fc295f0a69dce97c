"""Networks that compute their own weights, places or assignments from the input."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image, random_input

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)


@family.network("view and reshape", random_input(2, 3, 10), prunable=("encode.0.weight", "deep.weight"), frozen=HEAD)
class PointSet(nn.Module):
    """PointNet: a small network writes a 3x3 transform of the points, features meet in a maximum over points."""

    def __init__(self) -> None:
        super().__init__()
        self.align, self.matrix = nn.Conv1d(3, 9, 1), nn.Linear(9, 9)
        self.encode, self.deep = nn.Sequential(nn.Conv1d(3, 12, 1), nn.BatchNorm1d(12)), nn.Conv1d(12, 20, 1)
        self.head = nn.Conv1d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        points = x.size(2)
        matrix = self.matrix(self.align(x).relu().max(2)[0]).view(-1, 3, 3) + torch.eye(3, dtype=x.dtype)
        local = self.encode(torch.bmm(matrix, x)).relu()
        overall = torch.max(self.deep(local), 2, keepdim=True)[0].view(-1, 20, 1).repeat(1, 1, points)
        return self.head(torch.cat([local, overall], 1))


@family.network("functional convolution", image(), prunable=STEM, frozen=HEAD)
class ConditionalKernels(nn.Module):
    """CondConv: every example has a kernel of its own, batch and channels are merged into one grouped convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.route, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 4), nn.Conv2d(10, 5, 1)
        self.kernels = nn.Parameter(torch.zeros(4, 10, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, channels, height, width = x.shape
        route = self.route(x.mean((2, 3))).sigmoid()
        weight = (route @ self.kernels.view(4, -1)).view(batch * 10, channels, 3, 3)
        y = F.conv2d(x.reshape(1, batch * channels, height, width), weight, padding=1, groups=batch)
        return self.head(y.view(batch, 10, height, width))


@family.network("functional convolution", image(), frozen=HEAD)
class ModulatedKernels(nn.Module):
    """StyleGAN2: the input's channels of a kernel are scaled for each example, then every filter has length one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.style, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(3, 8), nn.Conv2d(10, 5, 1)
        self.weight = nn.Parameter(torch.zeros(1, 10, 8, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        style = self.style(x.mean((2, 3))).view(batch, 1, 8, 1, 1) + 1
        weight = self.weight * style
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        x = self.stem(x).view(1, -1, 8, 8)
        y = F.conv2d(x, weight.view(batch * 10, 8, 3, 3), padding=1, groups=batch)
        return self.head(y.view(batch, 10, 8, 8))


@family.network("unflatten", image(), frozen=HEAD)
class Involution(nn.Module):
    """A kernel for every pixel, shared by groups of channels, meets unfolded patches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.kernel, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 3 * 9, 1), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        batch, channels, height, width = x.shape
        kernel = self.kernel(x).view(batch, 3, 9, height, width).unsqueeze(2)
        patches = F.unfold(x, 3, padding=1).view(batch, 3, channels // 3, 9, height, width)
        return self.head((kernel * patches).sum(dim=3).view(batch, channels, height, width))


@family.network("separate attention", image(), prunable=("encode.weight",), frozen=HEAD)
class ClusterPooling(nn.Module):
    """NetVLAD: pixels are assigned to clusters by a softmax, residuals to centres are summed and normalised twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.assign, self.head = nn.Conv2d(3, 9, 3), nn.Conv2d(9, 4, 1), nn.Linear(36, 5)
        self.centres = nn.Parameter(torch.zeros(4, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = F.normalize(self.encode(x), dim=1)
        weights = self.assign(x).flatten(2).softmax(dim=1)
        gaps = x.flatten(2).unsqueeze(1) - self.centres[None, :, :, None]
        summed = F.normalize((gaps * weights.unsqueeze(2)).sum(-1), p=2, dim=2)
        return self.head(F.normalize(summed.view(x.size(0), -1), dim=1))


@family.network("view and reshape", image(), prunable=("stem.weight",), frozen=HEAD)
class SpatialTransformer(nn.Module):
    """A small network writes an affine map, by which the features are sampled; the map's size names the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.place, self.head = nn.Conv2d(3, 9, 3), nn.Linear(9, 6), nn.Conv2d(9, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        theta = self.place(x.mean((2, 3))).view(-1, 2, 3)
        grid = F.affine_grid(theta, x.size(), align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False))
