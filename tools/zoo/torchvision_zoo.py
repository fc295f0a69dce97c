"""Every torchvision model of every kind, on the smallest inputs that it takes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torchvision
from torch import nn

from zoo import Entry, randomize

# Kinds by the package that a model's builder comes from.
_KINDS = ("segmentation", "detection", "video", "optical_flow", "quantization")
_IMAGE = {"vit_h_14": 56, "inception_v3": 80, "quantized_inception_v3": 80, "maxvit_t": 224}
_CLIP = {"mvit_v1_b": (16, 224), "mvit_v2_s": (16, 224), "s3d": (16, 224)}


def entries() -> Iterator[Entry]:
    """Every model that torchvision lists."""
    for name in torchvision.models.list_models():
        kind = _kind(name)
        yield Entry(name, kind, partial(_build, name, kind), _others(kind))


def _others(kind: str) -> tuple[Any, ...]:
    if kind != "detection":
        return ()
    generator = torch.Generator().manual_seed(1)
    return (([torch.rand(3, height, width, generator=generator) for height, width in ((140, 100), (64, 90))],),)


def _kind(name: str) -> str:
    home = torchvision.models.get_model_builder(name).__module__
    return next((kind for kind in _KINDS if f".{kind}." in home), "classification")


def _build(name: str, kind: str) -> tuple[nn.Module, Any]:
    options: dict[str, Any] = {"weights": None}
    if name.startswith("vit"):
        options["image_size"] = _IMAGE.get(name, 64)
    if kind in ("segmentation", "detection"):
        options["weights_backbone"] = None
    if kind == "detection" and "ssd" not in name:
        options.update(min_size=96, max_size=160)
    if "rcnn" in name:
        options["box_score_thresh"] = 0.0  # with random weights, no score is high
    if kind == "quantization":
        options["quantize"] = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # how the weights of two old models are initialised
        model = torchvision.models.get_model(name, **options)
    randomize(model)
    return model.eval(), _inputs(name, kind)


def _inputs(name: str, kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "video":
        frames, size = _CLIP.get(name, (8, 64))
        return torch.randn(2, 3, frames, size, size)
    if kind == "optical_flow":
        return torch.randn(2, 3, 128, 128), torch.randn(2, 3, 128, 128)
    if kind == "detection":
        return ([torch.rand(3, 96, 128), torch.rand(3, 120, 80)],)
    size = _IMAGE.get(name, 64)
    return torch.randn(2, 3, size, size)
