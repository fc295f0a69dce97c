"""Source lines by name: ``package/file.py:12``, the same on every machine, and the text of that line."""

from __future__ import annotations

import linecache
import os
import re
import sys
from functools import cache

_PLACE = re.compile(r"([^\s()]+\.py):(\d+)")


@cache
def shown(filename: str) -> str:
    """A file's name from the import path on."""
    for folder in _folders():
        if filename.startswith(os.path.join(folder, "")):
            return os.path.relpath(filename, folder).replace(os.sep, "/")
    return os.path.basename(filename)


def code_at(text: str) -> str:
    """The source line that a text names, such as ``conv1 in layer1 (package/file.py:12)``; empty if there is none."""
    if (found := _PLACE.search(text)) is None:
        return ""
    files = (os.path.join(folder, found[1]) for folder in (*_folders(), os.getcwd()))
    return next((linecache.getline(file, int(found[2])).strip() for file in files if os.path.isfile(file)), "")


def _folders() -> list[str]:
    """The import path, innermost folders first."""
    return sorted(filter(None, sys.path), key=len, reverse=True)
