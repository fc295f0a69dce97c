"""The recording tracer: run a model on fake tensors and write down, as a torch.fx graph, what it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx, nn
from torch._subclasses import fake_tensor

from fxprune.caches import Place
from fxprune.calls import Failed, tensors_in
from fxprune.frames import failing_line
from fxprune.numbers import numbers_left, numbers_recorded
from fxprune.patches import attributes_kept, conversions_seen
from fxprune.recorder import Recorder
from fxprune.writer import ConversionMet
from fxprune_passes.errors import CaptureError
from fxprune_passes.quiet import quiet_run
from fxprune_passes.refusals import VALUE_READS, does_not_run, needs_values

# Functions that look at the values of a tensor whatever they are given.
_LOOKS = frozenset({"array", "bool", "complex", "float", "format", "index", "int", "item", "numpy", "tolist"})
_TRACED_INTO = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.DataParallel,
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoder,
    nn.TransformerDecoderLayer,
)


def default_leaf(module: nn.Module, path: str) -> bool:
    """Whether a module is written as one ``call_module`` node: torch's own, but for containers and attention.

    Args:
        module: The module that is about to be called.
        path: Its dotted name in the model.
    """
    return module.__module__.startswith("torch.nn.") and not isinstance(module, _TRACED_INTO)


def record(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    fake_mode: fake_tensor.FakeTensorMode | None = None,
    is_leaf: Callable[[nn.Module, str], bool] = default_leaf,
    keeps_code: bool = False,
    forgotten: Sequence[Place] = (),
) -> fx.GraphModule:
    """Run a model's forward on fake tensors and record it.

    Python runs as it is: branches and loops go the way the example inputs take them. Sizes stay symbolic (see
    ``fxprune.sizes``), so that the graph takes other batch sizes. Arguments that hold no tensor become literals.

    Args:
        model: A private copy of the model whose parameters, buffers and tensor attributes are fake tensors.
        args: Positional arguments of the call: fake tensors, and plain values.
        kwargs: Keyword arguments of the call.
        fake_mode: The mode of those fake tensors; found in them by default. None if there are none: then the model
            runs on real tensors, and the graph is that of their values.
        is_leaf: Says which modules are written as one ``call_module`` node.
        keeps_code: The graph is never run in place of the model, whose code stays: numbers that modules hold as
            attributes are read in the graph, decisions on sizes stay in it (``node.meta["decided"]``), and tensors of
            unknown origin become constants.
        forgotten: Places of the model that are empty, and that its forward may fill.

    Returns:
        A graph module over ``model`` with one input for each argument that holds a tensor, under the name that the
        model gives it. Nodes have ``meta["source"]`` (the model's line) and ``meta["module"]`` (the module whose
        forward was running); ``graph_module.meta["baked"]`` lists (line, what, value) of each size that became a
        literal because the model asked Python for its value, and ``meta["cached"]`` the node of the tensor that the
        forward put into each forgotten place (None for one that it left empty).

    Raises:
        CaptureError: The model fails on these inputs, reads the value of a tensor, or uses a tensor of unknown origin.
    """
    fake_mode = fake_mode or _fake_mode_of(model, args, kwargs)
    attributes = numbers_recorded if keeps_code else numbers_left
    spaces: dict[int, dict[str, Any]] = {}
    while True:
        recorder = Recorder(model, is_leaf, spaces, keeps_code=keeps_code)
        try:
            with (
                quiet_run(fake_mode),
                attributes_kept(model),
                attributes(model, is_leaf, recorder.writer),
                conversions_seen(spaces.values()),
            ):
                recorder.run(model, args, kwargs)
                cached = {place: recorder.node_of(place.read(model)) for place in forgotten}
        except ConversionMet:
            pass
        except CaptureError:
            raise
        except Exception as error:
            raise CaptureError(_failure(model, error, recorder.calls.failed)) from error
        if recorder.writer.converted.keys() <= spaces.keys():
            return recorder.finish(model, cached)
        spaces |= recorder.writer.converted  # once more, with conversions in these modules seen


def _fake_mode_of(model: nn.Module, args: Any, kwargs: Any) -> fake_tensor.FakeTensorMode | None:
    for tensor in (*tensors_in((args, kwargs)), *model.parameters(), *model.buffers()):
        if isinstance(tensor, fake_tensor.FakeTensor):
            return tensor.fake_mode
    return None


def _failure(model: nn.Module, error: Exception, failed: Failed | None) -> str:
    name, line = type(model).__name__, failing_line(error) or "its forward"
    call, inputs = (failed.call, failed.inputs) if failed is not None and failed.error is error else ("", "")
    if isinstance(error, VALUE_READS) or call in _LOOKS:
        return needs_values(name, line, call or str(error), inputs or "a tensor")
    shown = (str(error).strip() or "no message").splitlines()
    raised = f" raises {type(error).__name__}: {shown[0]}"
    return does_not_run(name, line, raised, inputs, why="\n".join(shown[1:4]))
