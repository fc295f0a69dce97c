"""What an op must be given where channels that it reads go, though they carry a constant: its sum over them.

Where every place sees the same constants, that is a number for each output channel, which goes into the bias. Where
zero padding or a transposed kernel makes places differ, it is a map, the op on a single channel of ones: exact for
every input size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fxprune_passes.axes import Axes, Term, is_dynamic
from fxprune_passes.flow import Tape, Value, is_constant
from fxprune_passes.propagation import Propagation

aten = torch.ops.aten
_MODULES: dict[Any, Any] = {
    nn.Linear: F.linear, nn.Conv1d: F.conv1d, nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d,
    nn.ConvTranspose1d: F.conv_transpose1d, nn.ConvTranspose2d: F.conv_transpose2d,
    nn.ConvTranspose3d: F.conv_transpose3d,
}  # fmt: skip
_FUNCTIONS: dict[Any, Any] = {
    **{function: function for function in _MODULES.values()},
    aten.linear.default: F.linear, aten.conv1d.default: F.conv1d, aten.conv2d.default: F.conv2d,
    aten.conv3d.default: F.conv3d,
}  # fmt: skip
_OPTIONS = ("stride", "padding", "dilation", "groups")
_TRANSPOSED = ("stride", "padding", "output_padding", "groups", "dilation")


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A node that sums the channels of ``x``, each times weights that are its own.

    Attributes:
        x: What it reads.
        axes: The axes of ``x``.
        place: Which of them holds the channels, counted from the end.
        weight: Its weights, whose missing columns are those of the channels.
        function: What it computes: ``F.linear`` or a convolution.
        options: Of the convolution: stride, padding and so on.
        is_even: Whether every place sees the same sum, where the channels are constants.
    """

    x: Value
    axes: Axes
    place: int
    weight: Value
    function: Callable[..., Tensor]
    options: Mapping[str, Any]
    is_even: bool

    @property
    def channels(self) -> Term:
        """The axis that is summed over."""
        return self.axes[self.place]

    @property
    def is_transposed(self) -> bool:
        """Whether the kernel is laid the other way round: (in, out / groups, ..)."""
        return "transpose" in self.function.__name__

    def uneven(self) -> Tensor:
        """Bool, broadcasting to ``x``: channels that are not one constant."""
        others = [dim for dim in range(len(self.axes)) if dim != len(self.axes) + self.place]
        return self.x.uneven(others) > 0

    def constants(self, missing: Tensor) -> Tensor:
        """(C,): the constant of each channel that is missing, 0 for the others."""
        assert self.x.value is not None
        rest = [dim for dim in range(len(self.axes)) if dim != len(self.axes) + self.place]
        first = self.x.value.movedim(self.place, -1).flatten(0, -2)[0] if rest else self.x.value
        gone = missing.amax(rest) if rest else missing
        return torch.where(gone, first, 0.0).double()


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """What a reader must be given.

    Attributes:
        reader: The node's arithmetic.
        constants: (C,): the constants of the channels that it misses.
        bias: (O,): what is added to every place; None where places differ.
        kernel: The kernel over one channel of ones, in the layout of the reader's own; None where a bias will do.
    """

    reader: Reader
    constants: Tensor
    bias: Tensor | None
    kernel: Tensor | None


@dataclass(frozen=True, slots=True, eq=False)
class Settled:
    """A node that gives a number for each channel, whatever the inputs are.

    Attributes:
        values: (C,): the numbers.
        place: Which axis holds the channels, counted from the end.
    """

    values: Tensor
    place: int


@dataclass(frozen=True, slots=True)
class Folds:
    """What is written in place of constants.

    Attributes:
        given: What readers are given in place of constants in removed channels.
        settled: Nodes that give constants.
    """

    given: Mapping[fx.Node, Fold] = field(default_factory=dict)
    settled: Mapping[fx.Node, Settled] = field(default_factory=dict)


def settled(value: Any, axes: Any) -> Settled | None:
    """The numbers of a value that is one constant for each position of some axis; None for any other.

    The axis is none whose size changes with that of the model's inputs.
    """
    if not isinstance(value, Value) or value.value is None or not is_constant(value):
        return None
    ndim = len(value.shape)
    if not value.value.is_floating_point() or 0 in value.shape:
        return None
    for place, axis in enumerate(axes):
        if is_dynamic(axis) or bool(value.uneven([dim for dim in range(ndim) if dim != place]).any()):
            continue
        return Settled(value.value.movedim(place, -1).reshape(-1, value.shape[place])[0].clone(), place - ndim)
    return None


