"""Models whose tensors are masked or parametrized, read as models of plain tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from fxprune.evaluated import evaluated, is_mask, masked, masks_of, same
from fxprune.notes import listed
from fxprune_passes.errors import CaptureError, explain
from fxprune_passes.fakes import tensors_held

_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v")
_ORDER = (*_PROJECTIONS, "weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_ATOMS = (bool, int, float, complex, str, bytes, type(None), type, torch.Tensor, torch.dtype, torch.device)
_Tensors = Mapping[tuple[int, str], torch.Tensor]
_TABLES = ("_parameters", "_buffers", "_modules")
_HOOKS = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs")


@dataclass(frozen=True, slots=True)
class _Taken:
    """A module whose tensors become plain: the tensors of each kind under their plain names."""

    path: str
    module: nn.Module
    evaluated: Mapping[str, torch.Tensor]
    masked: Mapping[str, torch.Tensor]

    def plain(self) -> dict[str, torch.Tensor]:
        """The tensors that the module has in the end; a mask may lie on a parametrized tensor, which goes then."""
        hidden = {f"{name}_orig" for name in self.masked}
        return {**{name: one for name, one in self.evaluated.items() if name not in hidden}, **self.masked}


def plain(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A model in which masks and parametrizations are applied.

    A mask is one of ``torch.nn.utils.prune``: ``weight_orig``, ``weight_mask`` and the hook that multiplies them before
    each call of the module. Values are computed anew from what the model holds now.

    Args:
        model: Any module; only read.

    Returns:
        The model itself where it has nothing of that kind. Otherwise a structural copy in which these tensors are plain
        parameters under their plain names; every other tensor is the model's own, and so is every module that
        refers to nothing that changes. A tied tensor stays tied where its masks are equal. And a note of what was done.
        Parametrizations without one fixed value stay: :func:`fxprune.accept.accept` refuses them.

    Raises:
        CaptureError: Mask or original is missing, their shapes differ, a parametrization does not run, or the model
            cannot be copied.

    Example:
        >>> from torch.nn.utils import prune
        >>> layer = prune.l1_unstructured(nn.Linear(4, 2), "weight", amount=0.5)
        >>> result, notes = plain(layer)
        >>> list(result.state_dict()), int((result.weight == 0).sum()), notes
        (['weight', 'bias'], 4, ('masks are applied: weight (torch.nn.utils.prune)',))
    """
    if not isinstance(model, nn.Module) or not (taken := _taken(model)):
        return model, ()
    tensors = _tied(taken)
    copies = _copied(model, taken, tensors)
    for one in taken:
        _settle(copies[id(one.module)], one, tensors)
    return copies[id(model)], tuple(_notes(taken))


def _taken(model: nn.Module) -> list[_Taken]:
    result, inside = list[_Taken](), set[int]()
    if not _is_changed(model):
        return result
    for path, module in model.named_modules():
        if id(module) in inside:
            continue
        values, reason = evaluated(module, path)
        if parametrize.is_parametrized(module):
            inside.update(map(id, module.parametrizations.modules()))
        products = {} if reason else masked(module, path, values)
        if values or products:
            result.append(_Taken(path, module, values, products))
    return result


def _is_changed(module: nn.Module) -> bool:
    """Whether a module or one inside may have masks, which are hooks, or parametrizations, which are modules."""
    own = vars(module)
    inside = own.get("_modules", {})
    if "parametrizations" in inside or own.get(_HOOKS[0]) or own.get(_HOOKS[1]):
        return True
    for one in inside.values():  # noqa: SIM110 (half the time of any())
        if one is not None and _is_changed(one):
            return True
    return False


def _notes(taken: Iterable[_Taken]) -> Iterable[str]:
    def names(kind: str) -> list[str]:
        return [f"{one.path}.{name}".lstrip(".") for one in taken for name in getattr(one, kind)]

    if masks := names("masked"):
        yield f"masks are applied: {listed(masks)} (torch.nn.utils.prune)"
    if values := names("evaluated"):
        yield f"parametrizations are evaluated: {listed(values)}"


def _tied(taken: Iterable[_Taken]) -> _Tensors:
    """The plain tensors by module and name: one where they are made of the same originals and have one value."""
    result: dict[tuple[int, str], torch.Tensor] = {}
    made: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for one in taken:
        for name, value in one.plain().items():
            originals = _originals(one, name)
            known = made.setdefault(tuple(map(id, originals)), [])
            tensor = next((other for other in known if same(other.detach(), value)), None)
            if tensor is None:
                tensor = _like(originals, value)
                known.append(tensor)
            result[id(one.module), name] = tensor
    return result


