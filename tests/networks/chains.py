"""Plain chains, one layer after another: one to three spatial dims, transposed, cast, padded, resampled."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, features, image, random_input, sequence
from .skeletons import Between, add_rows

family = Family()


@family.network("plain chain", image(), prunable=("0.weight", "0.bias", "3.weight"), frozen=("7.weight", "7.bias"))
def sequential_chain() -> nn.Module:
    """Convolutions, a norm and a linear head in one Sequential, with gaps in the numbering of parameters."""
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 20, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(20, 5),
    )  # fmt: skip


@family.network("plain chain", image(), prunable=("conv1.weight", "conv2.weight", "fc1.weight"), frozen=("fc2.weight",))
class FunctionalChain(nn.Module):
    """Layers as modules, everything between them as functions; no bias anywhere but in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, bias=False)
        self.conv2 = nn.Conv2d(6, 11, 3, padding=1, bias=False)
        self.fc1 = nn.Linear(99, 14, bias=False)
        self.fc2 = nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = torch.flatten(F.dropout2d(F.gelu(self.conv2(x)), p=0.2, training=self.training), 1)
        return F.log_softmax(self.fc2(F.dropout(F.relu(self.fc1(x)), training=self.training)), dim=1)


@family.network("plain chain", features(), prunable=("fc1.weight", "fc2.weight"), frozen=("fc3.weight",))
class NotZeroAtZero(nn.Module):
    """Activations that send zero to something else: a removed channel must still leave as zero."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(7, 18)
        self.fc2 = nn.Linear(18, 10)
        self.fc3 = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.fc1(x)) + torch.cos(self.fc1(x))
        return self.fc3(F.softplus(self.fc2(x)).add(1.5).log())


@family.network("plain chain", sequence(), prunable=("wide.weight",), frozen=("head.weight",))
class LinearOnSequences(nn.Module):
    """Linear layers on (N, L, E), with a mean over the sequence before the head."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(7, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.hardswish(self.wide(x)).mean(dim=1))


@family.network("1d", random_input(2, 4, 20), prunable=("0.weight", "3.weight", "5.bias"), frozen=("9.weight",))
def chain_1d() -> nn.Module:
    """Dilated and strided 1d convolutions, a norm, both kinds of pooling."""
    return nn.Sequential(
        nn.Conv1d(4, 10, 5, padding="same", dilation=2), nn.BatchNorm1d(10), nn.ReLU(), nn.Conv1d(10, 14, 3, stride=2),
        nn.MaxPool1d(2), nn.ConvTranspose1d(14, 8, 3), nn.ELU(), nn.AdaptiveMaxPool1d(2), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


@family.network("3d", random_input(2, 2, 4, 6, 6), prunable=("0.weight", "4.weight"), frozen=("7.weight",))
def chain_3d() -> nn.Module:
    """3d convolutions with a kernel of three different sizes, flattened into a linear head."""
    return nn.Sequential(
        nn.Conv3d(2, 6, (1, 3, 3), padding=(0, 1, 1)), nn.BatchNorm3d(6), nn.ReLU(), nn.MaxPool3d((2, 3, 2)),
        nn.Conv3d(6, 9, (2, 1, 2)), nn.AvgPool3d((1, 1, 2)), nn.Flatten(start_dim=1), nn.Linear(18, 4),
    )  # fmt: skip


@family.network("transposed", features(6), prunable=("fc.weight", "up1.bias", "up2.bias"), frozen=("up3.bias",))
class Generator(nn.Module):
    """A vector becomes an image: linear, view to channels and pixels, transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 24 * 2 * 2)
        self.norm = nn.BatchNorm2d(24)
        self.up1 = nn.ConvTranspose2d(24, 14, 3, stride=2, padding=1, output_padding=1)
        self.up2 = nn.ConvTranspose2d(14, 10, 4, stride=2, padding=1, groups=2)
        self.up3 = nn.ConvTranspose2d(10, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.fc(x).view(-1, 24, 2, 2))
        return torch.tanh(self.up3(self.up2(self.up1(x).relu()).relu()))


@family.network("transposed", random_input(2, 3, 4, 4, 4), prunable=("down.weight",), frozen=("up.weight",))
class Autoencoder3d(nn.Module):
    """A transposed 3d convolution that writes the model's output."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv3d(3, 8, 2, stride=2)
        self.up = nn.ConvTranspose3d(8, 2, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.leaky_relu(self.down(x), 0.1))


@family.network("plain chain", image(), prunable=("conv.weight", "deep.weight"), frozen=("head.weight",))
class PoolAndUnpool(nn.Module):
    """Max pooling that hands its indices to an unpooling behind another convolution of the same width."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 10, 3, padding=1)
        self.deep = nn.Conv2d(10, 10, 3, padding=1)
        self.head = nn.Conv2d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, where = F.max_pool2d(self.conv(x), 2, return_indices=True)
        return self.head(F.max_unpool2d(self.deep(x), where, 2))


@family.network("plain chain", image(), frozen=("conv.weight",))
class OutputFromConvolution(nn.Module):
    """One convolution that is the whole model: nothing can go."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@family.network("memory format", image(), prunable=("0.weight", "2.weight"), frozen=("4.weight",))
def channels_last_model() -> nn.Module:
    """Weights in channels_last; what is kept stays in channels_last."""
    model = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 16, 3), nn.Hardswish(), nn.Conv2d(16, 5, 2))
    return model.to(memory_format=torch.channels_last)


