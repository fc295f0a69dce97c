"""Rules of ops that do not run here, on other devices or on real values alone: the equations alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Elsewhere:
    """An op of another device: the axes of its inputs and of its first output, and how it is called with them."""

    op: str
    device: str
    axes: str
    call: Callable[..., tuple[Any, ...]]
    output: str


_BATCH = ("nchw c c c c", lambda *tensors: (*tensors, False, 0.1, 1e-5), "nchw")
_ATTENTION = ("nhLe nhSe nhSd", lambda q, k, v: (q, k, v, 0.0, False), "nhLd")

ELSEWHERE = (
    Elsewhere("cudnn_batch_norm", "CUDA", *_BATCH),
    Elsewhere("miopen_batch_norm", "ROCm", *_BATCH),
    Elsewhere("_fused_rms_norm", "CUDA", "nlc c", lambda x, weight: (x, (8,), weight, 1e-5), "nlc"),
    Elsewhere("_scaled_dot_product_flash_attention", "CUDA", *_ATTENTION),
    Elsewhere("_scaled_dot_product_efficient_attention", "CUDA", "nhLe nhSe nhSd nhLS", lambda *t: (*t, False), "nhLd"),
    Elsewhere("_scaled_dot_product_cudnn_attention", "CUDA", "nhLe nhSe nhSd LS", lambda *t: (*t, False), "nhLd"),
    Elsewhere("_scaled_dot_product_fused_attention_overrideable", "out of tree", *_ATTENTION),
    Elsewhere("_scaled_dot_product_attention_math_for_mps", "MPS", "nhLe nbSe nbSd", lambda *t: t, "nhLd"),
    Elsewhere("_pack_padded_sequence", "real values", "NLc N", lambda x, lengths: (x, lengths, True), "Sc"),
    Elsewhere("_pad_packed_sequence", "real values", "Sc L", lambda x, sizes: (x, sizes, True, 0.0, 5), "NLc"),
    Elsewhere("linear", "MPS", "nlk ok o", lambda *tensors: tensors, "nlo"),
    Elsewhere(
        "convolution_overrideable",
        "out of tree",
        "niHW oiKK o",
        lambda *tensors: (*tensors, (1, 1), (1, 1), (1, 1), False, (0, 0), 1),
        "noHW",
    ),
)
