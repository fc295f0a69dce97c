"""Random networks, random plans: compiled is the masked original, whatever hypothesis puts together."""

from __future__ import annotations

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from random_networks import Description, RandomNetwork, networks
from support import assert_exact, plan_by_block, random_plan

import fxprune

_CHUNKS = range(5)  # 5 x 120 networks, so that workers share them


@pytest.mark.slow
@pytest.mark.parametrize("chunk", _CHUNKS)
def test_compiled_random_network_is_the_masked_original(chunk: int) -> None:
    seen: set[Description] = set()

    @hypothesis.seed(chunk)
    @settings(
        max_examples=120,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a failure names its network; shrinking it is for whoever mends it
        suppress_health_check=list(HealthCheck),
    )
    @given(
        networks(),
        st.sampled_from([0.01, 0.3, 0.5, 0.8]),
        st.sampled_from(["kept", "full"]),
        st.integers(0, 999),
    )
    def law(description: Description, fraction: float, statistics: str, seed: int) -> None:
        seen.add(description)
        model = RandomNetwork(description)
        inputs = model.example_inputs(2)
        plan = random_plan(model, inputs, fraction=fraction, seed=seed)
        small = fxprune.compile(model, plan, statistics=statistics)
        assert_exact(model, plan, small, inputs, batch_sizes=(3,))

    law()
    assert len(seen) >= 100


def _has_blocks(description: Description) -> bool:
    """Whether there is something with groups or heads in it."""
    kinds = {block.kind for block in description.blocks if block.kind in ("attention", "group_norm", "shuffle")}
    convolutions = [block for block in description.blocks if block.kind in ("conv", "transposed")]
    return bool(kinds) or any(block.sizes[0] > 1 for block in convolutions)


@pytest.mark.slow
def test_compiled_by_block_is_the_masked_original() -> None:
    """Where groups are free, every block keeps channels of its own; networks without such groups count for nothing.

    About one network in five has some, one in ten by ill luck: hypothesis also draws the numbers that it reads in
    whatever modules are imported, so a process that ran other tests draws other networks from the same seed.
    """
    seen: set[Description] = set()

    @hypothesis.seed(0)
    @settings(
        max_examples=60,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        networks(5).filter(_has_blocks),
        st.sampled_from([0.3, 0.5, 0.8]),
        st.sampled_from(["kept", "full"]),
        st.integers(0, 999),
    )
    def law(description: Description, fraction: float, statistics: str, seed: int) -> None:
        model = RandomNetwork(description)
        inputs = model.example_inputs(2)
        plan = plan_by_block(model, inputs, fraction=fraction, seed=seed)
        assume(plan.blocks)
        seen.add(description)
        small = fxprune.compile(model, plan, statistics=statistics)
        assert_exact(model, plan, small, inputs, batch_sizes=(3,))

    law()
    assert len(seen) >= 30
