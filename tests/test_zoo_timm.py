"""A fixed sample of timm's families through the whole pipeline; `python tools/coverage.py timm` takes all of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))

from coverage import attempt

from zoo import timm_zoo

FAMILIES = (
    "beit", "byobnet", "convnext", "efficientnet", "efficientvit_mit", "fasternet", "hgnet", "mambaout", "maxxvit",
    "metaformer", "mobilenetv3", "nfnet", "resnest", "resnet", "vision_transformer", "vision_transformer_relpos",
)  # fmt: skip
ENTRIES = {entry.kind: entry for entry in timm_zoo.entries()}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_exact_and_nearly_all_of_it_reachable(family: str) -> None:
    row = attempt(ENTRIES[family])
    assert row.verdict == "exact"
    assert row.reachable is not None
    assert row.reachable >= 0.9


def test_every_family_has_a_variant() -> None:
    assert len(ENTRIES) >= 98
    assert [name for name in timm_zoo._SMALLEST if name not in ENTRIES] == []
