"""Embeddings, recurrent layers, text and signal convolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, image, joined, random_input, sequence, tokens

family = Family()
HEAD = ("head.weight",)


@family.network("embedding", tokens(), prunable=("embed.weight", "fc.weight"), frozen=HEAD)
class BagOfWords(nn.Module):
    """Embeddings averaged over tokens that are not padding, two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc, self.head = nn.Embedding(17, 12, padding_idx=0), nn.Linear(12, 9), nn.Linear(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0).unsqueeze(-1)
        x = self.embed(ids).masked_fill(~mask, 0.0)
        return self.head(self.fc(x.sum(1) / mask.sum(1).clamp(min=1)).relu())


@family.network("embedding", tokens(), prunable=("embed.weight", "places.weight", "kinds.weight"), frozen=HEAD)
class SummedEmbeddings(nn.Module):
    """BERT's input: words, positions and kinds are summed, then normed; indices come from a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.places, self.kinds = nn.Embedding(17, 12), nn.Embedding(9, 12), nn.Embedding(2, 12)
        self.register_buffer("position_ids", torch.arange(9).expand((1, -1)))
        self.norm, self.head = nn.LayerNorm(12), nn.Linear(12, 4)

    def forward(self, ids: Tensor) -> Tensor:
        places = self.places(self.position_ids[:, : ids.size(1)])
        return self.head(self.norm(self.embed(ids) + places + self.kinds(torch.zeros_like(ids))))


@family.network("embedding", tokens(8), prunable=("embed.weight", "convs.0.weight", "convs.1.weight"), frozen=HEAD)
class TextConvolution(nn.Module):
    """Convolutions of two kernel sizes over an embedding, maximum over time, cat (Kim's text CNN)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, 10), nn.Linear(6 + 8, 4)
        self.convs = nn.ModuleList([nn.Conv1d(10, 6, 2), nn.Conv1d(10, 8, 3)])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).permute(0, 2, 1)
        pooled = [F.max_pool1d(F.relu(conv(x)), conv(x).shape[2]).squeeze(2) for conv in self.convs]
        return self.head(torch.cat(pooled, 1))


@family.network("embedding", tokens(8), prunable=("convs.0.weight", "convs.1.weight"), frozen=HEAD)
class TextConvolution2d(nn.Module):
    """The same with 2d convolutions whose kernel spans the whole embedding: its width is a spatial axis."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, 10), nn.Linear(6 + 8, 4)
        self.convs = nn.ModuleList([nn.Conv2d(1, 6, (2, 10)), nn.Conv2d(1, 8, (3, 10))])

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids).unsqueeze(1)
        return self.head(torch.cat([conv(x).relu().squeeze(3).amax(2) for conv in self.convs], 1))


@family.network("embedding", tokens(), prunable=("fc.weight",), frozen=HEAD)
class FunctionalEmbedding(nn.Module):
    """A raw table by function with a sum over tokens, and the same table indexed by the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(17, 12))
        self.fc, self.head = nn.Linear(12, 9), nn.Linear(9, 4)

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.table).sum(1) + self.table[ids[:, 0]] + self.table[3]
        return self.head(self.fc(x).relu())


