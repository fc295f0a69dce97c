"""Cases of norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from one_op import Case

CASES = (
    Case(
        "native_batch_norm",
        "nchw c c c c",
        lambda x, m, v, w, b: torch.native_batch_norm(x, w, b, m, v, False, 0.1, 1e-5)[0],
        positive=True,
    ),
    Case(
        "_native_batch_norm_legit",
        "NcHW c c c c",
        lambda x, w, b, m, v: torch._native_batch_norm_legit(x, w, b, m.clone(), v.clone(), True, 0.1, 1e-5)[0],
        positive=True,
    ),
    Case(
        "_native_batch_norm_legit_no_training",
        "nchw c c c c",
        lambda x, w, b, m, v: torch._native_batch_norm_legit_no_training(x, w, b, m, v, 0.1, 1e-5)[0],
        positive=True,
    ),
    Case(
        "_native_batch_norm_legit_functional",
        "NcHW c c c c",
        lambda x, w, b, m, v: torch.ops.aten._native_batch_norm_legit_functional(x, w, b, m, v, True, 0.1, 1e-5)[0],
        positive=True,
    ),
    Case(
        "_batch_norm_no_update",
        "nchw c c c c",
        lambda x, w, b, m, v: torch.ops.aten._batch_norm_no_update(x, w, b, m, v, 0.1, 1e-5)[0],
        positive=True,
    ),
    Case(
        "_batch_norm_with_update",
        "NcHW c c c c",
        lambda x, w, b, m, v: torch.ops.aten._batch_norm_with_update(x, w, b, m.clone(), v.clone(), 0.1, 1e-5)[0],
        positive=True,
    ),
    Case(
        "batch norm with fixed statistics",
        "nc c c c c",
        lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b),
        positive=True,
    ),
    Case("batch norm over the batch", "NcL c c c c", lambda x, m, v, w, b: F.batch_norm(x, m, v, w, b, True)),
    Case("batch norm without running statistics", "ncl c c", lambda x, w, b: F.batch_norm(x, None, None, w, b, True)),
    Case(
        "native_batch_norm without running statistics",
        "NcL",
        lambda x: torch.native_batch_norm(x, None, None, None, None, True, 0.1, 1e-5)[0],
    ),
    Case("instance norm", "NcHW c c", lambda x, w, b: F.instance_norm(x, weight=w, bias=b)),
    Case(
        "native_layer_norm",
        "nlc c c",
        lambda x, w, b: F.layer_norm(x, (8,), w, b),
        kept=lambda x, w, b: F.layer_norm(x, x.shape[2:], w, b),
    ),
    Case(
        "native_layer_norm over two axes",
        "nhc",
        lambda x: F.layer_norm(x, (6, 8)),
        kept=lambda x: F.layer_norm(x, x.shape[1:]),
    ),
    Case(
        "_fused_rms_norm", "nlc c", lambda x, w: F.rms_norm(x, (8,), w), kept=lambda x, w: F.rms_norm(x, x.shape[2:], w)
    ),
    Case("native_group_norm", "nGwHW c c", lambda x, w, b: F.group_norm(x.cumsum(1).flatten(1, 2), 2, w, b), {"w": 4}),
    Case(
        "native_group_norm: groups that can go",
        "ncHW c c",
        lambda x, w, b: F.group_norm(x, 4, w, b),
        kept=lambda x, w, b: F.group_norm(x, x.shape[1], w, b),
    ),  # one channel of two is left in a group
    Case("native_group_norm: one group", "ncHW c c", lambda x, w, b: F.group_norm(x, 1, w, b)),
    Case(
        "native_group_norm: a group for each channel",
        "ncHW c c",
        lambda x, w, b: F.group_norm(x, 8, w, b),
        kept=lambda x, w, b: F.group_norm(x, x.shape[1], w, b),
    ),
)
