"""Concatenation, in every spelling, and cuts at other places than the seams."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image, joined
from .skeletons import Between, Classified, Tokens, add_rows

family = Family()
BOTH = ("left.weight", "right.weight")
HEAD = ("head.weight",)


class TwoBranches(nn.Module):
    """Two convolutions of different widths and a head; subclasses say how they come together."""

    widths = (7, 9)
    out_width = 16

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, self.widths[0], 1)
        self.right = nn.Conv2d(3, self.widths[1], 3, padding=1)
        self.head = nn.Conv2d(self.out_width, 5, 1)


@family.network("cat", image(), prunable=BOTH, frozen=HEAD)
class CatTwoWidths(TwoBranches):
    """Two widths, joined and read by one convolution behind a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.left(x), self.right(x)], 1)))


@family.network("cat negative dim", image(), prunable=BOTH, frozen=HEAD)
class CatNegativeDim(TwoBranches):
    """Dim -3 of four, by the alias ``concat``; the second time by keywords."""

    widths = (6, 8)
    out_width = 20

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        inner = torch.concat((left, right), dim=-3)
        return self.head(torch.cat(tensors=[inner, left], dim=-3))


@family.network("cat", image(), prunable=BOTH, frozen=HEAD)
class CatThenResidual(TwoBranches):
    """The joined channels are added to a convolution of the whole width."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = nn.Conv2d(3, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.concatenate([self.left(x), self.right(x)], axis=1) + self.whole(x))


@family.network("cat", image(), frozen=HEAD)
class CatThenChunkElsewhere(TwoBranches):
    """7 and 9 channels joined, cut into 8 and 8, added."""

    out_width = 8

    def forward(self, x: Tensor) -> Tensor:
        first, second = torch.cat([self.left(x), self.right(x)], 1).chunk(2, dim=1)
        return self.head(first + second)


@family.network("cat", image(), prunable=BOTH, frozen=HEAD)
class CatThenSplitElsewhere(TwoBranches):
    """7 and 9 channels joined, cut into 3, 11 and 2, joined in another order."""

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = torch.split(torch.cat([self.left(x), self.right(x)], 1), [3, 11, 2], 1)
        return self.head(torch.cat([c, b, a], 1))


@family.network("cat", image(), frozen=HEAD)
class CatAddedToOtherCat(TwoBranches):
    """(7, 9) added to (9, 7): the seams cut each other."""

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.left(x), self.right(x)
        return self.head(torch.cat([left, right], 1) + torch.cat([right, left], 1).relu())


@family.network("cat", image(), prunable=BOTH, frozen=HEAD)
class CatAddedToSplitSeams(TwoBranches):
    """(7, 9) added to (4, 12): pieces of four convolutions tie."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        other = torch.cat([self.narrow(x), self.wide(x)], 1)
        return self.head(torch.cat([self.left(x), self.right(x)], 1) * other)


@family.network("cat after flatten", image(), prunable=BOTH, frozen=HEAD)
class CatAfterFlatten(TwoBranches):
    """Each branch is flattened with its pixels, 4 to a channel on one side and 16 on the other."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(7 * 4 + 9 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        left = F.adaptive_avg_pool2d(self.left(x), 2).flatten(1)
        right = F.max_pool2d(self.right(x), 2).view(x.size(0), -1)
        return self.head(torch.cat((left, right), dim=-1))


@family.network("cat", image(), prunable=BOTH, frozen=HEAD)
class CatBothPoolings(TwoBranches):
    """Mean and maximum pooling of one tensor side by side: it appears twice, under different values."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.left(x), self.right(x)], 1)
        return self.head(torch.hstack([x.mean([2, 3]), torch.amax(x, dim=(2, 3))]))


@family.network("input concatenated", image(), prunable=("left.weight", "right.weight"), frozen=HEAD)
class InputConcatenated(TwoBranches):
    """The input stands between two pruned tensors: the reader's columns shift."""

    out_width = 19

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.left(x), x, self.right(x)], 1))


@family.network("input concatenated", joined(image(3), image(2, seed=1)), prunable=BOTH, frozen=HEAD)
class SecondInputConcatenated(TwoBranches):
    """A condition of two channels is joined to every layer's input."""

    out_width = 11

    def __init__(self) -> None:
        super().__init__()
        self.right = nn.Conv2d(9, 9, 3, padding=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        x = self.right(torch.cat([self.left(x), condition], 1))
        return self.head(torch.cat([condition, x], 1))


def coordinates(x: Tensor) -> Tensor:
    """Join two channels of pixel coordinates (CoordConv)."""
    batch, _, height, width = x.shape
    rows = torch.linspace(-1, 1, height, dtype=x.dtype, device=x.device).view(1, 1, -1, 1)
    columns = torch.linspace(-1, 1, width, dtype=x.dtype, device=x.device).view(1, 1, 1, -1)
    return torch.cat([x, rows.expand(batch, 1, height, width), columns.expand(batch, 1, height, width)], dim=1)


def minibatch_deviation(x: Tensor) -> Tensor:
    """Join one channel of a statistic over everything (StyleGAN's discriminator)."""
    spread = x.std(dim=0, unbiased=False).mean()
    return torch.cat([x, spread.expand(x.shape[0], 1, x.shape[2], x.shape[3])], 1)


add_rows(family, Between, (
    ("cat_same_twice", "cat same twice", lambda x: torch.cat([x, x], 1), 12, 24),
    ("cat_same_three_times", "cat same twice", lambda x: torch.cat([x, x.relu(), x], 1) * 2, 6, 18),
    ("cat_of_both_signs", "cat same twice", lambda x: F.relu(torch.cat([x, -x], dim=1)), 12, 24),
    ("cat_of_halves_swapped", "cat", lambda x: torch.cat([x[:, 7:], x[:, :7]], 1), 12, 12),
    ("cat_with_zeros", "cat", lambda x: torch.cat([x, x.new_zeros(x.size(0), 2, 8, 8)], 1), 12, 14),
    ("cat_with_zeros_in_front", "cat", lambda x: torch.cat([torch.zeros_like(x[:, :3]), x], 1), 12, 15),
    ("cat_of_batches", "cat", lambda x: torch.cat([x, x.flip(3)], 0).chunk(2, dim=0)[1], 12, 12),
    ("cat_of_rows", "cat", lambda x: torch.cat([x, x], dim=2).split(8, dim=2)[0], 12, 12),
    ("coordinates_joined", "cat", coordinates, 12, 14),
))  # fmt: skip

add_rows(family, Between, (
    ("cat_same_twice_cut_elsewhere", "cat same twice", lambda x: torch.cat([x, x], 1)[:, 5:17], 12, 12),
    ("minibatch_deviation_joined", "statistics over channels", minibatch_deviation, 12, 13),
), prunable=())  # fmt: skip

add_rows(family, Classified, (
    ("cat_after_flatten_same_twice", "cat after flatten",
     lambda x: torch.cat([x.flatten(1), x.mean((2, 3)), x.flatten(1)], -1), 10, 330),
))  # fmt: skip

add_rows(family, Tokens, (
    ("cat_of_tokens_and_mean", "cat", lambda x: torch.cat([x, x.mean(1, keepdim=True).expand_as(x)], -1), 14, 28),
))  # fmt: skip
