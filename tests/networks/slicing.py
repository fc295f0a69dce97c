"""Chunks, splits, narrows and slices of channels, padding of channels, stacks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image
from .skeletons import Between, Tokens, add_rows

family = Family()


def uneven_chunks(x: Tensor) -> Tensor:
    """Cut 14 channels into 5, 5 and 4 and join them the other way round."""
    a, b, c = torch.chunk(x, 3, dim=1)
    return torch.cat([c, b.relu(), a], dim=1)


def split_of_computed_size(x: Tensor) -> Tensor:
    """Cut at half of a size read at run time."""
    first, second = x.split(x.shape[1] // 2, dim=1)
    return torch.cat([second, first], 1)


def split_of_computed_list(x: Tensor) -> Tensor:
    """Cut at a quarter of a size read at run time; the rest is what is left."""
    quarter = x.size(1) // 4
    first, rest = torch.split(x, [quarter, x.size(1) - quarter], dim=1)
    return torch.cat([rest, first], 1)


def uneven_split(x: Tensor) -> Tensor:
    """Cut 14 channels into 6, 6 and 2 by one size."""
    parts = x.split(6, dim=1)
    return torch.cat([parts[2], parts[0], parts[1]], 1)


def multi_scale(x: Tensor) -> Tensor:
    """Res2Net's ladder: each part takes the one before it, parts of one size tie."""
    a, b, c = x.split(4, 1)
    b = b + a.relu()
    return torch.cat([a, b, c + b.relu()], 1)


def overlapping_narrows(x: Tensor) -> Tensor:
    """Two windows that share four channels."""
    return torch.cat([x.narrow(1, 0, 8), torch.narrow(x, 1, 4, 8)], 1)


def interleaved_stack(x: Tensor) -> Tensor:
    """Stack behind the channels and flatten: channels alternate between two tensors."""
    return torch.stack([x, x.tanh()], dim=2).flatten(1, 2)


def stack_and_unbind(x: Tensor) -> Tensor:
    """Stack in front, unbind, and use the parts in another order."""
    first, second = torch.stack((x.relu(), x.tanh()), dim=0).unbind(0)
    return second - first


def unbind_channels(x: Tensor) -> Tensor:
    """Take the channels apart one by one and put them together backwards."""
    parts = x.unbind(1)
    return torch.stack(parts[::-1], dim=1)


def gated_halves(x: Tensor) -> Tensor:
    """A gated linear unit by hand: halves multiply."""
    value, gate = x.chunk(2, 1)
    return value * torch.sigmoid(gate)


