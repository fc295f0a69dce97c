"""Random networks with random zeros: plans from zeros are exact at every size, and leave nothing for a second one."""

from __future__ import annotations

from collections.abc import Iterator

import hypothesis
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Network, randomize, rebatched
from random_networks import Description, RandomNetwork, networks
from torch import Tensor
from torch.utils._pytree import tree_map
from zero_patterns import zero_at_random, zero_rows_and_columns

import fxprune
from fxprune import Plan
from fxprune.difference import difference

_CHUNKS = range(3)
EXACT = 1e-12


@pytest.fixture(autouse=True)
def in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def inputs_of(shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Inputs of other batch sizes, and of other heights, widths and lengths."""
    generator = torch.Generator().manual_seed(1)
    if len(shape) == 3:
        others = [(shape[0], shape[1] + 4, shape[2] + 4), (shape[0], shape[1] + 2, shape[2] + 3)]
    else:
        others = [(shape[0] + 5, shape[1])]  # type: ignore[list-item]
    for batch, sizes in ((2, shape), (1, shape), (5, shape), *((3, one) for one in others)):
        yield torch.randn(batch, *sizes, generator=generator)


def assert_law(description: Description, seed: int) -> None:
    model = RandomNetwork(description)
    zero_at_random(model, seed)
    inputs = model.example_inputs(2)
    plan = Plan.from_zeros(model, inputs)
    small = fxprune.compile(model, plan)
    for x in inputs_of(description.input_shape):
        try:
            want = model(x)
        except RuntimeError:  # the network takes one size alone
            continue
        assert difference(want, small(x)) <= EXACT, tuple(x.shape)
    report = fxprune.verify(model, plan, small, inputs=inputs, batch_sizes=(3,), tolerance=EXACT)
    assert report.ok, str(report)
    assert Plan.from_zeros(small, inputs).keep == {}


@pytest.mark.slow
@pytest.mark.parametrize("chunk", _CHUNKS)
def test_random_networks_with_random_zeros_become_smaller_exactly(chunk: int) -> None:
    @hypothesis.seed(chunk)
    @settings(
        max_examples=35,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # a failure names its network; shrinking it is for whoever mends it
        suppress_health_check=list(HealthCheck),
    )
    @given(networks(), st.integers(0, 999))
    def law(description: Description, seed: int) -> None:
        with torch.no_grad():
            assert_law(description, seed)

    law()


# Every fifth network of the table: the law holds of all of them, which takes a few minutes.
_SAMPLE = NETWORKS[::5]


@pytest.mark.parametrize("network", _SAMPLE, ids=[network.name for network in _SAMPLE])
def test_networks_of_the_table_become_smaller_exactly(network: Network) -> None:
    torch.manual_seed(0)
    model = network.build()
    randomize(model, 0)
    zero_rows_and_columns(model.double().eval(), 0)
    inputs = tree_map(lambda one: one.double() if one.is_floating_point() else one, network.inputs())
    plan = Plan.from_zeros(model, inputs)
    small = fxprune.compile(model, plan)
    sizes = (1, 5) if network.batch else ()
    report = fxprune.verify(model, plan, small, inputs=inputs, batch_sizes=sizes, tolerance=EXACT)
    assert report.ok, str(report)
    for size in sizes:
        x = rebatched(inputs, size)
        with torch.no_grad():
            torch.manual_seed(0)
            want = model(**x) if isinstance(x, dict) else model(*x)
            torch.manual_seed(0)
            got = small(**x) if isinstance(x, dict) else small(*x)
        assert difference(want, got) <= EXACT
