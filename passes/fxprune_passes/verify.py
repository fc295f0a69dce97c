"""Check a rewritten graph: every node's shape, and every number inside it, is what the terms predict."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fxprune_passes.errors import VerifyError, explain
from fxprune_passes.fakes import fake, fake_tensors
from fxprune_passes.kept import Kept
from fxprune_passes.propagation import Propagation
from fxprune_passes.quiet import quiet_run
from fxprune_passes.replay import Called, Ran, Replays, computed
from fxprune_passes.tensors import modules_of

_Ops = Sequence[tuple[str, tuple[float, ...]]]  # names, and the numbers that they get


def check_shapes(propagation: Propagation, small: fx.GraphModule, kept: Kept, inputs: Mapping[str, Any]) -> None:
    """Run the rewritten graph on fake tensors and compare it, node by node, with what the terms predict.

    Args:
        propagation: The captured graph with its axes.
        small: The rewritten graph; its tensors are exchanged for fake ones meanwhile.
        kept: The kept channels.
        inputs: Fake inputs of the captured graph, by placeholder.

    Raises:
        VerifyError: The first node that does not run, has another shape, or computes with another number.
    """
    nodes, fake_mode = propagation.graph_module.graph.nodes, propagation.fake_mode
    expected = {node.name: _Expected(node, _shapes(propagation.axes[node], kept)) for node in nodes}
    interpreter = _Checker(small, propagation, expected)
    names = [str(node.target) for node in small.graph.nodes if node.op == "placeholder"]
    defaults = {str(node.target): node.args[0] for node in small.graph.nodes if node.op == "placeholder" and node.args}
    with quiet_run(fake_mode):
        interpreter.run(*(inputs[name] if name in inputs else defaults[name] for name in names))


@dataclass(frozen=True, slots=True)
class _Expected:
    """The old node that a new one came from, and the shapes of its value after pruning."""

    node: fx.Node
    shapes: Any


def _shapes(axes: Any, kept: Kept) -> Any:
    """New shapes in place of axes, in the same nesting."""
    if isinstance(axes, tuple):
        return kept.shape(axes)
    if isinstance(axes, list):
        return [_shapes(one, kept) for one in axes]
    if isinstance(axes, dict):
        return {key: _shapes(one, kept) for key, one in axes.items()}
    return None


class _Recorder(TorchDispatchMode):
    """Notes the ops of one node."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.ran: list[Ran] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        outputs = [one for one in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(one, torch.Tensor)]
        if outputs or func._schema.is_mutable:
            self.ran.append(Ran(func, args, kwargs or {}, outputs))
        return out


class _Checker(fx.Interpreter):
    """Runs the new graph and stops at the first node that is not as predicted."""

    def __init__(self, small: fx.GraphModule, propagation: Propagation, expected: Mapping[str, _Expected]) -> None:
        super().__init__(nn.Module(), garbage_collect_values=False, graph=small.graph)
        self.module = small
        self.submodules = modules_of(small, by_every_path=True)  # fx's own way takes ten times as long
        self.extra_traceback = False
        self.propagation = propagation
        self.expected = expected
        assert propagation.fake_mode is not None, "a graph of real values has no fake ones to compare"
        self.fake_mode = propagation.fake_mode
        self.replays = Replays(self.fake_mode)

    def run_node(self, n: fx.Node) -> Any:
        """Run a node, then compare shapes and numbers with those of the node that it came from."""
        try:
            value, ops = self._run(n)
        except Exception as error:
            raise VerifyError(
                explain(f"rewritten node {n.format_node()} does not run: {error}", at=_place(n))
            ) from error
        if (origin := self.expected.get(str(n.meta.get("origin")))) is not None:
            self._compare_shapes(n, value, origin.shapes)
            if not n.meta.get("mended"):
                self._compare_numbers(n, origin.node, ops)
        return value

    def _run(self, node: fx.Node) -> tuple[Any, _Ops]:
        """A node's value, and the ops inside it; recalled where an equal call ran before."""
        if (called := self._called(node)) is not None and (known := self.replays.find(called)) is not None:
            return self.replays.value(known, called), known.computed
        module = self.submodules[str(node.target)] if node.op == "call_module" else nn.Module()
        recorder = _Recorder()
        with fake_tensors(module, self.fake_mode):
            called = self._called(node)
            with recorder:
                value = super().run_node(node)
        if called is not None:
            self.replays.learn(called, recorder.ran, value)
        return value, computed(recorder.ran)

    def _called(self, node: fx.Node) -> Called | None:
        if not node.op.startswith("call_"):
            return None
        callee = self.submodules[str(node.target)] if node.op == "call_module" else node.target
        return self.replays.called(callee, *self.fetch_args_kwargs_from_env(node))

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Fetch a fake tensor in place of a parameter, a buffer or a constant."""
        value = super().get_attr(target, args, kwargs)
        return fake(value, self.fake_mode) if isinstance(value, torch.Tensor) else value

    def _compare_shapes(self, node: fx.Node, value: Any, expected: Any) -> None:
        if isinstance(expected, tuple) and isinstance(value, torch.Tensor):
            if expected != (got := tuple(value.shape)):
                first = f"node {node.name} has shape {got}, expected {expected} from the kept channels."
                raise VerifyError(explain(first, at=_place(node)))
        elif isinstance(expected, list) and isinstance(value, (list, tuple)):
            for part, one in zip(value, expected, strict=False):
                self._compare_shapes(node, part, one)
        elif isinstance(expected, dict) and isinstance(value, dict):
            for key, one in expected.items():
                self._compare_shapes(node, value[key], one)

    def _compare_numbers(self, node: fx.Node, old: fx.Node, ops: _Ops) -> None:
        """Where the same ops run, they must run with the same factors: a scale read off a shape would differ."""
        before = self.propagation.operations.get(old, [])
        if [one.name for one in before] != [name for name, _ in ops]:
            return
        for one, (_, now) in zip(before, ops, strict=True):
            pairs = zip(one.numbers, now, strict=False)
            if len(one.numbers) != len(now) or not all(math.isclose(a, b, rel_tol=1e-9) or a == b for a, b in pairs):
                first = f"node {node.name} computes with {now} where the original has {one.numbers} ({one.name})."
                raise VerifyError(
                    explain(first, at=_place(node), mend="freeze the channels that the number is read off")
                )


def _place(node: fx.Node) -> str:
    return f"{node.meta.get('module', '')} {node.meta.get('source', '')}".strip()
