"""Every torchvision classification model: a random plan at half width, exact in float64, at two batch sizes.

The models over 100 million parameters, but for the smallest VGG, take long, and some more memory than a test machine
may have; run them by ``pytest -m huge tests/test_torchvision.py``.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
import torchvision
from networks import randomize
from support import random_plan
from torch import nn

import fxprune

_HUGE = (
    "convnext_large", "efficientnet_v2_l", "regnet_x_32gf", "regnet_y_128gf", "regnet_y_32gf", "vgg11", "vgg13",
    "vgg13_bn", "vgg16", "vgg16_bn", "vgg19", "vgg19_bn", "vit_h_14", "vit_l_16", "vit_l_32", "wide_resnet101_2",
)  # fmt: skip
_MODELS = torchvision.models.list_models(module=torchvision.models)


def _build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A model with random weights and norm statistics, and the smallest images that it takes."""
    options: dict[str, Any] = {}
    size = 64
    if name.startswith("vit"):
        size = 56 if name == "vit_h_14" else 64
        options["image_size"] = size
    elif name.startswith("maxvit"):
        size = 224
    elif name == "inception_v3":
        size = 80
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # how the weights of two old models are initialised
        model = torchvision.models.get_model(name, weights=None, **options)
    randomize(model, 0)
    return model.eval(), torch.randn(2, 3, size, size)


def _assert_exact_at_half_width(name: str) -> None:
    model, images = _build(name)
    plan = random_plan(model, images, fraction=0.5)
    small = fxprune.compile(model, plan, statistics="full")
    report = fxprune.verify(model, plan, small, inputs=images, weights=("own",), batch_sizes=(3,), tolerance=1e-9)
    assert report.ok, str(report)
    size = sum(parameter.numel() for parameter in small.parameters())
    assert size < 0.6 * sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", [name for name in _MODELS if name not in _HUGE])
def test_half_of_every_classifier_is_exact(name: str) -> None:
    _assert_exact_at_half_width(name)


@pytest.mark.huge
@pytest.mark.parametrize("name", _HUGE)
def test_half_of_every_huge_classifier_is_exact(name: str) -> None:
    _assert_exact_at_half_width(name)
