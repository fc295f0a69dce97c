"""The recording tracer: what it writes computes what the model computes, at every batch size."""

from __future__ import annotations

import copy
import functools
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
import torchvision
from networks import NETWORKS, Inputs, Network, randomize, rebatched
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fxprune.record import record
from fxprune_passes.errors import CaptureError
from fxprune_passes.fakes import shadow

NEEDS_VALUES = {"picked_by_mask"}  # of a boolean index: the shape of the result depends on them


def recorded(model: nn.Module, inputs: Inputs, **options: Any) -> fx.GraphModule:
    """The graph that fake tensors leave, over the real model."""
    fake_mode = FakeTensorMode()
    fake: Any = tree_map_only(Tensor, fake_mode.from_tensor, inputs)
    args, kwargs = ((), fake) if isinstance(inputs, dict) else (fake, {})
    graph_module = record(shadow(model, fake_mode), args, kwargs, **options)
    real = fx.GraphModule(model, graph_module.graph)
    real.meta = graph_module.meta
    return real


def called(model: nn.Module, inputs: Inputs) -> Any:
    """The model's output; inputs that it changes are copies, and attention does not take its fused path."""
    inputs = copy.deepcopy(inputs)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            return model(**inputs) if isinstance(inputs, dict) else model(*inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def assert_replays(model: nn.Module, graph_module: nn.Module, inputs: Inputs) -> None:
    expected, actual = tree_leaves(called(model, inputs)), tree_leaves(called(graph_module, inputs))
    assert len(expected) == len(actual)
    for one, other in zip(expected, actual, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


def doubled(inputs: Inputs) -> Inputs:
    result: Inputs = tree_map_only(Tensor, lambda one: one.double() if one.is_floating_point() else one, inputs)
    return result


def in_double(model: nn.Module) -> nn.Module:
    randomize(model, 0)
    return model.double().eval()


def targets(graph_module: fx.GraphModule, op: str) -> list[Any]:
    return [node.target for node in graph_module.graph.nodes if node.op == op]


@pytest.mark.parametrize("network", NETWORKS, ids=[network.name for network in NETWORKS])
def test_every_network_replays_exactly_at_its_own_and_at_another_batch_size(network: Network) -> None:
    model, inputs = in_double(network.build()), doubled(network.inputs())
    if network.name in NEEDS_VALUES:
        with pytest.raises(CaptureError, match=r"needs the values of a tensor"):
            recorded(model, inputs)
        return
    graph_module = recorded(model, inputs)
    assert_replays(model, graph_module, inputs)
    if network.batch:
        assert_replays(model, graph_module, rebatched(inputs, 5))
    for node in graph_module.graph.nodes:
        if node.op not in ("placeholder", "output"):
            assert ".py:" in node.meta["source"]
            assert node.meta["module"] in dict(model.named_modules())


def small_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 16, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=64)


def small_swin(version: int) -> nn.Module:
    swin = torchvision.models.swin_transformer
    blocks: dict[str, Any] = {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
    return torchvision.models.SwinTransformer(
        [4, 4], 16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], **(blocks if version == 2 else {})
    )


def small_maxvit() -> nn.Module:
    return torchvision.models.MaxVit(
        input_size=(32, 32), stem_channels=8, partition_size=2, block_channels=[8, 16], block_layers=[1, 1],
        head_dim=4, stochastic_depth_prob=0.2,
    )  # fmt: skip


TORCHVISION: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet18": (torchvision.models.resnet18, 64),
    "shufflenet_v2_x0_5": (torchvision.models.shufflenet_v2_x0_5, 64),
    "swin": (lambda: small_swin(1), 36),
    "swin_v2": (lambda: small_swin(2), 36),
    "maxvit": (small_maxvit, 32),
    "vit": (small_vit, 32),
    "googlenet": (lambda: torchvision.models.googlenet(init_weights=False), 64),
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision_models_replay_exactly_at_another_batch_size(name: str) -> None:
    build, size = TORCHVISION[name]
    model = in_double(build())
    graph_module = recorded(model, (torch.randn(2, 3, size, size).double(),))
    assert_replays(model, graph_module, (torch.randn(3, 3, size, size).double(),))
    reads = [node for node in graph_module.graph.nodes if node.target in (getattr, operator.getitem, "size")]
    assert [node for node in reads if not node.users] == []


class LeNet(nn.Module):
    """As the PyTorch pruning tutorial writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), (2, 2))
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        x = x.view(-1, int(x.nelement() / x.shape[0]))
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        return self.fc3(x)


def test_lenet_as_the_pruning_tutorial_writes_it() -> None:
    model = in_double(LeNet())
    graph_module = recorded(model, (torch.randn(2, 1, 32, 32).double(),))
    assert_replays(model, graph_module, (torch.randn(7, 1, 32, 32).double(),))
    assert graph_module.meta["baked"] == []


class Parts(NamedTuple):
    front: Tensor
    back: Tensor


@dataclass
class Summary:
    mean: Tensor
    shape: tuple[int, ...]


class Everything(nn.Module):
    """Spellings that differ between Python, torch functions and graphs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.mix = nn.Parameter(torch.randn(4, 4))
        self.register_buffer("seen", torch.zeros(()))
        self.offset = torch.randn(8, 1, 1)  # neither parameter nor buffer
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor, scale: float = 2.0, *extra: Tensor, shift: Tensor, mask: Tensor | None = None) -> Any:
        x = self.stem(input=x) + self.offset.to(x.dtype)
        n, c, h, w = x.size()
        front, back = x.chunk(2, dim=1)
        canvas = torch.zeros(n, c // 2 + 1, *x.shape[-2:], dtype=x.dtype, device=x.device)
        canvas[:, : c // 2] = front
        canvas[:, -1:] += back.mean(1, keepdim=True)
        mixed = torch.einsum("oc,nchw->nohw", self.mix, back) / (h * w) ** 0.5
        mixed = 1 - mixed.relu_() * scale
        mixed -= shift
        tokens = canvas.flatten(2).transpose(1, 2).contiguous().view(len(x), -1, (c + 2) // 2)
        first = tokens.unbind(1)[0].T
        size = first.shape
        first.unsqueeze_(0)
        first = first.reshape(size[0], size[1])
        joined = torch.cat([mixed, *extra], dim=1)[:, : joined_width(mixed, extra)]
        joined = F.interpolate(joined, size=(h // 2, round(w / 2)), mode="nearest")
        return Parts(joined, self.drop(first)), {
            "parts": Parts(mixed, canvas),
            "summary": Summary(tokens.mean(), tokens.shape),
            "numbers": [x.numel(), x.stride(0), h // 2 * n, None],
            "flags": (x.is_floating_point(), x.dim()),
        }


def joined_width(mixed: Tensor, extra: tuple[Tensor, ...]) -> int:
    return mixed.shape[1] + sum(one.shape[1] for one in extra) - 1


def everything_inputs(batch: int) -> tuple[Tensor, float, Tensor, Tensor]:
    return (
        torch.randn(batch, 3, 6, 8).double(),
        3.0,
        torch.randn(batch, 2, 6, 8).double(),
        torch.randn(batch, 1, 6, 8).double(),
    )


def test_python_spellings_replay_exactly_at_another_batch_size() -> None:
    model = Everything().double().eval()
    x, scale, one, other = everything_inputs(2)
    fake_mode = FakeTensorMode()
    args, kwargs = tree_map_only(Tensor, fake_mode.from_tensor, ((x, scale, one, other), {"shift": torch.ones(1)}))
    graph_module = fx.GraphModule(model, record(shadow(model, fake_mode), args, kwargs).graph)
    assert targets(graph_module, "placeholder") == ["x", "extra_0", "extra_1", "shift"]

    x, scale, one, other = everything_inputs(5)
    shift = torch.randn(1)
    with torch.no_grad():
        parts, rest = model(x, scale, one, other, shift=shift)
        actual_parts, actual_rest = graph_module(x, one, other, shift=shift)
    assert type(actual_parts) is Parts
    summary = rest["summary"]
    expected = {**rest, "parts": tuple(rest["parts"]), "summary": {"mean": summary.mean, "shape": summary.shape}}
    torch.testing.assert_close((actual_parts, actual_rest), (parts, expected), rtol=0, atol=0)
    assert {operator.setitem, operator.iadd, operator.isub} <= set(targets(graph_module, "call_function"))


def test_attention_is_traced_into() -> None:
    graph_module = recorded(small_vit().eval(), (torch.randn(2, 3, 32, 32),))
    assert not any("self_attention" in target for target in targets(graph_module, "call_module"))
    assert "encoder.layers.encoder_layer_0.self_attention.in_proj_weight" in targets(graph_module, "get_attr")
    assert "encoder.layers.encoder_layer_1.self_attention.out_proj.weight" in targets(graph_module, "get_attr")
    assert F.scaled_dot_product_attention in targets(graph_module, "call_function")


def test_an_encoder_layer_is_all_plain_functions_and_leaves() -> None:
    model = in_double(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True))
    graph_module = recorded(model, (torch.randn(2, 5, 16).double(),))
    assert_replays(model, graph_module, (torch.randn(3, 7, 16).double(),))
    assert set(targets(graph_module, "call_module")) == {
        "norm1", "norm2", "linear1", "linear2", "dropout", "dropout1", "dropout2",
    }  # fmt: skip


def test_modules_that_the_caller_calls_leaves_stay_whole() -> None:
    model = torchvision.models.resnet18().eval()
    graph_module = recorded(model, (torch.randn(2, 3, 64, 64),), is_leaf=lambda module, path: path.count(".") == 1)
    assert "layer1.0" in targets(graph_module, "call_module")
    assert_replays(model, graph_module, (torch.randn(3, 3, 64, 64),))


class DroppedResidual(nn.Module):
    """In eval mode dropout returns the very tensor that it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.drop(x)


def test_a_graph_recorded_in_eval_mode_trains_as_the_model_does() -> None:
    model, inputs = DroppedResidual().eval(), (torch.ones(4, 8),)
    graph_module = recorded(model, inputs)
    model.train()
    graph_module.train()
    torch.manual_seed(0)
    expected = called(model, inputs)
    torch.manual_seed(0)
    assert torch.equal(called(graph_module, inputs), expected)
    assert expected.unique().tolist() == [1.0, 3.0]


def test_statistics_of_a_batch_norm_whose_output_nobody_reads_are_still_updated() -> None:
    class Observed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x)
            return x * 2

    model, inputs = Observed().train(), (torch.randn(8, 3),)
    graph_module = recorded(model, inputs)
    called(graph_module, inputs)
    torch.testing.assert_close(model.norm.running_mean, 0.1 * inputs[0].mean(0))


class Running(nn.Module):
    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.run = run
        self.state: Any = None

    def forward(self, x: Tensor) -> Any:
        self.state = x
        return self.run(x)


OUTSIDE = torch.ones(3)


def surroundings() -> tuple[Any, ...]:
    """What recording changes for its own time."""
    return (
        nn.Module.__call__,
        {"int", "len"} & globals().keys(),
        torch.backends.mha.get_fastpath_enabled(),
        torch.is_grad_enabled(),
        torch._C._len_torch_function_stack(),
    )


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: x * 2 if x.sum() > 0 else x, r"test_record\.py:\d+ needs the values of a tensor"),
        (lambda x: x[x > 0], r"test_record\.py:\d+ needs the values of a tensor"),
        (
            lambda x: x.view(int(x.shape[0]), len(x), 7),
            r"does not run on the example inputs: .*test_record\.py:\d+ raises RuntimeError",
        ),
        (lambda x: x + OUTSIDE, r"a tensor float32\(3,\) is neither an input"),
        (lambda x: x.mul(2).__setattr__("data", x), r"assigns to a tensor's \.data"),
        (lambda x: (x, object()), r"an argument of type object cannot be written"),
    ],
)
def test_what_cannot_be_recorded_is_refused_and_leaves_nothing_behind(run: Any, message: str) -> None:
    before = surroundings()
    fake_mode = FakeTensorMode()
    model = shadow(Running(run), fake_mode)
    with pytest.raises(CaptureError, match=message):
        record(model, (fake_mode.from_tensor(torch.randn(2, 3)),), {})
    assert surroundings() == before
    assert model.state is None


def test_a_recording_leaves_nothing_behind() -> None:
    before = surroundings()
    recorded(LeNet(), (torch.randn(2, 1, 32, 32),))
    assert surroundings() == before


def test_a_size_kept_from_an_earlier_recording_becomes_a_literal() -> None:
    kept: list[int] = []

    def reshape(x: Tensor) -> Tensor:
        kept.append(x.shape[1])
        return x.reshape(-1, kept[0])

    model, inputs = Running(reshape), (torch.randn(2, 6),)
    assert recorded(model, inputs).meta["baked"] == []
    again = recorded(model, inputs)
    assert [(what, value) for _, what, value in again.meta["baked"]] == [("kept by the model", 6)]
    assert_replays(model, again, (torch.randn(3, 6),))


def test_assertions_on_values_stay_in_the_graph() -> None:
    def check(x: Tensor) -> Tensor:
        torch._assert((x > 0).all(), "all positive")
        return x * 2

    graph_module = recorded(Running(check), (torch.ones(2, 3),))
    assert torch.equal(graph_module(torch.ones(4, 3)), torch.full((4, 3), 2.0))
    with pytest.raises(AssertionError, match="all positive"):
        graph_module(torch.zeros(4, 3))


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.view(int(x.shape[0]), -1),
        lambda x: x.view(int(x.numel() / x[0].numel()), -1) if isinstance(x.dim(), int) else x,
        lambda x: x.view(-1, int("2"), int(x.shape[1] * 1.5)),
        lambda x: torch.stack(list(x.unbind(1))[: len(x.shape)]) * len(x),
    ],
)
def test_conversions_to_int_stay_symbolic(run: Callable[[Tensor], Tensor]) -> None:
    model = Running(run)
    assert_replays(model, recorded(model, (torch.randn(2, 2, 6),)), (torch.randn(5, 2, 6),))


@pytest.mark.parametrize(
    "run",
    [
        lambda x, y: (y.relu_(), y + x)[1],
        lambda x, y: (y[:, :1].mul_(3), y.t_(), y @ x)[2],
        lambda x, y: (torch._foreach_add_([x, y], 1.0), x * y)[1],
        lambda x, y: torch.add(x, 1, out=y) + y,
        lambda x, y: (y.unsqueeze_(0).expand(2, *x.shape), y.squeeze_(0).shape[0] + x)[1],
        lambda x, y: F.relu(F.dropout(y, training=False), inplace=True) + y + x,
    ],
)
def test_changes_in_place_keep_their_order(run: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = Running(lambda x: run(x, x * 2 - 1))
    assert_replays(model, recorded(model, (torch.randn(3, 3),)), (torch.randn(3, 3),))


def test_a_leaf_whose_weights_are_exchanged_for_a_call_is_traced_into() -> None:
    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            weights = {name: 2 * tensor for name, tensor in self.linear.named_parameters()}
            return torch.func.functional_call(self.linear, weights, (x,)) + self.linear(x)

    model = Doubled()
    assert_replays(model, recorded(model, (torch.randn(2, 3),)), (torch.randn(4, 3),))


def test_the_same_tensor_given_twice_stays_two_inputs() -> None:
    class Difference(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x - 2 * y

    x = torch.randn(2, 3)
    graph_module = recorded(Difference(), (x, x))
    assert_replays(Difference(), graph_module, (x, torch.randn(2, 3)))


def test_arithmetic_on_sizes_follows_python() -> None:
    def sizes(x: Tensor) -> tuple[Any, ...]:
        n, c = x.shape
        return (
            n + 1, 1 - n, n * c, c // 2, 7 // n, c / n, 2**n, -n, divmod(c, n), divmod(9, n), abs(-c), round(c / n, 1),
            x.shape.numel(), c % n, (c << 1) | 1, [0] * n, max(n, c), f"{c}", (3, *x.shape[1:], 4),
            x.shape + x.shape[:1],
        )  # fmt: skip

    model = Running(sizes)
    graph_module = recorded(model, (torch.randn(2, 6),))
    assert graph_module(torch.randn(2, 6)) == sizes(torch.randn(2, 6))
    assert graph_module(torch.randn(4, 6))[:15] == sizes(torch.randn(4, 6))[:15]


@functools.lru_cache
def table(length: int) -> Tensor:
    return torch.linspace(0.0, 1.0, length)


class Cached(nn.Module):
    """Reads tensors from caches of Python: of a function, of a static method, and inside a decorator."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    @staticmethod
    @functools.cache
    def shifts(length: int) -> Tensor:
        return torch.arange(length).flip(0)

    @functools.lru_cache(maxsize=4)  # noqa: B019 (what models do)
    def scale(self) -> Tensor:
        return torch.full((4,), 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x) * table(len(x[0])) * self.scale()
        return y[:, self.shifts(int(x.shape[1]))]


@pytest.mark.parametrize("used_before", [False, True])
def test_what_python_caches_is_computed_in_the_graph(used_before: bool) -> None:
    for cache in (table, Cached.shifts, Cached.scale):
        cache.cache_clear()
    model, x = in_double(Cached()), torch.randn(3, 4, dtype=torch.float64)
    if used_before:
        model(x)
    graph_module = recorded(model, (x,))
    assert_replays(model, graph_module, (x,))
    assert {torch.linspace, torch.arange, torch.full} <= set(targets(graph_module, "call_function"))
    assert type(table(4)) is type(Cached.shifts(4)) is Tensor  # no fake one was left in a cache
    assert table.cache_info().currsize == Cached.shifts.cache_info().currsize == 1
