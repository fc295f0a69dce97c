"""Cases of writes at places along an axis."""

from __future__ import annotations

from typing import Any

import torch
from one_op import Case

PLACES = torch.tensor([4, 1, 3])


def _assigned(x: torch.Tensor, index: Any, value: Any) -> torch.Tensor:
    result = x.clone()
    result[index] = value
    return result


CASES = (
    Case("index_add", "Vc Mc", lambda x, y, i: x.index_add(0, i, y), constants=(PLACES,)),
    Case("index_add_", "nC nM", lambda x, y, i: x.clone().index_add_(1, i, y, alpha=2), constants=(PLACES,)),
    Case("index_copy", "nC nM", lambda x, y, i: x.index_copy(1, i, y), constants=(PLACES,)),
    Case("index_copy_", "nC nM", lambda x, y, i: x.clone().index_copy_(-1, i, y), constants=(PLACES,)),
    Case("index_fill", "nC", lambda x, i: x.index_fill(1, i, 0.3), constants=(PLACES,)),
    Case("index_fill_", "nC", lambda x, i: x.clone().index_fill_(1, i, 0.3), constants=(PLACES,)),
    Case("index_put", "Cn Mn", lambda x, y, i: x.index_put((i,), y), constants=(PLACES,)),
    Case("index_put_", "nC nM", lambda x, y, i: _assigned(x, (slice(None), i), y), constants=(PLACES,)),
    Case("index_put_ of one value", "nC", lambda x, i: _assigned(x, (slice(None), i), 0.3), constants=(PLACES,)),
    Case("index_put_ at two vectors", "NC", lambda x, i: _assigned(x, (i % 4, i), 0.3), constants=(PLACES,)),
)
