"""The scripts under tools/, and the library functions that they print."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fxprune
from fxprune.analysis import analyse
from fxprune.changes import Change, diff, table
from fxprune.explain import Loss, explain, tensor_terms
from fxprune_passes.mend import FULL, MENDS, MODULES
from fxprune_passes.rules import RULES

TOOLS = Path(__file__).parent.parent / "tools"
MODEL = """
import torch
from torch import nn


class Three(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.fc = nn.Linear(96, 5)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv1(x)))
        x = nn.functional.max_pool2d(self.conv2(x), 2)
        return self.fc(x.view(-1, 96))
"""
IMAGES = torch.zeros(2, 3, 8, 8)
Run = Callable[..., str]


class Three(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 6, 3, padding=1)
        self.fc = nn.Linear(96, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc(x.view(-1, 96))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Run a script in a folder that holds a module ``three``, and give what it prints."""
    (tmp_path / "three.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def call(script: str, *arguments: str, status: int = 0) -> str:
        assert runpy.run_path(str(TOOLS / script))["main"](list(arguments)) == status
        captured = capsys.readouterr()
        return captured.err if status else captured.out

    yield call
    sys.modules.pop("three", None)


def squeezed(text: str) -> str:
    """Text with runs of spaces cut to one."""
    return re.sub(r" +", " ", text)


def links(loss: Loss) -> tuple[Any, ...]:
    """A loss as plain data: parameter, dim, positions, and the op and module of every link of its chain."""
    chain = [f"{where.op} in {where.module}" for where in loss.chain]
    return loss.site.parameter, loss.site.dim, loss.positions, chain


def test_show_groups_runs_as_a_script_on_a_model_of_torchvision() -> None:
    command = [sys.executable, str(TOOLS / "show_groups.py"), "torchvision:resnet18", "--input", "1,3,64,64"]
    done = subprocess.run([*command, "--tensor", "flatten"], capture_output=True, text=True, check=True)
    printed = squeezed(done.stdout)
    assert "layer2.0.conv1 128 layer2.0.conv1.weight:0, layer2.0.bn1.weight:0" in printed
    assert "model output model output fc.weight:0, fc.bias:0" in printed
    assert "1 512 layer4.0.conv2" in printed


def test_show_groups_tells_the_term_of_any_tensor(run: Run) -> None:
    printed = squeezed(run("show_groups.py", "three:Three", "--input", "2,3,8,8", "--tensor", "view"))
    assert "conv1 8 conv1.weight:0, conv1.bias:0, norm.weight:0, norm.bias:0" in printed
    assert "model input model input x conv1.weight:1" in printed
    assert "1 96 Prod(conv2, 4, 4)" in printed
    printed = squeezed(run("show_groups.py", "three:Three", "--input", "2,3,8,8", "--tensor", "conv2.weight"))
    assert "0 6 conv2" in printed
    assert "1 8 conv1" in printed
    assert re.search(r"3 3 3 aten.convolution in conv2 \(\S*three.py:16\): kernel size", printed)


def test_a_tensor_with_several_outputs_gives_the_axes_of_each() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b = self.fc1(x).chunk(2, 1)
            return self.fc2(a * b)

    rows = tensor_terms(analyse(Halves(), torch.zeros(2, 4)), "chunk")
    assert [(dim, size, term) for dim, size, term, _ in rows] == [(0, 2, "2"), (1, 4, "fc1")] * 2
    assert rows[0][3] == "model input x: model input"


def test_unknown_tensors_are_refused_with_names_that_are_known(run: Run) -> None:
    message = run("show_groups.py", "three:Three", "--input", "2,3,8,8", "--tensor", "conv", status=2)
    assert message.startswith("PlanError: no parameter, buffer or node is called 'conv'.")
    assert "did you mean conv1, conv2" in message


def test_the_chain_of_ties_through_three_layers() -> None:
    (found,) = explain(Three().eval(), IMAGES, "conv1", 5).channels
    assert (found.group, found.channel) == ("conv1", 5)
    norm = ["aten.native_batch_norm in norm"]
    assert [links(loss) for loss in found.losses] == [
        ("conv1.weight", 0, (5,), []),
        ("conv1.bias", 0, (5,), ["aten.convolution in conv1"]),
        ("norm.weight", 0, (5,), norm),
        ("norm.bias", 0, (5,), norm),
        ("norm.running_mean", 0, (5,), norm),
        ("norm.running_var", 0, (5,), norm),
        ("conv2.weight", 1, (5,), ["aten.convolution in conv2"]),
    ]


def test_a_chain_starts_from_any_member() -> None:
    (found,) = explain(Three().eval(), IMAGES, "norm", 5).channels
    chains = {f"{loss.site.parameter}:{loss.site.dim}": links(loss)[3] for loss in found.losses}
    assert chains["norm.weight:0"] == []
    assert chains["conv1.weight:0"] == ["aten.native_batch_norm in norm"]
    assert chains["conv2.weight:1"] == ["aten.native_batch_norm in norm", "aten.convolution in conv2"]


def test_a_channel_takes_its_whole_block_of_a_flattened_axis() -> None:
    (found,) = explain(Three().eval(), IMAGES, "conv2", 2).channels
    assert links(found.losses[-1]) == (
        "fc.weight",
        1,
        tuple(range(32, 48)),
        ["aten.convolution in conv2", "aten.addmm in fc"],
    )


def test_a_position_of_a_product_goes_with_either_factor() -> None:
    class Grouped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 8, 1, bias=False)
            self.conv2 = nn.Conv2d(8, 4, 1, groups=2, bias=False)
            self.conv3 = nn.Conv2d(4, 2, 1, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv3(self.conv2(self.conv1(x)))

    found = explain(Grouped(), IMAGES, "conv1", 6)
    assert found.term == "Prod(conv1:0, conv1:1)"
    groups, width = found.channels
    assert (groups.channel, width.channel) == (1, 2)
    assert {links(loss)[:3] for loss in groups.losses} == {
        ("conv1.weight", 0, (4, 5, 6, 7)),
        ("conv2.weight", 0, (2, 3)),
        ("conv3.weight", 1, (2, 3)),
    }
    assert {links(loss)[:3] for loss in width.losses} == {("conv1.weight", 0, (2, 6)), ("conv2.weight", 1, (2,))}
    (one,) = explain(Grouped(), IMAGES, "conv1:1", 2).channels
    assert {links(loss)[:3] for loss in one.losses} == {links(loss)[:3] for loss in width.losses}


def test_only_the_sites_that_hold_a_channel_lose_it() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.even, self.odd = nn.Linear(4, 8), nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc1(x)
            return self.even(x[:, ::2]) + self.odd(x[:, 1::2])

    (found,) = explain(Halves(), torch.zeros(2, 4), "fc1", 3).channels
    assert [links(loss)[:3] for loss in found.losses] == [
        ("fc1.weight", 0, (3,)),
        ("fc1.bias", 0, (3,)),
        ("odd.weight", 1, (1,)),
    ]


def test_a_frozen_axis_is_explained_by_what_freezes_it() -> None:
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2, self.fc3 = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc3(self.fc1(x) + self.fc2(x).softmax(1))

    found = explain(Frozen(), torch.zeros(2, 4), "fc1")
    assert found.channels == ()
    assert found.frozen is not None
    assert found.frozen.where.op == "aten._softmax"
    assert [(where.op, where.module) for where in found.chain] == [("aten.add", ""), ("aten.addmm", "fc2")]
    text = str(found).splitlines()
    assert text[0] == "every channel of 6, from fc1.weight dim 0 (6, 4)"
    assert text[1].startswith("  tied by aten.add (")
    assert text[2].startswith("  tied by aten.addmm in fc2 (")
    assert text[3].startswith("  frozen by aten._softmax (")


@pytest.mark.parametrize(
    ("arguments", "first"),
    [
        (("conv9",), "no module, parameter or channel group is called 'conv9'."),
        (("conv1", 8), "'conv1' has 8 channels, asked for channel 8."),
        (("conv1", -1), "'conv1' has 8 channels, asked for channel -1."),
    ],
)
def test_what_cannot_be_explained_is_refused(arguments: tuple[Any, ...], first: str) -> None:
    with pytest.raises(fxprune.PlanError, match=f"^{re.escape(first)}"):
        explain(Three().eval(), IMAGES, *arguments)


def test_a_dim_that_a_parameter_does_not_have_is_refused() -> None:
    with pytest.raises(fxprune.PlanError, match=re.escape("'norm.weight' has 1 dims, asked for dim 1.")):
        explain(Three().eval(), IMAGES, "norm.weight", dim=1)


def test_explain_prints_each_part_of_a_chain_once(run: Run) -> None:
    printed = squeezed(run("explain.py", "three:Three", "norm:5", "--input", "2,3,8,8"))
    assert "channel 5 of conv1, from norm.weight dim 0 (8,)" in printed
    assert "channel 5 of group 'conv1': 7 parameter axes" in printed
    assert re.search(r"conv1.weight dim 0 \(8, 3, 3, 3\) 5 aten.native_batch_norm in norm \(\S*three.py:15\)", printed)
    assert re.search(r"conv2.weight dim 1 \(6, 8, 3, 3\) 5 as conv1.weight dim 0, then\n aten.convolution in", printed)
    assert "norm.bias dim 0 (8,) 5 as conv1.weight dim 0\n" in printed


def test_explain_takes_a_dim_and_refuses_in_one_line(run: Run) -> None:
    printed = run("explain.py", "three:Three", "conv1.weight", "--dim", "1", "--input", "2,3,8,8")
    assert printed.endswith("frozen by model input x: model input\n")
    message = run("explain.py", "three:Three", "conv1:8", "--input", "2,3,8,8", status=2)
    assert message.startswith("PlanError: 'conv1' has 8 channels, asked for channel 8.")


def test_the_name_of_a_group_may_hold_a_colon() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, groups=2), nn.Conv2d(4, 2, 1))
    groups = analyse(model, IMAGES).groups
    split_member = runpy.run_path(str(TOOLS / "explain.py"))["split_member"]
    assert [split_member(groups, text) for text in ("0:1", "0:1:2", "0", "0:5")] == [
        ("0:1", None),
        ("0:1", 2),
        ("0", None),
        ("0", 5),
    ]


