"""Verify finds every planted break and names the node; without one it passes, and changes nothing."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from networks import randomize
from torch import fx, nn
from verified import (
    CODE,
    CODED,
    NUMBERS,
    OWN,
    RANDOM,
    ROUNDING,
    SHAPES,
    WEIGHTS,
    Attention,
    Shifted,
    TwoHeads,
    compiled,
    failing,
    find,
    first_wrong,
    shifted,
)

import fxprune
from fxprune import verify


def test_a_right_graph_is_verified_with_every_check() -> None:
    report = verify(*shifted(), batch_sizes=(3,))
    assert report.ok
    assert report.first_wrong is None
    assert [case.name for case in report.cases] == [SHAPES, CODE, WEIGHTS, OWN, CODED, RANDOM, "numbers, batch of 3"]
    assert all(case.ok for case in report.cases)
    assert report.max_error < ROUNDING
    report.raise_if_wrong()


def test_a_report_reads_as_a_verdict_and_a_table() -> None:
    lines = str(verify(*shifted())).splitlines()
    assert lines[0] == 'verified: the compiled graph is the masked original (statistics="kept", tolerance 1e-09).'
    assert lines[1].split() == ["check", "holds", "error", "found"]
    assert len(lines) == 3 + 6


def test_nothing_is_changed() -> None:
    model, plan, small = shifted()
    small.bn1.train()
    before = copy.deepcopy((model.state_dict(), small.state_dict()))
    text, modes, state = small.code, [m.training for m in [*model.modules(), *small.modules()]], torch.get_rng_state()
    tensors = [*model.parameters(), *small.parameters()]
    assert verify(model, plan, small).ok
    assert text == small.code
    assert modes == [module.training for module in [*model.modules(), *small.modules()]]
    assert all(a is b for a, b in zip(tensors, [*model.parameters(), *small.parameters()], strict=True))
    for old, module in zip(before, (model, small), strict=True):
        assert all(torch.equal(old[name], value) for name, value in module.state_dict().items())
    assert torch.get_default_dtype() == torch.float32
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_rows_in_another_order_are_found_at_the_weights() -> None:
    model, plan, small = shifted()
    small.conv1.weight.data = small.conv1.weight.data.flip(0)
    report = verify(model, plan, small)
    assert failing(report) == {WEIGHTS, OWN}
    assert first_wrong(report)[0] == "conv1.weight"
    assert "108 of 108 elements differ" in first_wrong(report)[1]


@pytest.mark.parametrize("name", ["running_mean", "running_var", "weight", "bias"])
def test_a_batch_norm_tensor_cut_at_other_channels_is_found(name: str) -> None:
    model, plan, small = shifted()
    dropped = [i for i in range(8) if i not in plan.kept("bn1.weight")[0]]
    getattr(small.bn1, name).data = getattr(model.bn1, name).data[dropped]
    report = verify(model, plan, small)
    assert failing(report) == {WEIGHTS, OWN}
    assert first_wrong(report)[0] == f"bn1.{name}"


def test_a_roll_by_another_step_is_named() -> None:
    model, plan, small = shifted()
    node = find(small, "roll")
    step = node.args[1][0]
    node.update_arg(1, ((step + 1) % 4,))
    small.recompile()
    report = verify(model, plan, small)
    assert failing(report) == NUMBERS
    assert first_wrong(report)[0] == "roll"
    assert report.max_error > 1e-3


def test_a_slice_that_starts_elsewhere_is_named() -> None:
    model = Shifted().eval()
    randomize(model, 0)
    plan = fxprune.Plan.from_keep(model, torch.randn(2, 3, 6, 6), {"conv2": [1, 2, 4, 5, 7, 10]})
    small = fxprune.compile(model, plan)
    node = find(small, "getitem")
    assert node.args[1] == (slice(None), slice(2, 5))
    node.update_arg(1, (slice(None), slice(1, 4)))
    small.recompile()
    report = verify(model, plan, small)
    assert failing(report) == NUMBERS
    assert first_wrong(report)[0] == "getitem"


def test_a_slice_of_another_length_is_named() -> None:
    model, plan, small = shifted()
    node = find(small, "getitem")
    node.update_arg(1, (slice(None), slice(0, 1)))
    small.recompile()
    report = verify(model, plan, small)
    assert {SHAPES, *NUMBERS} == failing(report)
    name, detail = first_wrong(report)
    assert name == "getitem"
    assert detail.startswith("shape (2, 1, 6, 6), expected (2, ")


def test_a_node_that_does_not_run_is_named() -> None:
    model, plan, small = shifted()
    find(small, "conv2").update_arg(0, find(small, "x"))
    small.graph.eliminate_dead_code()
    small.recompile()
    report = verify(model, plan, small)
    assert {SHAPES, *NUMBERS} == failing(report)
    name, detail = first_wrong(report)
    assert name == "conv2 (calls conv2)"
    assert detail.startswith("does not run: ")
    assert detail.endswith("; it reads x where the original reads roll")
    assert report.max_error == math.inf


def test_an_activation_that_is_gone_is_found_where_it_was_read() -> None:
    model, plan, small = shifted()
    node = find(small, "relu")
    node.replace_all_uses_with(node.args[0])
    small.graph.erase_node(node)
    small.recompile()
    report = verify(model, plan, small)
    assert failing(report) == NUMBERS
    name, detail = first_wrong(report)
    assert name == "roll"
    assert detail.endswith("; it reads bn1 where the original reads relu")


def test_a_module_attribute_is_named_by_its_node() -> None:
    model, plan, small = shifted()
    small.bn1.eps = 0.1
    report = verify(model, plan, small)
    assert NUMBERS <= failing(report) <= {SHAPES, *NUMBERS}
    assert first_wrong(report)[0] == "bn1 (calls bn1)"


def test_a_scale_of_the_new_head_width_is_named() -> None:
    model, plan, small = compiled(Attention().eval(), torch.randn(2, 5, 6))
    assert verify(model, plan, small).ok
    node = find(small, "scaled_dot_product_attention")
    assert node.kwargs["scale"] == 8**-0.5
    node.kwargs = {key: value for key, value in node.kwargs.items() if key != "scale"}
    small.recompile()
    report = verify(model, plan, small)
    assert failing(report) >= NUMBERS
    assert first_wrong(report)[0] == "scaled_dot_product_attention"


def test_outputs_in_the_wrong_places_are_named() -> None:
    model, plan, small = compiled(TwoHeads().eval(), torch.randn(3, 5))
    assert verify(model, plan, small).ok
    output = next(iter(reversed(small.graph.nodes)))
    outputs = output.args[0]
    output.args = ({"first": outputs["second"], "second": outputs["first"]},)
    small.recompile()
    report = verify(model, plan, small)
    assert failing(report) >= NUMBERS
    assert first_wrong(report)[0] == "output"


def test_an_edit_without_recompile_is_found() -> None:
    model, plan, small = shifted()
    node = find(small, "roll")
    node.update_kwarg("dims", (1,))
    node.args = node.args[:2]
    report = verify(model, plan, small)
    assert failing(report) == {CODE}
    assert first_wrong(report) == ("forward", "the graph was edited without small.recompile()")


def test_statistics_over_other_channels_are_named() -> None:
    model, plan, small = compiled(nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)), torch.randn(2, 5))
    small.meta["fxprune"]["statistics"] = "full"
    report = verify(model, plan, small)
    assert failing(report) == NUMBERS
    assert first_wrong(report)[0] == "_1 (calls 1)"


def test_raise_if_wrong_names_the_node_and_its_place() -> None:
    model, plan, small = shifted()
    small.bn1.running_mean += 1
    with pytest.raises(fxprune.VerifyError) as caught:
        verify(model, plan, small).raise_if_wrong()
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("compiled graph is wrong at 'bn1.running_mean': 4 of 4 elements differ")
    why = "weights are kept slices: bn1.running_mean: 4 of 4 elements differ from the original's"
    assert lines[-1] == f"  why     {why}"


def test_the_source_line_of_the_wrong_node_is_told() -> None:
    model, plan, small = shifted()
    find(small, "roll").update_arg(1, (0,))
    small.recompile()
    wrong = verify(model, plan, small).first_wrong
    assert wrong is not None
    assert "verified.py:" in wrong.source


def test_some_weights_are_enough_and_unknown_ones_are_refused() -> None:
    model, plan, small = shifted()
    report = verify(model, plan, small, weights=("address-coded",))
    assert [case.name for case in report.cases] == [SHAPES, CODE, WEIGHTS, CODED]
    with pytest.raises(
        fxprune.VerifyError, match=r"^weights=\['trained'\], expected some of own, address-coded, random"
    ):
        verify(model, plan, small, weights=("trained",))


def test_what_compile_did_not_make_is_refused() -> None:
    model, plan, _ = shifted()
    for other in (model, fx.symbolic_trace(model)):
        with pytest.raises(fxprune.VerifyError, match="that compile did not make"):
            verify(model, plan, other)  # type: ignore[arg-type]


def test_a_model_without_values_is_refused() -> None:
    model, plan, small = shifted()
    with pytest.raises(fxprune.VerifyError, match=r"^'conv1.weight' is a meta tensor, expected values to compare\."):
        verify(model.to("meta"), plan, small)
