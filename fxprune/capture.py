"""Capture: a model and example inputs in, a graph over fake tensors out. The model itself is only read."""

from __future__ import annotations

import inspect
import operator
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
from fxprune.frames import call_model, current_line
from fxprune.inputs import ExampleInputs, as_call, bind
from fxprune.modes import training_reads_seen
from fxprune.patches import attributes_kept, functions_seen
from fxprune.picks import read_sizes_at_source
from fxprune.record import default_leaf, record
from fxprune.spelling import places_name
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.fakes import shadow
from fxprune_passes.recalled import RecallingMode


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
    places = _mask_places(model, copy, fake_mode)
    with _autocast_refused():
        graph_module, tracer = _trace(copy, model, args, kwargs, bound, fake_mode)
    read_sizes_at_source(graph_module.graph)
    _index_by_places(graph_module, copy, places)
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
    if _is_plain(copy, bound) and (graph_module := _symbolic(copy)) is not None:
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


def _is_plain(model: nn.Module, bound: dict[str, Any]) -> bool:
    """Whether symbolic tracing can see all there is: no composite leaf, no caches, and only tensors as arguments."""
    if not all(isinstance(value, torch.Tensor) for value in bound.values()) or kept_in_containers(model):
        return False
    kinds = {parameter.kind for parameter in inspect.signature(model.forward).parameters.values()}
    if kinds & {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}:
        return False
    return not any(_is_composite(module) for module in model.modules())


def _is_composite(module: nn.Module) -> bool:
    """A module of torch.nn that holds others and computes by itself, which symbolic tracing would leave whole."""
    home = type(module).__module__
    return home.startswith("torch.nn") and not home.endswith("container") and not default_leaf(module, "")


class _Tracer(fx.Tracer):
    """``fx.Tracer`` that notes source line and module path of every node, and stops at functions it cannot enter."""

    def __init__(self) -> None:
        super().__init__()
        self.path: list[str] = [""]

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """Keep the path of the module whose forward is being traced."""
        self.path.append(self.path_of_module(m))
        try:
            return super().call_module(m, forward, args, kwargs)
        finally:
            self.path.pop()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A proxy that refuses what a graph would lose in silence."""
        return _Proxy(node, self)

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """Note where the node comes from; the recording tracer knows what a region without gradients means."""
        if not torch.is_grad_enabled():
            raise _UnseenError("a region without gradients")
        node = super().create_node(*args, **kwargs)
        node.meta["module"] = self.path[-1]
        node.meta["source"] = "" if node.op == "output" else current_line()
        if node.op == "call_function" and _is_wrapped(node.target):
            raise _UnseenError(str(node.target))
        return node


class _UnseenError(Exception):
    """Symbolic tracing met what it cannot enter or write down."""


def _unseen(*call: Any) -> Any:
    raise _UnseenError("an autograd function")


class _Proxy(fx.Proxy):
    """A proxy that may be given attributes of its own, but none that a tensor has."""

    def __setattr__(self, name: str, value: Any) -> None:
        if hasattr(torch.Tensor, name):
            raise _UnseenError(f"an assignment to .{name}")
        super().__setattr__(name, value)


def _is_wrapped(target: Any) -> bool:
    home = (getattr(target, "__module__", None) or "torch").split(".")[0]
    return home not in ("torch", "_operator", "operator", "math", "builtins")


def _symbolic(model: nn.Module) -> fx.GraphModule | None:
    """The graph by symbolic tracing, or None where Python looks at values or a function stays opaque."""
    tracer, switched = _Tracer(), list[nn.Module]()
    try:
        with (
            torch.enable_grad(),
            functions_seen(_unseen),
            attributes_kept(model),
            training_reads_seen(switched.append),
        ):
            graph = call_model(tracer.trace, model)
    except Exception:  # any Python may fail on proxies; the recording tracer runs it on tensors
        return None
    if switched or _meets_constants(graph, model):
        return None  # the recording tracer keeps what follows the mode, and finds out where a constant comes from
    return fx.GraphModule(model, graph)


def _meets_constants(graph: fx.Graph, model: nn.Module) -> bool:
    """Whether symbolic tracing met tensors that are neither parameters nor buffers."""
    known = {name for kind in (model.named_parameters, model.named_buffers) for name, _ in kind(remove_duplicate=False)}
    return any(node.op == "get_attr" and str(node.target) not in known for node in graph.nodes)


def _inputs(graph_module: fx.GraphModule, bound: Mapping[str, Any]) -> dict[str, Any]:
    names = [str(node.target) for node in graph_module.graph.nodes if node.op == "placeholder"]
    return {name: bound[name] for name in names if name in bound}


def _constants(
    graph_module: fx.GraphModule, model: nn.Module, places: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Real tensors that the graph reads and that are neither parameters nor buffers of the model."""
    known = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    known |= {name for name, _ in model.named_buffers(remove_duplicate=False)}
    result: dict[str, torch.Tensor] = {}
    for node in graph_module.graph.nodes:
        target = str(node.target)
        if node.op == "get_attr" and target not in known and target not in result:
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


def _mask_places(model: nn.Module, copy: nn.Module, fake_mode: FakeTensorMode) -> dict[str, torch.Tensor]:
    """The places that each boolean vector of a model picks, by the name under which the copy gets them as a buffer.

    Indexing by the vector itself gives a result of unknown shape.
    """
    result: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        for name, mask in [*module._buffers.items(), *vars(module).items()]:
            if isinstance(mask, torch.Tensor) and mask.dtype == torch.bool and mask.ndim == 1 and not mask.is_meta:
                places = places_name(f"{path}.{name}" if path else name)
                result[places] = mask.nonzero().flatten()
                copy.register_buffer(places, fake_mode.from_tensor(result[places]), persistent=False)
    return result


def _index_by_places(graph_module: fx.GraphModule, copy: nn.Module, places: Mapping[str, torch.Tensor]) -> None:
    """Index by places where a graph indexes by a boolean vector of the model; drop the places that nobody reads."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        name = places_name(str(node.target)) if node.op == "get_attr" else ""
        readers = [one for one in node.users if one.target is operator.getitem and one.args[0] is not node]
        if name in places and readers:
            graph_module.register_buffer(name, copy.get_buffer(name), persistent=False)
            with graph.inserting_after(node):
                index = graph.get_attr(name)
            for reader in readers:
                reader.replace_input_with(node, index)
            if not node.users:
                graph.erase_node(node)
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    for name in set(places) - read:
        graph_module._buffers.pop(name, None)


def _read(module: Any, target: str) -> Any:
    for part in target.split("."):
        module = getattr(module, part, None)
    return module
