"""Every mend: a call written anew for fewer channels = the kept part of the original with zeros for the rest."""

from __future__ import annotations

from typing import Any

import pytest
from mend_cases import CASES
from one_op import CHOICES, Case, analysed, assert_axes, assert_law, compiled, failures, takes_statistics

from fxprune_passes.mend import FULL, MENDS, MODULES

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
    assert [target for target in registry if target not in called()] == []


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_what_can_be_pruned_and_what_is_tied(case: Case) -> None:
    assert failures(case) == []
    assert_axes(case)


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_compiled_is_the_masked_original(case: Case) -> None:
    for seed, share in CHOICES:
        assert_law(case, seed, share, "full")
        if takes_statistics(case):
            assert_law(case, seed, share, "kept")


@pytest.mark.parametrize("case", [case for case in CASES if case.code], ids=repr)
def test_the_code_of_the_mended_call(case: Case) -> None:
    _, small = compiled(case, *CHOICES[0], "kept")
    assert case.code in small.code
