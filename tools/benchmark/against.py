"""Seconds of analysis, plan and compile against Torch-Pruning, on models of torchvision."""

from __future__ import annotations

from typing import Any

import torch

from benchmark.children import in_a_process
from benchmark.contest import OURS, THEIRS, take_turns, warm_up
from benchmark.figures import Figure, Section, geometric_mean
from benchmark.settings import Settings
from fxprune.arguments import load_model

TEXT = """\
Seconds until a model is pruned to half of its channels by L2 norm, its outputs left alone: capture, analysis, plan and
compile of fxprune; building the pruner and its one step of Torch-Pruning. Both take turns in one process for each
model, on a fresh copy that is made before the clock starts, after a first run that warms up and is told apart. Medians
of {least} to {most} runs, fewer where they take long. A run that has not finished after {limit:.0f} s is stopped and
counts as {limit:.0f} s; one that fails is not counted in the geometric mean. What must hold is faster on every model,
and 4 times in the geometric mean; 10 times is the goal.\
"""
HEADERS = (
    "model",
    OURS,
    THEIRS,
    "ratio",
    f"first run, {OURS}",
    f"first run, {THEIRS}",
    f"stays, {OURS}",
    "stays, other",
)


def measure(name: str, image: str, limit: str, repeats: str, threads: str) -> dict[str, Any]:
    """Both tools on one model, in this process."""
    torch.set_num_threads(int(threads))
    warm_up()
    case = load_model(f"torchvision:{name}").eval(), torch.zeros(1, 3, int(image), int(image))
    outcomes = take_turns({name: case}, limit=float(limit), repeats=int(repeats))[name]
    return {who: outcome.plain for who, outcome in outcomes.items()}


def against(settings: Settings) -> Section:
    """Every model, each in a process of its own."""
    limit, most = settings.limit[0], settings.repeats
    arguments = (settings.image, limit, most, settings.threads)
    data = {name: in_a_process("against", name, *arguments) for name in settings.models}
    ratios = {name: ratio for name, one in data.items() if (ratio := _ratio(one)) is not None}
    text = TEXT.format(least=min(2, most), most=most, limit=limit)
    title = "Against Torch-Pruning: time"
    return Section("against", title, text, HEADERS, [_row(*one) for one in data.items()], _figures(ratios), data)


def _ratio(one: dict[str, Any]) -> float | None:
    if THEIRS not in one or None in (one[OURS]["value"], one[THEIRS]["value"]):
        return None
    return float(one[THEIRS]["value"] / one[OURS]["value"])


def _figures(ratios: dict[str, float]) -> list[Figure]:
    if not ratios:
        return []
    slowest = min(ratios, key=lambda name: ratios[name])
    return [
        Figure(f"times faster than {THEIRS}, least ({slowest})", ratios[slowest], " x", 1, at_least=True),
        Figure("times faster, geometric mean", geometric_mean(list(ratios.values())), " x", 4, at_least=True),
    ]


def _row(name: str, one: dict[str, Any]) -> tuple[str, ...]:
    ratio, pair = _ratio(one), [one.get(OURS), one.get(THEIRS)]
    return (
        name,
        *(_seconds(outcome, "value") for outcome in pair),
        "" if ratio is None else f"{ratio:.1f} x",
        *(_seconds(outcome, "first") for outcome in pair),
        *("" if outcome is None or outcome["failed"] else f"{outcome['left']:.0%}" for outcome in pair),
    )


def _seconds(outcome: dict[str, Any] | None, what: str) -> str:
    if outcome is None:
        return ""
    if outcome["failed"] == "stopped":
        return f"> {outcome['first']:.0f} s"
    return f"fails: {outcome['failed']}" if outcome["failed"] else f"{outcome[what]:.3f} s"
