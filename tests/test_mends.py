"""Every mend: a call written anew for fewer channels = the kept part of the original with zeros for the rest."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from mend_cases import CASES
from one_op import (
    CHOICES,
    Case,
    analysed,
    assert_axes,
    assert_law_for_random_choices,
    assert_law_or_refusal,
    compiled,
    failures,
    random_choice,
)
from support import assert_exact, random_plan
from torch import Tensor, nn

import fxprune
from fxprune_passes.mend import FULL, MENDS, MODULES

OTHER_DEVICES = tuple(
    getattr(torch.ops.aten, f"_scaled_dot_product_{kind}").default
    for kind in ("flash_attention", "efficient_attention", "cudnn_attention", "fused_attention_overrideable")
)
NAMES = [case.name for case in CASES]


def called() -> set[Any]:
    """Functions, names of methods and classes of modules that the cases call."""
    targets: set[Any] = set()
    for case in CASES:
        for node in analysed(case)[1].capture.graph_module.graph.nodes:
            targets.add(type(case.function) if node.op == "call_module" else node.target)
    return targets


@pytest.mark.parametrize("registry", [MENDS, MODULES, FULL], ids=("calls", "modules", "statistics"))
def test_every_mend_has_a_case(registry: dict[Any, Any]) -> None:
    assert [target for target in registry if target not in called() and target not in OTHER_DEVICES] == []


def test_attention_of_other_devices_is_mended_as_everywhere() -> None:
    assert {MENDS[op] for op in OTHER_DEVICES} == {MENDS[torch.nn.functional.scaled_dot_product_attention]}


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_what_can_be_pruned_and_what_is_tied(case: Case) -> None:
    assert failures(case) == []
    assert_axes(case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_compiled_is_the_masked_original(case: Case) -> None:
    assert_law_for_random_choices(case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_a_group_that_loses_all_channels_is_exact_or_refused(case: Case) -> None:
    assert_law_or_refusal(case)


@pytest.mark.parametrize("case", [case for case in CASES if case.code], ids=repr)
def test_the_code_of_the_mended_call(case: Case) -> None:
    _, small = compiled(case, random_choice(case, *CHOICES[0]), "kept")
    assert case.code in small.code


def made_anew(module: nn.Module) -> nn.Module:
    """A new module of the same class with the same attributes."""
    bases = (base for base in (nn.RNNBase, nn.RNNCellBase) if isinstance(module, base))
    kind = next(bases, type(module))
    names = set(inspect.signature(kind.__init__).parameters) - {"mode", "bias", "num_chunks"}
    if not isinstance(module, nn.LSTM):
        names.discard("proj_size")
    arguments = {name: getattr(module, name) for name in names if hasattr(module, name)}
    if hasattr(module, "bias"):  # a recurrent module has a flag of this name, others a tensor or None
        arguments["bias"] = module.bias is not None and module.bias is not False
    return type(module)(**arguments)


@pytest.mark.parametrize("case", [case for case in CASES if isinstance(case.function, nn.Module)], ids=repr)
def test_a_modules_attributes_are_those_of_a_new_module_of_its_size(case: Case) -> None:
    _, small = compiled(case, random_choice(case, *CHOICES[0]), "kept")
    new = made_anew(small.call)
    assert {name: one.shape for name, one in new.state_dict().items()} == {
        name: one.shape for name, one in small.call.state_dict().items()
    }


class Reader(nn.Module):
    """A recurrent module that reads normalised features; its first state is a parameter."""

    def __init__(self, kind: type[nn.RNNBase], layers: int, *, both_ways: bool, batch_first: bool) -> None:
        super().__init__()
        directions = 2 if both_ways else 1
        self.features, self.norm = nn.Linear(5, 12), nn.LayerNorm(12)
        self.read = kind(12, 6, layers, bidirectional=both_ways, batch_first=batch_first)
        self.start = nn.Parameter(torch.randn(layers * directions, 1, 6))
        self.head, self.tail = nn.Linear(6 * directions, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        start = self.start.expand(-1, x.shape[0 if self.read.batch_first else 1], -1).contiguous()
        states = (start, torch.tanh(start)) if isinstance(self.read, nn.LSTM) else start
        output, last = self.read(torch.relu(self.norm(self.features(x))), states)
        return self.head(output), self.tail(last[0])


@pytest.mark.parametrize("statistics", ["full", "kept"])
@pytest.mark.parametrize(("both_ways", "batch_first"), [(False, True), (True, False), (True, True)])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_a_recurrent_module_reads_and_writes_is_pruned(
    kind: type[nn.RNNBase], layers: int, both_ways: bool, batch_first: bool, statistics: str
) -> None:
    model, x = Reader(kind, layers, both_ways=both_ways, batch_first=batch_first).eval(), torch.randn(3, 4, 5)
    plan = random_plan(model, x, fraction=0.5)
    small = fxprune.compile(model, plan, statistics=statistics)
    assert (small.read.input_size, small.read.hidden_size) == (6, 3)
    assert_exact(model, plan, small, x, batch_sizes=(5,) if batch_first else ())


def test_a_computed_number_that_comes_out_as_zero_is_refused_by_line() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 12, 1), nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(F.group_norm(x, x.shape[1] // 3))

    model, x = Norm(), torch.zeros(2, 3, 4, 4)
    plan = fxprune.Plan.from_keep(model, x, {"stem:0": [0, 1], "stem:1": [0]})
    with pytest.raises(fxprune.PlanError, match=r"floordiv, comes out as 0 with these channels, expected 2\."):
        fxprune.compile(model, plan)
