"""Processes that plan together by measurements of their own come to the same plan, and none waits for another."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from ranked import SECONDS, X, network, plan_as_a_rank

import fxprune
from fxprune import ranks


def test_processes_plan_alike_by_the_means_of_what_they_measure(tmp_path: Path) -> None:
    mp.spawn(plan_as_a_rank, (str(tmp_path),), nprocs=2)
    first, other = (torch.load(tmp_path / f"found-{rank}") for rank in range(2))
    message = "the processes of torch.distributed differ in the layers to time, expected the same in all."
    assert first.pop("other inputs").startswith(message) and other.pop("other inputs").startswith(message)
    assert other.pop("failure") == "no memory is left."
    assert first.pop("failure").startswith("1 of 2 processes could not time the model.")
    assert first == other
    assert set(first["table"].values()) == {sum(SECONDS) / 2}
    assert sum(isinstance(one, dict) for one in (*first.values(), *first["schedule"])) > 6  # plans, and the table


def test_a_process_alone_goes_by_its_own_numbers() -> None:
    assert ranks.mean_over_ranks([1.0, 2.0]) == ranks.first_of_ranks([1.0, 2.0]) == [1.0, 2.0]
    ranks.check_same("a", "letters")
    with pytest.raises(ValueError, match="mine"), ranks.failing_together("go on"):
        raise ValueError("mine")
    assert fxprune.plan(network(), X, channels=0.5).keep
