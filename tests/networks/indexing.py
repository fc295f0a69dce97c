"""Fixed picks of channels: flip, roll, index_select, gather, scatter, repeat, repeat_interleave."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image
from .skeletons import Between, Classified, add_rows

family = Family()
ORDER = (4, 0, 7, 2, 9, 1, 11, 3, 10, 5, 8, 6)
STEM = ("stem.weight",)
HEAD = ("head.weight",)

add_rows(family, Between, (
    ("flip_method", "flip", lambda x: x.flip(1), 12, 12),
    ("flip_list", "flip", lambda x: torch.flip(x, [1]) * 2, 12, 12),
    ("flip_channels_and_rows", "flip", lambda x: x.flip(dims=(-3, 2)), 12, 12),
    ("flip_twice", "flip", lambda x: x.flip(1).relu().flip(1) + x, 12, 12),
    ("flip_pixels", "flip", lambda x: x + torch.fliplr(x.transpose(1, 2)).transpose(1, 2), 12, 12),
    ("flip_of_a_slice", "flip", lambda x: torch.cat([x[:, :5], x[:, 5:].flip(1)], 1), 12, 12),
    ("roll_channels", "roll", lambda x: torch.roll(x, shifts=3, dims=1), 12, 12),
    ("roll_negative", "roll", lambda x: x.roll(-5, 1).relu(), 12, 12),
    ("roll_channels_and_pixels", "roll", lambda x: x.roll((1, -2, 3), dims=(2, 1, 3)), 12, 12),
    ("roll_back_and_forth", "roll", lambda x: x.roll(4, 1).tanh().roll(-4, 1) + x, 12, 12),
    ("roll_pixels_residual", "roll", lambda x: x + torch.roll(x, (1, 1), (2, 3)), 12, 12),
    ("repeat_channels", "repeat", lambda x: x.repeat(1, 3, 1, 1), 6, 18),
    ("repeat_batch_and_pixels", "repeat", lambda x: x.repeat(2, 1, 1, 2)[: x.shape[0]], 10, 10),
    ("tile_channels", "repeat", lambda x: torch.tile(x, (2, 1, 1)), 8, 16),
    ("repeat_then_cut", "repeat", lambda x: x.repeat(1, 2, 1, 1)[:, 8:], 8, 8),
    ("repeat_interleave_method", "repeat_interleave", lambda x: x.repeat_interleave(2, 1), 8, 16),
    ("repeat_interleave_keyword", "repeat_interleave", lambda x: torch.repeat_interleave(x, repeats=3, dim=-3), 6, 18),
    ("repeat_interleave_pixels", "repeat_interleave", lambda x: x.repeat_interleave(2, dim=2), 10, 10),
    ("index_by_list", "index_select", lambda x: x[:, [0, 5, 2, 11]], 12, 4),
    ("index_by_list_repeated", "index_select", lambda x: x[:, [3, 3, 1, 0, 1]], 12, 5),
    ("index_negative_list", "index_select", lambda x: x[:, [-1, 0, -3]], 12, 3),
))  # fmt: skip

add_rows(family, Between, (
    ("flip_added_to_itself", "flip", lambda x: x + x.flip(1), 12, 12),
    ("flip_odd_width_added", "flip", lambda x: x.flip((1,)) * x, 11, 11),
    ("roll_added_to_itself", "roll", lambda x: x + x.roll(1, 1), 12, 12),
    ("roll_by_half_added", "roll", lambda x: x - torch.roll(x, 6, 1), 12, 12),
    ("repeat_added_to_interleaved", "repeat", lambda x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, 1), 6, 12),
), prunable=())  # fmt: skip

add_rows(family, Classified, (
    ("roll_flattened", "roll", lambda x: x.flatten(1).roll(16, dims=1), 10, 160),
    ("flip_flattened", "flip", lambda x: x.flatten(1).flip(-1), 10, 160),
))  # fmt: skip


class Picked(nn.Module):
    """A convolution of twelve channels and a pick by an index buffer, spelled by a function of (tensor, index)."""

    def __init__(self, pick: Callable[[Tensor, Tensor], Tensor], index: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.pick = pick
        self.register_buffer("index", torch.tensor(index))
        self.head = nn.Conv2d(len(index), 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pick(self.stem(x), self.index))


def along(x: Tensor, index: Tensor) -> Tensor:
    """Spread a vector of channel numbers over all pixels of all examples."""
    return index.view(1, -1, 1, 1).expand(x.shape[0], -1, x.shape[2], x.shape[3])


PICKS: tuple[tuple[str, str, Callable[[Tensor, Tensor], Tensor], tuple[int, ...]], ...] = (
    ("permuted_by_buffer", "index buffer", lambda x, index: x[:, index], ORDER),
    ("permuted_by_buffer_ellipsis", "index buffer", lambda x, index: x[..., index, :, :], ORDER),
    ("picked_by_index_select", "index buffer", lambda x, index: torch.index_select(x, 1, index), (7, 2, 2, 10, 0)),
    ("picked_by_method", "index_select", lambda x, index: x.index_select(dim=1, index=index), (11, 3, 5)),
)
for name, construct, pick, index in PICKS:
    family.add(name, construct, lambda pick=pick, index=index: Picked(pick, index), image(), prunable=STEM, frozen=HEAD)

HARD_PICKS: tuple[tuple[str, Callable[[Tensor, Tensor], Tensor]], ...] = (
    ("permuted_and_back", lambda x, index: x[:, index].relu()[:, torch.argsort(index)] + x),
    ("picked_by_take_along", lambda x, index: torch.take_along_dim(x, index.view(1, -1, 1, 1), dim=1)),
    ("permuted_added_to_itself", lambda x, index: x + x[:, index]),
    ("picked_by_gather", lambda x, index: torch.gather(x, 1, along(x, index))),
    ("placed_by_scatter", lambda x, index: torch.zeros_like(x).scatter(1, along(x, index), x)),
    ("placed_by_index_add", lambda x, index: torch.zeros_like(x).index_add(1, index // 2, x)),
    ("placed_by_index_copy", lambda x, index: x.index_copy(1, index[:4], x[:, 8:])),
    ("filled_by_index", lambda x, index: x.index_fill(1, index[:3], 0.5)),
    ("placed_by_scatter_add", lambda x, index: x.scatter_add(1, along(x, index // 3), x)),
)
for name, pick in HARD_PICKS:
    family.add(name, "index buffer", lambda pick=pick: Picked(pick, ORDER), image(), frozen=HEAD)


@family.network("index buffer", image(), prunable=("stem.weight",), frozen=("head.weight",))
class PickedByMask(nn.Module):
    """A boolean buffer picks channels: what a network-slimming tool leaves in a model (channel selection)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3)
        self.register_buffer("selected", torch.tensor([1, 0, 1, 1, 0, 1, 1, 0, 0, 1], dtype=torch.bool))
        self.head = nn.Conv2d(6, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.stem(x))[:, self.selected])


@family.network("repeat", image(), prunable=("thin.weight",), frozen=("head.weight",))
class RepeatedIntoResidual(nn.Module):
    """A thin tensor is repeated to the width of a wide one and added: channels of the wide one tie in threes."""

    def __init__(self) -> None:
        super().__init__()
        self.thin, self.wide = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 15, 3, padding=1)
        self.head = nn.Conv2d(15, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.thin(x).repeat(1, 3, 1, 1) + self.wide(x))


@family.network("repeat_interleave", image(), prunable=("thin.weight",), frozen=("head.weight",))
class InterleavedIntoGate(nn.Module):
    """Each gate channel serves three neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.thin, self.wide = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 15, 3, padding=1)
        self.head = nn.Conv2d(15, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.sigmoid(self.thin(x)).repeat_interleave(3, dim=1) * self.wide(x))
