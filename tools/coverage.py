"""Try fxprune on a zoo: capture, analyse, prune half of every group, compile and verify, one line a model.

    python tools/coverage.py torchvision
    python tools/coverage.py timm --only "resnet*"
    python tools/coverage.py transformers --jobs 4 --markdown docs/coverage-transformers.md

A model is exact if the compiled network equals the masked original within a relative error of 1e-9 in float64, with
statistics over all channels. Detection models are compiled to their own class (emit="module") and must be exact on
images of other sizes too. Reachable is the share of the parameters of which some axis can be pruned.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

import fxprune
from fxprune.analysis import Analysis, analyse
from fxprune.choose import cover
from fxprune.modules import fit
from fxprune.plans import make_plan
from fxprune.wrappers import unwrap
from fxprune_passes.axes import freezing, leaves
from fxprune_passes.errors import FxPruneError
from zoo import Entry

ZOOS = ("torchvision", "timm", "transformers")
TOLERANCE = 1e-9


@dataclass
class Row:
    """What came of one model."""

    name: str
    kind: str
    verdict: str = ""
    error: float | None = None
    reachable: float | None = None
    left: float | None = None
    frozen: str = ""
    analysis_seconds: float | None = None
    seconds: float = 0.0

    def cells(self) -> tuple[Any, ...]:
        """The columns of the table."""
        return (
            self.name,
            self.kind,
            self.verdict,
            "" if self.error is None else f"{self.error:.0e}",
            _percent(self.reachable),
            _percent(self.left),
            "" if self.analysis_seconds is None else f"{self.analysis_seconds:.2f}",
            f"{self.seconds:.1f}",
            self.frozen,
        )


HEADERS = ("model", "kind", "verdict", "error", "reachable", "left", "analysis s", "all s", "frozen")


def try_model(entry: Entry, row: Row) -> None:
    """Take one model through the whole pipeline and fill its row."""
    model, inputs = entry.build()
    start, emit = time.perf_counter(), "module" if entry.kind == "detection" else "graph"
    analysis = analyse(model, inputs, emit=emit)
    row.analysis_seconds = time.perf_counter() - start
    plain, _ = unwrap(model)  # its parameters are those that the analysis names
    row.reachable, row.frozen = reachable(plain, analysis), most_frozen(analysis)
    plan = half(model, inputs, analysis)
    small = fxprune.compile(model, plan, statistics="full", emit=emit)
    row.left = _size(small) / _size(plain)
    reports = [
        fxprune.verify(model, plan, small, inputs=one, weights=("own",), tolerance=TOLERANCE)
        for one in (inputs, *entry.others)
    ]
    row.error = max((case.error for one in reports for case in one.cases if case.error is not None), default=None)
    wrong = [report.first_wrong for report in reports if not report.ok]
    row.verdict = f"WRONG at {wrong[0]}" if wrong else "exact" if row.error is not None else "no numbers"


def half(model: nn.Module, inputs: Any, analysis: Analysis, seed: int = 0) -> fxprune.Plan:
    """A random half of every group, both factors of products included, but for those that a model's code holds."""
    generator = torch.Generator().manual_seed(seed)
    ranked = {group.name: torch.randperm(group.size, generator=generator).tolist() for group in analysis.groups}
    keep = {name: order[: max(1, len(order) // 2)] for name, order in ranked.items()}

    def choose(left_out: set[str], check: object = None) -> dict[str, tuple[int, ...]]:
        return cover(analysis, {name: kept for name, kept in keep.items() if name not in left_out}, ranked)

    chosen, left_out = fit(analysis, model, choose, "full") if analysis.emit == "module" else (choose(set()), {})
    return make_plan(model, inputs, analysis, chosen, left_out)


def reachable(model: nn.Module, analysis: Analysis) -> float:
    """The share of the parameters that have an axis of which channels can go."""
    reached = 0
    for name, parameter in model.named_parameters():
        axes = analysis.propagation.parameters.get(name, ())
        if any(not leaf.frozen for axis in axes for leaf in leaves(axis)):
            reached += parameter.numel()
    return reached / max(1, _size(model))


def most_frozen(analysis: Analysis, most: int = 2) -> str:
    """The reasons that freeze most parameters whole: those of which no axis can be pruned."""
    weight: Counter[str] = Counter()
    for name, axes in analysis.propagation.parameters.items():
        if all(axis.size == 1 or freezing(axis) for axis in axes):
            reasons = {str(one.reason) for axis in axes if axis.size > 1 and (one := freezing(axis))}
            for reason in reasons - {"kernel size", "model output", "model input"}:
                weight[reason] += torch.Size(axis.size for axis in analysis.propagation.parameters[name]).numel()
    return "; ".join(reason for reason, _ in weight.most_common(most))


def attempt(entry: Entry, *, traces: bool = False) -> Row:
    """The row of one model; what goes wrong is said in it."""
    row = Row(entry.name, entry.kind)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try_model(entry, row)
    except FxPruneError as error:
        row.verdict = f"refused: {str(error).splitlines()[0]}"
        if traces:
            print(f"{entry.name}: {error}", file=sys.stderr)
    except Exception as error:  # a crash is what this tool is to find
        row.verdict = f"CRASH {type(error).__name__}: {(str(error).splitlines() or [''])[0]:.100}"
        if traces:
            traceback.print_exc()
    row.seconds = time.perf_counter() - start
    return row


def total(rows: Sequence[Row]) -> str:
    """One line over all rows."""
    exact = [row for row in rows if row.verdict == "exact"]
    refused = sum(row.verdict.startswith("refused") for row in rows)
    shares = [row.reachable for row in exact if row.reachable is not None]
    middle = f", median reachable {median(shares):.1%}" if shares else ""
    return f"{len(exact)} of {len(rows)} exact, {refused} refused, {len(rows) - len(exact) - refused} wrong{middle}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for every model of a zoo, and a total; exit 1 if one is wrong or crashes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("zoo", choices=ZOOS)
    parser.add_argument("--only", action="append", metavar="GLOB", help="models or kinds to try; may be repeated")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the table there")
    parser.add_argument("--traces", action="store_true", help="print every error in full")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes, each on one thread (default 1)")
    options = parser.parse_args(arguments)
    entries = [one for one in importlib.import_module(f"zoo.{options.zoo}_zoo").entries() if _asked(one, options.only)]
    rows = []
    with (
        Pool(options.jobs, torch.set_num_threads, (1,)) as pool,
        tqdm(total=len(entries), unit="model", disable=None) as progress,
    ):
        for row in pool.imap(partial(attempt, traces=options.traces), entries):
            rows.append(row)
            progress.update()
            progress.write("  ".join(str(cell) for cell in row.cells()))
    print(f"\n{tabulate([row.cells() for row in rows], headers=HEADERS)}\n\n{total(rows)}")
    if options.markdown:
        options.markdown.write_text(_page(options.zoo, rows), encoding="utf-8")
    return int(any(row.verdict.startswith(("WRONG", "CRASH")) for row in rows))


def _asked(entry: Entry, globs: Iterable[str] | None) -> bool:
    return not globs or any(fnmatch.fnmatch(name, glob) for glob in globs for name in (entry.name, entry.kind))


def _page(zoo: str, rows: Sequence[Row]) -> str:
    table = re.sub(" {2,}", " ", tabulate([row.cells() for row in rows], headers=HEADERS, tablefmt="github"))
    table = re.sub("-{4,}", "---", table)
    return f"# Coverage of {zoo}\n\nWritten by `python tools/coverage.py {zoo}`.\n\n{total(rows)}.\n\n{table}\n"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


if __name__ == "__main__":
    sys.exit(main())
