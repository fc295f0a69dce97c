"""Channel shuffle, pixel shuffle and pixel unshuffle, by view, by module and by function."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image
from .skeletons import Between, add_rows

family = Family()
HEAD = ("head.weight",)


def shuffle(x: Tensor, groups: int = 2) -> Tensor:
    """Shuffle channels by view and transpose (ShuffleNet)."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


@family.network("channel shuffle", image(), frozen=HEAD)
class ShuffleUnit(nn.Module):
    """ShuffleNet-V2: half goes past, half through a depthwise branch, then cat and shuffle; two units in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 5, 1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1))
            for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            past, through = x.chunk(2, dim=1)
            x = shuffle(torch.cat((past, branch(through)), dim=1))
        return self.head(x)


def shuffle_and_split(x: Tensor) -> Tensor:
    """Shuffle, cut unevenly, swap the parts."""
    first, second = shuffle(x, 3).split([5, 7], 1)
    return torch.cat([second, first.relu()], 1)


add_rows(family, Between, (
    ("shuffle_by_view", "channel shuffle", lambda x: shuffle(x, 3), 12, 12),
    ("shuffle_by_module", "channel shuffle", nn.ChannelShuffle(4), 12, 12),
    ("shuffle_by_function", "channel shuffle", lambda x: F.channel_shuffle(x, 2).relu(), 12, 12),
    ("shuffle_and_back", "channel shuffle", lambda x: x + shuffle(shuffle(x, 3), 4), 12, 12),
    ("shuffle_by_literals", "channel shuffle",
     lambda x: x.reshape(-1, 2, 6, 8, 8).permute(0, 2, 1, 3, 4).flatten(1, 2), 12, 12),
    ("pixel_shuffle_module", "pixel shuffle", nn.PixelShuffle(2), 24, 6),
    ("pixel_shuffle_function", "pixel shuffle", lambda x: F.pixel_shuffle(x, 2).relu(), 24, 6),
    ("pixel_shuffle_by_view", "pixel shuffle",
     lambda x: x.view(-1, 6, 2, 2, 8, 8).permute(0, 1, 4, 2, 5, 3).reshape(-1, 6, 16, 16), 24, 6),
    ("pixel_unshuffle_module", "pixel unshuffle", nn.PixelUnshuffle(4), 6, 96),
    ("pixel_unshuffle_by_view", "pixel unshuffle",
     lambda x: x.view(-1, 6, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(-1, 24, 4, 4), 6, 24),
    ("pixel_unshuffle_and_shuffle", "pixel unshuffle",
     lambda x: F.pixel_shuffle(F.pixel_unshuffle(x, 2).tanh(), 2) * x, 6, 6),
))  # fmt: skip

add_rows(family, Between, (
    ("shuffle_then_uneven_split", "channel shuffle", shuffle_and_split, 12, 12),
    ("shuffle_added_to_itself", "channel shuffle", lambda x: x + shuffle(x, 2), 12, 12),
), prunable=())  # fmt: skip


@family.network("pixel shuffle", image(), prunable=("0.weight",), frozen=("4.weight",))
def super_resolution() -> nn.Module:
    """ESPCN: the shuffle writes the output, so twelve channels leave as three."""
    return nn.Sequential(nn.Conv2d(3, 14, 3, padding=1), nn.Tanh(), nn.Conv2d(14, 9, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(9, 12, 3, padding=1), nn.PixelShuffle(2))  # fmt: skip
