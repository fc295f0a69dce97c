"""Measurements on disk: seconds by signature, one file for each way to measure."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

VARIABLE = "FXPRUNE_CACHE"
"""The environment variable that names the folder."""


def folder() -> Path:
    """Where measurements are kept: what ``FXPRUNE_CACHE`` says, else below the user's cache folder."""
    if named := os.environ.get(VARIABLE):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "fxprune"


class Stored:
    """Seconds by signature, measured in one way.

    Args:
        how: What measurements hold for: device, threads, version, and the like.
    """

    def __init__(self, how: Mapping[str, str]) -> None:
        self.how = dict(how)
        name = hashlib.sha256(json.dumps(self.how, sort_keys=True).encode()).hexdigest()[:16]
        self.file = folder() / f"latency-{name}.json"
        self.seconds = self._read()

    def _read(self) -> dict[str, float]:
        """What is on disk; nothing where that is no table, which is then written anew."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError):
            found = json.loads(self.file.read_text())
            if found["how"] == self.how:
                return {str(name): float(value) for name, value in found["seconds"].items()}
        return {}

    def add(self, seconds: Mapping[str, float]) -> None:
        """Take in measurements and write them down with those that other processes made meanwhile.

        A folder that cannot be written keeps nothing: the next plan measures anew.
        """
        self.seconds = {**self._read(), **self.seconds, **seconds}
        text = json.dumps({"how": self.how, "seconds": self.seconds}, indent=0)
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.file.parent, prefix=self.file.name, text=True)
            with os.fdopen(handle, "w") as file:
                file.write(text)
            os.replace(name, self.file)
