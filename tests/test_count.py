"""Counts against values worked out by hand or published, never against the code's own."""

from __future__ import annotations

import copy

import pytest
import torch
import torchvision
from torch import nn

from fxprune.count import Count, count
from fxprune.inputs import as_call
from fxprune_passes.errors import CaptureError


class Constants(nn.Module):
    """Tensors outside parameters and buffers, and a constant that the forward makes."""

    def __init__(self, device: str | None) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 5, bias=False)
        self.scale = [torch.ones(3, requires_grad=True) * 2]
        self.hidden = {"parameter": nn.Parameter(torch.ones(3))}
        self.device = device

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(3) if self.device is None else torch.arange(3, device=self.device)
        return self.linear(x * self.scale[0] * self.hidden["parameter"] + steps)


class Tied(nn.Module):
    """An embedding whose weight is the output layer's as well."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.out = nn.Linear(4, 10, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.embedding(tokens))


class Recurrent(nn.Module):
    """A recurrent layer that must run off the meta device, because the forward names the CPU."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 20, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.lstm(x + torch.zeros(10, device="cpu"))[0]


class ValueDependent(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[: int(x.sum())]


LSTM_MACS = 2 * 7 * 4 * 20 * (10 + 20)  # batch, steps, four gates of 20, input and hidden columns

CASES = {
    "linear": (nn.Linear(8, 4), torch.zeros(2, 8), Count(36, 64, 144)),
    "conv": (nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 5, 6), Count(224, 5 * 6 * 8 * 27, 896)),
    "depthwise": (nn.Conv1d(6, 6, 3, groups=6, bias=False), torch.zeros(1, 6, 5), Count(18, 3 * 18, 72)),
    "batch norm": (nn.BatchNorm2d(4).eval(), torch.zeros(1, 4, 2, 2), Count(8, 0, 16 * 4 + 8)),
    "half": (nn.Linear(8, 4).half(), torch.zeros(2, 8).half(), Count(36, 64, 72)),
    "tied": (Tied(), torch.zeros(2, 3, dtype=torch.int64), Count(40, 2 * 3 * 40, 160)),
    "lstm": (nn.LSTM(10, 20, batch_first=True), torch.zeros(2, 7, 10), Count(2560, LSTM_MACS, 10240)),
    "lstm on the CPU": (Recurrent(), torch.zeros(2, 7, 10), Count(2560, LSTM_MACS, 10240)),
    "attention": (
        nn.MultiheadAttention(8, 2, batch_first=True).eval(),
        (torch.zeros(2, 5, 8),) * 3,
        Count(4 * 72, 2 * 5 * 8 * 8 * 4 + 2 * 2 * 5 * 5 * 4 * 2, 4 * 4 * 72),
    ),
    "encoder layer": (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
        torch.zeros(2, 5, 8),
        Count(4 * 72 + 144 + 136 + 32, 2 * 5 * 8 * (8 * 4 + 2 * 16) + 2 * 2 * 5 * 5 * 4 * 2, 4 * 600),
    ),
    "constant without a device": (Constants(None), torch.zeros(2, 3), Count(15, 30, 60)),
    "constant on the CPU": (Constants("cpu"), torch.zeros(2, 3), Count(15, 30, 60)),
    "keyword": (nn.Linear(8, 4), {"input": torch.zeros(2, 8)}, Count(36, 64, 144)),
}


@pytest.mark.parametrize("name", CASES)
def test_count_is_the_analytic_value(name: str) -> None:
    model, example_inputs, expected = CASES[name]
    assert count(model, example_inputs) == expected


@pytest.mark.parametrize(
    ("name", "params", "giga_macs"), [("resnet50", 25_557_032, 4.09), ("vit_b_16", 86_567_656, 17.56)]
)
def test_count_is_the_published_value(name: str, params: int, giga_macs: float) -> None:
    with torch.device("meta"):
        model = torchvision.models.get_model(name)
    counted = count(model, torch.empty(1, 3, 224, 224, device="meta"))
    assert counted.params == params
    assert counted.macs / 1e9 == pytest.approx(giga_macs, abs=0.01)


def test_count_changes_nothing() -> None:
    seen: list[torch.Tensor] = []
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    model[0].register_forward_hook(lambda module, args, output: seen.append(output))
    before = copy.deepcopy(model.state_dict())
    fast_path, onednn = torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled

    count(model, torch.zeros(2, 3, 4, 4))

    assert seen == []
    assert model.training
    assert len(model[0]._forward_hooks) == 1
    assert (torch.backends.mha.get_fastpath_enabled(), torch.backends.mkldnn.enabled) == (fast_path, onednn)
    for name, tensor in model.state_dict().items():
        assert torch.equal(before[name], tensor)


def test_count_reads_as_one_line() -> None:
    assert str(Count(25_557_032, 4_089_184_256, 102_441_000)) == "25.56 M parameters, 4.09 GMACs, 102.44 MB"


def test_a_forward_that_reads_values_is_refused_with_its_line() -> None:
    with pytest.raises(CaptureError, match=r"(?s)runs on tensors without data.*test_count\.py:\d+ .*x\.sum"):
        count(ValueDependent(), torch.ones(3))


def test_a_lazy_model_is_refused_by_name() -> None:
    with pytest.raises(CaptureError, match=r"(?s)uninitialised lazy parameter.*at +0\.weight"):
        count(nn.Sequential(nn.LazyLinear(3)), torch.zeros(2, 3))


@pytest.mark.parametrize(("given", "got"), [([1], "got list"), ({1: 2}, r"no strings: \[1\]"), (None, "got NoneType")])
def test_inputs_of_another_kind_are_refused(given: object, got: str) -> None:
    with pytest.raises(CaptureError, match=rf"a tensor, a tuple .* or a dict .*{got}"):
        as_call(given)  # type: ignore[arg-type]
