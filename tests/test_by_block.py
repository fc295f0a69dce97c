"""Plans that keep other channels in each block: chosen, named by hand, saved, refused, and all that follows a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import randomize
from support import assert_exact, plan_by_block
from torch import Tensor, nn
from torch.nn import functional as F

import fxprune
from fxprune.criteria import NAMES, OF_WEIGHTS
from fxprune_passes.errors import ArtifactError, PlanError
from fxprune_passes.groups import ChannelGroup

X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """A grouped convolution between two plain ones: two groups of 8 channels in and 6 out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 1), nn.Conv2d(12, 5, 1)
        self.middle, self.norm = nn.Conv2d(16, 12, 3, padding=1, groups=2), nn.BatchNorm2d(12)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.middle(self.first(x).relu())).relu()).mean((2, 3))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    model = Net()
    randomize(model, seed)
    return model.eval()


KEEP = {"first:1": ((0, 2, 5), (1, 2, 7)), "middle:1": ((0, 1), (4, 5))}


def by_hand(model: Net) -> fxprune.Plan:
    return fxprune.Plan.from_keep(model, X.to(model.first.weight.dtype), KEEP)


def zeroed(model: Net) -> Net:
    """The original with the weights of removed channels zero, told channel by channel."""
    with torch.no_grad():
        for block in range(2):
            for channel in set(range(8)) - set(KEEP["first:1"][block]):
                model.first.weight[block * 8 + channel] = 0
                model.first.bias[block * 8 + channel] = 0  # type: ignore[index]
                model.middle.weight[block * 6 : block * 6 + 6, channel] = 0
            for channel in set(range(6)) - set(KEEP["middle:1"][block]):
                model.last.weight[:, block * 6 + channel] = 0
    return model


def test_compiled_by_hand_is_what_zeros_compute() -> None:
    model = net().double()
    small = fxprune.compile(model, by_hand(model))
    torch.testing.assert_close(small(X.double()), zeroed(net().double())(X.double()), rtol=1e-12, atol=1e-12)
    assert small.get_parameter("middle.weight").shape == (4, 3, 3, 3)
    for block, rows in enumerate(KEEP["middle:1"]):
        for place, row in enumerate(rows):
            want = model.middle.weight[block * 6 + row][list(KEEP["first:1"][block])]
            assert torch.equal(small.get_parameter("middle.weight")[block * 2 + place], want)


def test_attention_by_head_is_what_zeros_compute() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(12, 3, batch_first=True).double().eval()

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x, x, x, need_weights=False)[0]

    x, outer = torch.randn(2, 5, 12, dtype=torch.float64), Attention()
    groups = {group.name: group.size for group in fxprune.analyze(outer, x)}
    widths = [name for name, size in groups.items() if size == 4]
    keep = dict.fromkeys(widths, ((0, 1), (1, 3), (0, 2)))
    small = fxprune.compile(outer, fxprune.Plan.from_keep(outer, x, keep))
    for head, kept in enumerate(((0, 1), (1, 3), (0, 2))):
        for channel in set(range(4)) - set(kept):
            for part in range(3):
                model.in_proj_weight.data[part * 12 + head * 4 + channel] = 0
                model.in_proj_bias.data[part * 12 + head * 4 + channel] = 0
    torch.testing.assert_close(small(x), outer(x), rtol=1e-12, atol=1e-12)


def important(model: Net) -> None:
    """Make channels 1 and 6 matter in the first group, 0 and 3 in the second."""
    with torch.no_grad():
        model.first.weight.mul_(0.01)
        for channel in (1, 6, 8, 11):
            model.first.weight[channel] = 1.0


def test_each_block_keeps_what_matters_in_it() -> None:
    model = net()
    important(model)
    plan = fxprune.plan(model, X, channels=0.25, criterion="l2", ignore=("middle",))
    assert plan.keep == {"first:1": ((1, 6), (0, 3))}
    same = fxprune.plan(model, X, channels=0.25, criterion="l2", ignore=("middle",), by_block=False)
    assert same.blocks == {} and len(same.keep["first:1"]) == 2
    assert_exact(model, plan, fxprune.compile(model, plan), X)


def mine(group: ChannelGroup) -> Tensor:
    scores = torch.zeros(group.size)
    for site in group.writers:
        if site.tensor.ndim > 1:
            others = [dim for dim in range(site.tensor.ndim) if dim != site.dim]
            scores += group.per_channel(site, site.tensor.detach().abs().sum(others))
    return scores


