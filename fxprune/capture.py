"""Capture: a model and example inputs in, a graph over fake tensors out. The model itself is only read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._pytree import tree_map_only

from fxprune.accept import accept
from fxprune.caches import Place, check_anew, forgotten, kept_as_attributes, kept_in_containers
from fxprune.frames import current_line
from fxprune.inputs import ExampleInputs, as_call, bind
from fxprune.mask_places import index_by_places, register_places
from fxprune.picks import read_sizes_at_source
from fxprune.record import record
from fxprune.symbolic import is_plain, symbolic_trace
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.fakes import shadow
from fxprune_passes.recalled import RecallingMode
from fxprune_passes.tensors import tensors_of


@dataclass(frozen=True, slots=True)
class Capture:
    """A captured model.

    Attributes:
        graph_module: Readable graph over fake parameters, with ``source`` and ``module`` in ``node.meta``.
        inputs: A fake tensor or plain value for each placeholder.
        fake_mode: The mode of all fake tensors; None where the graph was recorded on real values and holds for these
            alone.
        constants: Real tensors that the graph reads and that are neither parameters nor buffers, by name.
        tracer: ``"symbolic"`` or ``"recording"`` (or ``"graph"`` where the model was a graph already).
        call: Positional and keyword arguments of the recorded call, where the model's code stays.
        strangers: Constants that the graph reads and that have no name in the model.
        forgotten: Where the model keeps tensors of an earlier forward, which its code computes anew.
    """

    graph_module: fx.GraphModule
    inputs: Mapping[str, Any]
    fake_mode: FakeTensorMode | None
    constants: Mapping[str, torch.Tensor]
    tracer: str
    call: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
    strangers: Mapping[str, torch.Tensor] = field(default_factory=dict)
    forgotten: Sequence[Place] = ()


def capture(model: nn.Module, example_inputs: ExampleInputs, *, emit: str = "graph") -> Capture:
    """Capture a model as a graph.

    Args:
        model: Any module; only read.
        example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments.
        emit: ``"graph"`` for a graph to rewrite, ``"module"`` for one that serves to analyse a model whose code
            stays; that one is recorded on real values where fake tensors do not suffice.

    Returns:
        The graph over fake tensors, so that nothing is computed and no data is copied.

    Raises:
        CaptureError: The model is of a kind that is refused, or does not run on the inputs.
    """
    accept(model, hooks=emit == "module")
    args, kwargs = as_call(example_inputs)
    if emit == "module":
        try:
            return _observe(model, args, kwargs, RecallingMode())
        except CaptureError:
            return _observe(model, args, kwargs, None)
    fake_mode = RecallingMode()
    copy = _copy(model, fake_mode)
    args, kwargs = _fake((args, kwargs), fake_mode)
    bound = bind(copy, args, kwargs)
    places = register_places(model, copy, fake_mode)
    with _autocast_refused():
        graph_module, tracer = _trace(copy, model, args, kwargs, bound, fake_mode)
    read_sizes_at_source(graph_module.graph)
    index_by_places(graph_module, copy, places)
    constants = _constants(graph_module, model, places)
    return Capture(graph_module, _inputs(graph_module, bound), fake_mode, constants, tracer)


def _copy(model: nn.Module, fake_mode: FakeTensorMode | None) -> nn.Module:
    try:
        return deepcopy(model) if fake_mode is None else shadow(model, fake_mode)
    except Exception as error:
        mend = "the model's structure is copied by copy.deepcopy; make its attributes copyable"
        raise CaptureError(explain(f"{type(model).__name__} cannot be copied: {error}", mend=mend)) from error


def _observe(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], fake_mode: FakeTensorMode | None
) -> Capture:
    """The graph of one run of a model whose code stays, on fake tensors or on real ones."""
    copy = _copy(model, fake_mode)
    args, kwargs = _fake((args, kwargs), fake_mode) if fake_mode else own((args, kwargs))
    bound = own(bind(copy, args, kwargs))
    run = partial(record, copy, *own((args, kwargs)), fake_mode=fake_mode, keeps_code=True)
    with _autocast_refused():
        graph_module = _without_caches(copy, model, run)
    for node in graph_module.graph.nodes:
        node.meta["origin"] = node.name
    return Capture(
        graph_module,
        _inputs(graph_module, bound),
        fake_mode,
        _attributes_read(graph_module, model),
        "recording",
        (args, kwargs),
        graph_module.meta["strangers"],
        graph_module.meta["forgotten"],
    )


def _without_caches(copy: nn.Module, model: nn.Module, run: Callable[..., fx.GraphModule]) -> fx.GraphModule:
    """A recording in which what an earlier forward left in the model is computed anew, where that can be."""
    places = [*kept_in_containers(copy), *kept_as_attributes(copy)]
    try:
        result = _anew(copy, model, run, places) if places else None
    except CaptureError:  # no caches, but constants that the model was built with
        result = None
    if result is None:
        result, places = run(), []
    result.meta["forgotten"] = places
    return result


def own(value: Any) -> Any:
    """Copies of all tensors in nested containers, since a model may write into its inputs."""
    return tree_map_only(torch.Tensor, lambda tensor: tensor.detach().clone(), value)


@contextmanager
def _autocast_refused() -> Iterator[None]:
    """A graph cannot hold an autocast region, and the function without it is another one."""
    enter = torch.autocast.__enter__

    def refuse(region: torch.autocast) -> Any:
        if region._enabled:
            first = f"the model enters torch.autocast at {current_line()}, which a graph cannot hold."
            mend = "cast the weights instead, or enter autocast around the model"
            raise CaptureError(explain(first, at=current_line(), mend=mend))
        return enter(region)  # type: ignore[no-untyped-call]

    torch.autocast.__enter__ = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__ = enter  # type: ignore[method-assign]


def _fake(value: Any, fake_mode: FakeTensorMode) -> Any:
    return tree_map_only(torch.Tensor, lambda tensor: fake_mode.from_tensor(tensor.detach()), value)


def _trace(
    copy: nn.Module,
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    bound: dict[str, Any],
    fake_mode: FakeTensorMode,
) -> tuple[fx.GraphModule, str]:
    """Symbolic tracing where it is enough, the recording tracer everywhere else."""
    if isinstance(copy, fx.GraphModule):
        return copy, "graph"
    if is_plain(copy, bound) and (graph_module := symbolic_trace(copy)) is not None:
        return graph_module, "symbolic"
    return _recorded(copy, model, partial(record, copy, args, kwargs, fake_mode=fake_mode)), "recording"


def _recorded(copy: nn.Module, model: nn.Module, run: Callable[..., fx.GraphModule]) -> fx.GraphModule:
    """A recording in which what an earlier forward left in the model is computed anew."""
    held = kept_in_containers(copy)
    try:
        result = run()
    except CaptureError:
        if held and (anew := _anew(copy, model, run, held)) is not None:
            return anew
        raise
    reads = {str(node.target) for node in result.graph.nodes if node.op == "get_attr"}
    if places := [place for place in kept_as_attributes(copy) if str(place) in reads]:
        try:
            return _anew(copy, model, run, places) or result
        except CaptureError:  # no caches, but constants that the model was built with
            return result
    return result


def _anew(
    copy: nn.Module,
    model: nn.Module,
    run: Callable[..., fx.GraphModule],
    places: list[Place],
) -> fx.GraphModule | None:
    """A recording without the tensors in these places, or None if the model does not run without them."""
    with forgotten(copy, places):
        try:
            result = run(forgotten=places)
        except CaptureError:
            return None
    check_anew(result, model, result.meta.pop("cached"))
    return result


def _inputs(graph_module: fx.GraphModule, bound: Mapping[str, Any]) -> dict[str, Any]:
    names = [str(node.target) for node in graph_module.graph.nodes if node.op == "placeholder"]
    return {name: bound[name] for name in names if name in bound}


def _constants(
    graph_module: fx.GraphModule, model: nn.Module, places: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Real tensors that the graph reads and that are neither parameters nor buffers of the model."""
    result: dict[str, torch.Tensor] = {}
    targets = [str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"]
    known = tensors_of(model) if targets else {}
    for target in targets:
        if target not in known and target not in result:
            value = places[target] if target in places else _read(model, target)
            value = _read(graph_module, target) if value is None else value
            if isinstance(value, torch.Tensor):
                if isinstance(value, FakeTensor):
                    raise CaptureError(explain(f"constant {target!r} has no value.", mend="make it a buffer"))
                result[target] = value
    return result


def _attributes_read(graph_module: fx.GraphModule, model: nn.Module) -> dict[str, torch.Tensor]:
    """Tensors that modules of the model hold as plain attributes, and that the graph reads."""
    names = {str(node.target) for node in graph_module.graph.nodes if node.op == "get_attr"}
    return {name: value for name in sorted(names) if type(value := _read(model, name)) is torch.Tensor}


def _read(module: Any, target: str) -> Any:
    for part in target.split("."):
        module = getattr(module, part, None)
    return module
