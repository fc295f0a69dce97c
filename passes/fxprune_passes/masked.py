"""The oracle: the original graph, run as it is, with every removed channel set to zero after every node.

Nothing here knows how a graph is rewritten: it shares the terms and the kept masks with the rewrite, and no more.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn

from fxprune_passes.errors import UnsupportedError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.masked_statistics import KEPT, Statistic
from fxprune_passes.masks import cut, put_back, zero_removed
from fxprune_passes.propagation import Propagation
from fxprune_passes.wide import Watch, Wide


class Masked(Wide):
    """Runs the captured graph over real weights, and keeps removed channels at zero in every tensor."""

    def __init__(
        self,
        module: nn.Module,
        propagation: Propagation,
        kept: Kept,
        inputs: Mapping[str, Any],
        *,
        statistics: str,
        epsilon: float,
        watch: Watch | None = None,
    ) -> None:
        """Prepare a run.

        Args:
            module: A widened copy of the original; the removed channels of its parameters become zero.
            propagation: The captured graph with its axes.
            kept: The kept channels.
            inputs: Placeholder values by name.
            statistics: ``"full"`` counts the zeros in means and variances, ``"kept"`` leaves them out.
            epsilon: What an RMS norm without an ``eps`` of its own uses.
            watch: Called with each node and its masked value.
        """
        super().__init__(module, propagation.graph_module.graph, inputs, epsilon=epsilon, watch=watch)
        self.propagation = propagation
        self.kept = kept
        self.statistics = statistics
        for tensors in (module.named_parameters, module.named_buffers):
            for name, tensor in tensors(remove_duplicate=False):
                if name in propagation.parameters and (tensor.is_floating_point() or tensor.is_complex()):
                    zero_removed(tensor.data, propagation.parameters[name], kept)

    def compute(self, node: fx.Node) -> Any:
        """The node's value with zeros for the removed channels, also in a tensor that the node wrote into."""
        value = self._over_kept(node) if self._runs_over_removed(node) else super().compute(node)
        if node.target in (operator.setitem, "__setitem__"):
            written = node.args[0]
            assert isinstance(written, fx.Node)
            self._mask(self.env[written], self.propagation.axes[written])
        if node in self.propagation.constants:  # an index vector: its numbers are places, not values
            return value
        return self._mask(value, self.propagation.axes[node])

    def _mask(self, value: Any, axes: Any) -> Any:
        if isinstance(value, torch.Tensor) and isinstance(axes, tuple):
            return zero_removed(value, axes, self.kept)
        if isinstance(value, (list, tuple)) and isinstance(axes, list):
            masked = [self._mask(one, part) for one, part in zip(value, axes, strict=True)]
            same = all(before is after for before, after in zip(value, masked, strict=True))
            return value if same else tuple(masked) if isinstance(value, tuple) else masked
        if isinstance(value, dict) and isinstance(axes, dict):
            return {key: self._mask(one, axes[key]) for key, one in value.items()}
        return value

    def _runs_over_removed(self, node: fx.Node) -> bool:
        axes = self.propagation.statistics.get(node, [])
        return self.statistics == "kept" and any(self.kept.mask(axis) is not None for axis in axes)

    def _over_kept(self, node: fx.Node) -> Any:
        """A mean or variance over the channels that are left: cut, compute, and put back among zeros."""
        module = self.fetch_attr(str(node.target)) if node.op == "call_module" else None
        target = node.target if module is None else type(module)
        if target not in KEPT:
            first = f"verify does not know how {node.format_node()} takes its statistics over kept channels."
            raise UnsupportedError(explain(first, mend='compile with statistics="full"'))
        with self._cut_inputs(node):
            args, kwargs = self.fetch_args_kwargs_from_env(node)
        affine = {} if module is None else self._affine(node, module)
        x = node.args[0] if node.args else node.kwargs["input"]
        part = KEPT[target](Statistic(target, args, kwargs, module, affine, lambda groups: self._groups(x, groups)))
        return self._put_back(part, self.propagation.axes[node])

    @contextmanager
    def _cut_inputs(self, node: fx.Node) -> Iterator[None]:
        whole, axes = self.env, self.propagation.axes
        tensors = [one for one in node.all_input_nodes if isinstance(axes[one], tuple)]
        parts = {one: cut(whole[one], axes[one], self.kept) for one in tensors}
        self.env = {**whole, **parts}
        try:
            yield
        finally:
            self.env = whole

    def _affine(self, node: fx.Node, module: nn.Module) -> dict[str, torch.Tensor]:
        axes = self.propagation.parameters
        return {name: cut(one, axes[f"{node.target}.{name}"], self.kept) for name, one in module.named_parameters()}

    def _groups(self, x: Any, groups: int) -> int:
        """How many blocks of the channel axis of ``x`` keep a channel."""
        mask = self.kept.mask(self.propagation.axes[x][1])
        return groups if mask is None else int(mask.unflatten(0, (groups, -1)).any(1).sum())

    def _put_back(self, part: Any, axes: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return put_back(part, axes, self.kept)
        return tuple(self._put_back(one, inner) for one, inner in zip(part, axes, strict=True))
