"""Write what was measured as a page of the documentation, with a plot of time against size."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmark.contest import OURS, THEIRS
from benchmark.figures import Section, bounds, table

try:
    import matplotlib
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, LogLocator
except ImportError:  # a benchmark extra
    matplotlib = None

PACKAGES = ("fxprune", "torch", "torchvision", "torch-pruning")
PAGE, PLOT = "benchmarks.md", "benchmarks.svg"
HEAD = """\
# Benchmarks

Written by `python tools/bench.py --write docs` (`pip install -e ".[benchmark]"` before); no figure here was typed in.
`--help` lists the sections and options; the exit status is 1 where a bound does not hold.
"""


def machine(threads: int) -> dict[str, str]:
    """What the figures were measured on."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "processor": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "threads of PyTorch": str(threads),
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        **{name: _version(name) for name in PACKAGES},
        "oneDNN": "yes" if torch.backends.mkldnn.is_available() else "no",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def write(folder: Path, described: Mapping[str, str], sections: Sequence[Section]) -> None:
    """Write the page, and the plot if growth was measured.

    Raises:
        RuntimeError: matplotlib is missing.
    """
    parts = [HEAD, table(("machine", ""), described.items(), markdown=True)]
    parts += ["## Bounds", bounds(sections, markdown=True)]
    for section in sections:
        parts += [f"## {section.title}", section.text, table(section.headers, section.rows, markdown=True)]
        if section.key == "growth":
            parts.append(f"![Time against size, both axes logarithmic]({PLOT})")
            plot(folder / PLOT, section.data)
    (folder / PAGE).write_text("\n\n".join(part.strip() for part in parts) + "\n")


def plot(path: Path, data: Mapping[str, Any]) -> None:
    """Time against size, one panel for each series.

    Raises:
        RuntimeError: matplotlib is missing.
    """
    if matplotlib is None:
        raise RuntimeError('the plot needs matplotlib: pip install -e ".[benchmark]"')
    matplotlib.use("agg")
    settings = {"svg.hashsalt": "fxprune", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(settings):
        figure, panels = pyplot.subplots(1, len(data), figsize=(3.4 * len(data), 3.4), layout="constrained")
        for panel, (name, one) in zip(panels, data.items(), strict=True):
            _panel(panel, name, one)
        panels[0].set_ylabel("seconds")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else {})
        pyplot.close(figure)


def _panel(panel: Any, name: str, one: Mapping[str, Any]) -> None:
    for who, marker, color in ((OURS, "o", "#0b6e99"), (THEIRS, "s", "#c8553d")):
        if points := one["seconds"][who]:
            panel.plot(*zip(*points, strict=True), marker=marker, color=color, label=who)
    sizes, seconds = zip(*one["seconds"][OURS], strict=True)
    linear = [seconds[0] * size / sizes[0] for size in sizes]
    panel.plot(sizes, linear, linestyle=":", color="gray", label="proportional to the size", zorder=0)
    panel.set(title=name, xlabel=one["axis"], xscale="log", yscale="log")
    panel.set_xticks(sizes, [str(size) for size in sizes])
    panel.minorticks_off()
    panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.grid(alpha=0.3)
