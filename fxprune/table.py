"""How long every layer of a model takes at any widths, from a table of measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from torch import fx, nn
from tqdm import tqdm

from fxprune.analysis import Analysis
from fxprune.grids import BLOCK, LEVELS, Grid, level_vectors
from fxprune.kinds import Kind, kinds_of, value_of
from fxprune.layers import LayerTimer
from fxprune.measure import timeable
from fxprune.ranks import check_same, failing_together, first_of_ranks, mean_over_ranks, rank
from fxprune.stored import Stored
from fxprune.widths import nearest

Build = Callable[[Mapping[str, int]], fx.GraphModule]
"""Numbers of channels by group -> the model of these widths."""


class Table:
    """Seconds of a model's layers by what its groups keep.

    Layers are timed one by one, in models of a few widths, and only those that no file of measurements knows. In
    between, seconds are interpolated linearly over the widths of a layer's axes. Under ``torch.distributed`` seconds
    are means over all processes, and known is what the first one knows.

    Args:
        analysis: Of the model.
        model: Its weights; only read.
        allowed: The numbers of channels that groups may keep; others stay whole.
        stored: Measurements so far.
    """

    def __init__(
        self, analysis: Analysis, model: nn.Module, allowed: Mapping[str, Sequence[int]], stored: Stored
    ) -> None:
        self.kinds = kinds_of(analysis, model)
        self.names = [group.name for group in analysis.groups]
        self._whole = [group.size for group in analysis.groups]
        self._allowed = {place: list(allowed[name]) for place, name in enumerate(self.names) if name in allowed}
        active = {place for place, counts in self._allowed.items() if len(counts) > 1}
        self._coordinates = [kind.coordinates(active) for kind in self.kinds]
        levels = level_vectors(self._coordinates, active) if active else ()
        self._samples = [self._whole, *(self._vector(one) for one in levels)]
        self._stored = stored
        self._grids: list[Grid] = []
        self._known: dict[tuple[int, tuple[float, ...], float], float] = {}

    def measure(self, build: Build, bound: Mapping[str, object], threads: int) -> None:
        """Time what is not known yet.

        Args:
            build: Makes the model of some widths.
            bound: Example inputs by name of the placeholder.
            threads: Of the CPU.
        """
        self._agree()
        known, found = self._stored.seconds, dict[str, float]()
        missing = [one for one in self._samples if any(kind.signature(one) not in known for kind in self.kinds)]
        hidden = None if rank() == 0 else True
        with failing_together("time their layers"):
            for vector in tqdm(missing, "latency", leave=False, disable=hidden, unit="model"):
                marks = {kind.signature(vector): kind.name for kind in self.kinds}
                wanted = {mark: name for mark, name in marks.items() if mark not in known and mark not in found}
                if wanted:
                    counts = dict(zip(self.names, vector, strict=True))
                    times = _times(build(counts), wanted.values(), bound, threads)
                    found.update({mark: times.get(name, 0.0) for mark, name in wanted.items()})
        if found:
            self._stored.add(dict(zip(found, mean_over_ranks([*found.values()]), strict=True)))
        self._grids = [self._grid(*one) for one in zip(self.kinds, self._coordinates, strict=True)]

    def _agree(self) -> None:
        """Know what the first process knows, so that all time the same layers."""
        marks = list(dict.fromkeys(kind.signature(one) for one in self._samples for kind in self.kinds))
        check_same(" ".join(marks), "the layers to time")
        known = first_of_ranks([self._stored.seconds.get(mark, math.nan) for mark in marks])
        self._stored.seconds = {mark: one for mark, one in zip(marks, known, strict=True) if not math.isnan(one)}

    def seconds(self, counts: Mapping[str, int]) -> float:
        """The sum over all layers, where groups keep these numbers of channels; others stay whole."""
        return sum(self._each(self.vector(counts)))

    def whole(self) -> float:
        """The sum over all layers of the model as it is."""
        return sum(kind.times * self._stored.seconds[kind.signature(self._whole)] for kind in self.kinds)

    def saved(self, counts: Mapping[str, int]) -> dict[str, float]:
        """About what each group would save with a single channel: layers are as quick as they have few elements."""
        vector, result = self.vector(counts), dict[str, float]()
        for kind, seconds in zip(self.kinds, self._each(vector), strict=True):
            for group in (one for one in kind.groups() if vector[one] > 1):
                single = [1 if place == group else count for place, count in enumerate(vector)]
                share = 1 - kind.elements(single) / kind.elements(vector)
                result[self.names[group]] = result.get(self.names[group], 0.0) + seconds * share
        return result

    def vector(self, counts: Mapping[str, int]) -> list[int]:
        """Numbers of channels in the order of the groups."""
        return [counts.get(name, size) for name, size in zip(self.names, self._whole, strict=True)]

    def _each(self, vector: Sequence[int]) -> Iterable[float]:
        for place, kind in enumerate(self.kinds):
            sizes = tuple(value_of(one, vector) for one in self._coordinates[place])
            elements = 0.0 if self._grids[place].is_full else kind.elements(vector)
            key = place, sizes, elements
            if key not in self._known:
                self._known[key] = kind.times * self._grids[place].at(sizes, elements)
            yield self._known[key]

    def _grid(self, kind: Kind, coordinates: Sequence[object]) -> Grid:
        points, elements = dict[tuple[float, ...], float](), dict[float, float]()
        place = self.kinds.index(kind)
        for vector in self._samples:
            seconds = self._stored.seconds[kind.signature(vector)]
            points[tuple(value_of(one, vector) for one in self._coordinates[place])] = seconds
            elements[kind.elements(vector)] = seconds
        return Grid(points, elements)

    def _vector(self, levels: Mapping[int, int]) -> list[int]:
        """Numbers of channels at some levels: the fewest at the lowest, all at the highest."""
        vector = [
            self._allowed[place][-1] if place in self._allowed else size for place, size in enumerate(self._whole)
        ]
        for place, level in levels.items():
            vector[place] = _at_level(self._allowed[place], level / (LEVELS - 1))
        return vector


def _at_level(counts: Sequence[int], level: float) -> int:
    """A number of channels: the fewest at level 0, all at 1, in between whole blocks of them if there are any."""
    if level in (0, 1):
        return counts[0] if level == 0 else counts[-1]
    blocks = [count for count in counts if count % BLOCK == 0] or list(counts)
    return nearest([*blocks, counts[-1]] if blocks[-1] < counts[-1] else blocks, level * counts[-1])


def _times(model: fx.GraphModule, wanted: Iterable[str], bound: Mapping[str, object], threads: int) -> dict[str, float]:
    """Seconds by the name that nodes had in the captured graph; what a mend writes before a node counts with it."""
    names, homes, waiting = set(wanted), dict[str, str](), list[str]()
    for node in model.graph.nodes:
        waiting.append(node.name)
        if node.op != "get_attr" and "origin" in node.meta:
            homes.update(dict.fromkeys(waiting, node.meta["origin"]))
            waiting = []
    with timeable([model]):
        timed = LayerTimer(model, bound, lambda node: homes.get(node.name) in names, threads).time()
    result: dict[str, float] = {}
    for name, seconds in timed.items():
        result[homes[name]] = result.get(homes[name], 0.0) + seconds
    return result
