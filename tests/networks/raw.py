"""Parameters and buffers used directly: scales, functional convolution and matmul, einsum."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image, sequence

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)


class WithTensor(nn.Module):
    """A stem, a function of (tensor, raw parameter or buffer), a head of the width that comes out."""

    def __init__(
        self, use: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], out_width: int, buffer: bool = False
    ) -> None:
        super().__init__()
        self.stem, self.use = nn.Conv2d(3, 16, 3, padding=1), use
        if buffer:
            self.register_buffer("raw", torch.ones(shape))
        else:
            self.raw = nn.Parameter(torch.ones(shape))
        self.head = nn.Conv2d(out_width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.use(self.stem(x), self.raw))


class TokensWithTensor(WithTensor):
    """The same on tokens of width 16."""

    def __init__(self, use: Callable[[Tensor, Tensor], Tensor], shape: tuple[int, ...], out_width: int) -> None:
        super().__init__(use, shape, out_width)
        self.stem, self.head = nn.Linear(7, 16), nn.Linear(out_width, 5)


def scaled_by_indexed(x: Tensor, raw: Tensor) -> Tensor:
    """Row 1 scales, row 0 shifts (n, C)."""
    return x * raw[1].view(1, -1, 1, 1) + raw[0, :, None, None]


def standardised_weight(x: Tensor, raw: Tensor) -> Tensor:
    """Weight standardisation: every filter gets mean 0 and deviation 1 before it is used."""
    mean = raw.mean(dim=[1, 2, 3], keepdim=True)
    deviation = raw.view(raw.size(0), -1).std(dim=1).view(-1, 1, 1, 1) + 1e-3
    return F.conv2d(x, (raw - mean) / deviation, padding=1)


def cosine_weight(x: Tensor, raw: Tensor) -> Tensor:
    """Both pixels and filters have length one (cosine classifier)."""
    return F.conv2d(F.normalize(x, dim=1), F.normalize(raw, dim=1))


def blur(x: Tensor, raw: Tensor) -> Tensor:
    """One small kernel is repeated for every channel that the tensor has (BlurPool)."""
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), raw.repeat(x.shape[1], 1, 1, 1), groups=x.shape[1])


def blur_expanded(x: Tensor, raw: Tensor) -> Tensor:
    """The same by expand with a literal width."""
    return F.conv2d(x, raw[None, None].expand(16, 1, -1, -1), stride=2, padding=1, groups=16)


def matmul_per_pixel(x: Tensor, raw: Tensor) -> Tensor:
    """A raw weight (in, out) in a pixelwise matmul."""
    return torch.matmul(x.permute(0, 2, 3, 1), raw).permute(0, 3, 1, 2)


def weight_on_the_left(x: Tensor, raw: Tensor) -> Tensor:
    """A raw weight (out, in) times flat pixels (N, in, H * W)."""
    return (raw @ x.flatten(2)).unflatten(-1, (8, 8))


def weighted_levels(x: Tensor, raw: Tensor) -> Tensor:
    """BiFPN: positive weights, normalised over the levels, indexed one by one."""
    raw = raw.relu() / (raw.relu().sum(dim=0) + 1e-4)
    return raw[0] * x + raw[1] * x.tanh() + raw[2] * x.relu()


ONE = "raw parameter"
Row = tuple[str, str, Callable[[Tensor, Tensor], Tensor], tuple[int, ...], int]
PARAMETERS: tuple[Row, ...] = (
    ("scale_viewed", ONE, lambda x, raw: x * raw.view(1, 16, 1, 1), (16,), 16),
    ("scale_viewed_computed", ONE, lambda x, raw: x + raw.view(1, x.shape[1], 1, 1).tanh(), (16,), 16),
    ("scale_indexed_by_none", ONE, lambda x, raw: raw[None, :, None, None] * x, (16,), 16),
    ("scale_unsqueezed", ONE, lambda x, raw: x.mul(raw.unsqueeze(-1).unsqueeze(-1)), (16,), 16),
    ("scale_expanded", ONE, lambda x, raw: x * raw.expand_as(x), (16, 1, 1), 16),
    ("scale_full_shape", ONE, lambda x, raw: raw * x, (1, 16, 1, 1), 16),
    ("scale_of_every_pixel", ONE, lambda x, raw: x + raw, (16, 8, 8), 16),
    ("scale_scalar", ONE, lambda x, raw: x * raw + x, (), 16),
    ("scale_of_one_row", ONE, scaled_by_indexed, (3, 16), 16),
    ("scale_softmaxed_levels", ONE, weighted_levels, (3,), 16),
    ("scale_concatenated", "cat", lambda x, raw: torch.cat([x, raw.expand(x.size(0), -1, 8, 8)], 1), (1, 4, 1, 1), 20),
    ("scale_of_groups", ONE, lambda x, raw: (x.unflatten(1, (4, 4)) * raw).flatten(1, 2), (1, 4, 1, 1, 1), 16),
    ("convolution_raw", "functional convolution", lambda x, raw: F.conv2d(x, raw, padding=1), (10, 16, 3, 3), 10),
    ("convolution_raw_grouped", "functional convolution", lambda x, raw: F.conv2d(x, raw, groups=4), (12, 4, 1, 1), 12),
    ("convolution_raw_depthwise", "functional convolution",
     lambda x, raw: torch.conv2d(x, raw, None, 1, 1, 1, x.size(1)), (16, 1, 3, 3), 16),
    ("convolution_raw_transposed", "functional convolution",
     lambda x, raw: F.conv_transpose2d(x, raw, stride=2), (16, 10, 2, 2), 10),
    ("convolution_raw_1d", "functional convolution",
     lambda x, raw: F.conv1d(x.flatten(2), raw).unflatten(2, (8, 8)), (10, 16, 1), 10),
    ("convolution_standardised", "functional convolution", standardised_weight, (10, 16, 3, 3), 10),
    ("convolution_cosine", "functional convolution", cosine_weight, (10, 16, 1, 1), 10),
    ("convolution_of_permuted_weight", "functional convolution",
     lambda x, raw: F.conv2d(x, raw.permute(3, 2, 0, 1), padding=1), (3, 3, 16, 10), 10),
    ("matmul_raw", "functional matmul", matmul_per_pixel, (16, 10), 10),
    ("matmul_raw_left", "functional matmul", weight_on_the_left, (10, 16), 10),
    ("matmul_of_low_rank", "functional matmul", lambda x, raw: matmul_per_pixel(x, raw[0] @ raw[1].T), (2, 16, 5), 16),
    ("einsum_pixelwise", "einsum", lambda x, raw: torch.einsum("bchw,oc->bohw", x, raw), (10, 16), 10),
    ("einsum_heads", "einsum", lambda x, raw: torch.einsum("bchw,ckd->bkdhw", x, raw).flatten(1, 2), (16, 3, 4), 12),
    ("einsum_scale", "einsum", lambda x, raw: torch.einsum("nchw,c->nchw", x, raw), (16,), 16),
    ("einsum_ellipsis", "einsum", lambda x, raw: torch.einsum("...hwc,cd->...dhw", x.permute(0, 2, 3, 1), raw),
     (16, 10), 10),
)  # fmt: skip
BUFFERS: tuple[Row, ...] = (
    ("buffer_scale", "raw buffer", lambda x, raw: x * raw.view(1, -1, 1, 1), (16,), 16),
    ("buffer_mean_and_deviation", "raw buffer", scaled_by_indexed, (2, 16), 16),
    ("buffer_mask_multiplied", "raw buffer", lambda x, raw: x * raw.reshape((1, 16, 1, 1)).gt(0), (16,), 16),
    ("buffer_convolution", "raw buffer", lambda x, raw: F.conv2d(x, raw), (10, 16, 3, 3), 10),
    ("buffer_blur_repeated", "depthwise", blur, (1, 1, 3, 3), 16),
    ("buffer_blur_expanded", "depthwise", blur_expanded, (3, 3), 16),
)
TOKEN_PARAMETERS: tuple[Row, ...] = (
    ("linear_raw", "functional matmul", lambda x, raw: F.linear(x, raw).relu(), (10, 16), 10),
    ("linear_by_operator", "functional matmul", lambda x, raw: x @ raw, (16, 10), 10),
    ("linear_by_transpose", "functional matmul", lambda x, raw: torch.matmul(x, raw.t()), (10, 16), 10),
    ("linear_by_addmm", "functional matmul",
     lambda x, raw: torch.addmm(raw[0], x.reshape(-1, 16), raw).view(x.size(0), x.size(1), -1), (16, 16), 16),
    ("linear_batched_heads", "functional matmul",
     lambda x, raw: torch.bmm(x.view(-1, 4, 4).transpose(0, 1), raw).transpose(0, 1).reshape(-1, 6, 20), (4, 4, 5), 20),
    ("einsum_linear", "einsum", lambda x, raw: torch.einsum("bld,do->blo", x, raw), (16, 10), 10),
    ("einsum_outer", "einsum", lambda x, raw: torch.einsum("bld,ld->bld", x, raw), (6, 16), 16),
    ("einsum_spaces", "einsum", lambda x, raw: torch.einsum("n l d, h d k -> n l h k", x, raw).flatten(-2),
     (3, 16, 4), 12),
    ("tensordot_raw", "functional matmul", lambda x, raw: torch.tensordot(x, raw, dims=([2], [1])), (10, 16), 10),
    ("positions_cut_to_length", ONE, lambda x, raw: x + raw[:, : x.size(1)], (1, 9, 16), 16),
    ("layer_scale", ONE, lambda x, raw: x + raw * x.tanh(), (16,), 16),
)  # fmt: skip
# Here a good tool may also freeze: addmm reads one parameter as weight and as bias, tensordot reshapes both sides.
UNSURE = ("linear_by_addmm", "tensordot_raw")

for name, construct, use, shape, out_width in PARAMETERS + BUFFERS:
    build = partial(WithTensor, use, shape, out_width, name.startswith("buffer"))
    family.add(name, construct, build, image(), prunable=STEM, frozen=HEAD)
for name, construct, use, shape, out_width in TOKEN_PARAMETERS:
    build = partial(TokensWithTensor, use, shape, out_width)
    family.add(name, construct, build, sequence(), prunable=() if name in UNSURE else STEM, frozen=HEAD)


@family.network("functional matmul", features(), frozen=HEAD)
class BilinearModule(nn.Module):
    """torch's bilinear layer between two projections."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(7, 10), nn.Linear(7, 6)
        self.pair, self.head = nn.Bilinear(10, 6, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pair(self.left(x).relu(), self.right(x)).relu())


@family.network("raw parameter", image(), prunable=("stem.weight",), frozen=HEAD)
class ParameterList(nn.Module):
    """Scales in a ParameterList and a ParameterDict, used in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 11, 3), nn.Conv2d(11, 5, 1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(11, 1, 1)) for _ in range(2))
        self.more = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(1, 11, 1, 1))})

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for scale in self.scales:
            x = x * scale + self.more["shift"]
        return self.head(x)
