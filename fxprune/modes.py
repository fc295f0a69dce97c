"""Calls that a module makes one way in training and another in evaluation, written so that they follow its mode.

In the recorded graph, ``layer.training`` is read by a ``get_attr`` node, and what depends on it is computed from that:
``F.dropout(x, 0.1, training)``, ``scaled_dot_product_attention(q, k, v, dropout_p=training * 0.1)``. Nothing is guessed
from names: the module's forward is run once more in the other mode, and what it hands on differently is what follows.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

_DROPOUT = ("input", "p", "training", "inplace")
_PARAMETERS: Mapping[Callable[..., Any], tuple[str, ...]] = {
    F.dropout: _DROPOUT,
    F.dropout1d: _DROPOUT,
    F.dropout2d: _DROPOUT,
    F.dropout3d: _DROPOUT,
    F.alpha_dropout: _DROPOUT,
    F.feature_alpha_dropout: _DROPOUT,
    F.rrelu: ("input", "lower", "upper", "training", "inplace"),
    F.batch_norm: ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps"),
    F.scaled_dot_product_attention: ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale"),
}
_FOLLOWING = ("training", "p", "dropout_p")


@dataclass(frozen=True, slots=True)
class ModalCall:
    """A call whose arguments may depend on the mode: what it calls, those arguments, and its node."""

    function: Callable[..., Any]
    values: Mapping[str, float]
    node: fx.Node | None = None

    def follow(self, other: ModalCall, training: bool, path: str, where: tuple[str, str]) -> None:
        """Make each argument that the other mode has another value for depend on the mode.

        Args:
            other: The same call in the other mode.
            training: The mode of this one.
            path: Dotted name of the module whose mode it is.
            where: Line and module that the new nodes come from.
        """
        for name, value in self.values.items():
            if value != other.values[name] and self.node is not None:
                off, on = (other.values[name], value) if training else (value, other.values[name])
                if not off and isinstance(off, (bool, float, int)):
                    _set(self, name, _written(self.node, path, on, where))


def modal_call(function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> ModalCall | None:
    """The arguments of a call that may depend on the mode, or None for a call that has none."""
    if (names := _PARAMETERS.get(function)) is None:
        return None
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    return ModalCall(function, {one: given.get(one, _default(function, one)) for one in _FOLLOWING if one in names})


def _default(function: Any, name: str) -> Any:
    if name == "training":
        return function not in (F.batch_norm, F.rrelu)
    return {"p": 0.5, "dropout_p": 0.0}[name]


def _set(call: ModalCall, name: str, value: fx.Node) -> None:
    """Exchange an argument of a call's node, where it is or by keyword."""
    assert call.node is not None
    place = _PARAMETERS[call.function].index(name)
    if place < len(call.node.args):
        call.node.update_arg(place, value)
    else:
        call.node.update_kwarg(name, value)


def _written(before: fx.Node, path: str, on: float, where: tuple[str, str]) -> fx.Node:
    """Write ``training``, or ``training * on``: what a call gets in training mode, and nothing in evaluation."""
    with before.graph.inserting_before(before):
        mode = before.graph.create_node("get_attr", f"{path}.training" if path else "training")
        result = mode if on is True else before.graph.call_function(operator.mul, (mode, on))
    for node in (mode, result):
        node.meta["source"], node.meta["module"] = where
    return result


def may_be_switch(module: nn.Module) -> bool:
    """Whether a module of the user's own holds nothing: it may hand on its very input in evaluation, and not else."""
    return not (is_of_torch(module) or module._parameters or module._buffers or module._modules)


def is_of_torch(module: nn.Module) -> bool:
    """Whether a module's class is torch's own."""
    return type(module).__module__.startswith("torch.nn.")


@contextmanager
def training_reads_seen(seen: Callable[[nn.Module], None]) -> Iterator[None]:
    """Call ``seen`` at every read of a module's ``training``."""

    def read(module: nn.Module) -> bool:
        seen(module)
        return bool(vars(module)["training"])

    def write(module: nn.Module, value: bool) -> None:
        vars(module)["training"] = value

    setattr(nn.Module, "training", property(read, write))  # noqa: B010 (a plain assignment is a type error)
    try:
        yield
    finally:
        del nn.Module.training


def is_training(module: nn.Module) -> bool:
    """A module's mode, read without being seen."""
    return bool(vars(module)["training"])


@contextmanager
def in_mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Put one module, and not those inside it, into a mode."""
    own = vars(module)
    before = own["training"]
    own["training"] = training
    try:
        yield
    finally:
        own["training"] = before
