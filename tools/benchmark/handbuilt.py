"""The speed of compiled models against models that were written by hand with the same widths."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import MobileNetV2, mobilenet_v2, resnet18, vgg16_bn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import VGG, cfgs, make_layers

import fxprune
from benchmark.figures import Figure, Section
from benchmark.settings import Settings

TEXT = """\
Seconds of one forward call: a model of torchvision that fxprune pruned, against the same architecture written with
these widths (ResNet-18 and VGG-16 with all of them halved, MobileNet-V2 with `width_mult=0.5`). The hand-built model
takes the pruned one's weights and gives the same numbers; both have the same MACs by `torch.utils.flop_counter`. They
take turns for {patience:.0f} s at each batch size, eager and under `torch.compile`; the ratio is the median of those of
neighbouring calls. Eager ones are {copies} copies of each: by where weights lie in memory, a call takes up to a tenth
longer.\
"""
BOUND = 1.02
COPIES = 4  # of each model, in eager mode
HEADERS = ("model", "MACs", "batch", "mode", "compiled by fxprune", "hand-built", "ratio")


class ResNet18(nn.Module):
    """ResNet-18 of a width, under torchvision's names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3, bias=False)
        self.bn1, self.relu = nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(BasicBlock(width, width), BasicBlock(width, width))
        self.layer2, self.layer3, self.layer4 = (stage(width * scale) for scale in (1, 2, 4))
        self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(width * 8, 1000)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``(N, 3, H, W)`` to ``(N, 1000)``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def stage(width: int) -> nn.Module:
    """Two blocks, the first of which halves the image and doubles the width."""
    shortcut = nn.Sequential(nn.Conv2d(width, 2 * width, 1, stride=2, bias=False), nn.BatchNorm2d(2 * width))
    return nn.Sequential(BasicBlock(width, 2 * width, 2, shortcut), BasicBlock(2 * width, 2 * width))


def vgg16() -> nn.Module:
    """VGG-16 of half width, with batch norms."""
    widths: list[str | int] = [one if isinstance(one, str) else one // 2 for one in cfgs["D"]]
    model = VGG(make_layers(widths, batch_norm=True), init_weights=False)
    layers = [
        nn.Linear(256 * 49, 2048),
        nn.ReLU(True),
        nn.Dropout(),
        nn.Linear(2048, 2048),
        nn.ReLU(True),
        nn.Dropout(),
    ]
    model.classifier = nn.Sequential(*layers, nn.Linear(2048, 1000))
    return model


PAIRS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "resnet18": (resnet18, lambda: ResNet18(32)),
    "mobilenet_v2": (mobilenet_v2, lambda: MobileNetV2(width_mult=0.5)),
    "vgg16_bn": (lambda: vgg16_bn(init_weights=False), vgg16),
}
"""The full model, and one of the widths that it is pruned to."""


def pruned_like(full: nn.Module, small: nn.Module, inputs: torch.Tensor) -> nn.Module:
    """Prune a model to the widths of a smaller one, which then takes the weights.

    Raises:
        RuntimeError: The two do not compute the same at the same cost.
    """
    generator = torch.Generator().manual_seed(0)
    keep = {}
    for group in fxprune.analyze(full, inputs):
        site = group.writers[0]
        count = small.get_parameter(site.parameter).shape[site.dim]
        keep[group.name] = torch.randperm(group.size, generator=generator)[:count].tolist()
    pruned = fxprune.compile(full, fxprune.Plan.from_keep(full, inputs, keep))
    small.load_state_dict(pruned.state_dict())
    with torch.no_grad():
        same = torch.allclose(pruned(inputs), small(inputs), rtol=1e-4, atol=1e-5)
    if not same or macs(pruned, inputs) != macs(small, inputs):
        raise RuntimeError(f"the pruned {type(full).__name__} is not the hand-built one")
    return pruned


def macs(model: nn.Module, inputs: torch.Tensor) -> int:
    """Multiply-accumulates of one call, half of what PyTorch's counter says, on meta tensors."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        copy.deepcopy(model).to("meta")(inputs.to("meta"))
    return int(counter.get_total_flops()) // 2


def race(pairs_of_works: Sequence[Sequence[Callable[[], object]]], patience: float) -> tuple[list[float], float]:
    """Call the two works of each pair in turns, and one pair after the other.

    Returns:
        Their median seconds, and the median ratio of the first to the second in pairs of neighbouring calls.
    """
    pairs = []
    for _ in range(3):
        _ = [work() for works in pairs_of_works for work in works]
    end = time.perf_counter() + patience
    while time.perf_counter() < end or len(pairs) < 5:
        turn, number = divmod(len(pairs), len(pairs_of_works))
        works, order = pairs_of_works[number], (0, 1) if turn % 2 else (1, 0)
        seconds = [0.0, 0.0]
        for place in order:
            start = time.perf_counter()
            works[place]()
            seconds[place] = time.perf_counter() - start
        pairs.append(seconds)
    medians = [statistics.median(column) for column in zip(*pairs, strict=True)]
    return medians, statistics.median(first / second for first, second in pairs)


def handbuilt(settings: Settings) -> Section:
    """Every model at every batch size, eager and compiled."""
    data: dict[str, Any] = {}
    rows, figures = [], []
    for name in settings.built:
        full, small = (build().eval() for build in PAIRS[name])
        pruned = pruned_like(full, small, torch.randn(1, 3, settings.image, settings.image))
        for batch in settings.batches:
            images = torch.randn(batch, 3, settings.image, settings.image)
            for mode in settings.modes:
                medians, ratio = race(_calls((pruned, small), images, mode), settings.patience)
                cost = macs(pruned, images)
                rows.append(
                    (name, f"{cost / 1e6:.0f} M", str(batch), mode, *map(_milliseconds, medians), f"{ratio:.3f}")
                )
                figures.append(Figure(f"{name}, batch {batch}, {mode}, against hand-built", ratio, " x", BOUND))
                data[f"{name}, {batch}, {mode}"] = {"macs": cost, "seconds": medians, "ratio": ratio}
    text, title = TEXT.format(patience=settings.patience, copies=COPIES), "The compiled model against one built by hand"
    return Section("handbuilt", title, text, HEADERS, rows, figures, data)


def _calls(models: Sequence[nn.Module], images: torch.Tensor, mode: str) -> list[list[Callable[[], object]]]:
    torch._dynamo.reset()
    if mode == "compiled":
        ready = [[torch.compile(model, dynamic=False) for model in models]]
    else:
        ready = [copies(models, number) for number in range(COPIES)]

    def call(model: nn.Module) -> object:
        with torch.no_grad():
            return model(images)

    return [[lambda model=model: call(model) for model in pair] for pair in ready]


def copies(models: Sequence[nn.Module], number: int) -> list[nn.Module]:
    """A copy of each model; of those with an odd number the last one is made first."""
    step = -1 if number % 2 else 1
    return [copy.deepcopy(model) for model in models[::step]][::step]


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
