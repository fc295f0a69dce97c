"""Run a graph in float64 on a private copy of its module: the arithmetic in which two graphs are compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from fxprune_passes.fakes import tensors_held

_DTYPES = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex64: torch.complex128,
}
_CASTS = {"half": "double", "bfloat16": "double", "float": "double", "cfloat": "cdouble"}
_RMS_NORMS = (F.rms_norm, torch.rms_norm, torch.ops.aten.rms_norm.default, torch.ops.aten._fused_rms_norm.default)
_RMS_NORM_EPS = 3  # its position among the arguments
_GROUPED = [getattr(torch, name) for name in ("_grouped_mm",) if hasattr(torch, name)]
Watch = Callable[[fx.Node, Any], None]


class NodeError(Exception):
    """A node does not run; the cause is the error that it raised."""

    def __init__(self, node: fx.Node) -> None:
        super().__init__(node.name)
        self.node = node


def widen(value: Any) -> Any:
    """A copy of a tensor, floating-point ones in float64; anything else as it is."""
    if not isinstance(value, torch.Tensor):
        return value
    wide = value.detach().to(_DTYPES.get(value.dtype, value.dtype), copy=True)
    return nn.Parameter(wide, requires_grad=False) if isinstance(value, nn.Parameter) else wide


def widened(module: nn.Module) -> nn.Module:
    """A copy of a module in float64; no gradients, no code of a graph module, and nothing shared with the original."""
    epsilon = torch.finfo(precision(module)).eps
    root = _tree(module)
    memo: dict[int, Any] = {}
    for one in root.modules():
        for tensor in tensors_held(one):
            if id(tensor) not in memo:
                memo[id(tensor)] = widen(tensor)
    result = copy.deepcopy(root, memo)
    for one in result.modules():
        if isinstance(one, nn.RMSNorm) and one.eps is None:
            one.eps = epsilon
    return result


def _tree(module: nn.Module) -> nn.Module:
    """A graph module without its code, which would be copied and compiled again; other modules as they are."""
    if not isinstance(module, fx.GraphModule):
        return module
    root = nn.Module()
    root.__dict__.update({key: value for key, value in module.__dict__.items() if key in root.__dict__})
    return root


def precision(module: nn.Module) -> torch.dtype:
    """The dtype that a module computes in: that of its first floating-point tensor."""
    tensors = [*module.parameters(), *module.buffers()]
    return next((one.dtype for one in tensors if one.is_floating_point()), torch.get_default_dtype())


def _no_epsilon(node: fx.Node) -> bool:
    """Whether a norm leaves its ``eps`` to the dtype."""
    return (*node.args, None)[_RMS_NORM_EPS:][:1] in ((), (None,)) and node.kwargs.get("eps") is None


def _literal(value: Any) -> Any:
    """A dtype written in a graph, widened; anything else as it is."""
    return _DTYPES.get(value, value) if isinstance(value, torch.dtype) else value


class Wide(fx.Interpreter):
    """Runs a graph over a widened module; literal dtypes and casts to a narrower type are read as float64."""

    def __init__(
        self,
        module: nn.Module,
        graph: fx.Graph,
        inputs: Mapping[str, Any],
        *,
        epsilon: float,
        watch: Watch | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            module: What :func:`widened` gave; in-place ops of the graph may change it.
            graph: Only read.
            inputs: Placeholder values by name; a placeholder without one takes its default.
            epsilon: What an RMS norm without an ``eps`` of its own uses: that of the model's dtype.
            watch: Called with each node and its value, before a later in-place op can change it.
        """
        super().__init__(module, graph=graph)
        self.extra_traceback = False
        self.inputs = inputs
        self.epsilon = epsilon
        self.watch = watch

    def result(self) -> Any:
        """Run every node.

        Returns:
            What the graph returns, in the nesting of its output node.

        Raises:
            NodeError: A node does not run.
        """
        with in_float64():
            return self.run(enable_io_processing=False)

    def run_node(self, n: fx.Node) -> Any:
        """Compute a node, and show its value to whoever watches."""
        try:
            value = self.compute(n)
        except Exception as error:
            raise NodeError(n) from error
        if self.watch is not None:
            self.watch(n, value)
        return value

    def compute(self, node: fx.Node) -> Any:
        """The node's value."""
        return super().run_node(node)

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> Any:
        """The node's arguments: literal dtypes widened, and an RMS norm's default ``eps`` written out."""
        written: Any = fx.node.map_aggregate((n.args, dict(n.kwargs)), _literal)
        args, kwargs = written
        if n.target in _RMS_NORMS and _no_epsilon(n):
            args, kwargs = (*args[:_RMS_NORM_EPS],), {**kwargs, "eps": self.epsilon}
        return self.map_nodes_to_values(args, n), self.map_nodes_to_values(kwargs, n)

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The input of that name, or its default."""
        return self.inputs[target] if target in self.inputs else args[0]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a function; a grouped matrix product, which has no kernel for float64, is taken group by group."""
        return super().call_function(_grouped_mm if target in _GROUPED else target, args, kwargs)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Call a method; casts to a narrower float go to float64."""
        return super().call_method(_CASTS.get(target, target), args, kwargs)


def _grouped_mm(mat_a: torch.Tensor, mat_b: torch.Tensor, *, offs: torch.Tensor, **options: Any) -> torch.Tensor:
    """(M, K), (G, K, N), (G,) -> (M, N); rows behind the last offset belong to no matrix, and are zero."""
    result = mat_a.new_zeros(mat_a.shape[0], mat_b.shape[2])
    start = 0
    for matrix, stop in zip(mat_b, offs.tolist(), strict=True):
        result[start:stop] = mat_a[start:stop] @ matrix
        start = stop
    return result


@contextmanager
def in_float64() -> Iterator[None]:
    """No gradients, float64 by default, and no fused attention module, whose inside would round differently."""
    dtype, fused = torch.get_default_dtype(), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            yield
    finally:
        torch.set_default_dtype(dtype)
        torch.backends.mha.set_fastpath_enabled(fused)
