"""``emit="module"``: a smaller copy of the model's own class, which its own code runs."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import NETWORKS, Network, randomize
from torch import Tensor, nn

import fxprune
from fxprune.analysis import analyse
from fxprune.choices import Keep
from fxprune.modules import Check, fit
from fxprune.plans import make_plan

X = torch.randn(3, 12, generator=torch.Generator().manual_seed(0))


class Heads(nn.Module):
    """Attention over features as people write it: sizes are attributes."""

    def __init__(self, width: int = 12, heads: int = 4) -> None:
        super().__init__()
        self.width, self.heads, self.head_width = width, heads, 6
        self.inside = heads * self.head_width
        self.enter = nn.Linear(12, width)
        self.qkv = nn.Linear(width, 3 * self.inside)
        self.out = nn.Linear(self.inside, width)
        self.head = nn.Linear(width, 5)
        self.scale = self.head_width**-0.5

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(-1, 3, self.heads, self.head_width).unbind(1)
        weights = torch.softmax(self.scale * q @ k.transpose(1, 2), -1)
        return self.out((weights @ v).reshape(-1, self.inside))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        return self.head(x + self.attend(x))


class ByValue(nn.Module):
    """Control flow that depends on the values of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(12, 16)
        self.positive, self.negative = nn.Linear(16, 4), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(x))
        outputs = [self.positive(row) if row.sum() > 25 else self.negative(row) for row in x]
        return torch.stack(outputs)[: max(1, int((x > 0).sum()))]


def built(model: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    randomize(model, 0)
    return model.eval()


def pruned(model: nn.Module, inputs: Any = X, channels: float = 0.5) -> tuple[fxprune.Plan, Any]:
    plan = fxprune.plan(model, inputs, channels=channels, emit="module")
    return plan, fxprune.compile(model, plan)


@pytest.mark.parametrize("network", NETWORKS[::6], ids=[network.name for network in NETWORKS[::6]])
def test_small_networks_are_exact_or_leave_groups_out(network: Network) -> None:
    model, inputs = built(network.build()), network.inputs()
    plan, small = pruned(model, inputs)
    assert type(small) is type(model)
    report = fxprune.verify(model, plan, small, inputs=inputs, tolerance=1e-9)
    assert report.ok, str(report)


def test_attributes_follow_and_methods_stay() -> None:
    model = built(Heads())
    before = copy.deepcopy(model.state_dict()), dict(vars(model))
    plan, small = pruned(model)
    fxprune.verify(model, plan, small, batch_sizes=(1, 7)).raise_if_wrong()
    assert isinstance(small, Heads) and plan.left_out == {}
    assert (small.head_width, small.inside, small.scale) == (3, 12, model.scale)
    assert small.qkv.out_features == 3 * small.inside == len(small.qkv.weight)
    assert small.attend(small.enter(X)).shape == (3, small.enter.out_features)
    assert all(torch.equal(one, model.state_dict()[name]) for name, one in before[0].items())
    assert before[1] == vars(model)


def test_the_copy_trains_and_deep_copies() -> None:
    _, small = pruned(built(Heads()))
    again = copy.deepcopy(small)
    again(X).sum().backward()
    assert all(one.grad is not None for one in again.parameters())
    assert all(one.grad is None for one in small.parameters())


def test_hooks_buffers_and_modes_survive() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3))
    built(model)[3].train()
    model[2].register_forward_hook(lambda module, args, output: 3 * output)
    model.register_buffer("note", torch.arange(4), persistent=False)
    plan, small = pruned(model)
    assert [one.training for one in small.modules()] == [one.training for one in model.modules()]
    assert torch.equal(small.note, model.note) and "note" not in small.state_dict()
    small.eval()
    masked = copy.deepcopy(model).eval()
    removed = [i for i in range(8) if i not in plan.kept("0.weight")[0].tolist()]
    masked[4].weight.data[:, removed] = 0
    assert torch.allclose(small(X), masked(X), atol=1e-6)
    assert not torch.allclose(small(X), pruned(nn.Sequential(*model[:2], nn.ReLU(), *model[3:]))[1](X), atol=1e-3)


def test_control_flow_by_values_is_analysed_on_values() -> None:
    model = built(ByValue())
    examples = 4 * torch.randn(9, 12)
    with pytest.raises(fxprune.CaptureError, match='emit="module"'):
        fxprune.plan(model, examples, channels=0.5)
    plan, small = pruned(model, examples)
    assert len(small.body.weight) == 8
    report = fxprune.verify(model, plan, small, inputs=4 * torch.randn(9, 12), tolerance=1e-12)
    assert report.ok and report.cases[-1].error is not None, str(report)
    small.negative.weight.data[0] += 1
    wrong = fxprune.verify(model, plan, small)
    assert [case.ok for case in wrong.cases] == [False, False], str(wrong)


def test_a_branch_that_the_examples_do_not_reach_is_refused() -> None:
    """Its sizes would depend on channels that nobody saw it read."""
    model = built(ByValue())
    with pytest.raises(fxprune.CaptureError, match=r"^the example inputs do not reach (positive|negative)") as raised:
        fxprune.analyze(model, torch.ones(2, 12), emit="module")
    assert "pass example inputs that reach" in str(raised.value)


