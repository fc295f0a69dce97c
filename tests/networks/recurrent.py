"""Recurrent modules, cells and functions, whose hidden channels go; their states given, learned, read and joined."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .entry import Family, sequence, tokens

family = Family()
HEAD = ("head.weight",)
LSTM = ("lstm.weight_ih_l0", "lstm.weight_hh_l0")


@family.network("lstm", tokens(), prunable=("read.weight_hh_l0", "write.weight_ih_l0"), frozen=HEAD)
class EncoderDecoder(nn.Module):
    """The last states of one LSTM are the first of another: one group of hidden channels for both."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(17, 9), nn.Linear(8, 17)
        self.read, self.write = nn.LSTM(9, 8, 2, batch_first=True), nn.LSTM(9, 8, 2, batch_first=True)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        _, state = self.read(x)
        y, _ = self.write(input=x[:, :-1], hx=state)
        return self.head(y)


@family.network("lstm", sequence(), prunable=LSTM, frozen=HEAD)
class StatesOfZeros(nn.Module):
    """First states are made of zeros by hand, in the sizes of the module and in literal ones."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(7, 10, 2, bidirectional=True, batch_first=True), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(self.lstm.num_layers * 2, x.size(0), self.lstm.hidden_size, dtype=x.dtype)
        y, (h, c) = self.lstm(x, (h, x.new_zeros(4, len(x), 10)))
        y, _ = self.lstm(x.flip(1), (h, c))
        return self.head(y[:, -1])


@family.network("gru", sequence(), prunable=("gru.weight_hh_l0", "gru.weight_hh_l1_reverse", "fc.weight"), frozen=HEAD)
class LearnedFirstState(nn.Module):
    """A learned first state; last states seen as layers and directions, those of the upper layer flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(7, 6, 2, batch_first=True, bidirectional=True)
        self.start = nn.Parameter(torch.zeros(4, 1, 6))
        self.fc, self.head = nn.Linear(12, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(x, self.start.expand(-1, x.shape[0], -1).contiguous())
        upper = last.view(2, 2, x.shape[0], 6)[-1]
        return self.head(self.fc(upper.transpose(0, 1).reshape(x.shape[0], -1)).relu())


@family.network("lstm", sequence(), prunable=(*LSTM, "lstm.weight_hr_l0", "lstm.weight_hr_l1"), frozen=HEAD)
class ProjectedLstm(nn.Module):
    """Hidden channels are projected after each step; those that are more than the projected ones can go."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(7, 16, 2, proj_size=6, batch_first=True), nn.Linear(6, 4)
        self.cells = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, (_, c) = self.lstm(x)
        return self.head(y), self.cells(c[-1])


@family.network("lstm", sequence(), prunable=LSTM, frozen=HEAD)
class ResidualLstms(nn.Module):
    """Residuals and a norm around LSTMs; the second one reads two directions that are added."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.head = nn.Linear(7, 12), nn.LayerNorm(12), nn.Linear(12, 4)
        self.lstm, self.second = (
            nn.LSTM(12, 12, batch_first=True),
            nn.LSTM(12, 12, batch_first=True, bidirectional=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        x = x + self.lstm(self.norm(x))[0]
        forward, backward = self.second(x)[0].chunk(2, -1)
        return self.head(x + forward + backward)


@family.network("lstm", sequence(), prunable=(*LSTM, "score.weight", "fc.weight"), frozen=HEAD)
class AttentionOverSteps(nn.Module):
    """Additive attention of the last state over all steps."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.fc = nn.LSTM(7, 10, batch_first=True, bias=False), nn.Linear(20, 9)
        self.score, self.query, self.head = nn.Linear(10, 8), nn.Linear(8, 1), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, _) = self.lstm(x)
        weights = F.softmax(self.query(torch.tanh(self.score(y))), dim=1)
        context = torch.bmm(weights.transpose(1, 2), y).squeeze(1)
        return self.head(self.fc(torch.cat((context, h.squeeze(0)), 1)).relu())


@family.network("gru", sequence(), prunable=("rnn.weight_hh_l0", "gru.weight_hh_l0"), frozen=HEAD)
class StepsFirst(nn.Module):
    """Steps before the batch, a rectified RNN below a GRU, which is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.gru = nn.RNN(7, 9, nonlinearity="relu"), nn.GRU(9, 9)
        self.head = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        y, h = self.rnn(x.transpose(0, 1))
        y, h = self.gru(y, h)
        return self.head(self.gru(y, h)[0]).transpose(0, 1)


@family.network("gru", sequence(3), prunable=("rnn.weight_ih", "gru.weight_hh"), frozen=HEAD)
class CellsWithoutStates(nn.Module):
    """Cells that start from nothing, one of them without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.gru = nn.RNNCell(7, 9), nn.GRUCell(9, 8, bias=False)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = state = None
        for step in x.unbind(1):
            hidden = self.rnn(step, hidden)
            state = self.gru(hidden, state)
        return self.head(state)


@family.network("lstm", sequence(), prunable=("lstm_ih", "lstm_hh", "gru_hh"), frozen=HEAD)
class RecurrentFunctions(nn.Module):
    """PyTorch's functions below the modules, on raw weights."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm_ih, self.lstm_hh = nn.Parameter(torch.zeros(40, 7)), nn.Parameter(torch.zeros(40, 10))
        self.gru_ih, self.gru_hh = nn.Parameter(torch.zeros(24, 10)), nn.Parameter(torch.zeros(24, 8))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(1, x.shape[0], 10)
        weights = [self.lstm_ih, self.lstm_hh]
        y, _, _ = torch.lstm(x, (state, state), weights, False, 1, 0.0, self.training, False, True)
        return self.head(torch.gru_cell(y[:, -1], x.new_zeros(x.shape[0], 8), self.gru_ih, self.gru_hh))


@family.network("lstm", sequence(), prunable=("conv.weight", *LSTM), frozen=HEAD)
class RowsAsBatch(nn.Module):
    """Rows of a map are sequences: the batch of the LSTM is the model's times the rows (sequencer)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.lstm, self.head = nn.LSTM(8, 5, batch_first=True, bidirectional=True), nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.unsqueeze(1)).permute(0, 2, 3, 1)
        batch, rows, columns, _ = x.shape
        y, _ = self.lstm(x.reshape(-1, columns, x.shape[-1]))
        return self.head(y.view(batch, rows, columns, -1).mean((1, 2)))
