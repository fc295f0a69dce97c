"""Cases of recurrent functions, which are stated as a whole; ``q`` are the gates of the hidden channels ``h``."""

import torch
from one_op import Case

_LSTM, _GRU = {"S": 1, "h": 4, "q": 16}, {"S": 1, "h": 4, "q": 12}
_PROJECTED = {"S": 1, "H": 4, "Q": 16, "p": 3}
_BOTH = {"S": 2, "h": 4, "q": 12}
aten = torch.ops.aten


CASES = (
    Case("lstm.input", "Lni Snh Snh qi qh q q",
         lambda x, h, c, *w: aten.lstm.input(x, [h, c], w, True, 1, 0.0, False, False, False), _LSTM),
    Case("lstm: by torch, batch first", "nLi Snh Snh qi qh",
         lambda x, h, c, *w: torch.lstm(x, (h, c), w, False, 1, 0.0, False, False, True), _LSTM),
    Case("lstm: projected", "Lni Snp SnH Qi Qp Q Q pH",
         lambda x, h, c, *w: torch.lstm(x, (h, c), w, True, 1, 0.0, False, False, False), _PROJECTED),
    Case("lstm: projected to few", "Lni Snp Snh qi qp ph",
         lambda x, h, c, *w: torch.lstm(x, (h, c), w, False, 1, 0.0, False, False, False),
         {"S": 1, "h": 9, "q": 36, "p": 3}),
    Case("gru.input", "Lni Snh qi qh qi qh",
         lambda x, h, *w: aten.gru.input(x, h, w, False, 1, 0.0, False, True, False), _BOTH),
    Case("rnn_tanh.input", "Lni Snh hi hh h h",
         lambda x, h, *w: aten.rnn_tanh.input(x, h, w, True, 1, 0.0, False, False, False), {"S": 1}),
    Case("rnn_relu.input", "Lni Snh hi hh",
         lambda x, h, *w: torch.rnn_relu(x, h, w, False, 1, 0.0, False, False, False), {"S": 1}),
    Case("lstm_cell", "ni nh nh qi qh q q", lambda x, h, c, *w: torch.lstm_cell(x, (h, c), *w), _LSTM),
    Case("gru_cell", "ni nh qi qh q q", torch.gru_cell, _GRU),
    Case("rnn_tanh_cell", "ni nh hi hh h h", torch.rnn_tanh_cell),
    Case("rnn_relu_cell", "ni nh hi hh", aten.rnn_relu_cell.default),
)  # fmt: skip