def _originals(taken: _Taken, name: str) -> list[torch.Tensor]:
    """The tensors of the model that a plain tensor is made of."""
    name = f"{name}_orig" if name in taken.masked else name
    if name not in taken.evaluated:
        return [taken.module._parameters.get(name, taken.module._buffers.get(name))]  # type: ignore[list-item]
    own: Any = taken.module.parametrizations[name]  # type: ignore[index]
    return [*own._parameters.values(), *own._buffers.values()]


def _like(originals: Iterable[torch.Tensor], value: torch.Tensor) -> torch.Tensor:
    """A parameter, trained as its originals are; a buffer where they are buffers."""
    parameters = [one for one in originals if isinstance(one, nn.Parameter)]
    trained = any(one.requires_grad for one in parameters) and (value.is_floating_point() or value.is_complex())
    return nn.Parameter(value, requires_grad=trained) if parameters else value


def _copied(model: nn.Module, taken: Sequence[_Taken], tensors: _Tensors) -> Mapping[int, Any]:
    """Copies of the modules that change or may refer to one that does, by identity; all others are themselves."""
    changing = {id(one.module): one for one in taken}
    own = {id(one) for one in model.modules() if id(one) not in changing and _refers_to_nothing(one)}
    opened = [one for one in model.modules() if not all(id(inner) in own for inner in one.modules())]
    copies = _shared(model, taken, tensors)
    for module in opened:
        known = changing.get(id(module))
        kind = parametrize.type_before_parametrizations(module) if known and known.evaluated else type(module)
        copies[id(module)] = object.__new__(kind)
        if isinstance(module, fx.GraphModule):
            copies[id(module.graph)] = module.graph
    for module in opened:
        try:
            vars(copies[id(module)]).update(deepcopy(vars(module), copies))
        except Exception as error:
            mend = "the model's structure is copied by copy.deepcopy; make its attributes copyable"
            raise CaptureError(explain(f"{type(module).__name__} cannot be copied: {error}", mend=mend)) from error
    return copies


def _shared(model: nn.Module, taken: Iterable[_Taken], tensors: _Tensors) -> dict[int, Any]:
    """What a copy shares with the model, by identity, as ``deepcopy`` wants it."""
    result: dict[int, Any] = {id(one): one for one in model.modules()}
    for module in model.modules():
        result.update((id(tensor), tensor) for tensor in tensors_held(module))
    for one in taken:
        result.update((id(hook), hook) for hook in masks_of(one.module).values())
        for name in one.masked:  # what the last call left may be listed elsewhere, and need be no leaf
            if name in vars(one.module):
                result[id(vars(one.module)[name])] = tensors[id(one.module), name]
    return result


def _refers_to_nothing(module: nn.Module) -> bool:
    """Whether none of a module's attributes can lead to another module, but for its children."""
    attributes = (value for name, value in vars(module).items() if name not in _TABLES)
    return isinstance(module, torch.jit.ScriptModule) or all(map(_is_atom, attributes))


def _is_atom(value: Any) -> bool:
    if isinstance(value, (tuple, list, set, dict)):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        return all(isinstance(one, (*_ATOMS, FunctionType, BuiltinFunctionType)) for one in parts)
    return isinstance(value, (*_ATOMS, FunctionType, BuiltinFunctionType))


def _settle(module: nn.Module, taken: _Taken, tensors: _Tensors) -> None:
    """Put the plain tensors in place in a copied module, and drop what they were made of."""
    own = vars(module)
    for key, hook in taken.module._forward_pre_hooks.items():
        if is_mask(hook) and getattr(hook, "_tensor_name", None) in taken.masked:
            for kind in _HOOKS:
                own[kind].pop(key, None)
    for name in taken.masked:
        own["_parameters"].pop(f"{name}_orig", None)
        own["_buffers"].pop(f"{name}_mask", None)
        own["_non_persistent_buffers_set"].discard(f"{name}_mask")
    if taken.evaluated:
        del own["_modules"]["parametrizations"]
    for name in taken.plain():
        _place(module, name, tensors[id(taken.module), name])


def _place(module: nn.Module, name: str, tensor: torch.Tensor) -> None:
    """Register a tensor where it was at first, as far as that is known: before those that torch.nn has after it."""
    vars(module).pop(name, None)
    table: dict[str, Any] = module._parameters if isinstance(tensor, nn.Parameter) else module._buffers
    order = [str(one) for one in getattr(module, "_flat_weights_names", _ORDER)]
    later = order[order.index(name) + 1 :] if name in order else []
    table[name] = tensor
    setattr(module, name, tensor)  # a recurrent module notes it in its list
    moved = False
    for key in [one for one in table if one != name]:
        moved = moved or key in later
        if moved:
            table[key] = table.pop(key)
