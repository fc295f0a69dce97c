"""Channels may differ from block to block where nothing forbids it, and what is compiled then is exact."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import NETWORKS, Network, randomize
from support import assert_exact, plan_by_block
from torch import Tensor, nn

import fxprune
from fxprune.analysis import analyse
from fxprune.explain import explain
from fxprune_passes.axes import leaves
from fxprune_passes.emit import in_order
from fxprune_passes.errors import PlanError
from fxprune_passes.kept import Blocks, Kept

FREE = frozenset(
    {
        "attention_default_scale", "attention_einsum", "attention_literal", "attention_masked",
        "attention_merged_heads", "attention_separate", "bloom", "capsules", "convolution_raw_grouped",
        "cross_attention", "decoder_layer", "depthwise_multiplier", "depthwise_multiplier_shuffled",
        "einsum_heads", "einsum_spaces", "encoder_layers", "encoder_norm_first", "fused_chunked",
        "fused_heads_first", "fused_indexed", "fused_innermost", "fused_split", "fused_unbind", "generator",
        "group_norm_after_grouped_convolution", "group_norm_computed_groups", "group_norm_functional",
        "group_norm_three_groups", "group_norm_without_affine", "grouped_pair_aligned",
        "grouped_query_expanded", "grouped_query_flag", "grouped_query_interleaved", "grouped_residual",
        "grouped_to_one_each", "grouped_transposed_1d", "grouped_widening", "interleaved_into_gate",
        "linear_attention", "linear_batched_heads", "merge_batch_and_parts", "multihead", "multihead_cross",
        "multihead_extra_tokens", "multihead_weights", "multihead_without_bias", "normed_queries",
        "positions_cut_to_length",
        "relative_positions", "repeat_interleave_keyword", "repeat_interleave_method", "res_ne_xt",
        "rotary_grouped_query", "rotary_halves", "rotary_of_apart", "rotary_of_awhole_head", "rotary_pairs",
        "rotary_partial", "scale_of_groups", "shared_head_over_levels", "shuffle_and_back",
        "shuffle_by_function", "shuffle_by_literals", "shuffle_by_module", "shuffle_by_view",
        "standardised_weights_in_groups", "talking_heads", "unflatten_and_flatten", "unflatten_module",
        "unflatten_sum_of_parts", "vision_transformer", "write_through_reshape",
    }
)  # fmt: skip
"""The networks of the table in which some group is free."""


def built(network: Network) -> nn.Module:
    torch.manual_seed(0)
    model = network.build()
    randomize(model, 0)
    return model.eval()


def free_groups(model: nn.Module, inputs: Any) -> dict[str, tuple[str, ...]]:
    """What numbers the blocks of each group that is free."""
    analysis = analyse(model, inputs)
    names = analysis.groups.names
    found = {group.name: tuple(names[one] for one in analysis.freedom(group).outers) for group in analysis.groups}
    return {name: outers for name, outers in found.items() if outers}


_FREE = pytest.mark.parametrize("network", [one for one in NETWORKS if one.name in FREE], ids=lambda one: one.name)


def test_these_networks_have_free_groups_and_no_others() -> None:
    assert {one.name for one in NETWORKS if free_groups(built(one), one.inputs())} == FREE


@pytest.mark.parametrize(("statistics", "fraction"), [("kept", 0.5), ("full", 0.7)])
@_FREE
def test_compiled_by_block_is_the_masked_original(network: Network, statistics: str, fraction: float) -> None:
    model, inputs = built(network), network.inputs()
    plan = plan_by_block(model, inputs, fraction=fraction)
    assert plan.blocks
    small = fxprune.compile(model, plan, statistics=statistics)
    assert_exact(model, plan, small, inputs, batch_sizes=(5,) if network.batch else ())


@_FREE
def test_free_channels_may_stand_in_any_order_in_each_block(network: Network) -> None:
    model, inputs = built(network).double(), network.inputs()
    analysis = analyse(network.build().eval(), inputs)
    wide = torch.utils._pytree.tree_map_only(
        Tensor, lambda one: one.double() if one.is_floating_point() else one, inputs
    )
    want = run(model, wide)
    generator = torch.Generator().manual_seed(0)
    for group in analysis.groups:
        if not (outers := analysis.freedom(group).outers):
            continue
        blocks = math.prod(one.size for one in outers)
        chosen = torch.stack([torch.randperm(group.size, generator=generator) < group.size // 2 for _ in range(blocks)])
        first = torch.arange(group.size) < group.size // 2
        kept = Kept({group.dim: first}, blocks={group.dim: Blocks(outers, chosen)})
        other = copy.deepcopy(model)
        for name, tensor in [*other.named_parameters(), *other.named_buffers()]:
            if name in analysis.groups.parameters:
                tensor.data = in_order(tensor.data, analysis.groups.parameters[name], kept)
        for one, two in zip(want, run(other, wide), strict=True):
            torch.testing.assert_close(two, one, rtol=1e-12, atol=1e-12)


def run(model: nn.Module, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return [one for one in torch.utils._pytree.tree_leaves(outputs) if isinstance(one, Tensor)]


class Heads(nn.Module):
    """Two linear layers with three heads of width 4 between them, and something done to the heads (N, L, H, D)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 12, bias=False), nn.Linear(12, 5)
        self.width, self.mix = nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(3, 3))
        self.table, self.norm = nn.Parameter(torch.randn(7, 1, 4)), nn.LayerNorm(4)
        self.cell = nn.LSTM(12, 12, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = self.between(x.view(*x.shape[:2], 3, 4))
        return self.last(x.reshape(*x.shape[:2], 12))

    def between(self, x: Tensor) -> Tensor:
        return x.relu()


def heads(between: Any) -> Heads:
    """Heads with another middle; only what it uses is a parameter of the graph."""
    torch.manual_seed(0)
    model = type("Heads", (Heads,), {"between": between})()
    randomize(model, 0)
    return model.eval()


X = torch.randn(2, 7, 6)
APART = {
    "nothing": lambda self, x: x,
    "sum of squares in a head": lambda self, x: x * x.square().sum(-1, keepdim=True),
    "norm of a head": lambda self, x: F.layer_norm(x, (4,)),
    "norm of all": lambda self, x: F.layer_norm(x, (3, 4)),
    "softmax along the sequence": lambda self, x: x.softmax(1),
    "added to zeros": lambda self, x: torch.zeros(*x.shape) + x,
    "written along the sequence": lambda self, x: torch.zeros(*x.shape).index_copy(1, torch.arange(7), x),
    "heads turned": lambda self, x: x.transpose(2, 3).exp().transpose(2, 3),
    "attention in each head": lambda self, x: (
        (x.transpose(1, 2) @ x.permute(0, 2, 3, 1)).softmax(-1) @ x.transpose(1, 2)
    ).transpose(1, 2),
}
FORBIDDEN = {
    "scaled by a shared weight": (lambda self, x: x * self.width, "width (4,)"),
    "normed by a shared weight": (lambda self, x: self.norm(x), "norm.weight (4,)"),
    "moved by a shared table": (lambda self, x: x + self.table, "table (7, 1, 4)"),
    "softmax over heads": (lambda self, x: x.softmax(2), "its 3 blocks are frozen by"),
    "sum over heads so far": (lambda self, x: x.cumsum(2), "its 3 blocks are frozen by"),
    "heads rolled": (lambda self, x: x + x.roll(1, 2), ""),
    "heads ordered": (lambda self, x: x.sort(2).values, "its 3 blocks are frozen by"),
    "norm over heads": (lambda self, x: F.layer_norm(x.mT, (3,)).mT, "holds them without their blocks"),
    "mean of heads": (lambda self, x: x - x.mean(2, keepdim=True), "holds them without their blocks"),
    "sum of heads": (lambda self, x: x + x.sum(2, keepdim=True), "holds them without their blocks"),
    "largest of heads": (lambda self, x: x - x.amax(2, keepdim=True), "its 3 blocks are frozen by"),
    "heads against heads": (lambda self, x: x * (x @ x.mT).tanh().sum(-1, keepdim=True), "mixes blocks"),
    "heads mixed": (lambda self, x: self.mix @ x, "without their blocks"),
    "turned inside": (lambda self, x: x + x.flip(-1), "mixes blocks"),
    "picked inside": (lambda self, x: x[..., [1, 0, 3, 2]], "mixes blocks"),
    "recurrent": (lambda self, x: self.cell(x.flatten(2))[0].view(*x.shape), "not known to keep blocks apart"),
    "standardised over heads": (
        lambda self, x: F.batch_norm(x.flatten(0, 1).mT, None, None, training=True).mT.reshape(x.shape),
        "holds them without their blocks",
    ),
}


@pytest.mark.parametrize("between", APART.values(), ids=APART.keys())
def test_heads_apart_are_free(between: Any) -> None:
    model = heads(between)
    assert free_groups(model, X) in ({"first:1": ("first:0",)}, {"first:1": ("first:0",), "first:0": ("first:1",)})
    plan = fxprune.Plan.from_keep(model, X, {"first:1": ([0, 2], [1, 3], [0, 1])})
    assert plan.keep == {"first:1": ((0, 2), (1, 3), (0, 1))}
    assert_exact(model, plan, fxprune.compile(model, plan), X, batch_sizes=(1, 3))
    assert_exact(model, plan, fxprune.compile(model, plan, statistics="full"), X)


@pytest.mark.parametrize(("between", "reason"), FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_what_mixes_heads_or_is_shared_forbids_it_and_says_so(between: Any, reason: str) -> None:
    model = heads(between)
    groups = fxprune.analyze(model, X)
    inner = groups.names[list(leaves(groups.parameters["first.weight"][0]))[-1]]
    assert inner not in free_groups(model, X)
    with pytest.raises(PlanError, match="keeps the same channels everywhere") as caught:
        fxprune.Plan.from_keep(model, X, {inner: ([0], [1], [0])})
    assert reason in str(caught.value)
    plan = fxprune.plan(model, X, channels=0.5)
    assert plan.blocks == {}
    assert_exact(model, plan, fxprune.compile(model, plan), X)


def test_tables_say_what_is_free_and_what_forbids_it() -> None:
    free, shared = heads(APART["nothing"]), heads(FORBIDDEN["scaled by a shared weight"][0])
    told = str(explain(free, X, "first:1"))
    assert "group 'first:1': 2 parameter axes; each of 3 blocks keeps its own\n" in told
    assert re.search(r"first:1 +each of 3 blocks keeps its own", str(fxprune.analyze(free, X)))
    why = "all blocks keep the same: width (4,) holds them without their blocks"
    assert f"; {why}\n" in str(explain(shared, X, "width"))
    assert re.search(rf"width +{re.escape(why)}", str(fxprune.analyze(shared, X)))
    whole = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1, groups=4), nn.Flatten(), nn.Linear(16, 2))
    assert "; all blocks keep the same: 1.bias (4,) holds them without their blocks\n" in str(
        explain(whole, torch.zeros(2, 3, 2, 2), "1")
    )
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    assert "blocks" not in str(fxprune.analyze(plain, X)) + str(explain(plain, X, "0"))