@family.network("embedding", tokens(), frozen=HEAD)
class EmbeddingBag(nn.Module):
    """torch's bag of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.bag, self.head = nn.EmbeddingBag(17, 12, mode="mean"), nn.Linear(12, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.bag(ids))


@family.network("lstm", tokens(), prunable=("lstm.weight_ih_l0", "lstm.weight_hh_l1"), frozen=HEAD)
class LstmLastState(nn.Module):
    """An embedding, two layers of LSTM, the last hidden state of the upper one."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, 10), nn.Linear(12, 4)
        self.lstm = nn.LSTM(10, 12, num_layers=2, batch_first=True, dropout=0.1)

    def forward(self, ids: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(self.embed(ids))
        return self.head(hidden[-1])


@family.network("lstm", image(), prunable=("lstm.weight_hh_l0", "lstm.weight_hh_l0_reverse"), frozen=HEAD)
class ConvolutionThenLstm(nn.Module):
    """CRNN: columns of an image are a sequence; channels times rows go in, both directions come out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 9, 3, padding=1), nn.Linear(14, 4)
        self.lstm = nn.LSTM(36, 7, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.conv(x).relu(), (2, 2))
        x = x.permute(3, 0, 1, 2).flatten(2)
        y, _ = self.lstm(x)
        return self.head(y).transpose(0, 1)


@family.network("gru", random_input(2, 4, 10), prunable=("gru.weight_ih_l0", "gru.weight_hh_l0"), frozen=HEAD)
class GruAfterConv1d(nn.Module):
    """A signal convolution, a GRU, the two directions' last states joined, a wider linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gru = nn.Conv1d(4, 9, 3), nn.GRU(9, 8, batch_first=True, bidirectional=True)
        self.fc, self.head = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, hidden = self.gru(self.conv(x).relu().transpose(1, 2))
        return self.head(self.fc(torch.cat((hidden[-2], hidden[-1]), dim=1)).relu())


@family.network("gru", joined(sequence(), random_input(2, 10, seed=1)), frozen=(*HEAD, "gru.weight_hh_l0"))
class GruWithInitialState(nn.Module):
    """A GRU whose first state is an input, and a residual around it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.gru, self.head = nn.Linear(7, 10), nn.GRU(10, 10, batch_first=True), nn.Linear(10, 4)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        x = self.fc(x)
        y, _ = self.gru(x, state.unsqueeze(0).contiguous())
        return self.head(x + y)


@family.network("lstm", sequence(3), prunable=("lstm.weight_ih", "gru.weight_hh"), frozen=HEAD)
class CellsInLoop(nn.Module):
    """An LSTM cell feeds a GRU cell, step by step, from zeros of the input's dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru, self.head = nn.LSTMCell(7, 10), nn.GRUCell(10, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = (x.new_zeros(x.shape[0], 10), x.new_zeros(x.shape[0], 10))
        hidden = torch.zeros(x.size(0), 8, dtype=x.dtype, device=x.device)
        for step in range(3):
            state = self.lstm(x[:, step], state)
            hidden = self.gru(state[0], hidden)
        return self.head(hidden)


@family.network("module called twice", sequence(3), prunable=("state.weight", "enter.weight"), frozen=HEAD)
class ElmanByHand(nn.Module):
    """A recurrence out of two linear layers: its state is tied to itself over the steps."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.state, self.head = nn.Linear(7, 12), nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.enter(x[:, 0]).tanh()
        for step in (1, 2):
            hidden = torch.tanh(self.enter(x[:, step]) + self.state(hidden))
        return self.head(hidden)


@family.network("1d", random_input(2, 4, 12), prunable=("conv1.weight", "conv2.weight"), frozen=HEAD)
class CausalConvolutions(nn.Module):
    """TCN: padded on both sides, the tail cut off by a negative slice, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv1d(4, 10, 3, padding=2), nn.Conv1d(10, 10, 3, padding=4, dilation=2)
        self.head = nn.Conv1d(10, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)[:, :, :-2].relu()
        return self.head(x + self.conv2(x)[..., :-4].contiguous())


@family.network("1d", random_input(2, 4, 12), prunable=("enter.weight", "both.weight", "skip.weight"), frozen=HEAD)
class GatedSignal(nn.Module):
    """WaveNet: one convolution writes filter and gate, another the residual, a third the skip that is summed."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.both = nn.Conv1d(4, 10, 1), nn.Conv1d(10, 14, 3, padding=1)
        self.residual, self.skip, self.head = nn.Conv1d(7, 10, 1), nn.Conv1d(7, 9, 1), nn.Conv1d(9, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        value, gate = torch.split(self.both(x), 7, dim=1)
        y = value.tanh() * gate.sigmoid()
        value, gate = torch.split(self.both(x + self.residual(y)), 7, dim=1)
        return self.head(self.skip(y) + self.skip(value.tanh() * gate.sigmoid()))


@family.network("tied embedding", tokens(), frozen=("embed.weight",))
class OneHotLookup(nn.Module):
    """One-hot tokens times the table, and logits by the table's transpose: both axes meet the output's vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.fc = nn.Linear(12, 17, bias=False), nn.Linear(12, 12)

    def forward(self, ids: Tensor) -> Tensor:
        hot = F.one_hot(ids, num_classes=17).to(self.embed.weight.dtype)
        return self.embed(self.fc(hot @ self.embed.weight).relu())
