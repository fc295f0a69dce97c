"""Verify: is a compiled graph the masked original? Shapes, weights, and numbers in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from fxprune.analysis import Analysis
from fxprune.choices import kept_of
from fxprune.coded import Units, addresses, draw, random_units, rebatched
from fxprune.difference import difference
from fxprune.inputs import ExampleInputs, as_call, bind
from fxprune.modules import check_module, facts_of
from fxprune.notes import listed
from fxprune.plans import Plan
from fxprune.program import Model
from fxprune.report import Case, Report, Wrong
from fxprune.trial import Inputs, Trial, kept_slice, lossless_of
from fxprune.wrappers import unwrap
from fxprune_passes.errors import VerifyError, explain
from fxprune_passes.tensors import tensors_of
from fxprune_passes.verify import check_shapes
from fxprune_passes.wide import NodeError, precision, widened
from fxprune_passes.zeroed import holds, run, zeroed


def verify(
    model: Model,
    plan: Plan,
    small: Model,
    *,
    inputs: ExampleInputs | None = None,
    weights: Sequence[str] = ("own", "address-coded", "random"),
    batch_sizes: Sequence[int] = (),
    tolerance: float = 1e-9,
    seed: int = 0,
) -> Report:
    """Compare a compiled graph with the original in which every removed channel is zero in every tensor.

    Both run in float64 on private copies, on the model's own weights, on weights in which every element is another
    number, and on random ones. Nothing of ``model`` or ``small`` is changed.

    Args:
        model: The original, a module or an exported program.
        plan: The plan that ``small`` was compiled with.
        small: What :func:`fxprune.compile` returned, a graph module or an exported program, before any fine-tuning.
        inputs: What to run on; random tensors of the plan's shapes by default.
        weights: Which weights to run on; a large model on its own weights alone needs a third of the time.
        batch_sizes: Other batch sizes to run at, where the original takes them.
        tolerance: Largest relative error that is rounding.
        seed: Of random inputs and weights.

    Returns:
        A report with the first wrong node; ``report.ok`` says whether all is well, and printing it gives a table.

    Raises:
        PlanError: The plan does not fit the model.
        VerifyError: ``small`` was not made by ``compile``, or the model has no values.
        CaptureError: The inputs do not fit the model.

    Example:
        >>> import fxprune
        >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
        >>> plan = fxprune.plan(model, torch.zeros(1, 8), channels=0.5)
        >>> verify(model, plan, fxprune.compile(model, plan)).ok
        True
    """
    analysis_of = partial(plan.analysis_of, model)
    (model, unwrapped), (small, _) = unwrap(model), unwrap(small)
    _check_arguments(model, small)
    trial = _trial(model, plan, small, seed, analysis_of)
    if trial.analysis.capture.fake_mode is None:
        return _report(trial, _by_values(trial, inputs, tolerance), tolerance, unwrapped)
    bound = bind(model, *as_call(draw(plan.inputs, seed) if inputs is None else inputs))
    units = {"own": None, "address-coded": addresses, "random": random_units(seed)}
    if trial.facts is not None:
        weights, tolerance = ("own",), max(tolerance, _ROUNDED * torch.finfo(precision(model)).eps)
    if unknown := set(weights) - set(units):
        raise VerifyError(explain(f"weights={sorted(unknown)}, expected some of {', '.join(units)}."))
    shapes = _shapes if isinstance(small, fx.GraphModule) else _same_code
    found = [shapes(trial, bound, tolerance), _code(small), _weights(trial)]
    found += [_numbers(trial, f"numbers, {name} weights", units[name], bound, tolerance) for name in weights]
    found += [_other_batch(trial, size, rebatched(bound, size), tolerance) for size in batch_sizes]
    return _report(trial, found, tolerance, unwrapped)


_ROUNDED = 16  # times the dtype's epsilon: what folded constants lose where they are rounded to it
_Found = tuple[Case, Wrong | None]


def _report(trial: Trial, found: Sequence[_Found], tolerance: float, unwrapped: tuple[str, ...]) -> Report:
    return Report(
        cases=tuple(case for case, _ in found),
        first_wrong=next((wrong for case, wrong in found if case.ok is False), None),
        tolerance=tolerance,
        statistics=trial.statistics,
        notes=tuple(dict.fromkeys((*unwrapped, *trial.analysis.groups.notes, *_notes(trial)))),
        against="the masked original" if trial.facts is None else "the original",
    )


def _notes(trial: Trial) -> tuple[str, ...]:
    """What a reader must know: how random numbers were taken, and which nodes are exact only in the plan's sense."""
    notes = ["random numbers are replaced by constants on both sides"] if trial.random else []
    nodes = trial.small.graph.nodes if isinstance(trial.small, fx.GraphModule) else ()
    over_kept = [node.name for node in nodes if node.meta.get("promise", "exact") != "exact"]
    if trial.facts is not None:
        below = trial.plan.report.below if trial.plan.report is not None else 0
        small = f", those up to {below:.3g} taken for zeros on both sides" if below else ""
        notes.append(f"a plan from zeros: compared on the model's own weights{small}")
    if over_kept:
        notes.append(f"statistics over the channels that are left: {listed(over_kept)}; every other node is exact")
    return tuple(notes)


def _check_arguments(model: nn.Module, small: nn.Module) -> None:
    if not isinstance(small, nn.Module) or facts_of(small) is None:
        first = f"verify got a {type(small).__name__} that compile did not make."
        raise VerifyError(explain(first, mend="pass small = fxprune.compile(model, plan)"))
    for name, tensor in [*tensors_of(model).items(), *tensors_of(small).items()]:
        if tensor.is_meta:
            first = f"{name!r} is a meta tensor, expected values to compare."
            raise VerifyError(explain(first, mend='model.to_empty(device="cpu"), then load its weights'))