def changes_of(model: nn.Module, inputs: torch.Tensor, keep: dict[str, list[int]]) -> dict[str, Change]:
    """What a plan changes, by node."""
    plan = fxprune.Plan.from_keep(model, inputs, keep)
    return {change.node: change for change in diff(plan.analysis_of(model), fxprune.compile(model, plan))}


def test_diff_tells_what_happened_to_every_node() -> None:
    changes = changes_of(Three().eval(), IMAGES, {"conv2": [0, 3, 4]})
    assert {name: change.kind for name, change in changes.items()} == {
        "x": "unchanged",
        "conv1": "unchanged",
        "norm": "unchanged",
        "relu": "unchanged",
        "conv2": "sliced",
        "max_pool2d": "sliced",
        "view": "mended",
        "fc": "sliced",
        "output": "unchanged",
    }
    view = changes["view"]
    assert view.literals == (("argument 2", "96", "48"),)
    assert (view.call, view.new_call) == ("view(max_pool2d, -1, 96)", "view(max_pool2d, -1, 48)")
    assert (view.value, view.new_value) == ("(2, 96)", "(2, 48)")
    assert changes["conv2"].literals == (("out_channels", "6", "3"),)
    assert (changes["fc"].value, changes["fc"].new_value) == ("(2, 5)", "(2, 5)")
    assert changes["fc"].literals == (("in_features", "96", "48"),)


