"""Cases of numbers that no mend writes anew: the axis that they speak of stays whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from one_op import Case

aten = torch.ops.aten
ORDER = torch.tensor([5, 2, 2, 7, 0, 1])

CASES = (
    Case("fftshift", "nC", lambda x: torch.fft.fftshift(x, 1)),
    Case("hsplit", "nC", lambda x: torch.hsplit(x, 2)),
    Case("diff", "nC", torch.diff),
    Case("circular padding", "ncHW", lambda x: F.pad(x, (1, 2, 1, 0), "circular")),
    Case("aten.slice", "nC", lambda x: aten.slice(x, 1, 2, 6)),
    Case("aten.split", "nC", lambda x: aten.split(x, 3, 1)),
    Case("aten.roll", "nC", lambda x: aten.roll(x, [3], [1])),
    Case("aten.constant_pad_nd", "nC", lambda x: aten.constant_pad_nd(x, [2, -3])),
    Case("aten.index_select", "nC", lambda x, i: aten.index_select(x, 1, i), constants=(ORDER,)),
    Case("aten.index", "nC", lambda x, i: aten.index(x, [None, i]), constants=(ORDER,)),
    Case("aten.view", "NC", lambda x: aten.view(x, [4, 2, 4])),
    Case("aten.expand", "1C", lambda x: aten.expand(x, [5, 8])),
    Case("aten.native_layer_norm", "NC", lambda x: aten.native_layer_norm(x, [8], None, None, 1e-5)[0]),
    Case("aten.convolution", "NCHW CAKK", lambda x, w: aten.conv2d(x, w, None, [1, 1], [1, 1], [1, 1], 2)),
    Case("aten.mm", "mk kn", aten.mm.default),
)
