"""List what is supported, from the registries: ATen ops by family, and what the rewrite mends.

    python tools/list_rules.py
    python tools/list_rules.py --markdown

Ops that PyTorch tags as pointwise need no rule of their own; they are one row.
"""

from __future__ import annotations

import argparse
import operator
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket

from fxprune_passes.mend import FULL, MENDS, MODULES
from fxprune_passes.rules import RULES

Row = tuple[str, str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print both tables and the totals."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--markdown", action="store_true", help="as GitHub tables")
    form = "github" if parser.parse_args(arguments).markdown else "simple"
    rules = [*by_function(RULES), ("pointwise", "every op tagged torch.Tag.pointwise", "as aten.add")]
    mends = [*by_function(MENDS), *by_function(MODULES), *by_function(FULL)]
    widths = None if form == "github" else [None, 60, 70]
    print(tabulate(rules, headers=("family", "ATen ops", "shapes"), tablefmt=form, maxcolwidths=widths))
    print(f"\n{len(RULES)} ops with {len(set(RULES.values()))} rules, and all pointwise ones\n")
    print(tabulate(mends, headers=("family", "graph targets", "mend"), tablefmt=form, maxcolwidths=widths))
    print(f"\n{len(MENDS)} functions and methods, {len(MODULES)} leaf modules, {len(FULL)} with full statistics")
    return 0


def by_function(registry: Mapping[Any, Callable[..., Any]]) -> list[Row]:
    """One row for each registered function: its family (the file), its targets, its first line."""
    targets: dict[Callable[..., Any], list[str]] = {}
    for target, function in registry.items():
        targets.setdefault(function, []).append(name_of(target))
    rows = [(family(function), in_order(names), first_line(function)) for function, names in targets.items()]
    return sorted(rows, key=lambda row: row[0])


def in_order(names: Iterable[str]) -> str:
    """Names in alphabetical order, each once."""
    return ", ".join(sorted(set(names)))


def name_of(target: Any) -> str:
    """A target as one writes it: ``aten.view.default``, ``x.view``, ``torch.flip``, ``nn.Linear``."""
    if isinstance(target, str):
        return target if target in RULES else f"x.{target}"
    if isinstance(target, (OpOverload, OpOverloadPacket)):
        return str(target)
    name = target.__name__
    homes = {"nn": nn, "torch": torch, "F": nn.functional, "operator": operator, "torch.Tensor": torch.Tensor}
    home = next(home for home, module in homes.items() if getattr(module, name, None) is target)
    return f"{home}.{name}"


def family(function: Callable[..., Any]) -> str:
    """The file that a function is in."""
    return function.__module__.rpartition(".")[2]


def first_line(function: Callable[..., Any]) -> str:
    """The first line of a docstring."""
    return (function.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
