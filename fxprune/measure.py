"""Measure: how long models and their layers take, on the device at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypedDict, overload
from uuid import uuid4

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves, tree_map_only

from fxprune.analysis import analyse
from fxprune.clock import Measured, by_turns
from fxprune.inputs import ExampleInputs, as_call, bind
from fxprune.layers import LayerTimer
from fxprune.program import Model, as_module, inputs_of
from fxprune.wrappers import unwrap
from fxprune_passes.errors import CaptureError, PlanError, UnsupportedError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.rewrite import rewrite

if TYPE_CHECKING:
    from typing_extensions import Unpack

Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Options(TypedDict, total=False):
    compiled: bool
    by_layer: bool
    seconds: float
    rounds: int
    threads: int | None


@overload
def measure(models: Model, example_inputs: ExampleInputs | None = ..., **options: Unpack[_Options]) -> Measured: ...


@overload
def measure(
    models: Sequence[Model], example_inputs: ExampleInputs | None = ..., **options: Unpack[_Options]
) -> list[Measured]: ...


def measure(
    models: Model | Sequence[Model],
    example_inputs: ExampleInputs | None = None,
    *,
    compiled: bool = False,
    by_layer: bool = False,
    seconds: float = 1.0,
    rounds: int = 10,
    threads: int | None = None,
) -> Measured | list[Measured]:
    """Time one call of a model, or of several by turns, on the device where they are.

    They run in eval mode without gradients, and are then in the modes that they were in. Every model runs twice before
    each block of calls; blocks of all models take turns, so a machine that is busy for a while slows all alike.
    Compare models in one call.

    Args:
        models: A module or an exported program, or a list of them.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those that
            an exported program holds.
        compiled: Time what ``torch.compile`` makes of the models; it compiles before the first block.
        by_layer: Also time the nodes of the captured graph one by one, on the tensors that they get.
        seconds: About how long each model runs in all.
        rounds: How many blocks that is.
        threads: Of the CPU; those that PyTorch is set to by default.

    Returns:
        Seconds of one call in every round, with ``median`` and ``iqr``; a list for a list of models.

    Raises:
        PlanError: An option is out of range, or ``by_layer`` is asked of compiled models.
        CaptureError: A model does not run on the inputs.
        UnsupportedError: ``torch.compile`` cannot compile a model here.

    Example:
        >>> narrow, wide = nn.Linear(8, 8), nn.Linear(512, 4096)
        >>> quick = measure(narrow, torch.zeros(1, 8), seconds=0.01)
        >>> slow = measure(wide, torch.zeros(64, 512), seconds=0.01)
        >>> quick.median < slow.median, len(slow.seconds)
        (True, 10)
    """
    _check(compiled, by_layer, seconds, rounds, threads)
    threads = threads or torch.get_num_threads()
    several = [models] if isinstance(models, (nn.Module, ExportedProgram)) else list(models)
    inputs = [inputs_of(model, example_inputs) for model in several]
    modules = [as_module(one) if isinstance(one, ExportedProgram) else one for one in several]
    devices = [device_of(module, given) for module, given in zip(modules, inputs, strict=True)]
    with timeable(modules):
        calls = [ready(module, _own(given), compiled) for module, given in zip(modules, inputs, strict=True)]
        timed = by_turns(calls, seconds=seconds, rounds=rounds, threads=threads, devices=devices)
    mode = "compiled" if compiled else "eager"
    results = [Measured(one, mode, threads, str(device)) for one, device in zip(timed, devices, strict=True)]
    if by_layer:
        layers = [_layers(model, given, threads) for model, given in zip(modules, inputs, strict=True)]
        results = [replace(one, layers=found) for one, found in zip(results, layers, strict=True)]
    return results[0] if isinstance(models, (nn.Module, ExportedProgram)) else results


def _check(compiled: bool, by_layer: bool, seconds: float, rounds: int, threads: int | None) -> None:
    for name, value in (("rounds", rounds), ("threads", threads)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise PlanError(explain(f"{name}={value!r}, expected a positive integer."))
    if not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise PlanError(explain(f"seconds={seconds!r}, expected a positive number."))
    if by_layer and compiled:
        first = "by_layer=True and compiled=True do not go together: compiled code has no layers to time."
        raise PlanError(explain(first, mend="leave one of them out"))


def device_of(model: nn.Module, inputs: object = None) -> torch.device:
    """Where a model's first tensor is, or that of its inputs; the CPU where there is none."""
    values = chain(model.parameters(), model.buffers(), tree_leaves(inputs))
    return next((one.device for one in values if isinstance(one, torch.Tensor)), torch.device("cpu"))


@contextmanager
def timeable(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Modules in eval mode, without gradients; afterwards modes and random state are what they were."""
    modes = [(module, module.training) for one in modules for module in one.modules()]
    gpus = {device.index or 0 for one in modules if (device := device_of(one)).type == "cuda"}
    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=gpus):
            yield
    finally:
        for module, training in modes:
            module.training = training


def ready(model: nn.Module, call: Call, compiled: bool) -> Callable[[], object]:
    """A call of a model that has run once, so that it is known to run, and is compiled where that is asked for.

    Raises:
        CaptureError: It does not run.
        UnsupportedError: It cannot be compiled.
    """
    args, kwargs = call
    try:
        model(*args, **kwargs)
    except Exception as error:
        first = f"{type(model).__name__} does not run on the inputs: {error}"
        raise CaptureError(explain(first, mend="inputs are on the model's device and of its dtype")) from error
    if not compiled:
        return partial(model, *args, **kwargs)
    quick = torch.compile(_apart(model))
    try:
        quick(*args, **kwargs)
    except Exception as error:
        first = f"torch.compile cannot compile {type(model).__name__} here: {error}"
        raise UnsupportedError(explain(first, mend="time it eagerly")) from error
    return partial(quick, *args, **kwargs)


def _apart(model: nn.Module) -> nn.Module:
    """A model inside a module whose code no other has.

    ``torch.compile`` compiles the same code no more than eight times, for models of one class together, and runs others
    eagerly; sizes that differ between them it takes for dynamic ones.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    forward.__code__ = forward.__code__.replace(co_name=f"forward_{uuid4().hex}")
    result: nn.Module = type(type(model).__name__, (nn.Module,), {"forward": forward})()
    result.add_module("model", model)
    result.training = model.training
    return result


def _own(example_inputs: ExampleInputs) -> Call:
    """Arguments of a call that a model may write into."""
    return tree_map_only(torch.Tensor, torch.clone, as_call(example_inputs))  # type: ignore[no-any-return]


def _layers(model: nn.Module, example_inputs: ExampleInputs, threads: int) -> dict[str, float]:
    """Seconds of the nodes of the captured graph, by module and name."""
    analysis, module = analyse(model, example_inputs), unwrap(model)[0]
    with timeable([module]):
        graph = rewrite(analysis.propagation, module, Kept({}), constants=analysis.capture.constants)
        timed = LayerTimer(graph, bind(module, *_own(example_inputs)), lambda _: True, threads).time()
    result: dict[str, float] = {}
    for node in graph.graph.nodes:
        if node.name in timed:
            label = str(node.target) if node.op == "call_module" else node.name
            result[label] = result.get(label, 0.0) + timed[node.name]  # a module may be called more than once
    return result
