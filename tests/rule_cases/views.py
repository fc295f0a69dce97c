"""Cases of reshapes and permutations."""

import torch
import torch.nn.functional as F
from one_op import Case

CASES = (
    Case("view: two axes become one", "nchw", lambda x: x.view(4, 8, 30)),
    Case("view: one axis becomes two", "nc", lambda x: x.view(4, 2, 4)),
    Case("view: heads", "nlc", lambda x: x.view(4, 5, 2, 4).transpose(1, 2)),
    Case("view: an axis that is cut across", "nCHD", lambda x: x.view(4, 12, 20)),
    Case("_unsafe_view", "bnk kc", torch.matmul),
    Case("unsqueeze", "nc", lambda x: x.unsqueeze(-1)),
    Case("unsqueeze_", "nc", lambda x: x.clone().unsqueeze_(1)),
    Case("squeeze", "n1c", lambda x: x.squeeze(1)),
    Case("squeeze of all axes", "n1c1", torch.squeeze),
    Case("squeeze_", "n1c", lambda x: x.clone().squeeze_()),
    Case("permute", "nchw", lambda x: x.permute(0, 2, 3, 1)),
    Case("transpose", "nc", lambda x: x.transpose(0, 1)),
    Case("transpose_", "nc", lambda x: x.clone().transpose_(0, 1)),
    Case("t", "nc", torch.t),
    Case("t_", "nc", lambda x: x.clone().t_()),
    Case("expand", "1c", lambda x: x.expand(5, -1)),
    Case("repeat", "nc", lambda x: x.repeat(1, 3)),
    Case("repeat of an axis of width 1", "n1", lambda x: x.repeat(2, 1, 6)),
    Case("repeat_interleave", "nc", lambda x: x.repeat_interleave(3, 1)),
    Case("repeat_interleave of everything", "nc", lambda x: x.repeat_interleave(3)),
    Case("view_as_complex", "nc2", torch.view_as_complex),
    Case("view_as_real", "nc2", lambda x: torch.view_as_real(torch.view_as_complex(x))),
    Case("as_strided_", "ncHW", lambda x: F.adaptive_avg_pool2d(x.contiguous(memory_format=torch.channels_last), 1)),
    Case(
        "as_strided",
        "nchw",
        lambda x: torch.ops.aten.as_strided.default(x.sum((2, 3), keepdim=True), [4, 8, 1, 1], [8, 1, 8, 8]),
    ),
    Case("native_channel_shuffle", "nchw", lambda x: F.native_channel_shuffle(x, 2)),
    Case("pixel_shuffle", "ncHW", lambda x: F.pixel_shuffle(x, 2)),
    Case("pixel_unshuffle", "ncHW", lambda x: F.pixel_unshuffle(x, 2)),
    Case("channel_shuffle", "nchw", lambda x: F.channel_shuffle(x, 2)),
    Case("im2col", "ncHW", lambda x: F.unfold(x, 3)),
    Case("col2im", "neL", lambda x: F.fold(x, (4, 4), (2, 2), stride=2), {"e": 12, "L": 4}),
)
