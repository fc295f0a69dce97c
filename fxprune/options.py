"""What a plan is asked for, in the words of a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from fxprune.budget import SCOPES
from fxprune.criteria import OF_WEIGHTS
from fxprune.latency import TIMINGS
from fxprune.units import parsed_duration, parsed_number
from fxprune_passes.errors import PlanError, explain

_TARGETS = {
    "channels": "fraction of each group's channels that stays",
    "params": "parameters that stay: a fraction such as 0.5, or a bound such as 10M",
    "macs": "multiply-accumulates that stay on the inputs: 0.5, or 1.5G",
    "bytes": "bytes of weights that stay: 0.5, or 20M",
    "latency": "time of a call that stays: 0.5, or 5ms; measured here, on OMP_NUM_THREADS threads",
}
_CHOICES = ("timing", "criterion", "scope", "override", "ignore", "round_to", "min_channels", "max_drop", "by_block")


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Describe what a plan is to reach: exactly one target, or zeros."""
    what = parser.add_mutually_exclusive_group(required=True)
    for name, text in _TARGETS.items():
        what.add_argument(f"--{name}", metavar="FRACTION" if name == "channels" else "VALUE", help=text)
    what.add_argument(
        "--from-zeros", action="store_true", help="remove the channels that masks and zeros make idle, and no others"
    )


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Describe how a plan chooses; none of it goes with zeros."""
    add = parser.add_argument
    add("--timing", choices=TIMINGS, help="with --latency: what is timed (default eager)")
    add("--criterion", help=f"{', '.join(OF_WEIGHTS)} (default l2)")
    add("--scope", choices=SCOPES, help="what is ranked together (default local: the same fraction of every group)")
    add(
        "--override",
        action="append",
        metavar="NAME=FRACTION",
        help="fraction of some groups that stays, by name or glob",
    )
    add("--ignore", action="append", metavar="NAME", help="module, parameter or glob that keeps its width")
    add(
        "--round-to",
        metavar="N",
        help="widths are multiples of N; auto: what kernels like (default but for --channels)",
    )
    add("--min-channels", type=int, metavar="N", help="at least so many of each group stay (default 1)")
    add("--max-drop", type=float, metavar="FRACTION", help="at most this fraction of each group goes (default 1)")
    add(
        "--by-block",
        action=argparse.BooleanOptionalAction,
        help="groups of convolutions and heads keep channels of their own where they may (default); --no-by-block: the "
        "same in all",
    )


def given_choices(options: argparse.Namespace) -> list[str]:
    """Names of the choices that a command line makes, as attributes."""
    return [name for name in _CHOICES if getattr(options, name) is not None]


def target_flag(options: argparse.Namespace) -> str:
    """The target that a command line names: ``--macs``, say, or ``--from-zeros``."""
    return next((f"--{name}" for name in _TARGETS if getattr(options, name) is not None), "--from-zeros")


def plan_options(options: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of :func:`fxprune.plan`; those that were not given are left out.

    Raises:
        PlanError: A text says no value of its option.
    """
    read: dict[str, Callable[[str, Any], Any]] = {
        **dict.fromkeys(_TARGETS, _amount),
        "channels": _fraction,
        "latency": _time,
        "round_to": _round_to,
        "ignore": lambda _, names: tuple(names),
        "override": lambda flag, texts: dict(_override(flag, text) for text in texts),
    }
    result: dict[str, Any] = {"seed": options.seed}
    for name in (*_TARGETS, *_CHOICES):
        if (value := getattr(options, name)) is not None:
            flag = f"--{name.replace('_', '-')}"
            result["overrides" if name == "override" else name] = read[name](flag, value) if name in read else value
    return result


def _amount(flag: str, text: str) -> float:
    if (value := parsed_number(text)) is None:
        raise PlanError(explain(f"{flag} expects a fraction such as 0.5 or a bound such as 10M, got {text!r}."))
    return value


def _fraction(flag: str, text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise PlanError(explain(f"{flag} expects a fraction such as 0.5, got {text!r}.")) from error


def _time(flag: str, text: str) -> float | str:
    if parsed_duration(text) is not None:
        return text
    try:
        return float(text)
    except ValueError as error:
        raise PlanError(
            explain(f"{flag} expects a fraction such as 0.5 or a time such as 5ms, got {text!r}.")
        ) from error


def _round_to(flag: str, text: str) -> int | str | None:
    if text in ("auto", "none"):
        return None if text == "none" else text
    if not text.isdecimal():
        raise PlanError(explain(f"{flag} expects a positive integer, auto or none, got {text!r}."))
    return int(text)


def _override(flag: str, text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    if not name:
        raise PlanError(explain(f"{flag} expects NAME=FRACTION, got {text!r}."))
    return name, _fraction(flag, share)
