"""Measurements that need a process of their own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).parent.parent / "bench.py"


def in_a_process(work: str, *arguments: object) -> Any:
    """Have another process run one measurement, and read what it prints last.

    Args:
        work: One of ``bench.CHILDREN``.
        arguments: Its arguments, as text.
    """
    print(work, *arguments, file=sys.stderr, flush=True)  # a run takes long: say where it is
    command = [sys.executable, str(SCRIPT), "--child", work, *map(str, arguments)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{work} {arguments} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