@family.network("requires grad", image(), prunable=("0.weight", "2.weight"), frozen=("4.weight",))
def frozen_backbone() -> nn.Module:
    """The first layer is not trained; its slice is not either."""
    model = nn.Sequential(nn.Conv2d(3, 10, 3), nn.ReLU(), nn.Conv2d(10, 14, 3), nn.SiLU(), nn.Conv2d(14, 5, 2))
    model[0].requires_grad_(False)
    return model


def pad_pixels(x: Tensor) -> Tensor:
    """Pad pixels in four ways and crop back with a negative padding."""
    x = F.pad(F.pad(x, (1, 1, 1, 1), mode="reflect"), (1, 0, 0, 1), mode="replicate")
    return F.pad(F.pad(F.pad(x, (1, 1, 1, 1), mode="circular"), (1, 0, 1, 0)), (-3, -3, -3, -3), value=0.0)


def pad_when_needed(x: Tensor) -> Tensor:
    """Pad rows to a multiple of three, by Python's own arithmetic and ``if`` (Swin's windows)."""
    gap = (3 - x.shape[2] % 3) % 3
    if gap > 0:
        x = F.pad(x, (0, 0, 0, gap))
    return x


def resample(x: Tensor) -> Tensor:
    """Go up and down in three ways, one of them with a size read from the tensor."""
    low = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="nearest")
    low = F.interpolate(F.avg_pool2d(low, 2, ceil_mode=True), scale_factor=2.0, mode="bilinear", align_corners=False)
    return F.interpolate(F.adaptive_avg_pool2d(low, (3, 3)), size=x.shape[2:], mode="bicubic")


add_rows(family, Between, (
    ("padding_functions", "plain chain", pad_pixels, 10, 10),
    ("padding_modules", "plain chain",
     nn.Sequential(nn.ReflectionPad2d(1), nn.ZeroPad2d((0, 1, 0, 1)), nn.ReplicationPad2d(2), nn.CircularPad2d(1)),
     10, 10),
    ("padding_when_needed", "computed sizes", pad_when_needed, 10, 10),
    ("resampling_functions", "plain chain", resample, 10, 10),
    ("resampling_modules", "plain chain",
     nn.Sequential(nn.AdaptiveAvgPool2d((4, None)), nn.Upsample(scale_factor=2), nn.LPPool2d(2, 2), nn.Dropout2d(0.1),
                   nn.UpsamplingBilinear2d(size=(5, 7)), nn.MaxPool2d(3, 2, 1, ceil_mode=True)), 10, 10),
    ("linear_along_rows", "plain chain", nn.Sequential(nn.Linear(8, 11), nn.GELU(), nn.Linear(11, 6)), 10, 10),
    ("cast_up_and_back", "dtype", lambda x: x.double().exp().to(x.dtype), 10, 10),
    ("cast_by_other_tensor", "dtype", lambda x: x.to(torch.float64).sin().type_as(x), 10, 10),
    ("comparison_as_float", "dtype", lambda x: (x > 0).float() * x + x.ge(0.5).to(x), 10, 10),
    ("detach_clone_contiguous", "plain chain", lambda x: x.detach().clone().contiguous() * 2 - x, 10, 10),
    ("memory_format_calls", "memory format", lambda x: x.to(memory_format=torch.channels_last).contiguous(), 10, 10),
    ("where_and_masked_fill", "plain chain",
     lambda x: torch.where(x > 0, x, 0.3 * x.square()).masked_fill(x < -1, -1.0), 10, 10),
    ("power_mean_pooling", "plain chain",
     lambda x: F.avg_pool2d(x.clamp(min=1e-3).pow(3), 4).pow(1 / 3), 10, 10),
))  # fmt: skip

# An op that few tools know: it may freeze the channels, as long as the result is right.
add_rows(family, Between, (
    ("fourier_over_pixels", "plain chain", lambda x: torch.fft.ifft2(torch.fft.fft2(x) * 0.5).real, 10, 10),
), prunable=())  # fmt: skip

for padding_mode in ("circular", "reflect"):
    family.add(
        f"convolution_padded_{padding_mode}", "plain chain",
        lambda mode=padding_mode: nn.Sequential(
            nn.Conv2d(3, 9, 3, padding=1, padding_mode=mode), nn.ReLU(),
            nn.Conv2d(9, 13, 3, padding=(1, 2), padding_mode=mode), nn.Conv2d(13, 4, 1),
        ),
        image(), prunable=("0.weight", "2.weight"), frozen=("3.weight",),
    )  # fmt: skip
