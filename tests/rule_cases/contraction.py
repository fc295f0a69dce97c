"""Cases of matrix products, convolutions and attention."""

import torch
import torch.nn.functional as F
from one_op import Case

# Whole numbers, which float32 adds and multiplies exactly: there is no kernel for float64.
_ROWS_OF = torch.tensor([3, 3, 12], dtype=torch.int32)


def _grouped(x: torch.Tensor, w: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm((4 * x).round(), (4 * w).round(), offs=offsets)


_SQUARE = {"d": 10}  # keys and values of one width
attend = F.scaled_dot_product_attention

CASES = (
    Case("mm", "mk kn", torch.mm),
    Case("mm: a weight read transposed", "mk nk", lambda x, w: x @ w.t()),
    Case("bmm", "bmk bkn", torch.bmm),
    Case("mv", "mk k", torch.mv),
    Case("dot", "k k", torch.dot),
    Case("addmm", "mn mk kn", torch.addmm),
    Case("addmm: a bias of one axis, with factors", "n mk kn", lambda b, x, w: torch.addmm(b, x, w, beta=0.5, alpha=2)),
    Case("addmm: a bias of width 1", "1 mk kn", torch.addmm),
    Case("addmm_", "mn mk kn", lambda b, x, w: b.clone().addmm_(x, w)),
    Case("addmv", "m mk k", torch.addmv),
    Case("baddbmm", "bmn bmk bkn", torch.baddbmm),
    Case("baddbmm: a bias for all of the batch", "mn bmk bkn", torch.baddbmm),
    Case("baddbmm_", "bmn bmk bkn", lambda b, x, w: b.clone().baddbmm_(x, w)),
    Case("linear of a sequence", "nlk ok o", F.linear),
    Case("_cdist_forward", "bmk bnk", torch.cdist),
    Case("_cdist_forward of order 1", "mk nk", lambda a, b: torch.cdist(a, b, 1.0)),
    Case("einsum", "nhld nhsd", lambda q, k: torch.einsum("nhld,nhsd->nhls", q, k)),
    Case("einsum of three", "bi oij bj", lambda a, w, b: torch.einsum("bi,oij,bj->bo", a, w, b)),
    Case("matmul broadcast over a batch", "bmk kn", torch.matmul),
    Case("_grouped_mm", "Sc Kco", _grouped, {"S": 12, "c": 8, "o": 8}, (_ROWS_OF,), dtype=torch.float32),
    Case(
        "_grouped_mm: matrices read transposed",
        "Sc Koc",
        lambda x, w, offsets: _grouped(x, w.transpose(1, 2), offsets),
        {"S": 12, "c": 8, "o": 12},
        (_ROWS_OF,),
        dtype=torch.float32,
    ),
    Case("_trilinear", "ni oij nj o", lambda a, w, b, bias: F.bilinear(a, b, w, bias)),
    Case("convolution 1d", "niL oiK o", lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1)),
    Case("convolution 2d", "niHW oiKK o", lambda x, w, b: F.conv2d(x, w, b, padding=1)),
    Case("convolution 2d: no batch, no bias", "iHW oiKK", F.conv2d),
    Case("convolution 3d", "niDHW oiKKK", F.conv3d),
    Case("convolution: groups", "ncHW oiKK o", lambda x, w, b: F.conv2d(x, w, b, groups=2), {"c": 8, "i": 4}),
    Case("convolution: depthwise", "ncHW c1KK c", lambda x, w, b: F.conv2d(x, w, b, groups=8)),
    Case(
        "convolution: depthwise, two filters each",
        "ncHW o1KK o",
        lambda x, w, b: F.conv2d(x, w, b, groups=8),
        {"o": 16},
    ),
    Case("convolution: transposed 1d", "niL ioK o", lambda x, w, b: F.conv_transpose1d(x, w, b, stride=2)),
    Case("convolution: transposed 2d", "niHW ioKK o", lambda x, w, b: F.conv_transpose2d(x, w, b, stride=2)),
    Case("convolution: transposed 3d", "niDHW ioKKK", F.conv_transpose3d),
    Case(
        "convolution: transposed, groups",
        "ncHW coKK z",
        lambda x, w, b: F.conv_transpose2d(x, w, b, groups=2),
        {"o": 3},
    ),
    Case("_scaled_dot_product_flash_attention_for_cpu", "nhLe nhSe nhSd", attend, _SQUARE),
    Case("attention: causal", "nhLe nhLe nhLd", lambda q, k, v: attend(q, k, v, is_causal=True), _SQUARE),
    Case("attention: scaled", "nhLe nhSe nhSd", lambda q, k, v: attend(q, k, v, scale=0.3), _SQUARE),
    Case("attention: masked", "nhLe nhSe nhSd LS", lambda q, k, v, mask: attend(q, k, v, attn_mask=mask), _SQUARE),
    Case("attention: values of another width", "nhle nhSe nhSd", attend),
    Case(
        "attention: shared key heads",
        "nhLe ngSe ngSd",
        lambda q, k, v: attend(q, k, v, enable_gqa=True),
        {**_SQUARE, "h": 8},
    ),
)
