"""One comparison: the masked original and the compiled graph on the same weights and inputs, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_map

from fxprune.analysis import Analysis
from fxprune.coded import Units, draw, fill
from fxprune.difference import difference
from fxprune.inputs import as_call, bind
from fxprune.originals import install, original
from fxprune.origins import origin_of, reads_another
from fxprune.plans import Plan
from fxprune.report import Wrong
from fxprune.zeros import lossless, without_small
from fxprune_passes.errors import CaptureError, FxPruneError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.lossless import Lossless
from fxprune_passes.masked import Masked
from fxprune_passes.masks import cut
from fxprune_passes.steady import Steady, draws
from fxprune_passes.tensors import tensors_of
from fxprune_passes.wide import NodeError, Watch, Wide, precision, widen, widened

_ZERO_UP_TO_ROUNDING = 1e-4
Inputs = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """Both sides of a comparison. Every run works on private copies.

    Attributes:
        model: The original.
        small: The compiled graph module, or a module of the original's class.
        plan: Which channels stay.
        analysis: The captured original.
        kept: The plan in terms of the analysis.
        statistics: ``"kept"`` or ``"full"``.
        random: Whether some node draws random numbers.
        seed: For what is left to chance.
        facts: Of a plan from zeros: the original is then compared as it is, where its outputs read it.
        given: Tensors of ``small`` that hold the constants of removed channels, as they were before rounding.
    """

    model: nn.Module
    small: nn.Module
    plan: Plan
    analysis: Analysis
    kept: Kept
    statistics: str
    random: bool
    seed: int
    facts: Lossless | None = None
    given: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        small: nn.Module,
        plan: Plan,
        analysis: Analysis,
        kept: Kept,
        statistics: str,
        seed: int,
        facts: Lossless | None = None,
        given: Mapping[str, Sequence[float]] | None = None,
    ) -> Trial:
        """A comparison of what :func:`fxprune.compile` made with what it was made from."""
        random = any(draws(one.name for one in ops) for ops in analysis.propagation.operations.values())
        values = {name: torch.tensor(one, dtype=torch.float64) for name, one in (given or {}).items()}
        return cls(model, small, plan, analysis, kept, statistics, random, seed, facts, values)

    def refusal(self, inputs: Inputs) -> str:
        """Why the original does not run on these inputs at all; empty if it does."""
        reference = Wide(self._original(None), self._graph, tree_map(widen, inputs), epsilon=self._epsilon)
        try:
            self._run(reference)
        except NodeError as failure:
            return _first_line(failure.__cause__)
        return ""

    def error(self, units: Units | None, inputs: Inputs) -> float:
        """The largest relative error of the outputs.

        Args:
            units: What to fill the weights with; None leaves each side its own.
            inputs: Placeholder values by name.

        Raises:
            NodeError: The compiled graph does not run.
            CaptureError: The original does not run.
        """
        want, got = self._both(units, inputs, None, None)
        return difference(want, got)

    def first_wrong(self, units: Units | None, inputs: Inputs, tolerance: float) -> Wrong | None:
        """The first node of the compiled graph whose value is not the kept part of the original's."""
        expected: dict[str, Any] = {}
        found: list[Wrong] = []

        def keep(node: fx.Node, value: Any) -> None:
            if node not in self.analysis.propagation.constants:
                expected[node.name] = _cut(value, self.analysis.propagation.axes[node], self.kept)

        def compare(node: fx.Node, value: Any) -> None:
            origin = origin_of(node)
            if not found and origin in expected:
                want, got = expected[origin], _tensors(value)
                got = got if self.facts is None else _where_read(want, got, self._read(origin))
                error = difference(want, got, floor=_ZERO_UP_TO_ROUNDING)
                if error > tolerance:
                    found.append(self._wrong(node, _detail(want, value, error)))

        try:
            self._both(units, inputs, keep, compare)
        except NodeError as failure:
            found.append(self._wrong(failure.node, f"does not run: {_first_line(failure.__cause__)}"))
        return found[0] if found else None

    def _read(self, name: str) -> Any:
        """Bool, in place of each tensor of a node, what is left of it: which elements the outputs may depend on."""
        assert self.facts is not None
        node = next(one for one in self._graph.nodes if one.name == name)
        masks = self.facts.read_of(node)
        return _cut(masks, self.analysis.propagation.axes[node], self.kept)

    @property
    def _graph(self) -> fx.Graph:
        return self.analysis.capture.graph_module.graph

    @property
    def _epsilon(self) -> float:
        return torch.finfo(precision(self.model)).eps

    def _both(self, units: Units | None, inputs: Inputs, keep: Watch | None, compare: Watch | None) -> tuple[Any, Any]:
        reference, compiled = self._original(units), self._compiled()
        if units is not None:
            _transfer(reference, compiled, self.plan)
        _follow_modes(self.model, compiled)
        try:
            want = self._run(self._reference(reference, inputs, keep))
        except NodeError as failure:
            if isinstance(failure.__cause__, FxPruneError):
                raise failure.__cause__ from None
            first = f"the original does not run at {failure.node.format_node()}: {_first_line(failure.__cause__)}"
            mend = "pass inputs that the model takes: verify(..., inputs=...)"
            raise CaptureError(explain(first, mend=mend)) from failure
        graph = self.small.graph if isinstance(self.small, fx.GraphModule) else self._graph
        wide = Wide(compiled, graph, tree_map(widen, inputs), epsilon=self._epsilon, watch=compare)
        return want, self._run(wide)

    def _reference(self, module: nn.Module, inputs: Inputs, keep: Watch | None) -> Wide:
        """The original with zeros for the removed channels; as it is, where removing them changes nothing."""
        wide = tree_map(widen, inputs)
        if self.facts is not None:
            return Wide(module, self._graph, wide, epsilon=self._epsilon, watch=keep)
        propagation, statistics = self.analysis.propagation, self.statistics
        return Masked(module, propagation, self.kept, wide, statistics=statistics, epsilon=self._epsilon, watch=keep)

    def _original(self, units: Units | None) -> nn.Module:
        """The original in float64, with the tensors that capture found outside parameters and buffers."""
        reference = original(self.model, self.analysis.capture)
        if units is not None:
            fill(reference, units)
        if self.plan.report is not None:
            without_small(reference, self.plan.report.below)
        return reference

    def _compiled(self) -> nn.Module:
        compiled = widened(self.small)
        for name, tensor in tensors_of(self.small).items():
            if name in self.given:
                exact = self.given[name].view(tensor.shape).to(tensor.device)
                wide = tensors_of(compiled)[name].data
                wide.copy_(torch.where(exact.to(tensor.dtype) == tensor, exact, wide))  # what was not changed since
        compiled = compiled.to(_device(self.model))
        if not isinstance(self.small, fx.GraphModule):
            install(compiled, self.analysis.capture.strangers)
        if self.plan.report is not None:
            without_small(compiled, self.plan.report.below, dict(self.model.named_parameters()))
        return compiled

    def _run(self, interpreter: Wide) -> Any:
        with torch.random.fork_rng(devices=[]), Steady() if self.random else nullcontext():
            torch.default_generator.manual_seed(self.seed)
            return interpreter.result()

    def _wrong(self, node: fx.Node, detail: str) -> Wrong:
        target = f" (calls {node.target})" if node.op == "call_module" else ""
        other = reads_another(node, {one.name: one for one in self._graph.nodes})
        name, place = origin_of(node) or node.name, node.meta
        return Wrong(f"{name}{target}", detail + other, str(place.get("module", "")), str(place.get("source", "")))