class Literal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) + torch.relu(self.second(x)).view(-1, 8)
        return self.last(x)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dim = 8
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).view(-1, self.dim) / math.sqrt(self.dim))


class Counted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(2 * x if x.shape[1] == 8 else x)


@pytest.mark.parametrize("kind", [Literal, Scaled, Counted])
def test_code_that_would_have_to_change_is_refused_by_line_and_group(kind: type[nn.Module]) -> None:
    model = built(kind())
    group = next(iter(fxprune.analyze(model, X))).name
    keep = fxprune.Plan.from_keep(model, X, {group: [0, 2]})
    with pytest.raises(fxprune.PlanError) as raised:
        fxprune.compile(model, keep, emit="module")
    text = str(raised.value)
    assert text.startswith(f'emit="module" keeps the code of {kind.__name__}, and a line of it would have to change')
    assert "test_modules.py:" in text and repr(group) in text and f"leave {group!r} out" in text
    fxprune.verify(model, keep, fxprune.compile(model, keep)).raise_if_wrong()


@pytest.mark.parametrize("kind", [Literal, Scaled, Counted])
def test_a_plan_leaves_such_groups_out_and_says_so(kind: type[nn.Module]) -> None:
    model = built(kind())
    plan, small = pruned(model)
    (name,) = plan.left_out
    assert f"left out: {name}, since test_modules.py:" in str(plan)
    assert len(small.last.weight[0]) == 8
    fxprune.verify(model, plan, small).raise_if_wrong()


def test_a_plan_remembers_what_it_is_for(tmp_path: Path) -> None:
    model = built(Heads())
    plan, small = pruned(model)
    plan.save(tmp_path / "plan.json")
    loaded = fxprune.Plan.load(tmp_path / "plan.json")
    again = fxprune.compile(model, loaded)
    assert (loaded.emit, type(again), again.heads) == ("module", Heads, small.heads)
    assert torch.equal(again(X), small(X))


def test_a_group_without_channels_is_refused() -> None:
    model = built(Heads())
    group = fxprune.analyze(model, X)["enter"].name
    with pytest.raises(fxprune.PlanError, match="keeps no channel, and the code of Heads calls it still"):
        fxprune.compile(model, fxprune.Plan.from_keep(model, X, {group: []}), emit="module")


def test_full_statistics_need_other_code() -> None:
    model = built(nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 3)))
    plan, small = pruned(model)
    assert small[1].normalized_shape == (4,)
    with pytest.raises(fxprune.PlanError, match="would have to change"):
        fxprune.compile(model, plan, statistics="full")


def test_groups_that_full_statistics_need_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).double()
    analysis = analyse(model, X.double(), emit="module")
    half = {group.name: tuple(range(group.size // 2)) for group in analysis.groups}

    def choose(left_out: set[str], check: Check) -> Keep:
        return {name: kept for name, kept in half.items() if name not in left_out}

    assert fit(analysis, model, choose) == (half, {})
    chosen, left_out = fit(analysis, model, choose, "full")
    assert (list(chosen), list(left_out)) == (["2"], ["0"])
    plan = make_plan(model, X.double(), analysis, chosen, left_out)
    small = fxprune.compile(model, plan, emit="module", statistics="full")
    assert fxprune.verify(model, plan, small).ok


def test_groups_that_are_in_the_way_of_what_is_tried_are_left_out() -> None:
    model = nn.Sequential(nn.Linear(12, 8), nn.LayerNorm(8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5)).double()
    analysis, tried = analyse(model, X.double(), emit="module"), list[list[str]]()

    def choose(left_out: set[str], check: Check) -> Keep:
        keep: Keep = {name: (0, 1) for name in ("0", "2") if name not in left_out}
        tried.append(list(keep))
        check(keep)
        return {"2": (0,)}

    chosen, left_out = fit(analysis, model, choose, "full")
    assert tried == [["0", "2"], ["2"]]
    assert (chosen, list(left_out)) == ({"2": (0,)}, ["0"])


def test_an_unknown_emit_is_refused() -> None:
    model = built(Heads())
    with pytest.raises(fxprune.PlanError, match=r"^emit='onnx', expected one of 'graph'"):
        fxprune.compile(model, fxprune.plan(model, X, channels=0.5), emit="onnx")
    with pytest.raises(fxprune.PlanError, match=r"^emit='onnx', expected"):
        fxprune.plan(model, X, channels=0.5, emit="onnx")


class Cached(nn.Module):
    """Keeps a table of an earlier forward, as wide as its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 8), nn.Linear(8, 3)
        self.bias = nn.Parameter(torch.randn(8))
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if "bias" not in self.cache:
            self.cache["bias"] = 2 * self.bias
        return self.last(torch.relu(self.first(x)) + self.cache["bias"])


def test_what_an_earlier_forward_cached_is_computed_anew() -> None:
    model = built(Cached())
    with torch.no_grad():
        model(X)
    plan, small = pruned(model)
    assert small.cache == {} and len(model.cache["bias"]) == 8
    fxprune.verify(model, plan, small).raise_if_wrong()
    assert small(X).shape == (3, 3) and len(small.cache["bias"]) == 4


def test_analysis_for_a_module_finds_the_groups_of_the_graph() -> None:
    model = built(Heads())
    widths = {group.name: group.size for group in analyse(model, X).groups}
    assert {group.name: group.size for group in analyse(model, X, emit="module").groups} == widths
