"""The demonstration does what its table says, on the real images."""

from __future__ import annotations

import re
import sys

import pytest

from fxprune import demo
from fxprune.cli import main
from fxprune_passes.errors import FxPruneError

# Weights and statistics of the network of width 40, by hand: convolutions, five batch norms' pairs, classifier.
CONVOLUTIONS = 9 * (40 + 2 * 40 * 40 + 40 * 80 + 2 * 80 * 80)
NORMS = 2 * (3 * 40 + 3 * 80)
CLASSIFIER = 80 * 16 * 10 + 10
# The same for 28 of 40 and 56 of 80 channels.
PRUNED = 9 * (28 + 2 * 28 * 28 + 28 * 56 + 2 * 56 * 56) + 2 * (3 * 28 + 3 * 56) + 56 * 16 * 10 + 10


@pytest.mark.slow
def test_demo_prunes_and_recovers() -> None:
    before, pruned, tuned = demo.run()

    assert before.count.params == CONVOLUTIONS + NORMS + CLASSIFIER
    assert pruned.count.params == tuned.count.params == PRUNED
    assert 0.45 < pruned.count.macs / before.count.macs < 0.55
    assert before.accuracy > 0.96
    assert pruned.accuracy < before.accuracy - 0.02
    assert tuned.accuracy > before.accuracy - 0.02


@pytest.mark.slow
def test_demo_prints_one_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["before", "pruned", "fine-tuned"]
    assert all(re.search(r"\d+\.\d% .* M .* MB? .* ms$|\d+\.\d% .* k .* kB .* ms$", line) for line in lines[2:])


def test_demo_without_scikit_learn_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(FxPruneError, match=r'(?s)expects scikit-learn.*pip install "fxprune\[demo\]"'):
        demo.load_digits()
