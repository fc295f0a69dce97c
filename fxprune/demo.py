"""The built-in demonstration: train a small network on real digits, prune it, fine-tune it, print one table."""

from __future__ import annotations

import contextlib
import functools
import statistics
import timeit
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate
from torch import nn
from torch.nn import functional as F

import fxprune
from fxprune.count import Count
from fxprune.units import scaled
from fxprune_passes.errors import FxPruneError, explain

CHANNELS = 0.7
TRAIN_EPOCHS = 6
FINE_TUNE_EPOCHS = 3
LATENCY_BATCH = 64


@dataclass(frozen=True)
class Digits:
    """Handwritten digits: images ``(N, 1, 8, 8)`` in [0, 1] and labels ``(N,)``, split once."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


@dataclass(frozen=True)
class Stage:
    """One line of the table.

    Attributes:
        name: What was done last.
        accuracy: Share of the test images that are classified right.
        count: Parameters, MACs of one image, and bytes.
        seconds: Median time of one batch of 64 on one thread.
    """

    name: str
    accuracy: float
    count: Count
    seconds: float


class ResidualBlock(nn.Module):
    """Two convolutions beside a skip, which ties their channels to the ones that come in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Keep the shape ``(N, width, H, W)``."""
        branch = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + branch)


class DigitsNet(nn.Module):
    """A small residual network for images ``(N, 1, 8, 8)``; logits ``(N, 10)``."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.stem_norm = nn.BatchNorm2d(width)
        self.block1 = ResidualBlock(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.down_norm = nn.BatchNorm2d(2 * width)
        self.block2 = ResidualBlock(2 * width)
        self.fc = nn.Linear(2 * width * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Classify a batch of images."""
        x = self.block1(F.relu(self.stem_norm(self.stem(x))))
        x = self.block2(F.relu(self.down_norm(self.down(x))))  # (N, 2 * width, 4, 4)
        logits: torch.Tensor = self.fc(x.flatten(1))
        return logits


def run(seed: int = 0) -> list[Stage]:
    """Train, prune to 70 % of the channels, fine-tune; measure after each.

    Args:
        seed: Of the network's weights and the order of the images.

    Returns:
        The three stages: before, pruned, fine-tuned.

    Raises:
        FxPruneError: scikit-learn, which ships the images, is not installed.
    """
    digits = load_digits()
    example = digits.test_images[:1]
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DigitsNet()
        train(model, digits, epochs=TRAIN_EPOCHS, learning_rate=2e-3)
        plan = fxprune.plan(model, example, channels=CHANNELS, criterion="l2")
        small = fxprune.compile(model, plan)
        accuracies = [accuracy(model, digits), accuracy(small, digits)]
        train(small, digits, epochs=FINE_TUNE_EPOCHS, learning_rate=1e-3)
        accuracies.append(accuracy(small, digits))
        slow, quick = latencies([model, small], digits.test_images[:LATENCY_BATCH])
    before, after = (fxprune.count(network, example) for network in (model, small))
    # Fine-tuning changes weights only: both last stages are one network.
    return [
        Stage("before", accuracies[0], before, slow),
        Stage("pruned", accuracies[1], after, quick),
        Stage("fine-tuned", accuracies[2], after, quick),
    ]


def table(stages: Sequence[Stage]) -> str:
    """Lay out stages, one a line."""
    rows = [
        (
            stage.name,
            f"{stage.accuracy:.1%}",
            scaled(stage.count.params),
            scaled(stage.count.macs),
            scaled(stage.count.bytes, "B"),
            f"{stage.seconds * 1e3:.2f} ms",
        )
        for stage in stages
    ]
    headers = ("", "accuracy", "parameters", "MACs", "bytes", f"latency, batch {LATENCY_BATCH}")
    return tabulate(rows, headers, colalign=("left", *["right"] * 5), disable_numparse=True)


def load_digits() -> Digits:
    """Read scikit-learn's 1797 digits and keep a fifth of them for testing."""
    try:
        from sklearn.datasets import load_digits as read
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise FxPruneError(
            explain(
                "the demo expects scikit-learn, which ships its images; it is not installed.",
                mend='pip install "fxprune[demo]"',
            )
        ) from error
    data = read()
    parts = train_test_split(data.images, data.target, test_size=0.2, random_state=0, stratify=data.target)
    train_images, test_images = (torch.tensor(part, dtype=torch.float32).unsqueeze(1) / 16 for part in parts[:2])
    train_labels, test_labels = (torch.tensor(part, dtype=torch.int64) for part in parts[2:])
    return Digits(train_images, train_labels, test_images, test_labels)


def train(model: nn.Module, digits: Digits, epochs: int, learning_rate: float, batch: int = 64) -> None:
    """Train in place by AdamW; the learning rate falls to nothing over the run. Ends in eval mode."""
    model.train()
    steps = epochs * (len(digits.train_labels) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        order = torch.randperm(len(digits.train_labels))
        for chosen in order.split(batch)[: steps // epochs]:
            loss = F.cross_entropy(model(digits.train_images[chosen]), digits.train_labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, digits: Digits) -> float:
    """Return the share of test images that are classified right."""
    correct = model(digits.test_images).argmax(1) == digits.test_labels
    return float(correct.float().mean())


def latencies(models: Sequence[nn.Module], images: torch.Tensor, rounds: int = 9) -> list[float]:
    """Time models by turns.

    Args:
        models: Networks that take the images.
        images: One batch.
        rounds: Measurements of each model; taken by turns, so that a busy machine hits all alike.

    Returns:
        The median seconds of one call of each model.
    """
    with torch.no_grad():
        calls = [functools.partial(model, images) for model in models]
        measured = [[timeit.timeit(call, number=10) / 10 for call in calls] for _ in range(rounds)]
    return [statistics.median(times) for times in zip(*measured, strict=True)]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: repeatable, and no slower for networks this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
