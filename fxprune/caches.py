"""Tensors that an earlier forward left in a model: forgotten for the recording, and checked to be computed anew."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.tensors import modules_of


@dataclass(frozen=True, slots=True)
class Place:
    """Where a module keeps a tensor: in an attribute, or under a key of a dict or list that is one."""

    path: str
    attribute: str
    keys: tuple[Hashable, ...] = ()

    def __str__(self) -> str:
        """As Python spells it: ``layer.cache['cpu']``."""
        name = f"{self.path}.{self.attribute}" if self.path else self.attribute
        return name + "".join(f"[{key!r}]" for key in self.keys)

    def read(self, model: nn.Module) -> Any:
        """What is kept there now; None if nothing is."""
        value = vars(model.get_submodule(self.path)).get(self.attribute)
        for key in self.keys:
            try:
                value = value[key]  # type: ignore[index]
            except (LookupError, TypeError):
                return None
        return value

    def empty(self, model: nn.Module) -> None:
        """Forget it: an attribute becomes None, a dict or list loses all that it has."""
        own = vars(model.get_submodule(self.path))
        own[self.attribute] = type(own[self.attribute])() if self.keys else None


def kept_in_containers(model: nn.Module) -> list[Place]:
    """Tensors in the dicts and lists that are attributes of modules."""
    return [
        Place(path, name, keys)
        for path, module in modules_of(model).items()
        for name, value in vars(module).items()
        if isinstance(value, (dict, list, tuple)) and value and name not in ("_parameters", "_buffers", "_modules")
        for keys in _tensor_keys(value)
    ]


def kept_as_attributes(model: nn.Module) -> list[Place]:
    """Tensors that are plain attributes of modules, neither parameters nor buffers."""
    return [
        Place(path, name)
        for path, module in modules_of(model).items()
        for name, value in vars(module).items()
        if isinstance(value, torch.Tensor)
    ]


def _tensor_keys(value: Any) -> Iterator[tuple[Hashable, ...]]:
    if isinstance(value, torch.Tensor):
        yield ()
    elif isinstance(value, (dict, list, tuple)):
        for key, one in value.items() if isinstance(value, dict) else enumerate(value):
            for keys in _tensor_keys(one):
                yield (key, *keys)


@contextmanager
def forgotten(model: nn.Module, places: list[Place]) -> Iterator[None]:
    """Empty these places of a private copy: an attribute becomes None, a dict or list loses all that it has."""
    kept = [(vars(model.get_submodule(place.path)), place) for place in places]
    before = [own[place.attribute] for own, place in kept]
    try:
        for place in places:
            place.empty(model)
        yield
    finally:
        for (own, place), value in zip(kept, before, strict=True):
            own[place.attribute] = value


def check_anew(graph_module: fx.GraphModule, model: nn.Module, found: Mapping[Place, fx.Node | None]) -> None:
    """Check that the recorded graph computes what the model keeps.

    Args:
        graph_module: The graph of a copy that had forgotten it.
        model: The original; only read.
        found: The node of every tensor that the copy's forward put in place again.

    Raises:
        CaptureError: A tensor was not put in place again, depends on the inputs, or has another value.
    """
    for place, node in found.items():
        kept = place.read(model)
        if node is None:
            why = "its forward does not compute that tensor anew"
        elif (value := _value(graph_module, model, node)) is None:
            why = f"its forward computes that tensor from the inputs ({node.meta.get('source', '')})"
        elif kept.is_meta or torch.equal(value, kept.detach()):
            continue
        else:
            why = f"its forward computes another value at {node.meta.get('source', '')}"
        raise CaptureError(
            explain(
                f"the model keeps a tensor {tuple(kept.shape)} in {place}, which is neither parameter nor buffer.",
                why=why,
                mend="empty it before capture, or register it: self.register_buffer(name, tensor, persistent=False)",
            )
        )


def _value(graph_module: fx.GraphModule, model: nn.Module, node: fx.Node) -> torch.Tensor | None:
    """A node's value on the model's own tensors, or None if it depends on an input."""
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    needed, waiting = {node}, [node]
    while waiting:
        for one in waiting.pop().all_input_nodes:
            if one not in needed:
                needed.add(one)
                waiting.append(one)
    if any(one.op == "placeholder" for one in needed):
        return None
    for one in graph_module.graph.nodes:
        if one in needed:
            copies[one] = graph.node_copy(one, lambda old: copies[old])
    graph.output(copies[node])
    with torch.no_grad():
        result: torch.Tensor = fx.GraphModule(model, graph)()
    return result
