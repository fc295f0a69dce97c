"""Frames around one operation: a stem that makes prunable channels, the operation, a head that reads what it made.

A family file writes many spellings of one construct as rows of a table, each a short function that goes between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial

from torch import Tensor, nn

from .entry import Family, image, sequence

Middle = Callable[[Tensor], Tensor]
Row = tuple[str, str, Middle, int, int]
STEM = ("stem.weight",)
HEAD = ("head.weight",)


class Between(nn.Module):
    """A convolution to ``width`` channels, the middle, a convolution from ``out_width`` channels."""

    def __init__(self, middle: Middle, width: int, out_width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.middle = copy.deepcopy(middle)
        self.head = nn.Conv2d(out_width, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)))


class Classified(nn.Module):
    """A convolution to ``width`` channels of 4x4 pixels, the middle, a linear head from ``out_width`` features."""

    def __init__(self, middle: Middle, width: int, out_width: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.middle = copy.deepcopy(middle)
        self.head = nn.Linear(out_width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x).relu()))


class Tokens(nn.Module):
    """A linear layer to tokens of ``width``, the middle, a linear head from tokens of ``out_width``."""

    def __init__(self, middle: Middle, width: int, out_width: int) -> None:
        super().__init__()
        self.stem = nn.Linear(7, width)
        self.middle = copy.deepcopy(middle)
        self.head = nn.Linear(out_width, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.stem(x)))


def add_rows(
    family: Family,
    frame: type[nn.Module],
    rows: Iterable[Row],
    prunable: tuple[str, ...] = STEM,
    frozen: tuple[str, ...] = HEAD,
    batch: bool = True,
) -> None:
    """Register every row (name, construct, middle, width, out width) inside the same frame."""
    inputs = sequence() if frame is Tokens else image()
    for name, construct, middle, width, out_width in rows:
        build = partial(frame, middle, width, out_width)
        family.add(name, construct, build, inputs, prunable=prunable, frozen=frozen, batch=batch)
