"""Recurrent modules, cells and functions: every layer and direction has the same hidden channels.

They are stated as a whole: which ATen ops they run depends on the device and the dtype. A module has one hidden size,
and its last states lie in one tensor, so the channels of its layers and directions go together. A hidden channel
without weights stays at the zero that it starts from: ``c = sigmoid(0) * c + sigmoid(0) * tanh(0)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from fxprune_passes.axes import Axes, Term, cat, prod
from fxprune_passes.rules.registry import Op, rule

SEQUENCES = (nn.LSTM, nn.GRU, nn.RNN)
CELLS = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
_CELL_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def _functions(*names: str) -> frozenset[Any]:
    """PyTorch's functions of these names, and ATen's overloads."""
    packets = [getattr(torch.ops.aten, name) for name in names]
    overloads = [getattr(packet, overload) for packet in packets for overload in packet.overloads()]
    return frozenset([*(getattr(torch, name) for name in names), *overloads])


SEQUENCE_FUNCTIONS = _functions("lstm", "gru", "rnn_tanh", "rnn_relu")
CELL_FUNCTIONS = _functions("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")


def is_recurrent(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a node calls a recurrent module, cell or function."""
    if node.op == "call_module":
        return type(modules[str(node.target)]) in SEQUENCES + CELLS
    return node.op == "call_function" and node.target in SEQUENCE_FUNCTIONS | CELL_FUNCTIONS


@dataclass(frozen=True, slots=True)
class _Layers:
    """The weights of every layer and direction in turn, and how they are called.

    One of ``cells`` is (gates*H, I), (gates*H, H), then two biases (gates*H,) or none; an LSTM whose state is projected
    has (gates*H, P) in place of the second, and (P, H) at the end.
    """

    cells: list[Sequence[Axes]]
    directions: int = 1
    batch_first: bool = False

    @property
    def projection(self) -> Axes | None:
        """The weight that projects the first cell's hidden channels."""
        first = self.cells[0]
        return first[-1] if len(first) in (3, 5) else None

    @property
    def states(self) -> int:
        """How many states a step hands on: two where there are four gates."""
        width = (self.projection or self.cells[0][1])[1].size
        return 2 if self.cells[0][0][0].size == 4 * width else 1