add_rows(family, Between, (
    ("chunk_swapped", "chunk", lambda x: torch.cat(x.chunk(2, dim=1)[::-1], dim=1), 12, 12),
    ("chunk_uneven", "chunk", uneven_chunks, 14, 14),
    ("chunk_negative_dim", "chunk", lambda x: x.chunk(3, dim=-3)[1], 15, 5),
    ("chunk_fewer_than_asked", "chunk", lambda x: torch.cat(x.chunk(5, 1)[::-1], 1), 12, 12),
    ("chunk_into_gate", "chunk", gated_halves, 20, 10),
    ("gated_linear_unit", "chunk", lambda x: F.glu(x, dim=1), 20, 10),
    ("gated_linear_unit_module", "chunk", nn.GLU(dim=-3), 20, 10),
    ("split_computed_size", "split", split_of_computed_size, 12, 12),
    ("split_computed_list", "split", split_of_computed_list, 12, 12),
    ("split_uneven", "split", uneven_split, 14, 14),
    ("split_into_ladder", "split", multi_scale, 12, 12),
    ("split_with_sizes", "split", lambda x: x.split_with_sizes([1, 4, 9], 1)[2] * 2, 14, 9),
    ("split_keyword", "split", lambda x: torch.split(tensor=x, split_size_or_sections=[5, 9], dim=1)[0], 14, 5),
    ("tensor_split_count", "split", lambda x: torch.tensor_split(x, 3, dim=1)[0], 14, 5),
    ("tensor_split_places", "split", lambda x: torch.cat(x.tensor_split((4, 9), dim=1)[1:], 1), 14, 10),
    ("narrow_middle", "narrow", lambda x: x.narrow(1, 3, 6), 12, 6),
    ("narrow_keyword_negative", "narrow", lambda x: torch.narrow(x, dim=-3, start=-5, length=4), 12, 4),
    ("narrow_computed", "narrow", lambda x: x.narrow(1, x.shape[1] // 3, x.shape[1] - x.shape[1] // 3), 12, 8),
    ("narrow_overlapping", "narrow", overlapping_narrows, 12, 16),
    ("slice_front", "slice", lambda x: x[:, :5], 12, 5),
    ("slice_back", "slice", lambda x: x[:, -4:, :, :], 12, 4),
    ("slice_both_ends", "slice", lambda x: x[:, 2:-3], 12, 7),
    ("slice_ellipsis", "slice", lambda x: x[..., 3:9, :, :][..., 1:], 12, 6),
    ("slice_past_the_end", "slice", lambda x: x[:, 4:1000], 12, 8),
    ("slice_computed", "slice", lambda x: x[:, : x.shape[1] // 3] + x[:, x.shape[1] - 4 :], 12, 4),
    ("slice_of_slice", "slice", lambda x: x[:, 2:][:, :-1][:, 3:7], 12, 4),
    ("slice_front_added_to_back", "slice", lambda x: x[:, :6] + x[:, 6:], 12, 6),
    ("slice_one_channel_kept_dim", "slice", lambda x: x[:, 3:4] * x[:, 5:], 12, 7),
    ("strided_slices_added", "strided slice", lambda x: x[:, ::2] + x[:, 1::2], 12, 6),
    ("strided_slice_offset", "strided slice", lambda x: x[:, 1::3], 14, 5),
    ("strided_slice_bounded", "strided slice", lambda x: x[:, 2:11:4], 14, 3),
    ("strided_pixels", "strided slice", lambda x: x[:, :, ::2, 1::2], 12, 12),
    ("pad_channels_in_front", "channel padding", lambda x: F.pad(x, (0, 0, 0, 0, 3, 0)), 10, 13),
    ("pad_channels_with_value", "channel padding", lambda x: F.pad(x, [1, 1, 0, 0, 2, 3], "constant", 0.7), 10, 15),
    ("pad_channels_negative", "channel padding", lambda x: F.pad(x, (0, 0, 0, 0, -2, 1)), 10, 9),
    ("pad_channels_by_module", "channel padding", nn.ConstantPad3d((0, 0, 1, 1, 0, 2), 0.0), 10, 12),
    ("stack_interleaved", "stack and unbind", interleaved_stack, 10, 20),
    ("stack_summed", "stack and unbind", lambda x: torch.stack([x, x.relu(), x.tanh()]).sum(0), 10, 10),
    ("stack_max", "stack and unbind", lambda x: torch.stack([x, x.tanh()], -1).max(dim=-1).values, 10, 10),
    ("stack_unbound", "stack and unbind", stack_and_unbind, 10, 10),
    ("stack_in_front_flattened", "stack and unbind", lambda x: torch.stack([x, x.exp()], 1).flatten(1, 2), 6, 12),
))  # fmt: skip

add_rows(family, Between, (
    ("select_one_channel", "slice", lambda x: x[:, 2].unsqueeze(1) + x[:, -1:, :, :] + x.select(1, 4)[:, None], 12, 1),
    ("split_every_channel", "split", lambda x: torch.cat([part * i for i, part in enumerate(x.split(1, 1))], 1), 6, 6),
    ("unbind_every_channel", "stack and unbind", unbind_channels, 6, 6),
    ("slice_added_shifted", "slice", lambda x: x[:, 1:] + x[:, :-1], 12, 11),
    ("differences_of_channels", "slice", lambda x: x.diff(dim=1), 12, 11),
), prunable=())  # fmt: skip

add_rows(family, Tokens, (
    ("slice_last_axis", "slice", lambda x: x[..., :5] * x[..., -5:], 14, 5),
    ("drop_first_token", "slice", lambda x: x[:, 1:] + x[:, :1], 14, 14),
))  # fmt: skip


@family.network("channel padding", image(), prunable=("stem.weight", "inner.weight"), frozen=("head.weight",))
class ParameterFreeShortcut(nn.Module):
    """ResNet's option A: every other pixel, and zero channels on both sides of the shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 3, stride=2, padding=1)
        self.outer = nn.Conv2d(6, 14, 3, padding=1)
        self.head = nn.Linear(14, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 14 // 4, 14 // 4), "constant", 0)
        return self.head(F.relu(shortcut + self.outer(self.inner(x).relu())).mean((-2, -1)))


@family.network("split", image(), prunable=("stem.weight", "transform.weight"), frozen=("head.weight",))
class CrossStagePartial(nn.Module):
    """CSP: a part of the channels goes past the block, and a transition reads both."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 14, 3, padding=1)
        self.transform = nn.Conv2d(9, 11, 3, padding=1)
        self.head = nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        past, through = self.stem(x).split([5, 9], dim=1)
        return self.head(torch.cat([past, self.transform(through).relu()], 1))


@family.network("slice", image(), prunable=("stem.weight",), frozen=("head.weight",))
class Ghost(nn.Module):
    """GhostNet: cheap depthwise features join the primary ones, cut to the wanted width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.cheap = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.wanted = 13
        self.head = nn.Conv2d(13, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        primary = self.stem(x).relu()
        return self.head(torch.cat([primary, self.cheap(primary)], dim=1)[:, : self.wanted, :, :])


@family.network("split", image(), prunable=("to_three.weight",), frozen=("head.weight",))
class RecursiveGates(nn.Module):
    """HorNet's recursive gate: halving widths, each a product of a split part and a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.to_three = nn.Conv2d(3, 3 + 3 + 6 + 12, 1)
        self.depthwise = nn.Conv2d(21, 21, 3, padding=1, groups=21)
        self.steps = nn.ModuleList([nn.Conv2d(3, 6, 1), nn.Conv2d(6, 12, 1)])
        self.head = nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, rest = torch.split(self.to_three(x), (3, 21), dim=1)
        parts = torch.split(self.depthwise(rest), (3, 6, 12), dim=1)
        x = first * parts[0]
        for step, part in zip(self.steps, parts[1:], strict=True):
            x = step(x) * part
        return self.head(x)