def fold_of(reader: Reader, missing: Tensor) -> Fold:
    """The sum over constant channels that are missing (bool of the shape of ``x``)."""
    constants, weight = reader.constants(missing), reader.weight.value
    assert weight is not None
    if reader.function is F.linear:
        return Fold(reader, constants, weight.double() @ constants, None)
    groups = reader.options.get("groups", 1)
    kernel = _summed(weight.double(), constants, groups, transposed=reader.is_transposed)
    if reader.is_even:
        return Fold(reader, constants, kernel.flatten(1).sum(1), None)
    return Fold(reader, constants, None, kernel.unsqueeze(0 if reader.is_transposed else 1))


def _summed(weight: Tensor, constants: Tensor, groups: int, *, transposed: bool) -> Tensor:
    """(O, I / groups, ..) or transposed (I, O / groups, ..), and (I,) -> (O, ..): the sum over input channels."""
    inner = constants.view(groups, -1)
    if transposed:
        blocks = weight.view(groups, -1, *weight.shape[1:])
        return torch.einsum("gio...,gi->go...", blocks, inner).flatten(0, 1)
    blocks = weight.view(groups, -1, *weight.shape[1:])
    return torch.einsum("goi...,gi->go...", blocks, inner).flatten(0, 1)


def reader_of(node: fx.Node, propagation: Propagation, tape: Tape) -> Reader | None:
    """The arithmetic of a node that can be given a constant; None for any other."""
    if node.op == "call_module":
        return _module_reader(node, propagation, tape)
    if node.op != "call_function" or node.target not in _FUNCTIONS or len(node.args) < 2:
        return None
    function, (x, weight, _, *rest) = _FUNCTIONS[node.target], (*node.args, None)[: max(3, len(node.args))]
    names = _TRANSPOSED if "transpose" in function.__name__ else _OPTIONS
    options = {**dict(zip(names, rest, strict=False)), **{key: node.kwargs[key] for key in names if key in node.kwargs}}
    if not isinstance(x, fx.Node) or not isinstance(weight, fx.Node) or any(map(_is_node, options.values())):
        return None
    return _reader(node, x, tape.reads[node][weight], function, options, propagation, tape)


def _module_reader(node: fx.Node, propagation: Propagation, tape: Tape) -> Reader | None:
    module = propagation.graph_module.get_submodule(str(node.target))
    function = next((one for kind, one in _MODULES.items() if isinstance(module, kind)), None)
    if function is None or node.kwargs or len(node.args) != 1 or not isinstance(node.args[0], fx.Node):
        return None
    names = _TRANSPOSED if "transpose" in function.__name__ else _OPTIONS
    options = {name: getattr(module, name) for name in names if hasattr(module, name)}
    if getattr(module, "padding_mode", "zeros") != "zeros":
        options["padding"] = 0
    weight = tape.parameters[f"{node.target}.weight"]
    return _reader(node, node.args[0], weight, function, options, propagation, tape)


def _reader(
    node: fx.Node, x: fx.Node, weight: Any, function: Any, options: dict[str, Any], propagation: Propagation, tape: Tape
) -> Reader | None:
    value, axes = tape.reads[node][x], propagation.axes[x]
    if not isinstance(value, Value) or not isinstance(weight, Value) or not weight.static or weight.value is None:
        return None
    dims = len(weight.shape) - 2
    if function is F.linear:
        return Reader(value, axes, -1, weight, function, {}, is_even=True) if dims == 0 else None
    bare = _sizes(options.get("padding", 0)) == {0} or options.get("padding") == "valid"
    if "transpose" in function.__name__:
        ones = _sizes(options.get("stride", 1)) | set(weight.shape[2:])
        bare = bare and ones == {1} and _sizes(options.get("output_padding", 0)) == {0}
    return Reader(value, axes, -dims - 1, weight, function, options, is_even=bare)


def _sizes(value: Any) -> set[Any]:
    return set(value) if isinstance(value, (list, tuple)) else {value}


def _is_node(value: Any) -> bool:
    return isinstance(value, fx.Node) or (isinstance(value, (list, tuple)) and any(map(_is_node, value)))
