"""Reductions over the channel axis: statistics of what is left, and orders and mixtures that freeze it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image, joined
from .skeletons import Between, Tokens, add_rows

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)
STATISTICS = "statistics over channels"
MIXING = "mixing over channels"


def standardised(x: Tensor) -> Tensor:
    """Standardise by ``std_mean`` over channels."""
    spread, mean = torch.std_mean(x, dim=1, keepdim=True)
    return (x - mean) / (spread + 0.1)


def centred_by_counts(x: Tensor) -> Tensor:
    """Centre by a sum over a size that is read at run time: the size is data here, not a shape."""
    return x - (x.sum(1) / x.shape[1]).unsqueeze(1)


def normalised_by_counts(x: Tensor) -> Tensor:
    """A mean of squares written with a literal count and a square root of a size."""
    return x / (x.pow(2).sum(1, keepdim=True) / 12 + 1e-3).sqrt() * x.size(1) ** -0.5


add_rows(family, Between, (
    ("mean_over_channels_as_gate", STATISTICS, lambda x: x * x.mean(dim=1, keepdim=True).sigmoid(), 12, 12),
    ("mean_over_all_but_batch", STATISTICS, lambda x: x - x.mean((1, 2, 3), keepdim=True), 12, 12),
    ("mean_of_everything", STATISTICS, lambda x: x * torch.mean(x), 12, 12),
    ("sum_over_channels", STATISTICS, lambda x: x + torch.sum(x, 1, keepdim=True), 12, 12),
    ("sum_over_channels_divided", STATISTICS, centred_by_counts, 12, 12),
    ("mean_square_by_literals", STATISTICS, normalised_by_counts, 12, 12),
    ("deviation_over_channels", STATISTICS, lambda x: x / (x.std(1, keepdim=True) + 0.1), 12, 12),
    ("variance_over_channels", STATISTICS, lambda x: x * x.var(dim=-3, unbiased=False, keepdim=True), 12, 12),
    ("standardised_over_channels", STATISTICS, standardised, 12, 12),
    ("normalize_over_channels", STATISTICS, lambda x: F.normalize(x, dim=1), 12, 12),
    ("normalize_absolute", STATISTICS, lambda x: F.normalize(x, p=1.0, dim=1, eps=1e-4), 12, 12),
    ("divided_by_norm", STATISTICS, lambda x: x / x.norm(dim=1, keepdim=True), 12, 12),
    ("divided_by_linalg_norm", STATISTICS, lambda x: x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True), 12, 12),
))  # fmt: skip

add_rows(family, Between, (
    ("softmax_over_channels", MIXING, lambda x: x.softmax(dim=1), 12, 12),
    ("log_softmax_over_channels", MIXING, lambda x: F.log_softmax(x, 1), 12, 12),
    ("softmax_module_2d", MIXING, nn.Softmax2d(), 12, 12),
    ("logsumexp_over_channels", MIXING, lambda x: x - torch.logsumexp(x, 1, keepdim=True), 12, 12),
    ("max_over_channels", MIXING, lambda x: x - x.max(dim=1, keepdim=True)[0], 12, 12),
    ("amin_over_channels", MIXING, lambda x: x - x.amin(1, True), 12, 12),
    ("sort_channels", MIXING, lambda x: x.sort(dim=1, descending=True).values, 12, 12),
    ("top_channels", MIXING, lambda x: torch.topk(x, 5, dim=1)[0], 12, 5),
    ("median_of_channels", MIXING, lambda x: x - x.median(1, keepdim=True).values, 12, 12),
    ("cumulative_sum_of_channels", MIXING, lambda x: x.cumsum(1), 12, 12),
    ("cumulative_product_of_channels", MIXING, lambda x: torch.cumprod(x.sigmoid(), dim=1), 12, 12),
    ("largest_channel_number", MIXING, lambda x: x * (x.argmax(1, keepdim=True) % 3), 12, 12),
    ("product_of_channels", MIXING, lambda x: x * x.sigmoid().prod(1, keepdim=True), 12, 12),
    ("fourier_over_channels", MIXING, lambda x: torch.fft.fft(x, dim=1).real, 12, 12),
    ("one_hot_of_channel_number", MIXING,
     lambda x: F.one_hot(x.argmax(1), 12).permute(0, 3, 1, 2).to(x.dtype), 12, 12),
), prunable=(), frozen=("stem.weight", "head.weight"))  # fmt: skip

add_rows(family, Between, (
    ("softmax_over_pixels", "plain chain", lambda x: x.flatten(2).softmax(-1).view(x.shape), 12, 12),
    ("cumulative_sum_over_rows", "plain chain", lambda x: x.cumsum(dim=2), 12, 12),
))  # fmt: skip

add_rows(family, Between, (
    ("sort_pixels", "plain chain", lambda x: x.flatten(2).sort(-1)[0].view_as(x), 12, 12),
), prunable=())  # fmt: skip

add_rows(family, Tokens, (
    ("squeeze_excite_free_of_parameters", STATISTICS, lambda x: x * torch.sigmoid(x.square().mean(-1, True)), 14, 14),
))  # fmt: skip


@family.network(STATISTICS, joined(features(7), features(7, seed=1)), prunable=("fc.weight",), frozen=("out.weight",))
class CosineOfTwoInputs(nn.Module):
    """The same encoder on two inputs, compared by cosine: the axis ends in a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(7, 16), nn.Linear(2, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.fc(x), self.fc(y)
        return self.out(torch.stack([F.cosine_similarity(x, y), (x * y).sum(-1)], dim=1))


@family.network(STATISTICS, joined(features(7), features(7, seed=1)), prunable=("fc.weight",), frozen=("out.weight",))
class DistanceOfTwoInputs(nn.Module):
    """Pairwise distance of two encodings, and a signed difference that goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(7, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        x, y = self.fc(x).relu(), self.fc(y).relu()
        distance = (x - y).pow(2).sum(1, keepdim=True).sqrt()
        return self.out(torch.abs(x - y)) + distance


@family.network(STATISTICS, image(), prunable=STEM, frozen=HEAD)
class SecondOrderPooling(nn.Module):
    """The covariance of channels by bmm: both axes of the product are the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 9, 3), nn.Linear(81, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2)
        covariance = torch.bmm(x, x.transpose(1, 2)) / x.shape[-1]
        return self.head(covariance.flatten(1))


@family.network(STATISTICS, image(), prunable=("left.weight", "right.weight"), frozen=HEAD)
class BilinearPooling(nn.Module):
    """Outer products of two widths, a signed root, a length of one."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 8, 3), nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.einsum("nchw,ndhw->ncd", self.left(x), self.right(x)).reshape(x.shape[0], -1)
        return self.head(F.normalize(x.sign() * (x.abs() + 1e-3).sqrt()))


@family.network(STATISTICS, image(), prunable=("out.weight",), frozen=("head.weight",))
class GramMatrixKeptWhole(nn.Module):
    """A triangle of the Gram matrix is taken by fixed indices: the channels behind it stay."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out, self.head = nn.Conv2d(3, 6, 3), nn.Linear(21, 13), nn.Linear(13, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2)
        gram = x @ x.mT / 36
        rows, columns = torch.triu_indices(6, 6, device=x.device)
        return self.head(self.out(gram[:, rows, columns]).relu())
