"""The state of PyTorch and Python in which graphs run here: no gradients, no log, no pauses, every op in sight."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

_FAKE_LOG = logging.getLogger(FakeTensorMode.__module__)


@contextmanager
def quiet_run(fake_mode: FakeTensorMode | None) -> Iterator[None]:
    """No gradients, fake tensors (real ones: None), no log of failures, and no fused attention, which hides its ops."""
    fused, logged = torch.backends.mha.get_fastpath_enabled(), _FAKE_LOG.disabled
    torch.backends.mha.set_fastpath_enabled(False)
    _FAKE_LOG.disabled = True  # it prints a stack for every exception, which the errors that we raise tell in full
    try:
        with torch.no_grad(), fake_mode or nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        _FAKE_LOG.disabled = logged


@contextmanager
def no_collection() -> Iterator[None]:
    """No garbage collection meanwhile: it walks all that PyTorch ever loaded, a tenth of the time of an analysis."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
