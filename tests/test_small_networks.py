"""Every network of the table: what is found in it, and compiled = masked original, at several widths and batches."""

from __future__ import annotations

import pytest
import torch
from networks import NETWORKS, Network, output_dim, randomize
from support import assert_exact, random_plan

import fxprune
from fxprune_passes.axes import freezing

_IDS = [network.name for network in NETWORKS]


def _built(network: Network) -> torch.nn.Module:
    torch.manual_seed(0)
    model = network.build()
    randomize(model, 0)
    return model.eval()


@pytest.mark.parametrize("network", NETWORKS, ids=_IDS)
def test_what_is_prunable_and_what_is_frozen(network: Network) -> None:
    model = _built(network)
    groups = fxprune.analyze(model, network.inputs())
    axes = {name: groups.parameters[name][output_dim(model, name)] for name in (*network.prunable, *network.frozen)}
    assert [name for name in network.prunable if freezing(axes[name])] == []
    assert [name for name in network.frozen if not freezing(axes[name])] == []


@pytest.mark.parametrize(("statistics", "fraction"), [("full", 0.5), ("kept", 0.7), ("full", 0.01)])
@pytest.mark.parametrize("network", NETWORKS, ids=_IDS)
def test_compiled_is_the_masked_original(network: Network, statistics: str, fraction: float) -> None:
    model, inputs = _built(network), network.inputs()
    plan = random_plan(model, inputs, fraction=fraction)
    small = fxprune.compile(model, plan, statistics=statistics)
    assert_exact(model, plan, small, inputs, batch_sizes=(5,) if network.batch else ())


def test_no_rule_fails_on_a_network_of_the_table() -> None:
    failed = [
        f"{network.name}: {axis}"
        for network in NETWORKS
        for axis in fxprune.analyze(_built(network), network.inputs()).frozen
        if "does not cover" in axis.reason
    ]
    assert failed == []
