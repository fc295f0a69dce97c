"""Boolean vectors of a model that index an axis: read as the places that they pick, so that shapes are known."""

from __future__ import annotations

import operator
from collections.abc import Mapping

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fxprune.writer import named_tensors
from fxprune_passes.tensors import modules_of


def register_places(model: nn.Module, copy: nn.Module, fake_mode: FakeTensorMode) -> dict[str, Tensor]:
    """Give a copy of a model, as buffers, the places that each boolean vector of the model picks.

    Indexing by the vector itself gives a result of unknown shape.

    Returns:
        The places, by the names of the buffers.
    """
    result: dict[str, Tensor] = {}
    for path, module in modules_of(model).items():
        for name, mask in [*module._buffers.items(), *vars(module).items()]:
            if isinstance(mask, Tensor) and mask.dtype == torch.bool and mask.ndim == 1 and not mask.is_meta:
                places = _places_name(f"{path}.{name}" if path else name)
                result[places] = mask.nonzero().flatten()
                copy.register_buffer(places, fake_mode.from_tensor(result[places]), persistent=False)
    return result


def index_by_places(graph_module: fx.GraphModule, copy: nn.Module, places: Mapping[str, Tensor]) -> None:
    """Index by places where a graph indexes by a boolean vector of the model; drop the places that nobody reads."""
    graph = graph_module.graph
    for node in list(graph.nodes):
        name = _places_name(str(node.target)) if node.op == "get_attr" else ""
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


def places_of_masks(model: nn.Module) -> dict[int, Tensor]:
    """The places that a boolean vector of the model picks, where capture knows them, by the vector's id."""
    known = dict(model.named_buffers(remove_duplicate=False))
    masks = (pair for pair in named_tensors(model) if pair[1].dtype == torch.bool)
    return {id(mask): known[places] for name, mask in masks if (places := _places_name(name)) in known}


def _places_name(mask: str) -> str:
    """The name of the buffer that holds the places which a boolean vector picks.

    Example:
        >>> _places_name("layer1.mask")
        'layer1_mask_places'
    """
    return f"{mask.replace('.', '_')}_places"
