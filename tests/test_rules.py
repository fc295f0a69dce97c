"""Every registered rule: the op on what is kept = the kept part of the op on the original with zeros for the rest."""

from __future__ import annotations

import pytest
import torch
from one_op import (
    SIZES,
    Case,
    analysed,
    assert_axes,
    assert_law_for_random_choices,
    assert_law_or_refusal,
    assert_letters,
    failures,
)
from rule_cases import CASES
from rule_cases.elsewhere import ELSEWHERE, Elsewhere

from fxprune_passes.equations import Equations
from fxprune_passes.rules import RULES, Op

NAMES = [case.name for case in CASES]


def dispatched() -> set[str]:
    """Names of all ATen ops that the cases run, overload and packet."""
    operations = [one for case in CASES for ops in analysed(case)[1].propagation.operations.values() for one in ops]
    overloads = {operation.name for operation in operations}
    return overloads | {name.rpartition(".")[0] for name in overloads if name not in map(str, RULES)}


def test_every_registered_rule_has_a_case() -> None:
    elsewhere = {f"aten.{one.op}" for one in ELSEWHERE}
    assert sorted({str(op) for op in RULES} - dispatched() - elsewhere) == []
    assert sorted(elsewhere & dispatched()) == []


@pytest.mark.parametrize("row", ELSEWHERE, ids=lambda row: row.op)
def test_equations_of_an_op_of_another_device(row: Elsewhere) -> None:
    words, equations = row.axes.split(), Equations()
    tensors = [tuple(equations.dim(SIZES[letter]) for letter in word) for word in words]
    op = Op(row.op, [tuple(SIZES[letter] for letter in row.output)], equations)
    result = RULES[getattr(torch.ops.aten, row.op)](op, *row.call(*tensors))
    output = result[0] if isinstance(result, list) else result
    assert_letters([*words, row.output], [*tensors, output])


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
