"""Flatten, view, reshape, unflatten, permute: channels become part of other axes and come back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image, random_input
from .skeletons import Between, Classified, Tokens, add_rows

family = Family()
STEM = ("stem.weight",)


def flat_features(x: Tensor) -> Tensor:
    """Flatten by a product over the sizes (the old PyTorch tutorial)."""
    count = 1
    for size in x.size()[1:]:
        count *= size
    return x.view(-1, count)


def unpacked_sizes(x: Tensor) -> Tensor:
    """Flatten by sizes that were unpacked into names."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels * height * width)


def keep_pixels_in_front(x: Tensor) -> Tensor:
    """Flatten with pixels first: each channel's features are strided over the vector."""
    return x.permute(0, 2, 3, 1).flatten(1)


add_rows(family, Classified, (
    ("flatten_method", "flatten", lambda x: x.flatten(1), 10, 160),
    ("flatten_keyword", "flatten", lambda x: torch.flatten(x, start_dim=1), 10, 160),
    ("flatten_module", "flatten", nn.Flatten(), 10, 160),
    ("flatten_pixels_first", "flatten", keep_pixels_in_front, 10, 160),
    ("flatten_in_two_steps", "flatten", lambda x: x.flatten(2).flatten(start_dim=-2), 10, 160),
    ("view_literal", "view and reshape", lambda x: x.view(-1, 160), 10, 160),
    ("view_product_of_literals", "view and reshape", lambda x: x.view((-1, 10 * 4 * 4)), 10, 160),
    ("view_minus_one", "view and reshape", lambda x: x.view(x.size(0), -1), 10, 160),
    ("reshape_shape", "view and reshape", lambda x: torch.reshape(x, (x.shape[0], -1)), 10, 160),
    ("reshape_literal", "view and reshape", lambda x: x.reshape(x.size()[0], 10 * 16), 10, 160),
    ("view_sizes_unpacked", "computed sizes", unpacked_sizes, 10, 160),
    ("view_sizes_multiplied", "computed sizes", flat_features, 10, 160),
    ("view_sizes_divided", "computed sizes", lambda x: x.view(-1, int(x.nelement() / x.shape[0])), 10, 160),
    ("view_numel", "computed sizes", lambda x: x.view(len(x), x.numel() // len(x)), 10, 160),
    ("view_shape_slice", "computed sizes", lambda x: x.view(*x.shape[:1], -1), 10, 160),
    ("global_mean_list", "flatten", lambda x: x.mean([-2, -1]), 10, 10),
    ("global_pool_squeezed", "flatten", lambda x: F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1), 10, 10),
    ("global_pool_squeezed_everywhere", "flatten", lambda x: x.mean((2, 3), keepdim=True).squeeze(), 10, 10),
    ("global_pool_viewed", "view and reshape", lambda x: F.avg_pool2d(x, x.size()[2:]).view(-1, 10), 10, 10),
    ("global_pool_indexed", "flatten", lambda x: F.adaptive_max_pool2d(x, (1, 1))[:, :, 0, 0], 10, 10),
    ("global_sum_divided", "computed sizes", lambda x: x.sum((2, 3)) / (x.shape[2] * x.shape[3]), 10, 10),
    ("global_mean_over_view", "view and reshape", lambda x: x.view(x.shape[0], x.shape[1], -1).mean(-1), 10, 10),
    ("transposed_twice_2d", "channels last", lambda x: x.mean((2, 3)).T.relu().t(), 10, 10),
))  # fmt: skip

add_rows(family, Between, (
    ("unflatten_and_flatten", "unflatten", lambda x: x.unflatten(1, (3, 4)).tanh().flatten(1, 2), 12, 12),
    ("unflatten_module", "unflatten", nn.Sequential(nn.Unflatten(1, (2, 6)), nn.ReLU(), nn.Flatten(1, 2)), 12, 12),
    ("unflatten_sum_of_parts", "unflatten", lambda x: torch.unflatten(x, 1, (3, -1)).sum(1), 12, 4),
    ("maxout_pairs", "view and reshape", lambda x: x.view(x.size(0), x.size(1) // 2, 2, 8, 8).amax(2), 12, 6),
    ("maxout_halves", "view and reshape", lambda x: x.view(x.size(0), 2, -1, *x.shape[2:]).max(dim=1)[0], 12, 6),
    ("add_axis_and_drop", "view and reshape", lambda x: x[:, :, None].sigmoid().squeeze(2) + x.unsqueeze(-1)[..., 0],
     12, 12),
    ("squeeze_that_does_nothing", "view and reshape", lambda x: x.squeeze(1).tanh().squeeze(dim=(1, 2)), 12, 12),
    ("view_pixels_and_back", "view and reshape", lambda x: x.view(*x.shape[:2], -1).exp().view(x.shape), 12, 12),
    ("view_as_and_reshape_as", "view and reshape", lambda x: x.flatten(2).tanh().view_as(x).reshape_as(x), 12, 12),
    ("movedim_to_last", "channels last", lambda x: x.movedim(1, -1).relu().movedim(-1, 1), 12, 12),
    ("swapaxes_to_last", "channels last", lambda x: torch.swapaxes(x, 1, 3).tanh().swapdims(3, 1), 12, 12),
    ("permute_keyword", "channels last", lambda x: x.permute(dims=(0, 2, 3, 1)).cos().permute(0, 3, 1, 2), 12, 12),
    ("transpose_in_steps", "channels last", lambda x: x.flatten(2).mT.exp().mT.unflatten(2, (8, 8)), 12, 12),
    ("space_to_depth_by_slices", "view and reshape",
     lambda x: torch.cat([x[..., i::2, j::2] for i in range(2) for j in range(2)], 1), 6, 24),
))  # fmt: skip

add_rows(family, Between, (
    ("view_pixels_into_channels", "view and reshape", lambda x: x.view(x.shape[0], 24, 4, 8), 12, 24),
    ("view_channels_into_pixels", "view and reshape", lambda x: x.reshape(-1, 6, 16, 8), 12, 6),
    ("view_without_common_factor", "view and reshape",
     lambda x: x.view(-1, 3, 4, 64).tanh().view(-1, 2, 6, 64).relu().view(-1, 12, 8, 8), 12, 12),
    ("pool_channels_in_3d", "view and reshape",
     lambda x: F.max_pool3d(x.unsqueeze(1), (2, 1, 1)).squeeze(1), 12, 6),
    ("transpose_channels_and_rows", "channels last", lambda x: x.transpose(1, 2), 12, 8),
), prunable=())  # fmt: skip

add_rows(family, Tokens, (
    ("merge_batch_and_length", "view and reshape", lambda x: x.view(-1, x.shape[-1]).relu().view(-1, 6, 14), 14, 14),
    ("merge_batch_and_parts", "view and reshape",
     lambda x: x.view(-1, 6, 2, 8).transpose(1, 2).reshape(-1, 6, 8).tanh().view(-1, 2, 6, 8).sum(1), 16, 8),
))  # fmt: skip

add_rows(family, Classified, (
    ("view_literal_batch", "view and reshape", lambda x: x.view(2, 160), 10, 160),
    ("view_literal_batch_swapped", "view and reshape", lambda x: x.permute(1, 0, 2, 3).reshape(10, 2, 16).mean(2).T,
     10, 10),
), batch=False)  # fmt: skip


@family.network("channels last", image(), prunable=("stem.weight", "wide.weight"), frozen=("head.weight",))
class PermuteToLinear(nn.Module):
    """Pixelwise linear layers on channels-last tensors between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.back = nn.Conv2d(3, 10, 3), nn.Linear(10, 18), nn.Linear(18, 10)
        self.head = nn.Conv2d(10, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.back(self.wide(x.permute(0, 2, 3, 1).contiguous()).relu())
        return self.head(x + y.permute(0, 3, 1, 2))


@family.network("channels last", image(), frozen=("scores.weight",))
class DetectorHead(nn.Module):
    """SSD's head: anchors times classes leave as the last axes of the output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.scores = nn.Conv2d(3, 10, 3), nn.Conv2d(10, 3 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.scores(self.stem(x))
        return scores.permute(0, 2, 3, 1).contiguous().view(scores.size(0), -1, 4).softmax(-1)


@family.network("unflatten", image(), prunable=("primary.weight",), frozen=("digits.weight",))
class Capsules(nn.Module):
    """Channels are viewed as capsules of four numbers; the capsules' length squashes them."""

    def __init__(self) -> None:
        super().__init__()
        self.primary = nn.Conv2d(3, 6 * 4, 3, stride=2)
        self.digits = nn.Linear(6 * 4 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x).view(x.size(0), 6, 4, -1)
        square = x.square().sum(dim=2, keepdim=True)
        return self.digits((x * square / (1 + square) / (square + 1e-6).sqrt()).flatten(1))


@family.network("view and reshape", random_input(2, 3, 2, 6, 6), prunable=("conv.weight",), frozen=("head.weight",))
class TimeMergedWithBatch(nn.Module):
    """Frames of a clip go through 2d convolutions as a larger batch and are averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 9, 3), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames = x.shape[:2]
        x = self.conv(x.flatten(0, 1)).relu().mean((2, 3))
        return self.head(x.view(batch, frames, -1).mean(1))


@family.network("view and reshape", features(9), frozen=("fc.weight", "head.weight"))
class FeaturesAsPixels(nn.Module):
    """The features of a linear layer become the pixels of a 1d convolution: frozen as a spatial axis."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.conv, self.head = nn.Linear(9, 12), nn.Conv1d(1, 1, 3, padding=1), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.head(x * self.conv(x.unsqueeze(1)).squeeze(1).sigmoid())


@family.network("view and reshape", image(4), prunable=("mix_channels.weight",), frozen=("stem.weight", "head.weight"))
class PoolOverPermutedChannels(nn.Module):
    """The channel axis is pooled in pairs as if it were space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mix_channels, self.head = nn.Conv2d(4, 12, 3), nn.Linear(6, 14), nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool1d(self.stem(x).flatten(2).transpose(1, 2), 2)
        return self.head(self.mix_channels(x).relu().mean(1))


@family.network("view and reshape", image(4), prunable=("conv.weight",), frozen=("head.weight",))
class UnfoldAndFold(nn.Module):
    """A convolution by hand: patches unfolded, multiplied, folded back to overlapping pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.patches, self.head = nn.Conv2d(4, 9, 1), nn.Linear(9 * 9, 6 * 4), nn.Conv2d(6, 5, 1)
        self.unfold, self.fold = nn.Unfold(3, padding=1, stride=2), nn.Fold((8, 8), kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(self.unfold(self.conv(x)).transpose(1, 2))
        return self.head(self.fold(x.transpose(1, 2)))