def test_diff_names_new_and_removed_nodes() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.fc1(x)
            return self.fc2(x[:, ::2] * x.shape[1] ** -0.5)

    changes = changes_of(Scaled(), torch.zeros(2, 4), {"fc1": [0, 1, 3, 4, 6]})
    kinds = {name: change.kind for name, change in changes.items()}
    assert kinds["getitem"] == "mended"
    assert [name for name, kind in kinds.items() if kind == "removed"] == ["getattr_1", "getitem_1", "pow_1"]
    new = [change for change in changes.values() if change.kind == "new"]
    assert [change.new_call.partition("(")[0] for change in new] == ["getitem_index", "index_select"]
    assert new[1].new_value == "(2, 3)"
    assert changes["mul"].literals == (("argument 1", "pow_1", str(8**-0.5)),)
    order = [change.node for change in changes.values()]
    assert order.index("fc1") < order.index(new[0].node) < order.index("getitem") < order.index("pow_1")


def test_a_graph_that_changes_nothing_has_no_changes() -> None:
    model = Three().eval()
    plan = fxprune.Plan.from_keep(model, IMAGES, {})
    changes = diff(plan.analysis_of(model), fxprune.compile(model, plan))
    assert {change.kind for change in changes} == {"unchanged"}
    assert table(changes).endswith("9 nodes: 9 unchanged, 0 sliced, 0 mended, 0 new, 0 removed")


