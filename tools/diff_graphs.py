"""Compare a model with its compiled form, node by node: what was sliced, mended, added and removed.

    python tools/diff_graphs.py torchvision:resnet18 --channels 0.5
    python tools/diff_graphs.py package.module:build --input 1,16:int64 --plan plan.json --all

The plan is a file that ``plan.save`` wrote, or that fraction of every channel group's channels, by L2 norm.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import fxprune
from fxprune.arguments import load_model, parse_input
from fxprune.changes import diff, table
from fxprune_passes.errors import FxPruneError


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of changed nodes and a line of counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="SPEC", help="torchvision:NAME or MODULE:CALLABLE")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--channels", type=float, default=0.5, metavar="FRACTION", help="of channels that stay (0.5)")
    choice.add_argument("--plan", type=Path, metavar="FILE", help="a saved plan")
    parser.add_argument("--input", action="append", metavar="SHAPE", help="1,3,224,224 (default) or 1,16:int64")
    parser.add_argument("--statistics", choices=("kept", "full"), default="kept", help="as for fxprune.compile")
    parser.add_argument("--all", action="store_true", help="show unchanged nodes as well")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    try:
        model = load_model(options.model).eval()
        inputs = tuple(map(parse_input, options.input or ["1,3,224,224"]))
        made = options.plan is None
        plan = fxprune.plan(model, inputs, channels=options.channels) if made else fxprune.Plan.load(options.plan)
        small = fxprune.compile(model, plan, statistics=options.statistics)
        print(table(diff(plan.analysis_of(model), small), unchanged=options.all))
    except FxPruneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
