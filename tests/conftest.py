"""Settings that every test needs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from fxprune_passes.mend import MENDS
from fxprune_passes.rules import RULES

# The workers of pytest-xdist share the cores; PyTorch's own threads on top of them would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def measurements(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Times of layers are kept apart from the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FXPRUNE_CACHE", str(tmp_path_factory.mktemp("measured")))
        yield


@pytest.fixture
def registries() -> Iterator[None]:
    """Rules and mends are afterwards what they were before."""
    tables: tuple[dict[Any, Any], ...] = (RULES, MENDS)
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)
