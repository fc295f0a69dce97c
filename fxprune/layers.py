"""Time the nodes of a graph one by one, on the very tensors that they get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves, tree_map_only

from fxprune.clock import seconds_of
from fxprune_passes.effects import writes

_CALLS = ("call_module", "call_function", "call_method")


class LayerTimer(fx.Interpreter):
    """Runs a graph module once, and times nodes that give tensors.

    Args:
        module: The graph module.
        bound: Values of its placeholders by name.
        is_wanted: Which nodes to time.
        threads: Of the CPU.

    Attributes:
        seconds: Of every node timed, by name.
    """

    def __init__(
        self, module: fx.GraphModule, bound: Mapping[str, Any], is_wanted: Callable[[fx.Node], bool], threads: int
    ) -> None:
        super().__init__(module)
        self._bound, self._is_wanted, self._threads = bound, is_wanted, threads
        self.seconds: dict[str, float] = {}

    def time(self) -> dict[str, float]:
        """Run the graph."""
        self.run(enable_io_processing=False)
        return self.seconds

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A value by name, or the default."""
        return self._bound[target] if target in self._bound else super().placeholder(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, and time it before anything else happens to its inputs."""
        if n.op not in _CALLS or not self._is_wanted(n):
            return super().run_node(n)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if writes(n):
            args, kwargs = tree_map_only(torch.Tensor, torch.clone, (args, kwargs))
        result = super().run_node(n)
        if _devices(result):
            self.seconds[n.name] = seconds_of(self._call(n, args, kwargs), self._threads, _devices((args, result)))
        return result

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[], object]:
        if node.op == "call_method":
            return partial(getattr(args[0], str(node.target)), *args[1:], **kwargs)
        function: Any = self.fetch_attr(str(node.target)) if node.op == "call_module" else node.target
        return partial(function, *args, **kwargs)


def _devices(value: Any) -> set[torch.device]:
    """Where the tensors in a value are."""
    return {one.device for one in tree_leaves(value) if isinstance(one, torch.Tensor)}
