"""Plans: which channels of each group stay, as plain data that can be read, saved and checked."""

from __future__ import annotations

import json
import math
import operator
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from fxprune.analysis import Analysis, analyse
from fxprune.choices import (
    Indices,
    blocks_of_member,
    check_blocks,
    check_free,
    count_of,
    is_by_block,
    kept_from,
    kept_of,
    settled,
)
from fxprune.indices import check_indices, resolve_keep
from fxprune.inputs import ExampleInputs, as_call, bind
from fxprune.program import Model, inputs_of
from fxprune.specs import from_spec, show_spec, to_spec
from fxprune.terms import Expression, from_expression, to_expression
from fxprune.wrappers import remembered, unwrap
from fxprune.zeros import ZerosReport, removable
from fxprune_passes.axes import Axes, Dim
from fxprune_passes.errors import ArtifactError, PlanError, explain
from fxprune_passes.kept import Kept
from fxprune_passes.masks import cut
from fxprune_passes.tensors import modules_of, tensors_of

_FORMAT = 1
_PLAIN = frozenset({type(None), bool, int, float, str})


@dataclass(frozen=True, slots=True)
class _Origin:
    """The analysis that a plan was made from, as long as its model is unchanged.

    The model is the one that the user holds: programs and masked models are read anew each time.
    """

    model: weakref.ReferenceType[Any]
    analysis: Analysis
    fingerprint: tuple[Any, ...]


