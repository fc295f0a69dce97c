"""What a benchmark gives: figures held against bounds, tables, and the plain data that they were made of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tabulate import tabulate


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``bound`` is what it must not exceed, or must at least be."""

    name: str
    value: float
    unit: str
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the bound does."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    @property
    def row(self) -> tuple[str, str, str, str]:
        """As a row of the table."""
        sign = "at least" if self.at_least else "at most"
        return self.name, f"{self.value:.3f}{self.unit}", f"{sign} {self.bound:.3f}", "yes" if self.holds else "NO"


@dataclass(frozen=True)
class Section:
    """What one measurement gave.

    Attributes:
        key: Its name on the command line.
        title: Its heading.
        text: What was measured, and how.
        headers: Of the table.
        rows: Of the table.
        figures: Held against bounds.
        data: Numbers by name, for JSON and for the plot.
    """

    key: str
    title: str
    text: str
    headers: Sequence[str]
    rows: Sequence[Sequence[str]]
    figures: Sequence[Figure] = ()
    data: dict[str, Any] = field(default_factory=dict)


def table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, markdown: bool = False) -> str:
    """A table for a terminal, or for a page: the first column left, the others right."""
    rows = list(rows)
    align = ("left", *("right" for _ in headers[1:]))
    return tabulate(
        rows, headers, "pipe" if markdown else "simple", disable_numparse=True, colalign=align if rows else ()
    )


def bounds(sections: Iterable[Section], *, markdown: bool = False) -> str:
    """All bounds of some sections in one table."""
    rows = [figure.row for section in sections for figure in section.figures]
    return table(("", "measured", "bound", "holds"), rows, markdown=markdown)


def geometric_mean(values: Sequence[float]) -> float:
    """The n-th root of the product of n positive values."""
    return math.exp(sum(map(math.log, values)) / len(values))