def test_a_criterion_of_ones_own_sees_one_group_of_all_blocks() -> None:
    model, seen = net(), dict[str, tuple[int, int]]()

    def watched(group: ChannelGroup) -> Tensor:
        seen[group.name] = group.size, group.blocks
        return mine(group)

    plan = fxprune.plan(model, X, channels=0.5, criterion=watched)
    assert seen == {"first:1": (16, 2), "middle:1": (12, 2)}
    assert plan.keep == fxprune.plan(model, X, channels=0.5, criterion="l1").keep


@pytest.mark.parametrize("name", NAMES)
def test_every_criterion_ranks_within_each_block(name: str) -> None:
    """Blocks that change places take their kept channels with them."""
    model, data = net(), [(X, torch.randn(4, 5, generator=torch.Generator().manual_seed(1)))]
    options: dict[str, Any] = {} if name in OF_WEIGHTS else {"batches": data}
    options |= {"loss": F.mse_loss} if name in ("taylor", "hessian") else {}
    plan = fxprune.plan(model, X, channels=0.5, criterion=name, **options)
    assert plan.keep and plan.blocks
    assert_exact(model, plan, fxprune.compile(model, plan), X)
    if name in ("random", "lamp"):
        return
    swapped = net()
    with torch.no_grad():
        for tensor in (swapped.first.weight, swapped.first.bias, swapped.middle.weight, swapped.middle.bias):
            tensor.copy_(tensor.unflatten(0, (2, -1)).flip(0).flatten(0, 1))
        for tensor in swapped.norm.state_dict().values():
            if tensor.ndim:
                tensor.copy_(tensor.unflatten(0, (2, -1)).flip(0).flatten(0, 1))
        swapped.last.weight.copy_(swapped.last.weight.unflatten(1, (2, -1)).flip(1).flatten(1, 2))
    other = fxprune.plan(swapped, X, channels=0.5, criterion=name, **options)
    assert {group: kept[::-1] for group, kept in other.keep.items()} == dict(plan.keep)


def test_readers_are_scored_in_the_block_that_they_read() -> None:
    model = net()
    with torch.no_grad():
        model.middle.weight.mul_(0.01)
        model.middle.weight[:6, [1, 6]] = 1.0
        model.middle.weight[6:, [0, 3]] = 1.0
    criterion = fxprune.criteria.Magnitude(over="readers")  # type: ignore[attr-defined]
    plan = fxprune.plan(model, X, channels=0.25, criterion=criterion, ignore=("middle",))
    assert plan.keep == {"first:1": ((1, 6), (0, 3))}


@pytest.mark.parametrize("target", [{"macs": 0.5}, {"params": 0.6, "scope": "global"}, {"bytes": 0.5}])
def test_targets_are_met_by_block(target: dict[str, Any]) -> None:
    model = net()
    plan = fxprune.plan(model, X, round_to=None, **target)
    assert plan.blocks
    small = fxprune.compile(model, plan)
    assert_exact(model, plan, small, X)
    if "params" in target:
        left, whole = (sum(one.numel() for one in each.parameters()) for each in (small, model))
        assert 0.5 * whole < left <= 0.6 * whole


def test_a_plan_comes_back_from_its_file(tmp_path: Path) -> None:
    model = net()
    plan = by_hand(model)
    plan.save(tmp_path / "plan.json")
    loaded = fxprune.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.keep == KEEP
    assert loaded.blocks == {"first:1": ("first:0",), "middle:1": ("first:0",)}
    assert_exact(model, loaded, fxprune.compile(model, loaded), X)
    assert "3 in each of 2" in str(plan)


def test_what_is_changed_in_a_file_is_refused(tmp_path: Path) -> None:
    by_hand(net()).save(tmp_path / "plan.json")
    document = json.loads((tmp_path / "plan.json").read_text())
    for change, match in (
        ({"keep": [[0, 2, 5], [1, 2]]}, "keeps 2 channels in block 1, expected 3"),
        ({"keep": [[0, 2, 5]] * 3}, "has 2 blocks, the plan keeps channels of 3"),
        ({"keep": [[0, 2, 5], [1, 2, 8]]}, "block 1' has 8 channels, the plan keeps index 8"),
        ({"blocks": ["nobody"]}, "which is no group of the plan"),
    ):
        changed = {**document, "groups": {**document["groups"]}}
        changed["groups"]["first:1"] = {**document["groups"]["first:1"], **change}
        (tmp_path / "changed.json").write_text(json.dumps(changed))
        with pytest.raises((PlanError, ArtifactError), match=match):
            fxprune.Plan.load(tmp_path / "changed.json")


