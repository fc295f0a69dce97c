"""The benchmark: what is held against bounds, who is stopped, and that a run on tiny sizes writes its page."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

TOOLS = Path(__file__).parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
try:
    import bench

    from benchmark import against, children, contest, figures, growth, handbuilt
finally:
    sys.path.remove(str(TOOLS))

SMALL = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval(), torch.zeros(1, 4)


def slow(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    try:
        time.sleep(60)
    except Exception:  # what a work catches must not keep it running
        time.sleep(60)
    return model


def broken(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
    raise RecursionError


def works(monkeypatch: pytest.MonkeyPatch, **named: contest.Work) -> None:
    monkeypatch.setattr(contest, "works", lambda: named)


def test_figures_are_held_against_their_bounds() -> None:
    assert figures.Figure("time", 0.25, " s", 0.25).row == ("time", "0.250 s", "at most 0.250", "yes")
    assert not figures.Figure("time", 0.26, " s", 0.25).holds
    assert figures.Figure("ratio", 4.0, " x", 4, at_least=True).row == ("ratio", "4.000 x", "at least 4.000", "yes")
    assert not figures.Figure("ratio", 3.9, " x", 4, at_least=True).holds


def test_works_take_turns_on_fresh_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []

    def zeroed(who: str) -> contest.Work:
        def work(model: nn.Module, inputs: torch.Tensor) -> nn.Module:
            seen.append((who, int(model.get_parameter("0.weight").count_nonzero())))
            model.get_parameter("0.weight").data.zero_()
            return model

        return work

    works(monkeypatch, a=zeroed("a"), b=zeroed("b"))
    outcomes = contest.take_turns({"small": SMALL}, limit=10, repeats=2)["small"]
    assert seen == [("a", 24), ("b", 24)] * 3
    assert [len(one.seconds) for one in outcomes.values()] == [2, 2]
    assert outcomes["a"].left == 1


def test_who_takes_too_long_is_stopped_and_counts_as_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch, slow=slow, broken=broken, quick=lambda model, inputs: model[0])
    outcomes = contest.take_turns({"1": SMALL, "2": SMALL}, limit=0.1, repeats=1, ascending=True)
    assert list(outcomes["2"]) == ["quick"]  # the others are spared the larger one
    first = outcomes["1"]
    assert (first["slow"].value, first["slow"].failed) == (0.1, "stopped")
    assert (first["broken"].value, first["broken"].failed) == (None, "RecursionError")
    assert first["quick"].left == 30 / 44


def test_what_fails_is_told_and_left_out_of_the_mean() -> None:
    def told(seconds: float, failed: str = "") -> dict[str, Any]:
        return contest.Outcome(seconds, [seconds] if not failed else [], 0.25, failed).plain

    data = {
        "one": {contest.OURS: told(1.0), contest.THEIRS: told(2.0)},
        "two": {contest.OURS: told(1.0), contest.THEIRS: told(8.0, "stopped")},
        "three": {contest.OURS: told(1.0), contest.THEIRS: told(0.0, "KeyError")},
    }
    ratios = {name: ratio for name, one in data.items() if (ratio := against._ratio(one)) is not None}
    assert ratios == {"one": 2.0, "two": 8.0}
    least, mean = against._figures(ratios)
    assert (least.value, least.holds, mean.value, mean.holds) == (2.0, True, pytest.approx(4.0), True)
    assert against._row("two", data["two"])[2:4] == ("> 8 s", "8.0 x")
    assert against._row("three", data["three"])[2:4] == ("fails: KeyError", "")


def test_the_exponent_of_a_power_law() -> None:
    assert growth.slope([(x, 3 * x**1.5) for x in (1, 2, 4, 9)]) == pytest.approx(1.5)
    assert growth.slope([(5, 1.0), (5, 2.0)]) is None


def test_networks_grow_as_they_are_named() -> None:
    assert growth._edges(growth.chain(10)) == 21
    assert (
        growth._edges(growth.Dense(20)) - growth._edges(growth.Dense(19)) == 20 + 1 + 1 + 1
    )  # cat, convolution, relu, the last cat
    small = contest.ours(growth.chain(3), torch.zeros(1, 16, 8, 8))
    shapes = [tuple(parameter.shape) for parameter in small.parameters() if parameter.ndim > 1]
    assert shapes == [(8, 16, 3, 3), (8, 8, 3, 3), (16, 8, 3, 3)]


def test_both_tools_keep_the_outputs_and_half_of_the_rest() -> None:
    outcomes = contest.take_turns({"chain": (growth.chain(3), torch.zeros(1, 16, 8, 8))}, limit=30, repeats=0)["chain"]
    assert [one.failed for one in outcomes.values()] == ["", ""]
    assert outcomes[contest.OURS].left == outcomes[contest.THEIRS].left


@pytest.mark.parametrize("name", ["mobilenet_v2", "vgg16_bn"])
def test_a_model_is_pruned_to_one_that_was_built_by_hand(name: str) -> None:
    full, small = (build().eval() for build in handbuilt.PAIRS[name])
    pruned = handbuilt.pruned_like(full, small, torch.randn(1, 3, 32, 32))  # compares numbers and MACs
    assert sum(one.numel() for one in pruned.parameters()) < 0.6 * sum(one.numel() for one in full.parameters())


def test_a_quick_run_writes_figures_and_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def here(work: str, *arguments: object) -> Any:
        return json.loads(json.dumps(bench.CHILDREN[work](*map(str, arguments))))

    monkeypatch.setattr(against, "in_a_process", here)
    parts = ["against", "copying", "growth", "handbuilt"]
    bench.main(["--quick", "--only", *parts, "--json", str(tmp_path / "figures.json"), "--write", str(tmp_path)])
    read = json.loads((tmp_path / "figures.json").read_text())
    assert list(read) == ["machine", *parts]
    assert read["against"]["data"]["resnet18"][contest.OURS]["left"] == pytest.approx(0.2614, abs=1e-4)
    assert read["growth"]["data"]["chain"]["seconds"][contest.OURS][1][0] == 4
    assert read["machine"]["torch"] == torch.__version__.partition("+")[0]
    printed = capsys.readouterr().out
    assert "Growth with depth and width" in printed
    text = (tmp_path / "benchmarks.md").read_text()
    assert all(f"## {read[part]['title']}" in text for part in parts)
    assert "| resnet18, batch 1, eager, against hand-built |" in " ".join(text.split())
    assert "dense block" in text and "<svg" in (tmp_path / "benchmarks.svg").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the resident memory is read from /proc")
def test_a_process_of_its_own_measures_memory() -> None:
    one = children.in_a_process("memory", contest.OURS, "resnet18", 64, 30.0, 1)
    assert 0 < one["added"] < 200
    assert one["result"] == pytest.approx(12.24, abs=0.1)


def test_sections_of_an_earlier_run_stay_beside_those_measured_anew(tmp_path: Path) -> None:
    file, page = tmp_path / "figures.json", tmp_path / "docs"
    page.mkdir()
    assert bench.main(["--quick", "--only", "copying", "--json", str(file)]) in (0, 1)
    before = json.loads(file.read_text())["copying"]
    assert bench.main(["--quick", "--only", "growth", "--json", str(file), "--write", str(page)]) in (0, 1)
    parts = json.loads(file.read_text())
    assert parts["copying"] == before
    assert list(parts) == ["machine", "copying", "growth"]
    text = (page / "benchmarks.md").read_text()
    assert before["title"] in text and parts["growth"]["title"] in text