def _cut(value: Any, axes: Any, kept: Kept) -> Any:
    """The kept part of every tensor in a node's value, None for everything else."""
    if isinstance(value, torch.Tensor) and isinstance(axes, tuple):
        return cut(value, axes, kept)
    if isinstance(value, (list, tuple)) and isinstance(axes, list):
        return [_cut(one, part, kept) for one, part in zip(value, axes, strict=True)]
    if isinstance(value, dict) and isinstance(axes, dict):
        return [_cut(one, axes[key], kept) for key, one in value.items()]
    return None


def _where_read(want: Any, got: Any, read: Any) -> Any:
    """What was got, with what was wanted in the places that nobody reads."""
    if isinstance(want, torch.Tensor) and isinstance(got, torch.Tensor) and want.shape == got.shape:
        return torch.where(_at_sizes_of(read, got), got, want) if isinstance(read, torch.Tensor) else want
    if isinstance(want, list) and isinstance(got, list) and isinstance(read, list):
        return [_where_read(*three) for three in zip(want, got, read, strict=True)]
    return got


def _at_sizes_of(read: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """What is read of a tensor of other sizes: along axes whose size changes, what is read at every place."""
    for dim, (size, wanted) in enumerate(zip(read.shape, value.shape, strict=True)):
        read = read if size == wanted else read.all(dim, keepdim=True)
    return read.to(value.device)


def lossless_of(analysis: Analysis, model: nn.Module, plan: Plan, seed: int = 0) -> Lossless:
    """What of a model's channels can go by the weights that it has, for a plan from zeros."""
    assert plan.report is not None
    inputs = bind(model, *as_call(draw(plan.inputs, seed)))
    return lossless(analysis, model, inputs, below=plan.report.below)


def _tensors(value: Any) -> Any:
    """The same nesting with None for everything that is no tensor."""
    if isinstance(value, torch.Tensor):
        return value
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return [_tensors(one) for one in value]
    return [_tensors(one) for one in value.values()] if isinstance(value, dict) else None


def _detail(want: Any, got: Any, error: float) -> str:
    if isinstance(want, torch.Tensor) and isinstance(got, torch.Tensor) and want.shape != got.shape:
        return f"shape {tuple(got.shape)}, expected {tuple(want.shape)}"
    return f"relative error {error:.1e}"


def _first_line(error: BaseException | None) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _transfer(reference: nn.Module, compiled: nn.Module, plan: Plan) -> None:
    """Give the compiled side the plan's slices of the reference's weights."""
    originals = tensors_of(reference)
    for name, tensor in tensors_of(compiled).items():
        if name in originals and name in plan.axes and (tensor.is_floating_point() or tensor.is_complex()):
            part = kept_slice(originals[name], plan, name)
            if part.shape == tensor.shape:
                tensor.data.copy_(part)


def kept_slice(tensor: torch.Tensor, plan: Plan, name: str) -> torch.Tensor:
    """What the plan keeps of a parameter or buffer."""
    axes, kept = plan.part(name)
    return cut(tensor.detach(), axes, kept)


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in tensors_of(model).values()), torch.device("cpu"))


def _follow_modes(model: nn.Module, compiled: nn.Module) -> None:
    """Train where the original trains."""
    modes = {name: module.training for name, module in model.named_modules(remove_duplicate=False)}
    for name, module in compiled.named_modules(remove_duplicate=False):
        module.training = modes.get(name, module.training)
