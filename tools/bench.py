"""Measure fxprune: against Torch-Pruning, against models built by hand, and how time and memory grow.

    python tools/bench.py
    python tools/bench.py --only growth memory --json figures.json
    python tools/bench.py --write docs

Sections:

* against: seconds of analysis + plan + compile, against Torch-Pruning on models of torchvision;
* copying: those of ResNet-50 against ``copy.deepcopy``;
* memory: peak memory that the same work adds, against Torch-Pruning and against the size of the result;
* growth: the exponent with which seconds grow with depth and width;
* handbuilt: seconds of the compiled model, against a model written with the same widths.

Times are medians of interleaved runs after a first one, on one thread. Torch-Pruning and matplotlib come with the
``benchmark`` extra; without it fxprune is measured alone. The exit status is 1 where a bound does not hold.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmark import against, memory
from benchmark.copying import copying
from benchmark.figures import Figure, Section, bounds, table
from benchmark.growth import growth
from benchmark.handbuilt import handbuilt
from benchmark.page import machine, write
from benchmark.settings import QUICK, Settings

SECTIONS: dict[str, Callable[[Settings], Section]] = {
    "against": against.against,
    "copying": copying,
    "memory": memory.memory,
    "growth": growth,
    "handbuilt": handbuilt,
}
CHILDREN: dict[str, Callable[..., Any]] = {"against": against.measure, "memory": memory.measure}
"""What the processes of its own run."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every section and print its table; the exit status is 1 where a bound does not hold."""
    options = parse(arguments)
    if options.child:
        work, *rest = options.child
        print(json.dumps(CHILDREN[work](*rest)))
        return 0
    changes = {name: value for name in ("threads", "repeats", "models") if (value := getattr(options, name))}
    settings = dataclasses.replace(QUICK if options.quick else Settings(), **changes)
    torch.set_num_threads(settings.threads)
    described, found = machine(settings.threads), earlier(options.json) if options.only else {}
    for name in options.only or SECTIONS:
        found[name] = section = SECTIONS[name](settings)
        print(f"{section.title}\n\n{table(section.headers, section.rows)}\n", flush=True)
        if options.json:  # after every section, so that what was measured is not lost
            parts = {key: dataclasses.asdict(one) for key, one in found.items()}
            options.json.write_text(json.dumps({"machine": described, **parts}, indent=2) + "\n")
    sections = [found[name] for name in SECTIONS if name in found]
    print(bounds(sections))
    if options.write:
        write(options.write, described, sections)
    return int(not all(figure.holds for section in sections for figure in section.figures))


def earlier(figures: Path | None) -> dict[str, Section]:
    """The sections that an earlier run wrote to a file, by key; none if there is no file."""
    if figures is None or not figures.exists():
        return {}
    parts = {key: one for key, one in json.loads(figures.read_text()).items() if key in SECTIONS}
    return {
        key: Section(**{**one, "figures": [Figure(**figure) for figure in one["figures"]]})
        for key, one in parts.items()
    }


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="models of torchvision, for the section against")
    parser.add_argument("--repeats", type=int, help="most runs that a median is taken over (default 7)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (default 1)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures there, too; with --only, beside those there are"
    )
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="write a page and a plot there (docs)")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)  # what the processes of its own run
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
