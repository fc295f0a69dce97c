"""The command line: what it writes loads again, and what it refuses leaves nothing behind."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from torch import nn

import fxprune
from fxprune.cli import FILES, main

MODEL = """
import torch
from torch import nn


class Tiny(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.fc = nn.Linear(24 * 4, 5)

    def forward(self, x):
        x = self.conv2(torch.relu(self.norm(self.conv1(x))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).view(-1, 96))


class Zeroed(Tiny):
    def __init__(self):
        super().__init__()
        with torch.no_grad():
            self.conv1.weight[:4] = 0
            self.conv2.weight[:3] *= 1e-6


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(50, 12)
        self.fc = nn.Linear(12, 5)

    def forward(self, tokens, scale):
        return self.fc(self.embedding(tokens) * scale)


class Grouped(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 12, 1, groups=2), nn.Conv2d(12, 4, 1))


class Factory:
    def build():
        return Tiny()


def number():
    return 3


with torch.random.fork_rng(devices=[]):
    ready = Tiny()
"""
ZEROS = ["prune", "tiny:Zeroed", "--from-zeros", "--input", "2,3,8,8", "--out", "small"]
TARGET = ["prune", "tiny:Tiny", "--input", "2,3,8,8", "--out", "small"]
TINY = ["prune", "tiny:Tiny", "--channels", "0.5", "--input", "2,3,8,8", "--out", "small"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Work in a folder that holds a module ``tiny``; forget the module afterwards."""
    (tmp_path / "tiny.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("tiny", None)


def tiny(seed: int) -> nn.Module:
    """Build the folder's model as the command does."""
    sys.path.insert(0, str(Path.cwd()))
    from tiny import Tiny

    torch.manual_seed(seed)
    model: nn.Module = Tiny().eval()
    return model


def widths(folder: str = "small") -> dict[str, tuple[int, ...]]:
    """Read the shapes of the weights that were written."""
    state = torch.load(Path(folder) / "state_dict.pt", weights_only=True)
    return {name: tuple(tensor.shape) for name, tensor in state.items() if name.endswith("weight")}


def test_prune_writes_the_folder_and_prints_its_report(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TINY) == 0
    printed = capsys.readouterr().out
    assert sorted(path.name for path in (folder / "small").iterdir()) == sorted(FILES)
    assert widths() == {
        "conv1.weight": (8, 3, 3, 3),
        "norm.weight": (8,),
        "conv2.weight": (12, 8, 3, 3),
        "fc.weight": (5, 48),
    }
    report = (folder / "small" / "report.txt").read_text()
    assert report.strip() in printed
    assert "conv1" in report
    assert "MACs" in report
    compile((folder / "small" / "code.py").read_text(), "code.py", "exec")


def test_the_printed_recipe_loads_the_pruned_model() -> None:
    assert main([*TINY, "--seed", "7"]) == 0
    images = torch.randn(3, 3, 8, 8)
    plan = fxprune.Plan.load("small/plan.json")
    expected = fxprune.compile(tiny(seed=7), plan)(images)

    small = fxprune.compile(tiny(seed=8), plan)
    small.load_state_dict(torch.load("small/state_dict.pt"))

    assert not torch.equal(expected, fxprune.compile(tiny(seed=8), plan)(images))
    assert torch.equal(expected, small(images))


@pytest.mark.parametrize("spec", ["tiny:Tiny", "tiny:Factory.build", "tiny:ready"])
def test_any_callable_of_the_working_folder_is_a_model(spec: str) -> None:
    assert main([*TINY[:1], spec, *TINY[2:]]) == 0
    assert widths()["conv1.weight"] == (8, 3, 3, 3)


def test_several_inputs_each_with_its_dtype() -> None:
    inputs = ["--input", "2,7:int64", "--input", "2,7,1"]
    assert main(["prune", "tiny:Tokens", "--channels", "0.25", *inputs, "--out", "small"]) == 0
    assert widths() == {"embedding.weight": (50, 3), "fc.weight": (5, 3)}


def test_ignored_modules_keep_their_width() -> None:
    assert main([*TINY, "--ignore", "conv1"]) == 0
    assert widths()["conv1.weight"] == (16, 3, 3, 3)
    assert widths()["conv2.weight"] == (12, 16, 3, 3)


def test_widths_are_rounded() -> None:
    assert main([*TINY, "--round-to", "16"]) == 0
    assert widths()["conv1.weight"] == (16, 3, 3, 3)
    assert widths()["conv2.weight"][0] == 16


SHARES = [("--params", "params"), ("--macs", "macs"), ("--bytes", "bytes")]


@pytest.mark.parametrize(("flag", "metric"), SHARES)
def test_a_target_is_met(flag: str, metric: str, folder: Path) -> None:
    assert main([*TARGET, flag, "0.5", "--scope", "global", "--round-to", "none"]) == 0
    model, images = tiny(seed=0), torch.zeros(2, 3, 8, 8)
    before, after = fxprune.count(model, images), fxprune.count(fxprune.compile(model, loaded()), images)
    assert 0.48 * getattr(before, metric) <= getattr(after, metric) <= 0.5 * getattr(before, metric)
    assert f"note: {metric}=0.5: " in (folder / "small" / "report.txt").read_text()


def test_a_target_is_a_bound(folder: Path) -> None:
    assert main([*TARGET, "--params", "2.5k"]) == 0
    assert 2000 < sum(math.prod(shape) for shape in widths().values()) <= 2500 + 60  # and statistics of the norm
    assert "note: params=2500: " in (folder / "small" / "report.txt").read_text()


def test_a_latency_is_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXPRUNE_CACHE", str(folder / "measured"))
    assert main([*TARGET, "--latency", "10s", "--timing", "eager"]) == 0
    report = (folder / "small" / "report.txt").read_text()
    assert re.search(r"note: latency=10 s: .* of .*, measured eager on 1 thread", report)
    assert list((folder / "measured").glob("latency-*.json"))


def test_choices_go_to_the_plan() -> None:
    few = ["--min-channels", "9", "--max-drop", "0.9", "--override", "conv1=0.75", "--criterion", "l1"]
    assert main([*TARGET, "--channels", "0.1", *few]) == 0
    assert {name: len(kept) for name, kept in loaded().keep.items()} == {"conv1": 12, "conv2": 9}


@pytest.mark.parametrize(("flags", "blocks"), [([], {"0:1", "1:1"}), (["--no-by-block"], set())])
def test_blocks_keep_the_same_on_demand(flags: list[str], blocks: set[str]) -> None:
    grouped = ["prune", "tiny:Grouped", "--channels", "0.5", "--input", "2,3,8,8", "--out", "small"]
    assert main([*grouped, *flags, "--verify"]) == 0
    assert set(loaded().blocks) == blocks


def loaded() -> fxprune.Plan:
    return fxprune.Plan.load("small/plan.json")


def test_weights_and_dtype_are_the_users() -> None:
    state = tiny(seed=3).state_dict()
    torch.save(state, "weights.pt")
    assert main([*TINY, "--channels", "1.0", "--state-dict", "weights.pt", "--dtype", "float64"]) == 0
    written = torch.load("small/state_dict.pt", weights_only=True)
    assert written["conv1.weight"].dtype == torch.float64
    assert torch.equal(written["conv1.weight"].float(), state["conv1.weight"])


@pytest.mark.parametrize("statistics", ["kept", "full"])
def test_verify_is_part_of_the_report(statistics: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TINY, "--verify", "--statistics", statistics]) == 0
    verdict = f'verified: the compiled graph is the masked original (statistics="{statistics}"'
    assert verdict in (folder / "small" / "report.txt").read_text()
    assert ("statistics='full')" in capsys.readouterr().out) == (statistics == "full")