def test_diff_refuses_a_graph_of_another_model() -> None:
    model, other = Three().eval(), nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    small = fxprune.compile(other, fxprune.plan(other, torch.zeros(2, 4), channels=0.5))
    with pytest.raises(fxprune.VerifyError, match="the compiled graph does not run on the example inputs"):
        diff(analyse(model, IMAGES), small)


def test_diff_leaves_the_compiled_graph_as_it_was() -> None:
    model = Three().eval()
    plan = fxprune.plan(model, IMAGES, channels=0.5)
    small = fxprune.compile(model, plan)
    code, owner = small.code, small.graph.owning_module
    diff(plan.analysis_of(model), small)
    assert small.code == code
    assert small.graph.owning_module is owner
    assert small(torch.ones(3, 3, 8, 8)).shape == (3, 5)


def test_diff_graphs_shows_mended_literals_and_a_summary(run: Run) -> None:
    printed = squeezed(run("diff_graphs.py", "three:Three", "--channels", "0.5", "--input", "2,3,8,8"))
    assert "mended view argument 2: 96 -> 48 (2, 96) -> (2, 48)" in printed
    assert "sliced conv2 in_channels: 8 -> 4, out_channels: 6 -> 3 (2, 6, 8, 8) -> (2, 3, 8, 8)" in printed
    assert "unchanged x" not in printed
    assert printed.endswith("9 nodes: 2 unchanged, 6 sliced, 1 mended, 0 new, 0 removed\n")


def test_diff_graphs_reads_a_saved_plan(run: Run) -> None:
    fxprune.Plan.from_keep(Three().eval(), IMAGES, {"conv1": [1, 2]}).save("plan.json")
    printed = squeezed(run("diff_graphs.py", "three:Three", "--plan", "plan.json", "--input", "2,3,8,8", "--all"))
    assert "sliced conv1 out_channels: 8 -> 2 (2, 8, 8, 8) -> (2, 2, 8, 8)" in printed
    assert "unchanged x (2, 3, 8, 8)" in printed
    message = run("diff_graphs.py", "three:Three", "--plan", "none.json", "--input", "2,3,8,8", status=2)
    assert message.startswith("ArtifactError: cannot read the plan 'none.json'")


def test_list_rules_lists_every_registered_op_once(run: Run) -> None:
    rules, mends = run("list_rules.py", "--markdown").split("pointwise ones\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rules.splitlines() if line.startswith("|")]
    names = [name for family, ops, _ in rows[2:] if "torch.Tag.pointwise" not in ops for name in ops.split(", ")]
    assert sorted(names) == sorted(map(str, RULES))
    assert f"{len(RULES)} ops with {len(set(RULES.values()))} rules" in rules
    assert rules.count("torch.Tag.pointwise") == 1
    assert [cell for row in rows if "aten.convolution," in row[1] for cell in (row[0], *row[1].split(", "))] == [
        "contraction",
        "aten.convolution",
        "aten.convolution_overrideable",
    ]
    assert f"{len(MENDS)} functions and methods, {len(MODULES)} leaf modules, {len(FULL)} with full" in mends
    for name in ("x.view", "F.pad", "torch.roll", "operator.getitem", "nn.Conv2d"):
        assert re.search(rf"[ |]{re.escape(name)}[, ]", mends), name


def test_list_rules_wraps_its_table_for_a_terminal(run: Run) -> None:
    printed = run("list_rules.py")
    assert "aten.convolution" in printed
    assert max(map(len, printed.splitlines())) < 160