def _trial(model: nn.Module, plan: Plan, small: nn.Module, seed: int, analysis_of: Callable[[str], Analysis]) -> Trial:
    facts = facts_of(small) or {}
    analysis = analysis_of(facts.get("emit", "graph"))
    kept, from_zeros = kept_of(analysis, plan.keep), bool(facts.get("lossless"))
    found = lossless_of(analysis, model, plan) if from_zeros else None
    given = facts.get("given", {})
    return Trial.of(model, small, plan, analysis, kept, str(facts["statistics"]), seed, found, given)


def _shapes(trial: Trial, inputs: Inputs, tolerance: float) -> _Found:
    """Every node's shape and factors under fake tensors; where that fails, real ones say which node is wrong."""
    name, capture = "shapes and factors", trial.analysis.capture
    assert isinstance(trial.small, fx.GraphModule)
    try:
        check_shapes(trial.analysis.propagation, trial.small, trial.kept, capture.inputs)
    except VerifyError as error:
        note = str(error).partition("\n")[0]
        wrong = trial.first_wrong(addresses, inputs, tolerance)
        return Case(name, False, note=note), wrong or Wrong("graph", note)
    return Case(name, True), None


def _same_code(trial: Trial, inputs: Inputs, tolerance: float) -> _Found:
    """The smaller module's own code computes the graph that was analysed, on the shapes that the terms predict."""
    name = "same code, shapes and factors"
    try:
        check_module(trial.small, trial.analysis, trial.kept)
    except VerifyError as error:
        note = str(error).partition("\n")[0]
        return Case(name, False, note=note), trial.first_wrong(addresses, inputs, tolerance) or Wrong("graph", note)
    return Case(name, True), None


def _by_values(trial: Trial, inputs: ExampleInputs | None, tolerance: float) -> list[_Found]:
    """A model whose code asks for values: both modules run themselves, on own weights."""
    name, arguments = "numbers, own weights", trial.analysis.capture.call if inputs is None else as_call(inputs)
    if not holds(trial.analysis.propagation, trial.kept):
        note = "a mean or variance runs over pruned channels, and no graph can stand for this model"
        return [_weights(trial), (Case(name, None, note=note), None)]
    want = run(zeroed(trial.model, trial.analysis.propagation, trial.kept), *arguments, seed=trial.seed)
    got = run(widened(trial.small), *arguments, seed=trial.seed)
    if not any(tensor.numel() for tensor in tree_leaves(want) if isinstance(tensor, torch.Tensor)):
        note = "the outputs are empty on these inputs"
        return [_weights(trial), (Case(name, None, note=note), None)]
    error = difference(want, got)
    wrong = Wrong("output", f"relative error {error:.1e}") if error > tolerance else None
    return [_weights(trial), (Case(name, wrong is None, error), wrong)]


def _code(small: nn.Module) -> _Found:
    """The graph is what is verified, so the code that runs must be made from it."""
    name = "code is the graph's"
    if not isinstance(small, fx.GraphModule):
        return Case("code is the model's own", True), None
    if small.graph.python_code("self").src == small.code:
        return Case(name, True), None
    note = "the graph was edited without small.recompile()"
    return Case(name, False, note=note), Wrong("forward", note)


def _weights(trial: Trial) -> _Found:
    """Every parameter and buffer of the compiled module is the kept slice of the original's."""
    name = "weights are kept slices"
    originals = {**trial.analysis.capture.constants, **tensors_of(trial.model)}
    for path, tensor in tensors_of(trial.small).items():
        if path in trial.given:
            want = trial.given[path].view(tensor.shape).to(tensor.dtype)
        elif path in originals and path in trial.plan.axes:
            want = kept_slice(originals[path], trial.plan, path)
        else:
            continue
        if difference := _differ(want, tensor.detach().to(want.device)):
            detail = f"{difference}: wrong slice or changed weights (verify a model before fine-tuning it)"
            return Case(name, False, note=f"{path}: {difference}"), Wrong(path, detail)
    return Case(name, True), None


def _differ(want: torch.Tensor, got: torch.Tensor) -> str:
    """How two tensors differ, or nothing."""
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype} {tuple(got.shape)}, expected {want.dtype} {tuple(want.shape)}"
    count = int(((want != got) & ~(want.isnan() & got.isnan())).sum())
    return f"{count} of {want.numel()} elements differ from the original's" if count else ""


def _other_batch(trial: Trial, size: int, inputs: Inputs, tolerance: float) -> _Found:
    """The same numbers at another batch size, where the original takes it."""
    name = f"numbers, batch of {size}"
    if refusal := trial.refusal(inputs):
        return Case(name, None, note=f"the original does not take it: {refusal}"), None
    return _numbers(trial, name, addresses if trial.facts is None else None, inputs, tolerance)


def _numbers(trial: Trial, name: str, units: Units | None, inputs: Inputs, tolerance: float) -> _Found:
    try:
        error, note = trial.error(units, inputs), ""
    except NodeError as failure:
        error, note = math.inf, f"{failure.node.name} does not run"
    if error <= tolerance:
        return Case(name, True, error), None
    wrong = trial.first_wrong(units, inputs, tolerance)
    return Case(name, False, error, note or (f"at {wrong.name}" if wrong else "")), wrong
