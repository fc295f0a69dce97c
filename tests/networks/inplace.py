"""In-place operations, slice assignment, and views that see what is written to their base."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image
from .skeletons import Between, add_rows

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)


def relu_before_residual(x: Tensor) -> Tensor:
    """The in-place activation changes the tensor that the residual adds afterwards."""
    return x + F.relu(x, inplace=True)


def chained_methods(x: Tensor) -> Tensor:
    """Several in-place methods on one tensor."""
    return x.mul_(0.5).add_(1.0).clamp_(min=-0.5).sub_(x.mean((2, 3), keepdim=True))


def operators(x: Tensor) -> Tensor:
    """The augmented operators."""
    y = x.tanh()
    y += x
    y *= 2
    y -= x.square()
    y /= 3
    return y


def assign_front(x: Tensor) -> Tensor:
    """Write other channels over the front ones (FasterNet's partial convolution without the convolution)."""
    y = x.clone()
    y[:, :4, :, :] = x[:, :4].tanh()
    return y


def assign_constant(x: Tensor) -> Tensor:
    """Write a number over the middle channels."""
    y = x.relu()
    y[:, 3:7] = 0.0
    return y


def assign_pixels(x: Tensor) -> Tensor:
    """Write over pixels of all channels."""
    y = x.clone()
    y[:, :, 0] = 0
    y[..., -1] = x[..., 0]
    return y


def assign_augmented(x: Tensor) -> Tensor:
    """Add to a slice of channels: reads, adds and writes back."""
    y = x * 1.5
    y[:, 5:] += y[:, 5:].relu()
    y[:, ::2] *= 0.5
    return y


def temporal_shift(x: Tensor) -> Tensor:
    """TSM: parts of the channels move along a spatial axis inside a fresh tensor of zeros."""
    out = torch.zeros_like(x)
    out[:, :3, :-1] = x[:, :3, 1:]
    out[:, 3:6, 1:] = x[:, 3:6, :-1]
    out[:, 6:] = x[:, 6:]
    return out


def fill_new_tensor(x: Tensor) -> Tensor:
    """A wider tensor is made by literal sizes and filled by two sources."""
    out = x.new_empty(x.shape[0], 20, x.shape[2], x.shape[3])
    out[:, :12] = x
    out[:, 12:] = x[:, :8].relu()
    return out


def write_through_view(x: Tensor) -> Tensor:
    """A change of a slice is a change of the tensor it came from."""
    y = x.clone()
    front = y[:, :5]
    front.mul_(3.0)
    return y


def write_through_chunk(x: Tensor) -> Tensor:
    """A change of one chunk is seen in the whole."""
    y = x.tanh()
    first, second = y.chunk(2, 1)
    second.add_(first)
    return y


def write_through_reshape(x: Tensor) -> Tensor:
    """A change of a view in another shape and order is seen in the base."""
    y = x.relu()
    y.view(x.shape[0], 3, 4, -1).transpose(1, 2).mul_(2.0).sub_(0.1)
    return y


def base_changes_under_view(x: Tensor) -> Tensor:
    """A view that was taken before the base changes sees the change."""
    y = x.clone()
    back = y[:, 6:]
    y.exp_()
    return y[:, :6] + back


def copied(x: Tensor) -> Tensor:
    """copy_ and fill_ into parts of a tensor of the right size."""
    out = torch.empty_like(x)
    out.narrow(1, 0, 7).copy_(x[:, :7])
    out[:, 7:].fill_(0.25)
    return out


def in_place_shapes(x: Tensor) -> Tensor:
    """In-place changes of the shape: unsqueeze_, squeeze_, transpose_."""
    y = x.clone().unsqueeze_(1).squeeze_(1)
    return y.transpose_(2, 3) + x


add_rows(family, Between, (
    ("relu_method", "in place", lambda x: x.relu_().mul_(x), 12, 12),
    ("relu_before_residual", "in place", relu_before_residual, 12, 12),
    ("methods_chained", "in place", chained_methods, 12, 12),
    ("operators_augmented", "in place", operators, 12, 12),
    ("activations_in_place", "in place",
     nn.Sequential(nn.SiLU(inplace=True), nn.Hardtanh(-2, 2, inplace=True), nn.ReLU6(inplace=True)), 12, 12),
    ("activation_functions_in_place", "in place", lambda x: F.elu_(F.hardtanh_(torch.relu_(x + 0) - 0.5)), 12, 12),
    ("masked_fill_in_place", "in place", lambda x: (x + 0).masked_fill_(x.abs() > 1, 0.3).lerp_(x, 0.5), 12, 12),
    ("addcmul_in_place", "in place", lambda x: x.clone().addcmul_(x, x, value=0.1).floor_().remainder_(4), 12, 12),
    ("shapes_in_place", "in place", in_place_shapes, 12, 12),
    ("assign_front_channels", "slice assignment", assign_front, 12, 12),
    ("assign_pixels", "slice assignment", assign_pixels, 12, 12),
    ("assign_augmented", "slice assignment", assign_augmented, 12, 12),
    ("temporal_shift", "slice assignment", temporal_shift, 12, 12),
    ("fill_new_tensor", "slice assignment", fill_new_tensor, 12, 20),
    ("write_through_view", "slice assignment", write_through_view, 12, 12),
))  # fmt: skip

add_rows(family, Between, (
    ("assign_constant", "slice assignment", assign_constant, 12, 12),
    ("write_through_chunk", "in place", write_through_chunk, 12, 12),
    ("write_through_reshape", "in place", write_through_reshape, 12, 12),
    ("base_changes_under_view", "in place", base_changes_under_view, 12, 6),
    ("copied_into_parts", "slice assignment", copied, 12, 12),
), prunable=())  # fmt: skip


@family.network("in place", image(), prunable=("stem.weight", "inner.weight"), frozen=HEAD)
class ResidualInPlace(nn.Module):
    """In-place activations everywhere, in-place adds to the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Conv2d(12, 5, 1)
        self.inner, self.outer = nn.Conv2d(12, 7, 3, padding=1), nn.Conv2d(7, 12, 1)
        self.act = nn.LeakyReLU(0.1, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x))
        x.add_(self.outer(self.act(self.inner(x))))
        return self.head(F.dropout(x, 0.3, self.training, inplace=True))


@family.network("slice assignment", image(), prunable=("stem.weight",), frozen=HEAD)
class PartialConvolution(nn.Module):
    """FasterNet: a convolution of the first channels writes its result over them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.part, self.head = nn.Conv2d(3, 14, 3), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(14, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).clone()
        x[:, :5, :, :] = self.part(x[:, :5, :, :])
        return self.head(x.relu())


@family.network("slice assignment", image(), prunable=("left.weight", "right.weight"), frozen=HEAD)
class BranchesWrittenIntoOneTensor(nn.Module):
    """Three convolutions of unequal widths are written into one tensor instead of a cat; one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1), nn.Conv2d(17, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        out = torch.zeros(batch, 17, height, width, dtype=x.dtype, device=x.device)
        left = self.left(x)
        out[:, 0:5] = left
        out[:, 5:12] = self.right(x)
        out[:, 12:] += left.relu()
        return self.head(out)
