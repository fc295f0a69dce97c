"""The command line: ``fxprune demo`` and ``fxprune prune``."""

from __future__ import annotations

import argparse
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from tabulate import tabulate
from torch import fx, nn

import fxprune
from fxprune import demo
from fxprune.arguments import load_model, parse_dtype, parse_input
from fxprune.options import add_choices, add_targets, given_choices, plan_options, target_flag
from fxprune.units import scaled
from fxprune_passes.errors import ArtifactError, FxPruneError, PlanError, explain

FILES = ("plan.json", "state_dict.pt", "code.py", "report.txt")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words of the command line; the process's own where there are none.

    Returns:
        The exit status: 0, or 2 where the user has something to mend.
    """
    options = _parser().parse_args(arguments)
    try:
        print(options.command(options))
    except FxPruneError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    """Describe the commands and their options."""
    parser = argparse.ArgumentParser(prog="fxprune", description="Structured pruning as a compiler, for PyTorch.")
    parser.add_argument("--version", action="version", version=f"fxprune {fxprune.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands.add_parser("demo", help="train, prune and fine-tune a small network on real digits"))
    _add_prune(commands.add_parser("prune", help="prune a model and write plan, weights, code and report"))
    return parser


def _add_demo(parser: argparse.ArgumentParser) -> None:
    """Describe ``fxprune demo``."""
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default 0)")
    parser.set_defaults(command=lambda options: demo.table(demo.run(options.seed)))


def _add_prune(parser: argparse.ArgumentParser) -> None:
    """Describe ``fxprune prune``."""
    add = parser.add_argument
    add("model", metavar="SPEC", help="torchvision:NAME, or MODULE:CALLABLE that returns a torch.nn.Module")
    add_targets(parser)
    add("--input", action="append", required=True, metavar="SHAPE", help="1,3,224,224 or 1,16:int64; once per argument")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder to write; new or empty")
    add("--force", action="store_true", help="write into a folder that is not empty")
    add("--state-dict", type=Path, metavar="FILE", help="weights to load into the model first")
    add("--tolerance", type=float, metavar="ERROR", help="with --from-zeros: change of outputs to allow (default 0)")
    add_choices(parser)
    add("--statistics", choices=("kept", "full"), help="what means over pruned axes run over (default kept)")
    add("--seed", type=int, default=0, help="of random weights and of criterion random (default 0)")
    add("--dtype", default="float32", help="of the model and its inputs (default float32)")
    add("--verify", action="store_true", help="compare with the masked original in float64")
    parser.set_defaults(command=_prune)


def _prune(options: argparse.Namespace) -> str:
    """Prune one model, write its folder and return the report."""
    _check_choices(options)
    _check_folder(options.out, options.force)
    dtype = parse_dtype(options.dtype)
    inputs = tuple(parse_input(text, dtype) for text in options.input)
    torch.manual_seed(options.seed)
    model = load_model(options.model).to(dtype).eval()
    if options.state_dict is not None:
        _load_weights(model, options.state_dict)
    if options.from_zeros:
        inputs = tuple(torch.randn_like(one) if one.is_floating_point() else one for one in inputs)
    plan = _plan(model, inputs, options)
    small = fxprune.compile(model, plan, statistics=options.statistics or "kept")
    report = [str(plan), _costs(model, small, inputs)]
    if options.verify:
        verified = fxprune.verify(model, plan, small)
        verified.raise_if_wrong()  # before anything is written
        report.append(str(verified))
    _write(options.out, plan, small, "\n\n".join(report) + "\n")
    return "\n\n".join([*report, _recipe(options)])


def _check_choices(options: argparse.Namespace) -> None:
    """Refuse options that say nothing about the plan that is asked for."""
    refused = [*given_choices(options), *(["statistics"] if options.statistics else [])] if options.from_zeros else []
    if not options.from_zeros and options.tolerance is not None:
        refused = ["tolerance"]
    if refused:
        flag, other = f"--{refused[0].replace('_', '-')}", target_flag(options)
        raise PlanError(explain(f"{flag} does not go with {other}.", mend="leave one of them out"))


def _plan(model: nn.Module, inputs: tuple[torch.Tensor, ...], options: argparse.Namespace) -> fxprune.Plan:
    """The plan that the options ask for."""
    if options.from_zeros:
        return fxprune.Plan.from_zeros(model, inputs, tolerance=options.tolerance or 0.0)
    return fxprune.plan(model, inputs, **plan_options(options))


def _check_folder(folder: Path, force: bool) -> None:
    """Refuse a folder that holds something, before any work is done."""
    if folder.is_dir() and (force or not any(folder.iterdir())):
        return
    if folder.exists():
        found = "a folder that is not empty" if folder.is_dir() else "a file"
        mend = "--force writes into it" if folder.is_dir() else "name a folder"
        raise ArtifactError(explain(f"--out expects a new or empty folder, got {found}: {folder}.", mend=mend))


def _load_weights(model: nn.Module, file: Path) -> None:
    """Load a state dict into the model, every name and shape as the model has it."""
    try:
        model.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    except (OSError, EOFError, RuntimeError, TypeError, pickle.UnpicklingError) as error:
        raise ArtifactError(
            explain(f"--state-dict expects weights of this model, got {file}.", why=str(error))
        ) from error


def _costs(model: nn.Module, small: nn.Module, inputs: tuple[torch.Tensor, ...]) -> str:
    """Lay out what the model costs before and after."""
    before, after = (fxprune.count(network, inputs) for network in (model, small))
    rows = [
        ("parameters", scaled(before.params), scaled(after.params), f"{after.params / max(before.params, 1):.1%}"),
        ("MACs", scaled(before.macs), scaled(after.macs), f"{after.macs / max(before.macs, 1):.1%}"),
        ("bytes", scaled(before.bytes, "B"), scaled(after.bytes, "B"), f"{after.bytes / max(before.bytes, 1):.1%}"),
    ]
    return tabulate(rows, ("", "before", "after", "left"), colalign=("left", *["right"] * 3), disable_numparse=True)


def _write(folder: Path, plan: fxprune.Plan, small: fx.GraphModule, report: str) -> None:
    """Write the plan, the weights, the code for reading and the report."""
    plan_file, weights_file, code_file, report_file = (folder / name for name in FILES)
    folder.mkdir(parents=True, exist_ok=True)
    plan.save(plan_file)
    torch.save(small.state_dict(), weights_file)
    code_file.write_text(small.print_readable(print_output=False))
    report_file.write_text(report)


def _recipe(options: argparse.Namespace) -> str:
    """Say how to load the folder again."""
    folder = options.out
    more = "" if options.statistics in (None, "kept") else f", statistics={options.statistics!r}"
    zeros = options.from_zeros and options.state_dict is not None  # such a plan fits weights that have its zeros
    return "\n".join(
        [
            f"Wrote {', '.join(FILES)} into {folder}. To load the pruned model again:",
            *([f'  model.load_state_dict(torch.load("{options.state_dict}"))'] if zeros else []),
            f'  small = fxprune.compile(model.eval(), fxprune.Plan.load("{folder / FILES[0]}"){more})',
            f'  small.load_state_dict(torch.load("{folder / FILES[1]}"))',
        ]
    )
