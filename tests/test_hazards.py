"""What models keep, switch and drop behind the back of a tracer, and what must come of it in the compiled graph."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
import timm.layers
import torch
import torch.nn.functional as F
import torchvision
from networks import randomize
from support import assert_exact, random_plan
from torch import Tensor, nn

import fxprune
from fxprune.capture import capture
from fxprune_passes.errors import CaptureError

TOKENS = torch.randn(2, 5, 6)


class CachedBias(nn.Module):
    """Attention whose bias table is picked once in eval mode, as LeViT's and EfficientFormer's."""

    def __init__(self, keep: str = "dict") -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 24), nn.Linear(8, 4)
        self.biases = nn.Parameter(torch.zeros(2, 5))
        self.register_buffer("places", (torch.arange(5)[:, None] - torch.arange(5)).abs())
        self.keep, self.cache, self.bias = keep, dict[str, Tensor](), None

    def train(self, mode: bool = True) -> CachedBias:
        self.cache, self.bias = {}, None
        return super().train(mode)

    def table(self, key: str) -> Tensor:
        if self.training:
            return self.biases[:, self.places]
        if self.keep == "attribute":
            if self.bias is None:
                self.bias = self.biases[:, self.places]
            return self.bias
        if key not in self.cache:
            self.cache[key] = self.biases[:, self.places]
        return self.cache[key]

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind()
        attention = (q @ k.mT + self.table(str(x.device))).softmax(-1)
        return self.out((attention @ v).transpose(1, 2).flatten(2))


def built(model: nn.Module) -> nn.Module:
    randomize(model, 0)
    return model.eval()


@pytest.mark.parametrize("keep", ["dict", "attribute"])
def test_what_an_earlier_forward_cached_is_computed_anew(keep: str) -> None:
    model = built(CachedBias(keep))
    model(TOKENS)
    assert model.cache or model.bias is not None
    plan = random_plan(model, TOKENS, fraction=0.5)
    small = fxprune.compile(model, plan)
    assert_exact(model, plan, small, TOKENS, batch_sizes=(3,))
    assert "biases" in dict(small.named_parameters())
    assert dict(small.named_buffers()).keys() == {"places"}
    assert small.get_parameter("qkv.weight").shape < model.qkv.weight.shape


def test_a_cache_of_an_earlier_mode_of_the_weights_is_refused() -> None:
    model = built(CachedBias())
    model(TOKENS)
    with torch.no_grad():
        model.biases.add_(1)
    with pytest.raises(CaptureError, match=r"keeps a tensor \(2, 5, 5\) in cache\['cpu'\]") as refusal:
        fxprune.analyze(model, TOKENS)
    assert "another value" in str(refusal.value)


class Keeping(nn.Module):
    """Keeps tensors in a list or dict, and does with them what it is told."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], kept: Any) -> None:
        super().__init__()
        self.layer, self.run, self.kept = nn.Linear(6, 8), run, kept

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.kept, self.layer(x))


def remember(kept: Any, x: Tensor) -> Tensor:
    result = x + kept["last"] if "last" in kept else x
    kept["last"] = x
    return result


@pytest.mark.parametrize(
    ("run", "kept", "message"),
    [
        (lambda kept, x: x * kept[0], [torch.ones(8)], "neither an input, a parameter, a buffer"),
        (
            lambda kept, x: x + kept["a"] if "a" in kept else x,
            {"a": torch.ones(8)},
            "does not compute that tensor anew",
        ),
        (remember, {"last": torch.ones(2, 5, 8)}, "computes that tensor from the inputs"),
    ],
)
def test_tensors_that_no_forward_can_compute_anew_are_refused(run: Any, kept: Any, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        fxprune.analyze(built(Keeping(run, kept)), TOKENS)


def test_tensors_that_nobody_reads_are_no_hindrance() -> None:
    model = built(Keeping(lambda kept, x: x * len(kept), {"log": torch.ones(8)}))
    plan = random_plan(model, TOKENS, fraction=0.5)
    assert_exact(model, plan, fxprune.compile(model, plan), TOKENS)


def test_a_refused_model_prints_nothing(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Unflatten(2, (3, 3)))
    with pytest.raises(CaptureError):
        fxprune.analyze(model, TOKENS)
    assert caplog.records == []


class Switched(nn.Module):
    """Everything that follows the mode: functions, attention's dropout, a batch norm of its own, dropped paths."""

    class Norm(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            training = True if self.training else self.running_mean is None
            momentum = self.momentum or 0.0
            return F.batch_norm(
                x, self.running_mean, self.running_var, self.weight, self.bias, training, momentum, self.eps
            ).relu()

    class DropPath(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not self.training:
                return x
            return x * x.new_empty(x.shape[0], 1, 1).bernoulli_(0.5) / 0.5

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.qkv = nn.Linear(6, 8), self.Norm(8), nn.Linear(8, 24)
        self.path, self.rate, self.out = self.DropPath(), nn.Dropout(0.25), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(F.dropout(self.stem(x), 0.3, self.training).mT).mT
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4).unbind()
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.rate.p if self.training else 0.0)
        y = x + self.path(y.transpose(1, 2).flatten(2))
        return self.out(F.dropout(y, 0.5, training=True))


class SelfAttention(nn.Module):
    def __init__(self, weights: bool) -> None:
        super().__init__()
        self.attention, self.weights = nn.MultiheadAttention(6, 2, dropout=0.3, batch_first=True), weights
        self.out = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.attention(x, x, x, need_weights=self.weights)[0])