@dataclass(frozen=True)
class Plan:
    """Which channels stay.

    Attributes:
        widths: Channels of each group before pruning.
        keep: Kept indices of each pruned group, ascending; groups not named stay whole. Where what stays differs from
            block to block (the groups of a convolution, the heads of an attention), a tuple of indices for each block,
            as many in each.
        inputs: What the model was analysed on (shapes, dtypes, plain values).
        axes: What each axis of each parameter is made of, in terms of the groups.
        emit: What the plan was made to compile to: ``"graph"`` or ``"module"``.
        left_out: Groups that stay whole since ``emit="module"`` keeps the line of the model's code that asks for it, or
            since the criterion has no score for them; and the reason.
        notes: What the graph was specialised to and what it leaves out; a loaded plan has none.
        report: What a plan of :meth:`from_zeros` rests on; None for any other.
        blocks: For each group whose indices are by block, the groups that number the blocks, the last one fastest.
    """

    widths: Mapping[str, int]
    keep: Mapping[str, Indices]
    inputs: Any
    axes: Mapping[str, tuple[Expression, ...]] = field(repr=False)
    shapes: Mapping[str, tuple[int, ...]] = field(repr=False)
    emit: str = "graph"
    left_out: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = field(default=(), repr=False, compare=False)
    report: ZerosReport | None = field(default=None, repr=False)
    blocks: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    _origin: _Origin | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_keep(
        cls,
        model: Model,
        example_inputs: ExampleInputs | None,
        keep: Mapping[str, Sequence[int] | Sequence[Sequence[int]]],
        *,
        emit: str = "graph",
    ) -> Plan:
        """Make a plan of explicit indices.

        Args:
            model: Any module, or an exported program; only read.
            example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those
                that an exported program holds.
            keep: Kept indices by channel group, or by any module or parameter that writes the channels: indices of
                that module's output channels. An empty list removes all of them. For a group that is free to, a list
                for each block (head, group of a convolution), all of one length.
            emit: ``"module"`` for a plan of a model whose code stays.

        Raises:
            PlanError: A name is unknown, ambiguous or frozen, an index is out of range, or indices cut channels
                that only go together, or blocks do not keep as many channels.
        """
        analysis = analyse(model, example_inputs, emit=emit)
        chosen: dict[str, Indices] = {}
        for member, indices in keep.items():
            for name, kept in _resolved(analysis, member, indices).items():
                if chosen.setdefault(name, kept) != kept:
                    first = f"{member!r} and an earlier entry ask for different channels of group {name!r}."
                    raise PlanError(explain(first, mend="they share their channels: name one of them"))
        return make_plan(model, example_inputs, analysis, chosen)

    @classmethod
    def from_zeros(cls, model: Model, example_inputs: ExampleInputs | None, *, tolerance: float = 0.0) -> Plan:
        """Make a plan that removes every channel that can go without a change of the function.

        A channel goes where its producers write a constant, whatever the inputs are (a zero filter leaves its bias),
        or where nobody reads it. The constants go into the biases of the layers that read them; behind zero padding,
        into one map per layer. Masks of ``torch.nn.utils.prune`` count, and plain zeros. The plan compiles with
        statistics over all channels.

        Args:
            model: Any module, or an exported program; only read.
            example_inputs: A tensor, a tuple of positional arguments or a dict of keyword arguments; None for those
                that an exported program holds.
            tolerance: 0 for exact zeros. Above it, small weights are taken for zeros too, up to the largest magnitude
                by which no output changes by more than this, relative to the largest output: measured on the example
                inputs in float64, and reported.

        Returns:
            The plan; its ``report`` says by which argument channels go, and what stays though it holds zeros.

        Raises:
            PlanError: A weight is NaN or infinite.
            CaptureError: The model cannot be captured.

        Example:
            >>> import fxprune
            >>> model = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
            >>> model[0].weight.data[2:] = 0
            >>> plan = fxprune.Plan.from_zeros(model, torch.zeros(1, 8))
            >>> plan.keep
            {'0': (0, 1)}
        """
        if not (isinstance(tolerance, (int, float)) and math.isfinite(tolerance) and tolerance >= 0):
            raise PlanError(explain(f"tolerance={tolerance!r}, expected a number of 0 or more."))
        analysis, module = analyse(model, example_inputs), unwrap(model)[0]
        inputs = bind(module, *as_call(inputs_of(model, example_inputs)))
        keep, report = removable(analysis, module, inputs, tolerance=tolerance)
        return make_plan(model, example_inputs, analysis, keep, report=report)

    def kept(self, name: str) -> tuple[torch.Tensor, ...]:
        """Kept indices of every dim of a parameter or buffer, int64 tensors.

        Raises:
            PlanError: The model has no such parameter, or what stays of one dim depends on the place in another:
                :meth:`cut` does it all the same.
        """
        axes, kept = self.part(name)
        result = []
        for dim, axis in enumerate(axes):
            try:
                (places,) = kept.places((axis,))
            except LookupError as error:
                first = f"what the plan keeps of {name!r} dim {dim} differs from block to block of another dim."
                raise PlanError(explain(first, mend=f"plan.cut({name!r}, tensor)")) from error
            result.append(torch.arange(axis.size) if places is None else places.sort().indices[(places < 0).sum() :])
        return tuple(result)

    def cut(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """What the plan keeps of a parameter or buffer, or of a tensor of its shape, such as its gradient; a copy.

        Raises:
            PlanError: The model has no such parameter, or the tensor has another shape.
        """
        axes, kept = self.part(name)
        if tuple(tensor.shape) != self.shapes[name]:
            raise PlanError(explain(f"{name!r} has shape {self.shapes[name]}, got {tuple(tensor.shape)}."))
        return cut(tensor.detach(), axes, kept)

    def part(self, name: str) -> tuple[Axes, Kept]:
        """The axes of a parameter or buffer, and what the plan keeps of them.

        Raises:
            PlanError: The model has no such parameter.
        """
        if name not in self.axes:
            raise PlanError(
                explain(f"the plan knows no parameter or buffer {name!r}.", mend="names are those of the state dict")
            )
        dims = {group: Dim(size) for group, size in self.widths.items()}
        return tuple(from_expression(axis, dims) for axis in self.axes[name]), kept_from(self.keep, dims, self.blocks)

    def save(self, path: str | Path) -> None:
        """Write the plan as readable JSON.

        Raises:
            ArtifactError: The file cannot be written.
        """
        document = {
            "format": _FORMAT,
            "inputs": self.inputs,
            "emit": self.emit,
            "left_out": dict(self.left_out),
            **({} if self.report is None else {"zeros": self.report.document()}),
            "groups": {
                name: {"width": width, "keep": _or_all(self.keep.get(name)), **self._blocks_of(name)}
                for name, width in self.widths.items()
            },
            "parameters": {name: {"shape": self.shapes[name], "axes": axes} for name, axes in self.axes.items()},
        }
        lines = [f"  {json.dumps(key)}: {_layout(value)}" for key, value in document.items()]
        try:
            Path(path).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        except OSError as error:
            raise ArtifactError(explain(f"cannot write the plan to {str(path)!r}: {error.strerror}.")) from error

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan that :meth:`save` wrote.

        Raises:
            ArtifactError: The file is missing, is no JSON, or is no plan.
        """
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ArtifactError(explain(f"cannot read the plan {str(path)!r}: {error.strerror}.")) from error
        except ValueError as error:
            raise ArtifactError(explain(f"{str(path)!r} is not JSON: {error}.")) from error
        try:
            if document["format"] != _FORMAT:
                raise ArtifactError(explain(f"{str(path)!r} has plan format {document['format']}, expected {_FORMAT}."))
            groups, parameters = document["groups"], document["parameters"]
            plan = cls(
                widths={name: int(group["width"]) for name, group in groups.items()},
                keep={name: _loaded(group["keep"]) for name, group in groups.items() if group["keep"] != "all"},
                inputs=document["inputs"],
                axes={name: tuple(one["axes"]) for name, one in parameters.items()},
                shapes={name: tuple(one["shape"]) for name, one in parameters.items()},
                emit=document.get("emit", "graph"),
                left_out=document.get("left_out", {}),
                report=ZerosReport.of_document(document["zeros"]) if "zeros" in document else None,
                blocks={name: tuple(group["blocks"]) for name, group in groups.items() if "blocks" in group},
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ArtifactError(explain(f"{str(path)!r} is no plan: {error!r} is missing or malformed.")) from error
        for name, kept in plan.keep.items():
            plan._check(name, kept)
        return plan

    def _blocks_of(self, name: str) -> dict[str, Any]:
        return {"blocks": list(self.blocks[name])} if name in self.blocks else {}

    def _check(self, name: str, kept: Sequence[Any]) -> None:
        """Refuse indices that were changed in the file, and do not fit."""
        if not is_by_block(kept):
            check_indices(name, self.widths[name], kept)
            return
        outers = self.blocks.get(name, ())
        if unknown := [one for one in outers if one not in self.widths]:
            raise ArtifactError(explain(f"{name!r} has blocks of {unknown[0]!r}, which is no group of the plan."))
        check_blocks(name, self.widths[name], kept, math.prod(self.widths[one] for one in outers) if outers else 1)

    def __str__(self) -> str:
        """A table of the groups, channels before, kept, and share, and the notes."""
        rows = [
            (
                name,
                width,
                f"{count_of(self.keep.get(name, range(width)))}{self._in_each(name)}",
                f"{count_of(self.keep.get(name, range(width))) / width:.0%}",
            )
            for name, width in self.widths.items()
        ]
        table = tabulate(
            rows, headers=("channel group", "channels", "kept", "share"), colalign=("left", "right", "right", "right")
        )
        text = f"plan for inputs {show_spec(self.inputs)}\n{table}" if rows else "plan: nothing can be pruned"
        left_out = [f"left out: {name}, since {reason}" for name, reason in self.left_out.items()]
        zeros = [] if self.report is None else ["", str(self.report)]
        return "\n".join([text, *left_out, *zeros, *(f"note: {note}" for note in self.notes)])

    def _in_each(self, name: str) -> str:
        return f" in each of {len(self.keep[name])}" if name in self.blocks else ""

    def analysis_of(self, model: Model, emit: str = "graph") -> Analysis:
        """The analysis of a model that this plan fits: the plan's own if the model is the one it was made from.

        Args:
            model: Only read.
            emit: What the analysis is for: ``"graph"`` or ``"module"``.

        Raises:
            PlanError: The plan was made for another model.
        """
        module, _ = unwrap(model)
        origin = self._origin
        known = origin is not None and origin.model() is remembered(model) and origin.analysis.emit == emit
        if origin is not None and known and origin.fingerprint == fingerprint(module):
            return origin.analysis
        check_shapes(self.shapes, module)
        analysis = analyse(model, from_spec(self.inputs), emit=emit)
        widths = {group.name: group.size for group in analysis.groups}
        if widths != dict(self.widths):
            differing = sorted(set(widths.items()) ^ set(self.widths.items()))[:3]
            first = f"plan was made for another model: channel groups differ, first {differing}."
            raise PlanError(explain(first, mend="make a plan for this model"))
        for name, outers in self.blocks.items():
            if (now := _outer_names(analysis, name)) != tuple(outers):
                first = f"plan keeps {name!r} by blocks of {', '.join(outers)}, expected {', '.join(now) or 'none'}."
                raise PlanError(explain(first, mend="make a plan for this model"))
        return analysis


def make_plan(
    model: Model,
    example_inputs: ExampleInputs | None,
    analysis: Analysis,
    keep: Mapping[str, Indices],
    left_out: Mapping[str, str] | None = None,
    report: ZerosReport | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """A plan that remembers its analysis; groups kept whole are left out."""
    module, groups = unwrap(model)[0], analysis.groups
    axes = {name: tuple(to_expression(axis, groups.names) for axis in axes) for name, axes in groups.parameters.items()}
    shapes = {name: tuple(axis.size for axis in axes) for name, axes in groups.parameters.items()}
    widths = {group.name: group.size for group in groups}
    keep = {name: settled(kept) for name, kept in keep.items() if count_of(kept) < widths[name]}
    blocks = {name: _outer_names(analysis, name) for name, kept in keep.items() if is_by_block(kept)}
    origin = _Origin(weakref.ref(remembered(model)), analysis, fingerprint(module))
    left_out = dict(left_out or {})
    spec = to_spec(inputs_of(model, example_inputs))
    notes = (*groups.notes, *notes)
    plan = Plan(widths, keep, spec, axes, shapes, analysis.emit, left_out, notes, report, blocks, origin)
    kept_of(analysis, keep)  # blocks in blocks are refused
    return plan


def _resolved(analysis: Analysis, member: str, indices: Sequence[Any]) -> dict[str, Indices]:
    """Kept indices by group, of a member that a user names."""
    if not is_by_block(indices):
        found = blocks_of_member(analysis, member, indices)
        return found or dict(resolve_keep(analysis.groups, member, list(indices)))
    group = analysis.groups[member]
    return {group.name: check_free(analysis, group, indices)}


def _outer_names(analysis: Analysis, name: str) -> tuple[str, ...]:
    return tuple(analysis.groups.names[one] for one in analysis.freedom(analysis.groups[name]).outers)


def fingerprint(model: nn.Module) -> tuple[Any, ...]:
    """What must not change between analysis and rewrite: structure, modes, shapes and dtypes."""
    tensors = tensors_of(model).items()
    modules = tuple((name, type(one), *_settings(one)) for name, one in modules_of(model).items())
    return modules, tuple((name, tuple(one.shape), one.dtype, str(one.device)) for name, one in tensors)


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """The plain attributes of a module, sizes, modes and options, and the shapes of tensors that are attributes."""
    for name, value in vars(module).items():
        kind = type(value)
        if kind in _PLAIN or (kind is tuple and all(type(one) in _PLAIN for one in value)):
            yield name, value
        elif isinstance(value, torch.Tensor):
            yield name, (tuple(value.shape), value.dtype)


def check_shapes(shapes: Mapping[str, tuple[int, ...]], model: nn.Module) -> None:
    """Refuse a plan that was made for another model, before anything is analysed."""
    for name, shape in shapes.items():
        got = _shape_of(model, name)
        if got is not None and got != shape:
            first = f"plan was made for another model: {name!r} has shape {got}, expected {shape}."
            raise PlanError(explain(first, mend="make a plan for this model"))
        if got is None and "." in name:
            first = f"plan was made for another model: this one has no parameter or buffer {name!r}, shape {shape}."
            raise PlanError(explain(first, mend="make a plan for this model"))


def _shape_of(model: nn.Module, name: str) -> tuple[int, ...] | None:
    """The shape of a parameter, a buffer or another tensor that a module holds; None if there is none."""
    try:
        found = operator.attrgetter(name)(model)
    except AttributeError:
        return None
    return tuple(found.shape) if isinstance(found, torch.Tensor) else None


def _or_all(kept: Indices | None) -> Any:
    return "all" if kept is None else list(kept)


def _loaded(kept: list[Any]) -> Indices:
    return tuple(tuple(one) if isinstance(one, list) else one for one in kept)


def _layout(value: Any) -> str:
    """One entry a line for tables, everything else on one line."""
    if isinstance(value, dict) and value and all(isinstance(one, dict) for one in value.values()):
        rows = [f"    {json.dumps(key)}: {json.dumps(one)}" for key, one in value.items()]
        return "{\n" + ",\n".join(rows) + "\n  }"
    return json.dumps(value)
