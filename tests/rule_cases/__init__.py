"""One row or more for every registered rule, by family."""

from __future__ import annotations

from one_op import Case

from . import (
    contraction,
    factories,
    literals,
    movement,
    normalization,
    pointwise,
    pooling,
    recurrent,
    reduction,
    views,
    vision,
    writing,
)

FAMILIES = (
    contraction,
    factories,
    literals,
    movement,
    normalization,
    pointwise,
    pooling,
    recurrent,
    reduction,
    views,
    vision,
    writing,
)
CASES: tuple[Case, ...] = tuple(case for family in FAMILIES for case in family.CASES)
