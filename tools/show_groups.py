"""Show what can be pruned of a model, what is frozen and why, and what the axes of any tensor are made of.

    python tools/show_groups.py torchvision:resnet18
    python tools/show_groups.py package.module:build --input 1,16:int64 --tensor layers.0.attention.qkv.weight
    python tools/show_groups.py torchvision:resnet18 --tensor flatten

A tensor is a parameter, a buffer or a node of the captured graph. It can be asked for several times.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tabulate import tabulate

from fxprune.analysis import analyse
from fxprune.arguments import load_model, parse_input
from fxprune.explain import tensor_terms
from fxprune_passes.errors import FxPruneError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the groups table, and one table for each tensor asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="SPEC", help="torchvision:NAME or MODULE:CALLABLE")
    parser.add_argument("--input", action="append", metavar="SHAPE", help="1,3,224,224 (default) or 1,16:int64")
    parser.add_argument("--tensor", action="append", default=[], metavar="NAME", help="a parameter, buffer or node")
    options = parser.parse_args(arguments)
    try:
        inputs = tuple(map(parse_input, options.input or ["1,3,224,224"]))
        analysis = analyse(load_model(options.model).eval(), inputs)
        tables = [str(analysis.groups)]
        for name in options.tensor:
            rows = tensor_terms(analysis, name)
            tables.append(f"{name}\n{tabulate(rows, headers=('dim', 'size', 'made of', 'frozen by'))}")
    except FxPruneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    print("\n\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
