"""Normalisation layers: batch, instance, group, layer, RMS, local response; and PReLU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image, random_input
from .skeletons import Between, Classified, Tokens, add_rows

family = Family()
STEM = ("stem.weight",)
HEAD = ("head.weight",)


class Normed(nn.Module):
    """A convolution of twelve channels, a norm, a head."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 12, 3), norm, nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x)).relu())


class NormedPixels(Normed):
    """The same with channels last while the norm runs."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


NORMS: tuple[tuple[str, str, Callable[[], nn.Module]], ...] = (
    ("batch_norm", "batch norm", lambda: nn.BatchNorm2d(12)),
    ("batch_norm_without_affine", "batch norm", lambda: nn.BatchNorm2d(12, affine=False)),
    ("batch_norm_of_the_batch", "batch norm", lambda: nn.BatchNorm2d(12, track_running_stats=False)),
    ("batch_norm_no_momentum", "batch norm", lambda: nn.BatchNorm2d(12, momentum=None, eps=0.1)),
    ("instance_norm", "instance norm", lambda: nn.InstanceNorm2d(12)),
    ("instance_norm_affine", "instance norm", lambda: nn.InstanceNorm2d(12, affine=True)),
    ("instance_norm_tracked", "instance norm", lambda: nn.InstanceNorm2d(12, affine=True, track_running_stats=True)),
    ("group_norm_one_group", "group norm", lambda: nn.GroupNorm(1, 12)),
    ("group_norm_three_groups", "group norm", lambda: nn.GroupNorm(3, 12)),
    ("group_norm_each_channel", "group norm", lambda: nn.GroupNorm(12, 12)),
    ("group_norm_without_affine", "group norm", lambda: nn.GroupNorm(4, 12, affine=False)),
    ("prelu_one_parameter", "prelu", lambda: nn.PReLU()),
    ("prelu_each_channel", "prelu", lambda: nn.PReLU(12)),
)
for name, construct, norm in NORMS:
    family.add(name, construct, lambda norm=norm: Normed(norm()), image(), prunable=STEM, frozen=HEAD)

family.add("local_response_norm", "local response norm", lambda: Normed(nn.LocalResponseNorm(3)), image(), frozen=HEAD)
family.add(
    "layer_norm_of_whole_images", "layer norm", lambda: Normed(nn.LayerNorm((12, 6, 6))), image(),
    prunable=STEM, frozen=HEAD,
)  # fmt: skip

PIXEL_NORMS: tuple[tuple[str, str, Callable[[], nn.Module]], ...] = (
    ("layer_norm_channels_last", "layer norm", lambda: nn.LayerNorm(12, eps=1e-6)),
    ("layer_norm_without_affine", "layer norm", lambda: nn.LayerNorm(12, elementwise_affine=False)),
    ("layer_norm_without_bias", "layer norm", lambda: nn.LayerNorm([12], bias=False)),
    ("rms_norm", "rms norm", lambda: nn.RMSNorm(12)),
    ("rms_norm_without_affine", "rms norm", lambda: nn.RMSNorm(12, eps=1e-3, elementwise_affine=False)),
)
for name, construct, norm in PIXEL_NORMS:
    family.add(name, construct, lambda norm=norm: NormedPixels(norm()), image(), prunable=STEM, frozen=HEAD)

add_rows(family, Between, (
    ("instance_norm_functional", "instance norm", lambda x: F.instance_norm(x), 12, 12),
    ("group_norm_functional", "group norm", lambda x: F.group_norm(x, 4), 12, 12),
    ("group_norm_computed_groups", "group norm", lambda x: F.group_norm(x, num_groups=x.shape[1] // 3), 12, 12),
    ("layer_norm_functional_whole", "layer norm", lambda x: F.layer_norm(x, x.shape[1:]), 12, 12),
))  # fmt: skip
add_rows(family, Between, (
    ("local_response_functional", "local response norm", lambda x: F.local_response_norm(x, 4, alpha=0.1), 12, 12),
), prunable=())  # fmt: skip
add_rows(family, Classified, (
    ("batch_norm_after_flatten", "batch norm", nn.Sequential(nn.Flatten(), nn.BatchNorm1d(160)), 10, 160),
    ("layer_norm_after_flatten", "layer norm", nn.Sequential(nn.Flatten(), nn.LayerNorm(160)), 10, 160),
))  # fmt: skip
add_rows(family, Tokens, (
    ("layer_norm_functional_size", "layer norm", lambda x: F.layer_norm(x, (x.size(-1),)), 14, 14),
    ("layer_norm_functional_literal", "layer norm", lambda x: F.layer_norm(x, normalized_shape=[14], eps=1e-3), 14, 14),
    ("rms_norm_functional", "rms norm", lambda x: F.rms_norm(x, x.shape[-1:]), 14, 14),
))  # fmt: skip


class LayerNorm2d(nn.Module):
    """ConvNeXt's norm over channels first, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class RootMeanSquareNorm(nn.Module):
    """LLaMA's norm, computed in another precision and cast back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = x.double()
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-5)
        return self.weight * y.type_as(x)


class GlobalResponseNorm(nn.Module):
    """ConvNeXt-V2's norm: each channel's energy over the mean energy of all channels (N, H, W, C)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma, self.beta = nn.Parameter(torch.zeros(1, 1, 1, width)), nn.Parameter(torch.zeros(1, 1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        energy = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        share = energy / (energy.mean(dim=-1, keepdim=True) + 1e-6)
        return self.gamma * (x * share) + self.beta + x


family.add("layer_norm_by_hand", "statistics over channels", lambda: Normed(LayerNorm2d(12)), image(),
           prunable=STEM, frozen=HEAD)  # fmt: skip
family.add("rms_norm_by_hand", "rms norm", lambda: NormedPixels(RootMeanSquareNorm(12)), image(),
           prunable=STEM, frozen=HEAD)  # fmt: skip
family.add("global_response_norm", "statistics over channels", lambda: NormedPixels(GlobalResponseNorm(12)), image(),
           prunable=STEM, frozen=HEAD)  # fmt: skip


@family.network("functional batch norm", image(), prunable=STEM, frozen=HEAD)
class FunctionalBatchNorm(nn.Module):
    """Statistics as buffers, scale and shift as parameters, the call as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 1)
        self.register_buffer("mean", torch.zeros(12))
        self.register_buffer("running_var", torch.ones(12))
        self.scale, self.shift = nn.Parameter(torch.ones(12)), nn.Parameter(torch.zeros(12))

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.stem(x), self.mean, self.running_var, self.scale, self.shift, training=False)
        return self.head(F.batch_norm(x, self.mean, self.running_var, eps=0.01).relu())


@family.network("functional batch norm", image(), prunable=STEM, frozen=HEAD)
class BorrowedBatchNorm(nn.Module):
    """A module's statistics are read by a function next to the module itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.head = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, norm = self.stem(x), self.norm
        y = F.batch_norm(x, norm.running_mean, norm.running_var, weight=norm.weight, eps=norm.eps)
        return self.head(y + norm(x.relu()))


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters are standardised by a batch norm over all that is not a filter (NFNet, BiT)."""

    def __init__(self, *args: int, **kwargs: int) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        rows = F.batch_norm(rows, None, None, weight=self.gain.view(-1) * 0.5, training=True, momentum=0.0, eps=1e-3)
        return self._conv_forward(x, rows.reshape_as(self.weight), self.bias)


family.add("standardised_weights", "weight standardisation", lambda: nn.Sequential(
    StandardisedConv2d(3, 8, 3), nn.ReLU(), StandardisedConv2d(8, 12, 3), nn.ReLU(), StandardisedConv2d(12, 5, 1)),
    image(), prunable=("0.weight", "2.weight"), frozen=("4.weight",))  # fmt: skip
family.add("standardised_weights_in_groups", "weight standardisation", lambda: nn.Sequential(
    StandardisedConv2d(3, 8, 3), nn.GELU(), StandardisedConv2d(8, 12, 3, groups=4), nn.SiLU(), nn.Conv2d(12, 5, 1)),
    image(), prunable=("0.weight", "2.weight"), frozen=("4.weight",))  # fmt: skip


@family.network("frozen batch norm", image(), prunable=STEM, frozen=HEAD)
class FrozenBatchNorm(nn.Module):
    """Detection's frozen norm: four buffers folded into a scale and a shift, through reshape(1, -1, 1, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 1)
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((12,), value))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight.reshape(1, -1, 1, 1) * (self.running_var.reshape(1, -1, 1, 1) + 1e-5).rsqrt()
        shift = self.bias.reshape(1, -1, 1, 1) - self.running_mean.reshape(1, -1, 1, 1) * scale
        return self.head(F.relu(self.stem(x) * scale + shift))


@family.network("batch norm", features(), prunable=("0.weight", "3.weight"), frozen=("6.weight",))
def batch_norm_1d() -> nn.Module:
    """Batch norms on feature vectors."""
    return nn.Sequential(nn.Linear(7, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Linear(16, 11, bias=False),
                         nn.BatchNorm1d(11), nn.Tanh(), nn.Linear(11, 3))  # fmt: skip


@family.network("batch norm", random_input(2, 6, 9), prunable=("1.weight",), frozen=("5.weight",))
def batch_norm_on_transposed_sequences() -> nn.Module:
    """A norm, convolutions and an instance norm on (N, C, L), with a linear layer along L that must stay."""
    return nn.Sequential(nn.BatchNorm1d(6), nn.Conv1d(6, 10, 1), nn.InstanceNorm1d(10, affine=True), nn.Linear(9, 8),
                         nn.Softplus(), nn.Conv1d(10, 4, 1))  # fmt: skip


@family.network("group norm", image(), frozen=HEAD)
class GroupNormAfterCat(nn.Module):
    """The seam of the cat lies inside a group of the norm."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 5, 1), nn.Conv2d(3, 7, 1)
        self.norm, self.head = nn.GroupNorm(3, 12), nn.Conv2d(12, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(torch.cat([self.left(x), self.right(x)], 1)))


@family.network("group norm", image(), prunable=STEM, frozen=HEAD)
class GroupNormAfterGroupedConvolution(nn.Module):
    """Two groups of a convolution, four groups of a norm, in-place activation, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 3, padding=1, groups=2)
        self.norm, self.head = nn.GroupNorm(4, 16), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.stem(x))
        return self.head(x + F.silu(self.norm(x), inplace=True))


@family.network("prelu", image(), prunable=STEM, frozen=HEAD)
class FunctionalPrelu(nn.Module):
    """Slopes as raw parameters: one for each channel, then one of shape (1,)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 12, 3), nn.Conv2d(12, 5, 1)
        self.slopes, self.slope = nn.Parameter(torch.full((12,), 0.2)), nn.Parameter(torch.full((1,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.prelu(torch.prelu(self.stem(x), self.slopes) - 0.3, self.slope))
