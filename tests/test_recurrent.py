"""Recurrent modules made smaller: in graphs, in exported programs, and in their model's own class."""

from __future__ import annotations

import copy
import io
import warnings
from typing import Any

import pytest
import torch
from support import assert_exact, random_plan
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import fxprune

LENGTHS = torch.tensor([6, 4, 3])


class Tagger(nn.Module):
    """Two layers in two directions from states of zeros, a GRU over them, and a cell that reads its last step twice."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.num_layers = 10, 2
        self.embed = nn.Linear(5, 8)
        self.lstm = nn.LSTM(8, self.hidden, self.num_layers, batch_first=True, bidirectional=True)
        self.gru, self.cell = nn.GRU(2 * self.hidden, 6, batch_first=True), nn.LSTMCell(6, 8)
        self.head, self.tail = nn.Linear(6, 4), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = torch.zeros(2 * self.num_layers, x.size(0), self.hidden, dtype=x.dtype)
        y, _ = self.lstm(self.embed(x), (h, torch.zeros_like(h)))
        y, _ = self.gru(y)
        state = self.cell(y[:, -1], self.cell(y[:, -1]))
        return self.head(y), self.tail(state[0])


class Packed(nn.Module):
    """Sequences of different lengths."""

    def __init__(self, kind: type[nn.RNNBase], *, sort: bool) -> None:
        super().__init__()
        self.embed, self.rnn, self.sort = nn.Linear(5, 8), kind(8, 6, 2, batch_first=True, bidirectional=True), sort
        self.head, self.tail = nn.Linear(12, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=self.sort)
        y, last = self.rnn(packed)
        padded, _ = pad_packed_sequence(y, batch_first=True)
        return self.head(padded), self.tail((last[0] if isinstance(last, tuple) else last)[-1])


def small_tagger(**options: Any) -> tuple[nn.Module, fxprune.Plan, Any]:
    torch.manual_seed(0)
    model = Tagger()
    plan = fxprune.plan(model, torch.zeros(3, 4, 5), channels=0.5, **options)
    return model, plan, fxprune.compile(model, plan, **options)


@pytest.mark.parametrize("emit", ["graph", "module"])
def test_sizes_and_attributes_follow(emit: str) -> None:
    model, plan, small = small_tagger(emit=emit)
    assert [(one.input_size, one.hidden_size) for one in (small.lstm, small.gru, small.cell)] == [
        (4, 5),
        (10, 3),
        (3, 4),
    ]
    assert (model.lstm.input_size, model.lstm.hidden_size, model.hidden) == (8, 10, 10)
    report = fxprune.verify(model, plan, small, inputs=torch.randn(3, 4, 5), batch_sizes=(2, 7), tolerance=1e-9)
    assert report.ok, str(report)
    if emit == "module":
        assert (type(small), small.hidden, small.num_layers) == (Tagger, 5, 2)


@pytest.mark.parametrize("emit", ["graph", "module"])
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_other_lengths(emit: str, steps: int) -> None:
    model, plan, small = small_tagger(emit=emit)
    report = fxprune.verify(model, plan, small, inputs=torch.randn(2, steps, 5), tolerance=1e-9)
    assert report.ok, str(report)


@pytest.mark.parametrize("emit", ["graph", "module"])
def test_the_weights_of_the_copy_are_its_own_and_train(emit: str) -> None:
    model, _, small = small_tagger(emit=emit)
    listed = [id(one) for one in (*small.lstm._flat_weights, *small.gru._flat_weights)]
    assert listed == [id(one) for one in (*small.lstm.parameters(), *small.gru.parameters())]
    assert not {id(one) for one in model.parameters()} & set(listed)
    sum(one.square().sum() for one in small(torch.randn(3, 4, 5))).backward()
    assert [name for name, one in small.named_parameters() if one.grad is None or not one.grad.any()] == []
    assert all(one.grad is None for one in model.parameters())


@pytest.mark.parametrize("emit", ["graph", "module"])
def test_the_state_goes_out_and_in_again(emit: str) -> None:
    _, _, small = small_tagger(emit=emit)
    other, file, x = copy.deepcopy(small), io.BytesIO(), torch.randn(3, 4, 5)
    for one in other.parameters():
        nn.init.zeros_(one)
    torch.save(small.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file))
    torch.testing.assert_close(other(x), small(x), rtol=0, atol=0)
    new = nn.LSTM(4, 5, 2, batch_first=True, bidirectional=True)
    new.load_state_dict(small.lstm.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_the_dtype_stays(dtype: torch.dtype) -> None:
    model, x = nn.Sequential(nn.Linear(5, 8), nn.LSTM(8, 6)).to(dtype), torch.randn(3, 2, 5, dtype=dtype)
    small = fxprune.compile(model, random_plan(model, x, fraction=0.5))
    assert {one.dtype for one in small.parameters()} == {one.dtype for one in small(x)[:1]} == {dtype}


def test_a_small_one_is_compiled_and_exported_again() -> None:
    _, _, small = small_tagger()
    x = torch.randn(3, 4, 5)
    want = small.eval()(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own: a recurrent module lists its weights
        torch.testing.assert_close(torch.export.export(small, (x,)).module()(x), want)
        torch.testing.assert_close(torch.compile(small, backend="aot_eager")(x), want)


@pytest.mark.parametrize("core", [False, True])
def test_an_exported_program_of_recurrent_modules(core: bool) -> None:
    torch.manual_seed(0)
    model, x = Tagger().eval(), torch.randn(3, 4, 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own: a recurrent module lists its weights
        program = torch.export.export(model, (x,))
        program = program.run_decompositions() if core else program
    plan = random_plan(program, x, fraction=0.5)
    small = fxprune.compile(program, plan)
    assert small.state_dict()["lstm.weight_hh_l0"].shape == (20, 5)
    assert_exact(program, plan, small, x)


@pytest.mark.parametrize("sort", [True, False])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_packed_sequences_where_the_code_stays(kind: type[nn.RNNBase], sort: bool) -> None:
    torch.manual_seed(0)
    model, inputs = Packed(kind, sort=sort), (torch.randn(3, 6, 5), LENGTHS if sort else LENGTHS.flip(0))
    plan = fxprune.plan(model, inputs, channels=0.5, emit="module")
    small = fxprune.compile(model, plan, emit="module")
    assert (small.rnn.input_size, small.rnn.hidden_size) == (4, 3)
    for other in (inputs, (torch.randn(3, 5, 5), torch.tensor([5, 5, 1]))):
        report = fxprune.verify(model, plan, small, inputs=other, tolerance=1e-9)
        assert report.ok, str(report)


class Handed(nn.Module):
    """A packed sequence comes in and goes out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.GRU(5, 8), nn.GRU(8, 4)

    def forward(self, x: Tensor, lengths: Tensor) -> PackedSequence:
        return self.second(self.first(pack_padded_sequence(x, lengths))[0])[0]


def test_a_packed_sequence_that_is_handed_on_and_returned() -> None:
    model, inputs = Handed(), (torch.randn(6, 3, 5), LENGTHS)
    plan = fxprune.plan(model, inputs, channels=0.5, emit="module")
    small = fxprune.compile(model, plan, emit="module")
    assert (small.first.hidden_size, small.second.input_size, small.second.hidden_size) == (4, 4, 4)
    assert isinstance(small(*inputs), PackedSequence)
    report = fxprune.verify(model, plan, small, inputs=inputs, tolerance=1e-9)
    assert report.ok, str(report)


def test_a_state_that_is_an_input_keeps_the_hidden_size() -> None:
    model, inputs = nn.GRU(5, 6, batch_first=True), (torch.randn(3, 4, 5), torch.randn(1, 3, 6))
    frozen = {one.parameter: one for one in fxprune.analyze(model, inputs).frozen}
    assert "model input" in frozen["weight_hh_l0"].reason
