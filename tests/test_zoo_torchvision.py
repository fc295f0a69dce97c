"""A sample of torchvision beyond classifiers; `python tools/coverage.py torchvision` takes all models of every kind."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
import torchvision

TOOLS = Path(__file__).parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
try:
    TOOL = runpy.run_path(str(TOOLS / "coverage.py"))
    from zoo import torchvision_zoo
finally:
    sys.path.remove(str(TOOLS))

ENTRIES = {entry.name: entry for entry in torchvision_zoo.entries()}
SAMPLE = (
    "fasterrcnn_mobilenet_v3_large_320_fpn", "retinanet_resnet50_fpn",
    "lraspp_mobilenet_v3_large", "quantized_shufflenet_v2_x0_5", "r2plus1d_18", "raft_small",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLE)
def test_a_random_half_is_exact_and_nearly_all_is_reachable(name: str) -> None:
    row = TOOL["attempt"](ENTRIES[name])
    assert row.verdict == "exact"
    assert row.reachable > 0.99
    assert row.left < 0.5


def test_the_zoo_is_all_of_torchvision() -> None:
    assert sorted(ENTRIES) == sorted(torchvision.models.list_models())
    kinds = [entry.kind for entry in ENTRIES.values()]
    counts = {kind: kinds.count(kind) for kind in sorted(set(kinds))}
    assert counts["detection"] == 12
    assert sum(counts.values()) == 121
    assert all(entry.others for entry in ENTRIES.values() if entry.kind == "detection")
