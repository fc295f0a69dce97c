"""Write what a reader is given in place of constant channels: into its bias, or as a sum behind it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxprune_passes.emit import Emitter
from fxprune_passes.fold import Fold, Settled
from fxprune_passes.mend import Call
from fxprune_passes.vanish import EMPTY, ZERO, Vanish


def give(call: Call, written: Any, fold: Fold, emitter: Emitter, vanish: Vanish) -> Any:
    """Add a fold to what a reader was written as.

    Args:
        call: The reader.
        written: Its new node, or what stands for it where all that it reads is gone.
        fold: What it is given.
        emitter: Holds the new parameters.
        vanish: Knows the constants that stand for tensors.
    """
    if written is EMPTY:
        return written
    if fold.kernel is not None:
        return _final(call, written, call.function(operator.add, written, _map(call, fold, emitter)))
    assert fold.bias is not None
    added = _cut(call, fold, fold.bias)
    if written is ZERO or written in vanish.present:
        return vanish.given(call, written, _constant(call, emitter, added, "constant"), fold.reader.place)
    if _into_bias(call, written, emitter, added):
        return written
    shape = [-1, *(1 for _ in range(-fold.reader.place - 1))]
    constant = _constant(call, emitter, added.reshape(shape), "constant")
    return _final(call, written, call.function(operator.add, written, constant))


def settle(call: Call, found: Settled, emitter: Emitter, vanish: Vanish) -> Any:
    """Write a node that gives a number for each channel, whatever it is made of."""
    index = call.kept.index(call.axes()[found.place])
    values = found.values if index is None else found.values.index_select(0, index)
    if not bool(values.any()):
        return ZERO
    return vanish.given(call, ZERO, _constant(call, emitter, values, "constant"), found.place)


def _cut(call: Call, fold: Fold, values: Tensor, dim: int = 0) -> Tensor:
    """What is left of values by output channel, in float64."""
    index = call.kept.index(call.axes()[fold.reader.place])
    return values if index is None else values.index_select(dim, index)


def _constant(call: Call, emitter: Emitter, values: Tensor, kind: str) -> fx.Node:
    """A new constant in the dtype of the result."""
    dtype: torch.dtype = call.source.values[call.node].dtype
    constant = call.constant(values.to(dtype), kind, saved=True)
    emitter.given[str(constant.target)] = values
    return constant


def _final(call: Call, written: fx.Node, result: fx.Node) -> fx.Node:
    """The sum is what the node was: it carries the origin that the checks go by."""
    result.meta.update({key: written.meta.pop(key) for key in ("origin",) if key in written.meta})
    result.meta["mended"] = True
    return result


def _map(call: Call, fold: Fold, emitter: Emitter) -> fx.Node:
    """The convolution of a channel of ones, which shows where the input ends."""
    reader, x = fold.reader, call.data(call.input)
    assert fold.kernel is not None
    one, whole = slice(None, 1), slice(None)
    ndim = len(reader.axes)
    single = {0, ndim + reader.place}  # of the batch, where there is one, and of the channels
    index = tuple(one if dim in single else whole for dim in range(ndim))
    ones = call.function(torch.ones_like, call.function(operator.getitem, x, index))
    weights = _cut(call, fold, fold.kernel, 1 if reader.is_transposed else 0)
    kernel = _constant(call, emitter, weights, "border")
    options = {name: value for name, value in reader.options.items() if name != "groups"}
    return call.function(reader.function, ones, kernel, **options)


def _into_bias(call: Call, written: fx.Node, emitter: Emitter, added: Tensor) -> bool:
    """Add to the bias of the reader, or give it one; not where others read it too."""
    node = call.node
    if node.op == "call_module":
        original = emitter.original(str(node.target))
        calls = [one for one in node.graph.nodes if one.op == "call_module" and one.target == node.target]
        if "bias" not in original._parameters or len(calls) > 1:
            return False
        clone = emitter.written(str(written.target))
        if original.bias is None:
            like = original.weight
            clone.bias = nn.Parameter(added.to(like.device, like.dtype), requires_grad=like.requires_grad)
            emitter.given[f"{written.target}.bias"] = added
            return True
        return _shift(call, f"{node.target}.bias", emitter, added)
    bias = call.argument(2, "bias")
    if not isinstance(bias, fx.Node) or bias.op != "get_attr" or len(bias.users) > 1:
        return False
    return _shift(call, str(bias.target), emitter, added)


def _shift(call: Call, name: str, emitter: Emitter, added: Tensor) -> bool:
    if emitter.is_shared(name, call.node.graph):
        return False
    tensor = emitter.tensor(name)
    if tensor.shape != added.shape:
        return False
    total = tensor.detach().double() + added.to(tensor.device)
    with torch.no_grad():
        tensor.copy_(total.to(tensor.dtype))
    emitter.given[name] = total
    return True
