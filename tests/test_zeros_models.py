"""Masked networks of every family become small, exactly, with random statistics and affine parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import randomize
from torch import Tensor, nn
from torch.nn.utils import prune

import fxprune
from fxprune import Plan

EXACT = 1e-12


class LeNet(nn.Module):
    """As the tutorial on pruning writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16 * 5 * 5, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, int(x.nelement() / x.shape[0]))
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


def vgg() -> nn.Module:
    """The features of VGG-11 with batch norm, and a small classifier."""
    features = torchvision.models.vgg11_bn(weights=None, num_classes=10).features
    return nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=3, hidden_dim=48, mlp_dim=96, num_classes=10
    )


@dataclass(frozen=True)
class Masked:
    """A network, the sizes that it takes, and the share of parameters that may be left of it."""

    name: str
    build: Callable[[], nn.Module]
    sizes: tuple[tuple[int, ...], ...]
    left: float

    def __repr__(self) -> str:
        return self.name


def images(*sizes: int) -> Tensor:
    return torch.randn(sizes, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


SIZES = ((2, 3, 64, 64), (1, 3, 96, 80))
NETWORKS = (
    Masked("LeNet", LeNet, ((2, 1, 32, 32), (5, 1, 32, 32)), 0.42),
    Masked("VGG-BN", vgg, SIZES, 0.32),
    Masked("ResNet", lambda: torchvision.models.resnet18(weights=None, num_classes=10), SIZES, 0.55),
    Masked("DenseNet", lambda: torchvision.models.DenseNet(12, (2, 3), 16, num_classes=10), SIZES, 0.41),
    Masked("MobileNet-V2", lambda: torchvision.models.mobilenet_v2(weights=None, num_classes=10), SIZES, 0.43),
    Masked("EfficientNet", lambda: torchvision.models.efficientnet_b0(weights=None, num_classes=10), SIZES, 0.7),
    Masked("ViT", transformer, ((2, 3, 32, 32), (3, 3, 32, 32)), 0.83),
)


def mask(model: nn.Module) -> None:
    """Three of ten filters, two of ten input channels, and a tenth of what is left: stacked."""
    layers = [
        module
        for name, module in model.named_modules()
        if type(module) in (nn.Conv2d, nn.Linear) and not name.startswith(("fc3", "heads", "classifier"))
    ]
    for module in layers:
        if module.weight.shape[0] > 10:
            prune.ln_structured(module, "weight", 0.3, n=2, dim=0)
        if module.weight.shape[1] > 4:
            prune.ln_structured(module, "weight", 0.2, n=2, dim=1)
        prune.l1_unstructured(module, "weight", 0.1)


@pytest.mark.parametrize("network", NETWORKS, ids=repr)
def test_a_masked_network_becomes_small_exactly(network: Masked) -> None:
    torch.manual_seed(0)
    model = network.build().double().eval()
    randomize(model, 0)
    mask(model)
    x, *others = (images(*size) for size in network.sizes)
    plan = Plan.from_zeros(model, x)
    small = fxprune.compile(model, plan)
    with torch.no_grad():
        for one in (x, *others):
            want = model(one)
            assert float((want - small(one)).abs().max() / want.abs().max()) < EXACT
    assert size_of(small) <= network.left * size_of(model)


def size_of(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())
