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


def _along(places: torch.Tensor) -> torch.Tensor:
    """The same places in every row and column."""
    return places.view(1, 3, 1).expand(4, 3, 5)


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
    Case("slice_scatter", "nc no", lambda x, y: x.slice_scatter(y, 1, 1, 7)),
    Case("select_scatter", "nCl nl", lambda x, y: x.select_scatter(y, 1, 3)),
    Case("diagonal_scatter", "nCDl nlM", lambda x, y: x.diagonal_scatter(y, 2, 1, 2)),
    Case("scatter", "nCl nMl", lambda x, y, i: x.scatter(1, _along(i), y), constants=(PLACES,)),
    Case("scatter of one value", "nCl", lambda x, i: x.scatter(1, _along(i), 0.3), constants=(PLACES,)),
    Case("scatter of fewer rows", "NC NM", lambda x, y, i: x.scatter(1, i.expand(2, -1), y), constants=(PLACES,)),
    Case("scatter_", "nCl nMl", lambda x, y, i: x.clone().scatter_(1, _along(i), y), constants=(PLACES,)),
    Case("scatter_add", "nCl nMl", lambda x, y, i: x.scatter_add(1, _along(i), y), constants=(PLACES,)),
    Case("scatter_add_", "nCl nMl", lambda x, y, i: x.clone().scatter_add_(1, _along(i), y), constants=(PLACES,)),
    Case("scatter_reduce", "nCl nMl", lambda x, y, i: x.scatter_reduce(1, _along(i), y, "amax"), constants=(PLACES,)),
    Case("scatter_reduce_", "nCl nMl", lambda x, y, i: x.clone().scatter_reduce_(1, _along(i), y, "mean"),
         constants=(PLACES,)),
)  # fmt: skip