def test_zeros_are_a_plan_without_a_fraction(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ZEROS, "--verify"]) == 0
    assert widths()["conv1.weight"] == (12, 3, 3, 3)
    assert widths()["conv2.weight"] == (24, 12, 3, 3)
    report = (folder / "small" / "report.txt").read_text()
    assert "constant folded" in report
    assert "verified" in report


def test_small_weights_are_zeros_up_to_a_tolerance(folder: Path) -> None:
    assert main([*ZEROS, "--tolerance", "1e-4", "--verify"]) == 0
    assert widths()["conv2.weight"] == (21, 12, 3, 3)
    assert "at most on the example inputs" in (folder / "small" / "report.txt").read_text()


def test_the_recipe_for_zeros_loads_the_weights_that_have_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ZEROS[:1], "tiny:Tiny", *ZEROS[2:], "--seed", "3"]) == 0
    assert "no channel can go: the model has no zeros" in capsys.readouterr().out
    original = tiny(seed=3)
    with torch.no_grad():
        original.get_parameter("conv1.weight")[2] = 0
    torch.save(original.state_dict(), "weights.pt")

    assert main([*ZEROS[:1], "tiny:Tiny", *ZEROS[2:], "--state-dict", "weights.pt", "--force"]) == 0
    recipe = [line.strip() for line in capsys.readouterr().out.partition("again:\n")[2].splitlines()]
    names = {"fxprune": fxprune, "torch": torch, "model": tiny(seed=4)}
    exec("\n".join(recipe), names)

    images = torch.randn(3, 3, 8, 8)
    assert widths()["conv1.weight"] == (15, 3, 3, 3)
    assert torch.allclose(names["small"](images), original(images), atol=1e-6)


@pytest.mark.parametrize(
    "option",
    [
        ["--ignore", "conv1"],
        ["--criterion", "l1"],
        ["--statistics", "kept"],
        ["--scope", "global"],
        ["--max-drop", "0.5"],
    ],
)
def test_zeros_leave_nothing_to_choose(option: list[str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ZEROS, *option]) == 2
    assert capsys.readouterr().err.startswith(f"PlanError: {option[0]} does not go with --from-zeros.")
    assert not (folder / "small").exists()


