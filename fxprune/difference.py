"""How far two values of a node are apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils._pytree import tree_leaves


def difference(want: Any, got: Any, *, floor: float = 0.0) -> float:
    """The largest relative error of any tensor in a tree of values.

    Args:
        want: The values that are right.
        got: The values that are compared with them.
        floor: Tensors whose largest number is smaller count as this large, so that a zero up to rounding is a zero.

    Returns:
        ``max |want - got| / max |want|``, over the tensor where that is largest. Infinite where shapes, dtypes, places
        that are not finite, integers, booleans or plain values differ at all.

    Example:
        >>> difference(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 4.0]))
        0.25
    """
    wants, gots = tree_leaves(want), tree_leaves(got)
    if len(wants) != len(gots):
        return math.inf
    return max((_apart(a, b, floor) for a, b in zip(wants, gots, strict=True)), default=0.0)


def _apart(want: Any, got: Any, floor: float) -> float:
    if not isinstance(want, torch.Tensor) or not isinstance(got, torch.Tensor):
        return 0.0 if type(want) is type(got) and want == got else math.inf
    if want.shape != got.shape or want.dtype != got.dtype:
        return math.inf
    if not (want.is_floating_point() or want.is_complex()):
        return 0.0 if torch.equal(want, got) else math.inf
    finite = want.isfinite()
    rest = torch.allclose(want[~finite], got[~finite], equal_nan=True)
    if not rest or not torch.equal(finite, got.isfinite()):
        return math.inf
    if not finite.any():
        return 0.0
    gap = float((want[finite] - got[finite]).abs().max())
    size = max(float(want[finite].abs().max()), floor)
    return 0.0 if gap == 0 else gap / size if size else math.inf
