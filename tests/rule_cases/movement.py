"""Cases of slices, joins and gathers."""

import torch
import torch.nn.functional as F
from one_op import Case

ORDER = torch.tensor([5, 2, 2, 7, 0, 1])
PLACES = torch.tensor([1, 3])

CASES = (
    Case("slice", "nc", lambda x: x[:, 2:6]),
    Case("slice from the end", "nc", lambda x: x[:, -3:]),
    Case("slice with steps", "nc", lambda x: x[:, 1::2]),
    Case("slice: one channel", "nc", lambda x: x[:, 2:3]),
    Case("select", "nC", lambda x: x[:, 3]),
    Case("unbind", "Mc", lambda x: x.unbind(0)),
    Case("split", "nc", lambda x: x.split(3, 1)),
    Case("split_with_sizes", "nc", lambda x: x.split([5, 3], 1)),
    Case("unsafe_split", "nc", lambda x: torch.unsafe_split(x, 3, 1)),
    Case("unsafe_split_with_sizes", "nc", lambda x: torch.unsafe_split_with_sizes(x, [5, 3], 1)),
    Case("cat", "nc nd", lambda x, y: torch.cat((x, y), 1)),
    Case("cat of one tensor twice, from the end", "nc", lambda x: torch.cat((x, x), -1)),
    Case("stack", "nc nc", lambda x, y: torch.stack((x, y), 1)),
    Case("flip", "nc", lambda x: x.flip(1)),
    Case("flip of two axes", "nc", lambda x: torch.flip(x, (0, 1))),
    Case("roll", "nc", lambda x: x.roll(3, 1)),
    Case("roll of two axes, backwards", "nc", lambda x: torch.roll(x, (-1, 2), (0, 1))),
    Case("roll as one flat axis", "NC", lambda x: torch.roll(x, 3)),
    Case("constant_pad_nd", "nc", lambda x: F.pad(x, (2, 3))),
    Case("constant_pad_nd that cuts", "nc", lambda x: F.pad(x, (-2, 3), value=0.5)),
    Case("constant_pad_nd of two axes", "ncw", lambda x: F.pad(x, (0, 2, 3, -1))),
    Case("index_select", "nc", lambda x, i: x.index_select(1, i), constants=(ORDER,)),
    Case("index", "nc", lambda x, i: x[:, i], constants=(ORDER,)),
    Case("index by a list", "nc", lambda x: x[:, [5, 2, 2, -1, 0]]),
    Case("index by a matrix", "nC", lambda x, i: x[:, i], constants=(ORDER.view(2, 3),)),
    Case("index by two vectors", "nCD", lambda x, i: x[:, i, i], constants=(PLACES,)),
    Case("index by two vectors apart", "NcD", lambda x, i: x[i, :, i], constants=(PLACES,)),
    Case("index by a boolean vector", "nc", lambda x, i: x[:, i], constants=(torch.arange(8) % 3 > 0,)),
    Case("unfold", "nLc", lambda x: x.unfold(1, 3, 2)),
    Case("diagonal", "bHWc", lambda x: x.diagonal(1, 1, 2)),
    Case("gather", "NC", lambda x, i: x.gather(1, i), constants=(ORDER.expand(4, 6),)),
    Case("embedding", "Ve", lambda w, i: F.embedding(i, w), constants=(ORDER.view(2, 3),)),
    Case("_embedding_bag", "Ve", lambda w, i: torch.ops.aten._embedding_bag(w, i, i[:1] * 0)[0], constants=(ORDER,)),
    Case("_embedding_bag_forward_only", "Ve", lambda w, i: F.embedding_bag(i, w), constants=(ORDER.view(2, 3),)),
    Case("tril", "nHW", lambda x: x.tril()),
    Case("triu", "nHW", lambda x: torch.triu(x, 1)),
    Case("tril_", "nHW", lambda x: x.clone().tril_()),
    Case("triu_", "nHW", lambda x: x.clone().triu_()),
)
