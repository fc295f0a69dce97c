"""Build the new module around a rewritten graph: sliced parameters under their old names, in their old order."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from fxprune_passes.axes import Axes, Dim, leaves, resolve
from fxprune_passes.digits import digits
from fxprune_passes.direct import write_directly
from fxprune_passes.kept import Kept, along, block_numbers
from fxprune_passes.mode import Mode
from fxprune_passes.tensors import modules_of, tensors_of

_ATOMS = frozenset({type(None), bool, int, float, str, tuple})
_TENSORLESS = frozenset({type(None), bool, int, float, str, dict, OrderedDict, set})
_HELD_AT_ONCE = 1 << 21  # elements of a weight that are copied in one step


def cut(tensor: torch.Tensor, kept: Kept, axes: Axes) -> torch.Tensor:
    """A copy of the kept part of a tensor, in the memory format of the original."""
    if not kept.changes(axes):
        return tensor.detach().clone()
    indices = [None if (one := kept.index(axis)) is None else one.to(tensor.device) for axis in axes]
    result = _select_by_rows(in_order(tensor.detach(), axes, kept), indices)
    form = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.ndim)
    if form is not None and tensor.is_contiguous(memory_format=form) and not tensor.is_contiguous():
        result = result.contiguous(memory_format=form)
    return result.clone() if result.data_ptr() == tensor.data_ptr() else result


def in_order(tensor: torch.Tensor, axes: Axes, kept: Kept) -> torch.Tensor:
    """The tensor with the channels of every block in its order, those that stay first."""
    for number, axis in enumerate(axes if kept.blocks else ()):
        if kept.mask(axis) is None:
            continue
        term = resolve(axis)
        inside = (term,) if isinstance(term, Dim) else dict.fromkeys(leaves(term))
        for dim in (leaf for leaf in inside if leaf in kept.blocks):
            blocks = kept.blocks[dim]
            for digit in digits(axis, dim):
                rows = block_numbers(axes, blocks.outers, number, digit).clamp_min(0)
                channel, step = (along(one, number, len(axes)) for one in (digit.channel, digit.step))
                other = blocks.order[rows, channel.clamp_min(0)]
                place = along(torch.arange(axis.size), number, len(axes))
                place = place + torch.where(channel < 0, 0, (other - channel) * step)
                if place.numel() == axis.size:
                    tensor = tensor.index_select(number, place.flatten().to(tensor.device))
                else:
                    tensor = torch.take_along_dim(tensor, place.to(tensor.device), number)
    return tensor


def _select_by_rows(tensor: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """Kept positions along every dim; a large tensor a few rows at a time, so that no large part is held twice."""
    rows, inner = indices[0] if indices else None, math.prod(tensor.shape[1:])
    if rows is None or all(one is None for one in indices[1:]) or len(rows) * inner <= _HELD_AT_ONCE:
        return _select(tensor, indices)
    shape = [size if one is None else len(one) for size, one in zip(tensor.shape, indices, strict=True)]
    result = tensor.new_empty(shape)
    step = max(1, _HELD_AT_ONCE // inner)
    for start in range(0, len(rows), step):
        result[start : start + step] = _select(tensor, [rows[start : start + step], *indices[1:]])
    return result


def _select(tensor: torch.Tensor, indices: Sequence[torch.Tensor | None]) -> torch.Tensor:
    for dim, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(dim, index)
    return tensor


@dataclass(slots=True)
class Emitter:
    """Slices parameters and clones leaf modules, each once, so that what was shared stays shared.

    ``given`` are tensors that hold the constants of removed channels, in float64, before they are rounded.
    """

    model: nn.Module
    constants: Mapping[str, torch.Tensor]
    parameters: Mapping[str, Axes]
    kept: Kept
    new_constants: dict[str, torch.Tensor] = field(default_factory=dict)
    saved: set[str] = field(default_factory=set)
    given: dict[str, torch.Tensor] = field(default_factory=dict)
    _memo: dict[int, Any] = field(default_factory=dict)
    _modules: dict[str, tuple[str, dict[str, Any], nn.Module]] = field(default_factory=dict)
    _named: dict[str, torch.Tensor] = field(init=False)
    _paths: dict[str, nn.Module] = field(init=False)

    def __post_init__(self) -> None:
        """Look the model's tree up once: its tensors by name, in its order, and its modules by path."""
        self._named = tensors_of(self.model)
        self._paths = modules_of(self.model, by_every_path=True)

    def find(self, name: str) -> torch.Tensor:
        """The original tensor of that name."""
        for known in (self.new_constants, self.constants, self._named):
            if name in known:
                return known[name]
        return _attribute(self.model, name)

    def original(self, path: str) -> nn.Module:
        """The original module of that path."""
        return self._paths[path]

    def tensor(self, name: str) -> torch.Tensor:
        """The sliced parameter, buffer or constant of that name."""
        original = self.find(name)
        if id(original) not in self._memo:
            axes = self.parameters.get(name)
            part = cut(original, self.kept, axes) if axes is not None else original.detach().clone()
            if isinstance(original, nn.Parameter):
                part = nn.Parameter(part, requires_grad=original.requires_grad)
                part.__dict__.update(original.__dict__)
            self._memo[id(original)] = part
            self._memo[-id(original)] = original  # keeps it alive, so that its id stays its own
        return self._memo[id(original)]  # type: ignore[no-any-return]

    def constant(self, name: str, value: torch.Tensor, *, saved: bool = False) -> str:
        """Add a new constant tensor, which a state dict holds if it is to be saved; returns the name it got."""
        unique, number = name, 1
        while unique in self.new_constants or hasattr(self.model, unique):
            unique, number = f"{name}_{number}", number + 1
        device = next((tensor.device for tensor in self.model.parameters()), value.device)
        self.new_constants[unique] = value.to(device) if device.type != "meta" else value
        if saved:
            self.saved.add(unique)
        return unique

    def module(self, target: str, attributes: dict[str, Any]) -> str:
        """Clone a leaf module with sliced parameters and new attributes; returns the path to call it by.

        A module that is called twice is cloned once, unless the two calls need different attributes.
        """
        original = self.original(target)
        changed = {key: value for key, value in attributes.items() if getattr(original, key) != value}
        name, number = target, 1
        while name in self._modules and self._modules[name][1] != changed:
            name, number = f"{target}_{number}", number + 1
        if name not in self._modules:
            self._modules[name] = (target, changed, self._clone(target, original, changed, fresh=name != target))
        return name

    def written(self, path: str) -> nn.Module:
        """The new module of a path that :meth:`module` gave."""
        return self._modules[path][2]

    def is_shared(self, name: str, graph: fx.Graph) -> bool:
        """Whether a parameter is read in more than one place of a graph."""
        tensor = self.find(name)
        names = {other for other, one in self._named.items() if one is tensor}
        targets = [str(node.target) for node in graph.nodes if node.op in ("get_attr", "call_module")]
        return sum(other == target or other.startswith(f"{target}.") for other in names for target in targets) > 1

    def mode(self, path: str) -> str:
        """Add a module that says in which mode the module of that path is; returns the path to call it by."""
        name, number = f"{path}.mode" if path else "mode", 1
        while name not in self._modules and _has(self.model, name):
            name, number = f"{path}.mode_{number}" if path else f"mode_{number}", number + 1
        if name not in self._modules:
            self._modules[name] = (path, {}, Mode().train(_training(self.model, path)))
        return name

    def _clone(self, target: str, original: nn.Module, attributes: dict[str, Any], *, fresh: bool) -> nn.Module:
        if _is_plain(original):
            clone = self._shell(target, original)
        else:
            for name, _ in [*original.named_parameters(), *original.named_buffers()]:
                self.tensor(f"{target}.{name}")
            memo = {key: value for key, value in self._memo.items() if key > 0 and not (fresh and key == id(original))}
            clone = copy.deepcopy(original, memo)
        if not fresh:
            self._memo[id(original)] = clone
        for key, value in attributes.items():
            setattr(clone, key, value)
        return clone

    def _shell(self, target: str, original: nn.Module) -> nn.Module:
        """A module of the same class and attributes around the sliced tensors."""
        clone = original.__class__.__new__(original.__class__)
        clone.__dict__.update(vars(original))
        for key, value in vars(original).items():
            if type(value) not in _ATOMS and isinstance(value, (dict, list, set)):
                clone.__dict__[key] = value.copy()
        clone.__dict__.pop("_compiled_call_impl", None)  # what module.compile() left; it would call the original
        for table in (clone._parameters, clone._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    table[name] = self.tensor(f"{target}.{name}")  # type: ignore[assignment]
        return clone

    def build(self, graph: fx.Graph, class_name: str, unread: AbstractSet[str] = frozenset()) -> fx.GraphModule:
        """Assemble the module tree that the graph reads, in the original order, and compile its code.

        What was ``unread`` before stays beside what is read of the same module: the counter of a batch norm.
        """
        reads = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
        homes = {name.rpartition(".")[0] for name in reads & set(self.parameters)}
        reads |= {name for name in unread if name.rpartition(".")[0] in homes}
        leaves = {str(node.target) for node in graph.nodes if node.op == "call_module"}
        reads |= self._other_names(reads, leaves)
        result = fx.GraphModule(nn.Module(), fx.Graph(), class_name)
        made: dict[str, nn.Module] = {"": result}
        for path in self._needed(reads, leaves):
            parent, _, name = path.rpartition(".")
            inside = made[parent]._modules  # a table: nn.Module looks at all names that another may clash with
            if path in leaves:
                inside[name] = self._modules[path][2]
            elif name not in inside:
                inside[name] = container = nn.Module()
                container.training = self._paths[path].training if path in self._paths else self.model.training
            made[path] = inside[name]  # type: ignore[assignment]
        for name in self._in_order(reads):
            self._place(made[name.rpartition(".")[0]], name)
        result.training = self.model.training
        graph._codegen = copy.copy(graph._codegen)  # it may be the original graph's
        write_directly(graph)
        result.graph = graph
        return result

    def _other_names(self, reads: set[str], leaves: set[str]) -> set[str]:
        """Further names of tied tensors, outside the modules that are called, so that a state dict has them all."""
        used = {id(self.find(name)) for name in reads}
        originals = {self._modules[path][0] for path in leaves}
        used.update(id(tensor) for name, tensor in self._named.items() if _lies_in(name, originals))
        others = [name for name, tensor in self._named.items() if id(tensor) in used and name not in reads]
        return {name for name in others if not _lies_in(name, leaves)}

    def _needed(self, reads: set[str], leaves: set[str]) -> list[str]:
        """Every module path that is needed, parents first, in the model's order."""
        needed = set(leaves)
        for name in [*reads, *leaves]:
            needed.update(_owners(name))
        order = {path: i for i, path in enumerate(self._paths)}
        place = {
            path: order.get(path, order.get(self._modules[path][0], 0) if path in self._modules else 0)
            for path in needed
        }
        return sorted(needed, key=lambda path: (place[path], path.count("."), path))

    def _in_order(self, reads: set[str]) -> list[str]:
        order = {name: i for i, name in enumerate(self._named)}
        return sorted(reads, key=lambda name: (order.get(name, len(order)), name))

    def _place(self, owner: nn.Module, path: str) -> None:
        """Put a sliced tensor where the original is: a parameter, a buffer, or a buffer that is not saved."""
        parent, _, name = path.rpartition(".")
        if name in owner._parameters or name in owner._buffers:
            return
        if not isinstance(number := self.find(path), torch.Tensor):
            setattr(owner, name, number)  # the code of a model that stays reads it as an attribute
            return
        tensor = self.tensor(path)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(name, tensor)
            return
        original = self._paths.get(parent)
        persistent = (
            original is not None and name in original._buffers and name not in original._non_persistent_buffers_set
        )
        owner.register_buffer(name, tensor, persistent=persistent or path in self.saved)


def _owners(name: str) -> Iterator[str]:
    """The paths of the modules that a name lies in."""
    parts = name.split(".")
    yield from (".".join(parts[:end]) for end in range(1, len(parts)))


def _lies_in(name: str, paths: AbstractSet[str]) -> bool:
    return name.rpartition(".")[0] in paths or "" in paths or any(owner in paths for owner in _owners(name))


def _is_plain(module: nn.Module) -> bool:
    """Whether a module holds tensors in its tables alone, and no other module (a recurrent one lists its weights)."""
    values = [value for value in vars(module).values() if type(value) not in _TENSORLESS]
    held = [one for value in values for one in (value if isinstance(value, (list, tuple)) else [value])]
    return not module._modules and not any(isinstance(one, torch.Tensor) for one in held)


def _training(model: nn.Module, path: str) -> bool:
    try:
        return model.get_submodule(path).training
    except AttributeError:
        return model.training


def _has(module: nn.Module, path: str) -> bool:
    parent, _, name = path.rpartition(".")
    return hasattr(module.get_submodule(parent), name)


def _attribute(module: nn.Module, name: str) -> torch.Tensor:
    result: Any = module
    for part in name.split("."):
        result = getattr(result, part)
    return result  # type: ignore[no-any-return]