@pytest.mark.parametrize(
    ("keep", "match"),
    [
        ({"first:1": ([0, 1], [2])}, "'first:1' keeps 1 channels in block 1, expected 2 as in block 0"),
        ({"first:1": ([0, 1], [2, 3], [4, 5])}, "'first:1' has 2 blocks, the plan keeps channels of 3"),
        ({"first:1": ([0, 1], [2, 8])}, "'first:1, block 1' has 8 channels, the plan keeps index 8"),
        ({"first:1": ([0, 1], [2, 2])}, "'first:1, block 1' keeps an index twice"),
        ({"first:1": ([0, 1], 2)}, "keeps indices and lists of them"),
        ({"first:0": ([0], [1])}, "'first:0' keeps the same channels everywhere"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(keep: dict[str, Any], match: str) -> None:
    with pytest.raises(PlanError, match=match):
        fxprune.Plan.from_keep(net(), X, keep)


def test_lists_that_agree_are_one_list_and_none_left_is_none_left() -> None:
    model = net()
    plan = fxprune.Plan.from_keep(model, X, {"first:1": ([2, 1], [1, 2])})
    assert plan.keep == {"first:1": (1, 2)} and plan.blocks == {}
    assert fxprune.Plan.from_keep(model, X, {"middle:1": ([], [])}).keep == {"middle:1": ()}


def test_output_channels_of_a_module_may_differ_from_block_to_block() -> None:
    model = net()
    plan = fxprune.Plan.from_keep(model, X, {"first": [0, 2, 5, 8 + 1, 8 + 2, 8 + 7]})
    assert plan.keep == {"first:1": KEEP["first:1"]}
    one_block = fxprune.Plan.from_keep(model, X, {"first": [1, 4]})
    assert one_block.keep == {"first:0": (0,), "first:1": (1, 4)}
    assert_exact(model, one_block, fxprune.compile(model, one_block), X)
    with pytest.raises(PlanError, match="cannot keep exactly"):
        fxprune.Plan.from_keep(model, X, {"first": [0, 2, 5, 8 + 1]})


def test_a_block_may_go_and_the_others_keep_their_own() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 12, 1), nn.Conv2d(12, 9, 3, groups=3), nn.Conv2d(9, 4, 1)).eval()
    keep = {"0:0": [0, 2], "0:1": ([0, 1], [0, 3], [1, 2]), "1:1": ([0], [1], [2])}
    plan = fxprune.Plan.from_keep(model, X, keep)
    small = fxprune.compile(model, plan)
    assert small.get_parameter("1.weight").shape == (2, 2, 3, 3)
    assert_exact(model, plan, small, X)


def test_what_stays_of_a_parameter_is_cut_out_where_no_index_says_it() -> None:
    model = net()
    plan = by_hand(model)
    with pytest.raises(PlanError, match="differs from block to block") as caught:
        plan.kept("middle.weight")
    assert "plan.cut('middle.weight', tensor)" in str(caught.value)
    assert [one.tolist() for one in plan.kept("first.bias")] == [[0, 2, 5, 9, 10, 15]]
    small = fxprune.compile(model, plan)
    for name, parameter in small.named_parameters():
        assert torch.equal(plan.cut(name, model.get_parameter(name)), parameter)
    with pytest.raises(PlanError, match="has shape"):
        plan.cut("middle.weight", torch.zeros(3))


@pytest.mark.parametrize("emit", ["graph", "module"])
def test_both_ways_to_emit_and_both_statistics(emit: str) -> None:
    model = net()
    plan = plan_by_block(model, X, fraction=0.5, emit=emit)
    plan = fxprune.Plan.from_keep(model, X, {name: plan.keep[name] for name in plan.blocks}, emit=emit)
    small = fxprune.compile(model, plan)
    assert plan.blocks and fxprune.verify(model, plan, small).ok
    if emit == "module":
        assert isinstance(small, Net) and small.middle.in_channels == 8


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_the_optimizer_goes_on(kind: str) -> None:
    model = net().double().train()
    optimizer: torch.optim.Optimizer = (
        torch.optim.Adam(model.parameters()) if kind == "adam" else torch.optim.SGD(model.parameters(), 0.1, 0.9)
    )
    model(X.double()).square().mean().backward()
    optimizer.step()
    plan = by_hand(model)
    small = fxprune.compile(model, plan)
    other = fxprune.transfer(optimizer, plan, model, small)
    for name, parameter in small.named_parameters():
        for key, value in optimizer.state[model.get_parameter(name)].items():
            got = other.state[parameter][key]
            want = plan.cut(name, value) if value.ndim else value
            assert torch.equal(got, want), (name, key)


def test_growing_penalties_follow_the_blocks() -> None:
    model = net().double()
    plan = by_hand(model)
    regularizer = fxprune.Regularizer(model, X.double(), "growing", strength=0.1, plan=plan)
    removed = 0.0
    for group, kept in KEEP.items():
        alone = fxprune.Plan.from_keep(model, X.double(), {group: kept})
        for name, parameter in model.named_parameters():
            removed += float(parameter.detach().square().sum() - alone.cut(name, parameter).square().sum())
    torch.testing.assert_close(float(regularizer.penalty().detach()), 0.05 * removed, rtol=1e-10, atol=0)
    assert regularizer.norms()["first:1"].shape == (16,)
    regularizer.step_()
    assert model.middle.weight.grad is not None
    assert float(model.middle.weight.grad[0, 0].abs().sum()) == 0  # kept by both
    assert float(model.middle.weight.grad[6, 0].abs().sum()) > 0


def test_group_lasso_counts_every_channel_of_every_block() -> None:
    model, total = net().double(), 0.0
    first, middle, last, norm = model.first, model.middle, model.last, model.norm
    assert first.bias is not None and middle.bias is not None
    for block in range(2):
        for channel in range(8):
            row = block * 8 + channel
            parts = [first.weight[row], first.bias[row], middle.weight[block * 6 : block * 6 + 6, channel]]
            total += _root_of_squares(parts)
        for channel in range(6):
            row = block * 6 + channel
            parts = [middle.weight[row], middle.bias[row], norm.weight[row], norm.bias[row], last.weight[:, row]]
            total += _root_of_squares(parts)
    penalty = fxprune.Regularizer(model, X.double(), strength=1.0).penalty()
    torch.testing.assert_close(float(penalty.detach()), total, rtol=1e-12, atol=0)
    alike = fxprune.Regularizer(model, X.double(), strength=1.0, by_block=False)
    assert {name: len(norms) for name, norms in alike.norms().items()} == {"first:1": 8, "middle:1": 6}


def _root_of_squares(parts: list[Tensor]) -> float:
    elements = torch.cat([one.detach().flatten() for one in parts])
    return float(len(elements) ** 0.5 * elements.norm())


def test_steps_go_by_block() -> None:
    model: nn.Module = net()
    before = model
    for plan, small in fxprune.schedule(model, X, channels=0.3, steps=3):
        assert plan.blocks
        assert_exact(before, plan, small, X)
        before = small


def test_the_same_plan_on_every_run() -> None:
    for name in OF_WEIGHTS:
        plans = [fxprune.plan(net(), X, channels=0.5, criterion=name, seed=3) for _ in range(2)]
        assert plans[0] == plans[1]


def idle(model: Net) -> None:
    """Zero filters in other places of each group, as many in the first as in the second but one."""
    with torch.no_grad():
        for channel in (1, 3, 4, 6, 7, 8, 11, 12, 13):
            model.first.weight[channel] = 0
        for channel in (2, 3, 4, 5, 6, 7, 8, 9):
            model.middle.weight[channel] = 0


@pytest.mark.parametrize("biased", [False, True])
def test_zeros_go_from_each_block_in_other_places(biased: bool) -> None:
    model = net()
    idle(model)
    if not biased:
        assert model.first.bias is not None and model.middle.bias is not None
        model.first.bias.data.zero_()
        model.middle.bias.data.zero_()
    plan = fxprune.Plan.from_zeros(model, X)
    assert plan.keep == {"first:1": ((0, 1, 2, 5), (1, 2, 6, 7)), "middle:1": ((0, 1), (4, 5))}
    small = fxprune.compile(model, plan)
    torch.testing.assert_close(small(X), model(X), rtol=1e-4, atol=1e-5)
    assert_exact(model, plan, small, X, batch_sizes=(1, 3))


def test_zeros_of_heads_go_by_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True).eval()
    randomize(model, 0)
    inner = model.self_attn
    with torch.no_grad():
        for head, channels in enumerate(((0, 1), (1, 3), (0, 2))):
            for row in (12 * part + 4 * head + channel for part in range(3) for channel in channels):
                inner.in_proj_weight[row] = 0
                inner.in_proj_bias[row] = 0
    x = torch.randn(2, 5, 12)
    plan = fxprune.Plan.from_zeros(model, x)
    assert list(plan.keep.values()) == [((2, 3), (0, 2), (1, 3))]
    plan.save(tmp_path / "zeros.json")
    loaded = fxprune.Plan.load(tmp_path / "zeros.json")
    assert loaded == plan
    small = fxprune.compile(model, loaded)
    assert_exact(model, loaded, small, x)
    assert small(x).shape == model(x).shape


def test_small_weights_go_from_each_block_too() -> None:
    model = net()
    idle(model)
    with torch.no_grad():
        model.first.weight[model.first.weight == 0] = 1e-9
    plan = fxprune.Plan.from_zeros(model, X, tolerance=1e-5)
    assert plan.keep["first:1"] == ((0, 1, 2, 5), (1, 2, 6, 7))
    assert_exact(model, plan, fxprune.compile(model, plan), X)
