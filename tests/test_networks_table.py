"""The table of small networks and the strategy of random ones hold what they promise to other tests."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Inputs, Network, output_dim, randomize, rebatched
from random_kinds import KINDS
from random_networks import Block, Description, Head, RandomNetwork
from random_networks import networks as random_networks
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

CONSTRUCTS = (
    "plain chain", "residual add", "cat", "cat same twice", "cat negative dim", "cat after flatten", "chunk", "split",
    "narrow", "slice", "strided slice", "flip", "roll", "index_select", "repeat", "repeat_interleave",
    "stack and unbind", "channel padding", "flatten", "view and reshape", "unflatten", "computed sizes",
    "channels last", "depthwise", "grouped", "grouped after cat", "grouped pair", "grouped in residual", "transposed",
    "1d", "3d", "batch norm", "functional batch norm", "frozen batch norm", "instance norm", "group norm",
    "layer norm", "rms norm", "local response norm", "prelu", "squeeze excite", "spatial gate", "raw parameter",
    "raw buffer", "channel shuffle", "pixel shuffle", "pixel unshuffle", "separate attention", "fused attention",
    "literal heads", "scaled dot product", "grouped query", "multihead attention", "lstm", "gru", "embedding",
    "tied embedding", "module called twice", "shared parameter", "several inputs", "several outputs", "dict output",
    "vanishing branch", "index buffer", "functional convolution", "functional matmul", "einsum", "one-channel gate",
    "in place", "slice assignment", "input skip", "input concatenated", "memory format", "requires grad", "dtype",
    "statistics over channels", "mixing over channels", "weight standardisation", "unused",
)  # fmt: skip

EVERY_NETWORK = pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.name)


def as_float64(inputs: Inputs) -> Inputs:
    return tree_map_only(Tensor, lambda tensor: tensor.double() if tensor.is_floating_point() else tensor, inputs)


def run(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    return [leaf for leaf in tree_leaves(outputs) if isinstance(leaf, Tensor)]


def build(network: Network, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    model = network.build().eval()
    randomize(model, seed)
    return model


def test_table_is_wide_enough_and_names_are_unique() -> None:
    assert len(NETWORKS) >= 130
    assert len({network.name for network in NETWORKS}) == len(NETWORKS)


def test_every_construct_has_a_network_and_every_network_a_construct() -> None:
    assert {network.construct for network in NETWORKS} == set(CONSTRUCTS)


@EVERY_NETWORK
def test_network_runs_and_is_deterministic(network: Network) -> None:
    model, inputs = build(network), network.inputs()
    first, second = run(model, network.inputs()), run(model, inputs)
    assert first
    assert all(tensor.isfinite().all() for tensor in first)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@EVERY_NETWORK
def test_network_computes_in_float64(network: Network) -> None:
    single = run(build(network), network.inputs())
    double = run(build(network).double(), as_float64(network.inputs()))
    assert all(tensor.dtype == torch.float64 for tensor in double if tensor.is_floating_point())
    assert all(tensor.isfinite().all() for tensor in double)
    assert [tensor.shape for tensor in single] == [tensor.shape for tensor in double]


@EVERY_NETWORK
def test_network_takes_other_batch_sizes_if_it_says_so(network: Network) -> None:
    model, inputs = build(network), rebatched(network.inputs(), 5)
    if network.batch:
        assert any(tensor.shape[0] == 5 for tensor in run(model, inputs))
    else:
        with pytest.raises(RuntimeError, match="shape"):
            run(model, inputs)


@EVERY_NETWORK
def test_facts_name_parameters_with_an_output_axis(network: Network) -> None:
    model = network.build()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert not set(network.prunable) & set(network.frozen)
    for name in network.prunable:
        assert parameters[name].shape[output_dim(model, name)] > 1
    assert set(network.frozen) <= set(parameters)


@EVERY_NETWORK
def test_two_builds_share_no_tensor(network: Network) -> None:
    first, second = network.build(), network.build()
    tensors = {tensor.data_ptr() for tensor in [*first.parameters(), *first.buffers()] if tensor.numel()}
    assert not any(tensor.data_ptr() in tensors for tensor in [*second.parameters(), *second.buffers()])


def test_randomize_fills_floats_reproducibly_and_leaves_integers() -> None:
    norm = nn.BatchNorm1d(6)
    randomize(norm, seed=3)
    first = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    assert all(first[name].unique().numel() == 6 for name in ("weight", "bias", "running_mean", "running_var"))
    assert first["running_var"].min() > 0
    assert first["num_batches_tracked"] == 0
    randomize(norm, seed=3)
    assert all(torch.equal(tensor, first[name]) for name, tensor in norm.state_dict().items())


@settings(max_examples=200, deadline=None)
@given(random_networks())
def test_random_network_builds_traces_and_runs(description: Description) -> None:
    model = RandomNetwork(description)
    traced = torch.fx.symbolic_trace(model)
    outputs = run(model, model.example_inputs(batch=3))
    assert [tensor.shape for tensor in outputs] == [(3, 3)] * len(description.heads)
    assert all(tensor.isfinite().all() for tensor in outputs)
    replayed = run(traced, model.example_inputs(batch=3))
    assert all(torch.equal(a, b) for a, b in zip(outputs, replayed, strict=True))


@settings(max_examples=20, deadline=None)
@given(random_networks())
def test_random_network_is_rebuilt_from_its_repr(description: Description) -> None:
    again = eval(repr(description), {"Block": Block, "Description": Description, "Head": Head})
    model, other = RandomNetwork(description), RandomNetwork(again)
    inputs = model.example_inputs()
    assert all(torch.equal(a, b) for a, b in zip(run(model, inputs), run(other, inputs), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_every_kind_of_block_takes_what_fits_it(kind: str, data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([shape for shape in ((4, 4, 4), (12, 8, 8), (4, 6)) if KINDS[kind].fits(shape)]))
    module = KINDS[kind].build(shape, *data.draw(KINDS[kind].sizes(shape))).eval()
    inputs = [torch.randn(3, *shape) for _ in range(1 if KINDS[kind].joins is None else 2)]
    first, second = module(*inputs), module(*(tensor[1:] for tensor in inputs))
    assert first.shape[0] == 3
    torch.testing.assert_close(first[1:], second)
