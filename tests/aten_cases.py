"""Cases of ATen's own ops as exported programs call them: every overload that has a mend."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from one_op import Case
from torch import Tensor

aten = torch.ops.aten
ORDER = torch.tensor([5, 2, 2, 7, 0, 1])

MOVEMENT = (
    Case("slice.Tensor", "nc", lambda x: aten.slice.Tensor(x, 1, 0, 6), code="slice.Tensor(p0, 1, 0, 3, 1)"),
    Case("slice.Tensor: from the right", "nc", lambda x: aten.slice.Tensor(x, -1, -3, 9223372036854775807)),
    Case("slice.Tensor: with steps", "nc", lambda x: aten.slice.Tensor(x, 1, 1, 8, 2)),
    Case("slice.Tensor: of another axis", "nc", lambda x: aten.slice.Tensor(x, 0, 1)),
    Case("index_select.default", "nc", lambda x, i: aten.index_select.default(x, 1, i), constants=(ORDER,)),
    Case("index.Tensor", "nc", lambda x, i: aten.index.Tensor(x, [None, i]), constants=(ORDER,)),
    Case("index.Tensor: two", "nCDl", lambda x, i: aten.index.Tensor(x, [None, i % 4, i % 4]), constants=(ORDER,)),
    Case("narrow.default", "nc", lambda x: aten.narrow.default(x, 1, 2, 5)),
    Case("chunk.default", "nc", lambda x: aten.chunk.default(x, 2, 1)),
    Case("chunk.default: uneven", "nc", lambda x: aten.chunk.default(x, 3, -1)),
    Case("unsafe_chunk.default", "nc", lambda x: aten.unsafe_chunk.default(x, 2, 1)),
    Case("split.Tensor", "nc", lambda x: aten.split.Tensor(x, 3, 1), code="aten.split_with_sizes.default(p0, ["),
    Case("split.sizes", "nc", lambda x: aten.split.sizes(x, [5, 3], 1)),
    Case("split_with_sizes.default", "nc", lambda x: aten.split_with_sizes.default(x, [5, 3], 1)),
    Case("unsafe_split.Tensor", "nc", lambda x: aten.unsafe_split.Tensor(x, 3, 1)),
    Case("unsafe_split_with_sizes.default", "nc", lambda x: aten.unsafe_split_with_sizes.default(x, [5, 3], 1)),
    Case("tensor_split.sections", "nc", lambda x: aten.tensor_split.sections(x, 3, 1)),
    Case("tensor_split.indices", "nc", lambda x: aten.tensor_split.indices(x, [2, 7], 1)),
    Case("slice_scatter.default", "nc no", lambda x, y: aten.slice_scatter.default(x, y, 1, 0, 6), code="1, 0, 3, 1)"),
    Case("slice_scatter.default: from the right", "nc no", lambda x, y: aten.slice_scatter.default(x, y, -1, -6)),
    Case("slice_scatter.default: with steps", "nc ng", lambda x, y: aten.slice_scatter.default(x, y, 1, 1, 8, 2)),
    Case(
        "slice_scatter.default: of another axis", "nc wc", lambda x, y: aten.slice_scatter.default(x, y, 0, 1), {"w": 3}
    ),
    Case("roll.default", "nc", lambda x: aten.roll.default(x, [3], [1])),
)
SIZES = (
    Case("view.default", "nchw", lambda x: aten.view.default(x, [4, 8, 30]), code="view.default(p0, (2, 4, 6))"),
    Case("_unsafe_view.default", "nchw", lambda x: aten._unsafe_view.default(x, [4, -1])),
    Case("reshape.default", "nlc", lambda x: aten.reshape.default(x, [aten.sym_size.int(x, 0) * 5, -1])),
    Case("as_strided.default", "nchw", lambda x: aten.as_strided.default(x.sum((2, 3), keepdim=True),
         [4, 8, 1, 1], [8, 1, 8, 8])),
    Case("expand.default", "1c", lambda x: aten.expand.default(x, [5, -1])),
    Case("broadcast_to.default", "1c", lambda x: aten.broadcast_to.default(x, [5, 8])),
    Case("new_zeros.default", "nc", lambda x: x + aten.new_zeros.default(x, [4, 8])),
    Case("new_ones.default", "nc", lambda x: x + aten.new_ones.default(x, [4, 8])),
    Case("new_empty.default", "nc", lambda x: x + aten.new_empty.default(x, [4, 8]).fill_(0.3)),
    Case("new_full.default", "nc", lambda x: x + aten.new_full.default(x, [4, 8], 0.3)),
    Case("zeros.default", "nc", lambda x: x + aten.zeros.default([aten.sym_size.int(x, 0), 8])),
    Case("ones.default", "nc", lambda x: x + aten.ones.default([aten.sym_size.int(x, 0), 8], dtype=torch.float64)),
    Case("empty.memory_format", "nc", lambda x: x + aten.empty.memory_format([aten.sym_size.int(x, 0), 8]).fill_(0.3)),
    Case("full.default", "nc", lambda x: x + aten.full.default([aten.sym_size.int(x, 0), 8], 0.3)),
    Case("squeeze.default", "ngc1", aten.squeeze.default, {"g": 2}),
    Case("squeeze.dim", "ngc", lambda x: aten.squeeze.dim(x, 1), {"g": 2}),
    Case("squeeze.dims", "1gc", lambda x: aten.squeeze.dims(x, [0, 1]), {"g": 2}),
    Case("unflatten.int", "nc", lambda x: aten.unflatten.int(x, 1, [2, 4])),
    Case("repeat.default", "n1 no", lambda x, y: aten.repeat.default(x, [1, 6]) + y),
    Case("tile.default", "n1 no", lambda x, y: aten.tile.default(x, [6]) + y),
    Case("repeat_interleave.self_int", "nc", lambda x: aten.repeat_interleave.self_int(x, 3, 1, output_size=24)),
    Case("repeat_interleave.self_int: copies", "n1 no",
         lambda x, y: aten.repeat_interleave.self_int(x, 6, 1, output_size=6) + y),
    Case("constant_pad_nd.default", "nc", lambda x: aten.constant_pad_nd.default(x, [2, -3], 0.5)),
    Case("pad.default", "nc", lambda x: aten.pad.default(x, [-2, 1])),
    Case("pad.default: circular", "ncHW", lambda x: aten.pad.default(x, [1, 1, 1, 1], "circular")),
    Case("pad.default: reflected", "ncL", lambda x: aten.pad.default(x, [1, 1], "reflect")),
    Case("channel_shuffle.default", "nchw", lambda x: aten.channel_shuffle.default(x, 4)),
    Case("native_channel_shuffle.default", "nchw", lambda x: aten.native_channel_shuffle.default(x, 4)),
    Case("conv1d.default", "ncL oiK o", lambda x, w, b: aten.conv1d.default(x, w, b, [1], [0], [1], 2), {"i": 4}),
    Case("conv2d.default", "ncHW c1KK", lambda x, w: aten.conv2d.default(x, w, None, [1, 1], [1, 1], [1, 1], 8)),
    Case("conv3d.default", "ncDHW oiKKK",
         lambda x, w: aten.conv3d.default(x, w, None, [1] * 3, [0] * 3, [1] * 3, 2), {"i": 4}),
    Case("conv1d.padding", "ncL oiK", lambda x, w: aten.conv1d.padding(x, w, None, [1], "same", [1], 2), {"i": 4}),
    Case("conv2d.padding", "ncHW c1KK", lambda x, w: aten.conv2d.padding(x, w, None, [1, 1], "valid", [1, 1], 8)),
    Case("conv3d.padding", "ncDHW oiKKK",
         lambda x, w: aten.conv3d.padding(x, w, None, [1] * 3, "same", [1] * 3, 2), {"i": 4}),
    Case("conv_transpose1d.default", "ncL coK",
         lambda x, w: aten.conv_transpose1d.default(x, w, None, [1], [0], [0], 2), {"o": 3}),
    Case("conv_transpose2d.input", "ncHW coKK",
         lambda x, w: aten.conv_transpose2d.input(x, w, None, [2, 2], [0, 0], [1, 1], 4), {"o": 3}),
    Case("conv_transpose3d.input", "ncDHW coKKK",
         lambda x, w: aten.conv_transpose3d.input(x, w, None, [1] * 3, [0] * 3, [0] * 3, 8), {"o": 2}),
    Case("convolution.default", "ncHW oiKK o",
         lambda x, w, b: aten.convolution.default(x, w, b, [1, 1], [1, 1], [1, 1], False, [0, 0], 2), {"i": 4}),
    Case("convolution.default: transposed", "ncHW coKK",
         lambda x, w: aten.convolution.default(x, w, None, [2, 2], [0, 0], [1, 1], True, [1, 1], 4), {"o": 3}),
    Case("scaled_dot_product_attention.default", "nhLe nhSe nhSd", aten.scaled_dot_product_attention.default,
         {"d": 10}, code="scale = 0.316227766"),
    Case("_scaled_dot_product_flash_attention_for_cpu.default", "nhLe nhSe nhSd",
         lambda q, k, v: aten._scaled_dot_product_flash_attention_for_cpu.default(q, k, v)[0],
         {"d": 10}, code="scale = 0.316227766"),
)  # fmt: skip


def layer_norm(x: Tensor, *affine: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[2:], *affine)


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[2:], w)


def group_norm(x: Tensor, *affine: Tensor) -> Tensor:
    return F.group_norm(x, x.shape[1], *affine)


VARIANCES = (aten.var, aten.std, aten.var_mean, aten.std_mean)
NORMS = (
    Case("layer_norm.default", "nlc c c", lambda x, w, b: aten.layer_norm.default(x, [8], w, b), kept=layer_norm),
    Case("native_layer_norm.default", "nlc c c",
         lambda x, w, b: aten.native_layer_norm.default(x, [8], w, b, 1e-5)[0], kept=layer_norm),
    Case("native_layer_norm.default: its mean and deviation", "nlc",
         lambda x: aten.native_layer_norm.default(x, [8], None, None, 1e-5),
         kept=lambda x: aten.native_layer_norm.default(x, x.shape[2:], None, None, 1e-5)),
    Case("layer_norm.default: of a permuted tensor", "ncl",
         lambda x: aten.view.default(aten.layer_norm.default(x.permute(0, 2, 1), [8]), [4, 40]),
         kept=lambda x: F.layer_norm(x.permute(0, 2, 1), x.shape[1:2]).flatten(1)),
    Case("rms_norm.default", "nlc c", lambda x, w: aten.rms_norm.default(x, [8], w), kept=rms_norm),
    Case("_fused_rms_norm.default", "nlc c", lambda x, w: aten._fused_rms_norm.default(x, [8], w, None)[0],
         kept=rms_norm),
    Case("group_norm.default", "ncHW c c", lambda x, w, b: aten.group_norm.default(x, 4, w, b), kept=group_norm),
    Case("native_group_norm.default", "ncHW c c",
         lambda x, w, b: aten.native_group_norm.default(x, w, b, 4, 8, 36, 4, 1e-5)[0], kept=group_norm),
    Case("native_group_norm.default: its means and deviations", "ncHW",
         lambda x: aten.native_group_norm.default(x, None, None, 4, 8, 36, 1, 1e-5)[1:],
         kept=lambda x: aten.native_group_norm.default(x, None, None, *x.shape[:2], 36, 1, 1e-5)[1:]),
    Case("batch_norm.default", "ncl c c",
         lambda x, w, b: aten.batch_norm.default(x, w, b, None, None, True, 0.1, 1e-5, False)),
    Case("_native_batch_norm_legit.no_stats", "1cl c",
         lambda x, w: aten._native_batch_norm_legit.no_stats(x, w, None, True, 0.1, 1e-3)[0]),
    Case("_native_batch_norm_legit.no_stats: its mean and deviation", "ncl",
         lambda x: aten._native_batch_norm_legit.no_stats(x, None, None, True, 0.1, 1e-5)),
    Case("mean.default", "nc", aten.mean.default),
    Case("mean.dim", "nchw", lambda x: aten.mean.dim(x, [1, 2], True)),
    *(Case(f"{op}.default", "nc", op.default) for op in VARIANCES),
    *(Case(f"{op}.dim", "nc", partial(op.dim, dim=[1])) for op in VARIANCES),
    *(Case(f"{op}.correction", "nchw", partial(op.correction, dim=[1, 3], correction=0)) for op in VARIANCES),
)  # fmt: skip
ATEN = (*MOVEMENT, *SIZES, *NORMS)