def recurrent(
    op: Op, callee: Any, parameters: Mapping[str, Axes], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> list[Axes]:
    """State the equations of one call.

    Args:
        op: The call.
        callee: A module, or a function of PyTorch.
        parameters: The axes of a module's parameters, by name.
        args: Arguments of the call, with axes for tensors.
        kwargs: Arguments by name.

    Returns:
        The axes of every tensor in the result, in order.

    Raises:
        LookupError: The module has other parameters than its class gives it, or the call another form.
    """
    if not isinstance(callee, nn.Module):
        return _function(op, callee, args)
    x, hx = args[0] if args else kwargs["input"], args[1] if len(args) > 1 else kwargs.get("hx")
    if not isinstance(callee, nn.RNNBase):
        weights = [parameters[name] for name in _CELL_WEIGHTS if getattr(callee, name) is not None]
        return _step(op, x, _states(hx), _Layers([weights]))
    weights = [parameters[name] for name in callee._flat_weights_names]
    directions = 2 if callee.bidirectional else 1
    layers = _Layers(_parts(weights, callee.num_layers * directions), directions, callee.batch_first)
    if not isinstance(x, list):
        return _sequence(op, x, _states(hx), layers)
    data, *handed_on = (one for one in x if one is not None)  # packed: the batch sizes and orders follow the data
    output, *last = _sequence(op, data, _states(hx), layers)
    return [output, *handed_on, *last]


def _function(op: Op, function: Any, args: Sequence[Any]) -> list[Axes]:
    """A function takes its weights as arguments, and its settings by position alone."""
    if function in CELL_FUNCTIONS:
        x, hx, *weights = args
        return _step(op, x, _states(hx), _Layers([[one for one in weights if one is not None]]))
    packed = not isinstance(args[3], bool)
    x, hx, weights, _, number, _, _, both_ways, *rest = (args[0], *args[2:]) if packed else args
    directions = 2 if both_ways else 1
    layers = _Layers(_parts(weights, number * directions), directions, bool(rest and rest[0]))
    return _sequence(op, x, _states(hx), layers)


def _states(hx: Any) -> list[Axes]:
    """First states as a list: one tensor, two, or none."""
    return [] if hx is None else hx if isinstance(hx, list) else [hx]


def _parts(weights: Sequence[Axes], count: int) -> list[Sequence[Axes]]:
    each = len(weights) // count
    return [weights[start : start + each] for start in range(0, len(weights), each)]


def _sequence(op: Op, x: Axes, first: Sequence[Axes], layers: _Layers) -> list[Axes]:
    """(N, L, I) or (L, N, I), (S, N, H) -> (N, L, D*H) or (L, N, D*H), (S, N, H): S is layers times directions.

    Without a batch N is missing; in packed data (T, I) it lies in T.
    """
    batch: tuple[Term, ...] = ()
    if len(x) == 3:
        batch = (x[0 if layers.batch_first else 1],)
    elif len(op.shapes[-1]) == 3:
        batch = (op.fixed(op.shapes[-1][1], "batch of a packed sequence", dynamic=True),)
    op.freeze((axis for axis in x[:-1] if axis not in batch), "steps of a recurrent module")
    hidden, output = _widths(op, layers)
    features: Term = x[-1]
    for start in range(0, len(layers.cells), layers.directions):
        for cell in layers.cells[start : start + layers.directions]:
            _cell(op, features, cell, hidden, output)
        features = cat([output] * layers.directions)
    stacked = op.fixed(len(layers.cells), "layers and directions of a recurrent module")
    last: list[Axes] = [(stacked, *batch, output), (stacked, *batch, hidden)][: layers.states]
    for given, axes in zip(first, last, strict=False):
        op.equal_all(given, axes)
    return [(*x[:-1], features), *last]


def _step(op: Op, x: Axes, first: Sequence[Axes], layers: _Layers) -> list[Axes]:
    """(N, I), (N, H) -> (N, H), for LSTM twice; without a batch N is missing."""
    hidden, output = _widths(op, layers)
    _cell(op, x[-1], layers.cells[0], hidden, output)
    last: list[Axes] = [(*x[:-1], hidden)] * layers.states
    for given, axes in zip(first, last, strict=False):
        op.equal_all(given, axes)
    return last


def _widths(op: Op, layers: _Layers) -> tuple[Term, Term]:
    """New axes for the hidden channels and for what is handed on: the same, unless it is projected.

    PyTorch tells a projected state by its width, and projects to fewer channels only (torch 2.15), so that more hidden
    channels must stay than there are projected ones.
    """
    if layers.projection is not None:
        narrow, wide = (axis.size for axis in layers.projection)
        if narrow >= wide:
            reason = "no narrower than what is projected"
            return op.fixed(wide, reason), op.fixed(narrow, reason)
        rest = op.dim(wide - narrow - 1)
        return cat((op.fixed(narrow + 1, "more hidden channels than projected ones"), rest)), op.dim(narrow)
    hidden = op.dim(layers.cells[0][1][1].size)
    return hidden, hidden


def _cell(op: Op, features: Term, cell: Sequence[Axes], hidden: Term, output: Term) -> None:
    """One layer in one direction: its rows are the gates of each hidden channel, gate by gate."""
    enter, state, *rest = cell
    op.contract((features,), 0, enter, 1)
    op.contract((output,), 0, state, 1)
    gates = op.fixed(enter[0].size // hidden.size, "gates of a recurrent module")
    for axes in (enter, state, *(one for one in rest if len(one) == 1)):
        op.equal(axes[0], prod((gates, hidden)))
    for axes in (one for one in rest if len(one) == 2):
        op.equal(axes[0], output)
        op.contract((hidden,), 0, axes, 1)


@rule(torch.ops.aten._pack_padded_sequence)
def pack(op: Op, x: Axes, lengths: Axes, batch_first: bool) -> list[Axes]:
    """(N, L, ..) or (L, N, ..), (N,) -> (T, ..), (L,): the steps of all sequences, and how many run at each step."""
    op.freeze((*x[:2], *lengths), "packed by length")
    return [(op.fixed(op.shape[0], "packed steps", dynamic=True), *x[2:])]


@rule(torch.ops.aten._pad_packed_sequence)
def unpack(op: Op, data: Axes, sizes: Axes, batch_first: bool, value: float, length: int) -> list[Axes]:
    """(T, ..), (L,) -> (N, L, ..) or (L, N, ..), (N,)."""
    op.freeze((data[0], *sizes), "packed by length")
    steps = tuple(op.fixed(size, "unpacked by length", dynamic=True) for size in op.shape[:2])
    return [(*steps, *data[1:])]