@pytest.mark.parametrize("arguments", [[*ZEROS, "--channels", "0.5"], [*ZEROS[:2], *ZEROS[3:]]], ids=["both", "none"])
def test_a_plan_is_of_a_fraction_or_of_zeros(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert "--channels" in capsys.readouterr().err


def test_a_folder_that_is_not_empty_needs_force(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "small").mkdir()
    (folder / "small" / "notes.txt").write_text("mine")
    assert main(TINY) == 2
    assert capsys.readouterr().err.startswith("ArtifactError: --out expects a new or empty folder, got")
    assert main([*TINY, "--force"]) == 0
    assert (folder / "small" / "notes.txt").read_text() == "mine"


REFUSALS = {
    "no such model of torchvision": (["torchvision:resnet51"], "CaptureError: torchvision has .* 'resnet51'"),
    "no colon": (["tiny"], "CaptureError: a model is named as torchvision:NAME or MODULE:CALLABLE, got 'tiny'"),
    "no such module": (["nowhere:Tiny"], "CaptureError: expected an importable module .* got 'nowhere'"),
    "no such callable": (["tiny:Small"], "CaptureError: expected a callable .* got 'Small'"),
    "no model": (["tiny:number"], r"CaptureError: expected tiny:number to return a torch\.nn\.Module .* got int"),
    "needs arguments": (["tiny:nn.Linear"], r"CaptureError: expected tiny:nn\.Linear to return .* got type"),
    "no shape": (["tiny:Tiny", "--input", "2,x"], "CaptureError: an input is described as .* got '2,x'"),
    "no dtype": (["tiny:Tiny", "--input", "2:int63"], "CaptureError: a dtype has a name .* got 'int63'"),
    "fraction above one": (["tiny:Tiny", "--channels", "1.5"], r"PlanError: .*1\.5"),
    "two targets' options": (["tiny:Tiny", "--timing", "compiled"], "PlanError: timing='compiled' and channels= do no"),
    "no rounding": (["tiny:Tiny", "--round-to", "8.5"], "PlanError: --round-to expects a positive .* got '8.5'"),
    "no override": (["tiny:Tiny", "--override", "conv1"], "PlanError: --override expects NAME=FRACTION, got 'conv1'"),
    "no fraction": (["tiny:Tiny", "--channels", "half"], "PlanError: --channels expects a fraction .* got 'half'"),
    "tolerance without zeros": (["tiny:Tiny", "--tolerance", "0.1"], "PlanError: --tolerance does not go with --ch"),
    "unknown criterion": (["tiny:Tiny", "--criterion", "l7"], "PlanError: .*l7"),
    "unknown name": (["tiny:Tiny", "--ignore", "conv9"], "PlanError: .*conv9"),
    "no weights": (["tiny:Tiny", "--state-dict", "gone.pt"], r"ArtifactError: --state-dict expects .* got gone\.pt"),
    "other weights": (["tiny:Tiny", "--state-dict", "other.pt"], r"ArtifactError: --state-dict expects .* other\.pt"),
    "no state dict": (["tiny:Tiny", "--state-dict", "tiny.py"], r"ArtifactError: --state-dict expects .* tiny\.py"),
}


@pytest.mark.parametrize(
    ("flag", "text", "message"),
    [
        ("--macs", "half", "--macs expects a fraction such as 0.5 or a bound such as 10M, got 'half'"),
        ("--params", "-3", "--params expects a fraction such as 0.5 or a bound such as 10M, got '-3'"),
        ("--latency", "5 minutes", "--latency expects a fraction such as 0.5 or a time such as 5ms, got '5 minutes'"),
        ("--latency", "1.5", "latency=1.5, expected a float in (0, 1] that stays or a duration"),
        ("--bytes", "3", "bytes=3 cannot be met: the smallest value that can be reached is"),
    ],
)
def test_what_is_no_target_is_refused(flag: str, text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TARGET, f"{flag}={text}"]) == 2
    assert capsys.readouterr().err.startswith(f"PlanError: {message}")


@pytest.mark.parametrize("name", REFUSALS)
def test_bad_input_is_refused_on_one_line_and_writes_nothing(
    name: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, first_line = REFUSALS[name]
    torch.save({"weight": torch.zeros(1)}, "other.pt")
    defaults = TINY[2:] if "--input" not in arguments else [*TINY[2:4], *TINY[6:]]
    assert main(["prune", *defaults, *arguments]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert re.match(first_line, error.splitlines()[0])
    assert not (folder / "small").exists()


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fxprune {version('fxprune')}\n"


@pytest.mark.slow
def test_the_installed_script_runs_in_a_shell(folder: Path) -> None:
    script = Path(sysconfig.get_path("scripts")) / "fxprune"
    done = subprocess.run([script, *TINY, "--verify"], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "small.load_state_dict" in done.stdout
    refused = subprocess.run([script, *TINY], cwd=folder, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "ArtifactError" in refused.stderr