SWITCHED = {
    "functions": Switched,
    "attention": lambda: SelfAttention(False),
    "attention with weights": lambda: SelfAttention(True),
    "drop path of timm": lambda: nn.Sequential(nn.Linear(6, 8), timm.layers.DropPath(0.5), nn.Linear(8, 4)),
    "batch norm of timm": lambda: nn.Sequential(
        nn.Conv1d(5, 8, 1), nn.Unflatten(2, (2, 3)), timm.layers.BatchNormAct2d(8), nn.Conv2d(8, 4, 1)
    ),
    "stochastic depth of torchvision": lambda: nn.Sequential(
        nn.Linear(6, 8), torchvision.ops.StochasticDepth(0.5, "row"), nn.Linear(8, 4)
    ),
}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SWITCHED)
def test_what_the_mode_switches_follows_the_mode_of_the_compiled_graph(name: str, training: bool) -> None:
    model = built(SWITCHED[name]()).train(training)
    plan = fxprune.plan(model, TOKENS, channels=1.0)
    whole = pickle.loads(pickle.dumps(fxprune.compile(model, plan)))
    outputs = []
    for mode in (not training, training):
        expected, actual = [torch.random.manual_seed(0) and one.train(mode)(TOKENS) for one in (model, whole)]
        assert torch.equal(expected, actual)
        outputs.append(expected)
    assert not torch.equal(*outputs)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", SWITCHED)
def test_what_the_mode_switches_is_prunable(name: str, training: bool) -> None:
    model = built(SWITCHED[name]()).train(training)
    plan = random_plan(model, TOKENS, fraction=0.5)
    small = fxprune.compile(model, plan, statistics="full")
    assert_exact(model, plan, small, TOKENS, batch_sizes=(3,))
    assert plan.keep
    small.train(not training)(TOKENS)
    again = fxprune.compile(small, random_plan(small, TOKENS, fraction=0.5))
    assert again(TOKENS).shape == model(TOKENS).shape


def test_what_does_not_follow_the_mode_is_noted_with_its_line() -> None:
    class Auxiliary(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + 1 if self.training else super().forward(x)

    groups = capture(built(nn.Sequential(Auxiliary(6, 8), nn.Linear(8, 4))), TOKENS)
    [(line, what, value)] = groups.graph_module.meta["baked"]
    assert (what, value) == ("training", False)
    assert re.fullmatch(r"tests/test_hazards\.py:\d+|test_hazards\.py:\d+", line)


def test_modules_that_no_node_calls_are_dropped_and_named() -> None:
    class WithAuxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.auxiliary, self.head = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Any:
            x = self.body(x).relu()
            return (self.head(x), self.auxiliary(x)) if self.training else self.head(x)

    model = built(WithAuxiliary())
    small = fxprune.compile(model, random_plan(model, TOKENS, fraction=0.5))
    assert small.meta["fxprune"]["dropped"] == ["auxiliary.weight", "auxiliary.bias"]
    model.train()
    plan = random_plan(model, TOKENS, fraction=0.5)
    both = fxprune.compile(model, plan)
    assert both.meta["fxprune"]["dropped"] == []
    assert_exact(model, plan, both, TOKENS)


def test_conversions_that_change_nothing_leave_no_node() -> None:
    def convert(kept: Any, x: Tensor) -> Tensor:
        x = x.to("cpu").float().type_as(x).to(x.dtype)
        return x if x.shape[1] > 1 else x.neg()  # a question that symbolic tracing cannot answer

    captured = capture(built(Keeping(convert, None)), TOKENS)
    assert captured.tracer == "recording"
    assert {node.target for node in captured.graph_module.graph.nodes if node.op == "call_method"} == set()
