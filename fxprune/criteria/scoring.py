"""From a criterion, by name or a user's own, to checked scores of a group."""

from __future__ import annotations

import inspect
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from fxprune.criteria.activation import ActivationMean, ActivationVariance, Wanda
from fxprune.criteria.magnitude import LAMP, BatchNormScale, GroupNorm, Magnitude
from fxprune.criteria.median import FPGM
from fxprune.criteria.sensitivity import Hessian, Taylor
from fxprune.evidence import Evidence
from fxprune_passes.errors import PlanError, explain
from fxprune_passes.groups import ChannelGroup

Criterion = Callable[..., Any]


@dataclass(frozen=True)
class Random:
    """Drawn uniformly from [0, 1); a group's scores follow from the seed and its name."""

    seed: int = 0
    reads: ClassVar[tuple[str, ...]] = ()
    comparable: ClassVar[bool] = True

    def __call__(self, group: ChannelGroup) -> torch.Tensor:
        """``(group.size,)``."""
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed} {group.name}".encode()))
        return torch.rand(group.size, generator=generator)


NAMES: dict[str, Criterion] = {
    "l1": Magnitude(p=1),
    "l2": Magnitude(p=2),
    "bn_scale": BatchNormScale(),
    "group_norm": GroupNorm(),
    "lamp": LAMP(),
    "fpgm": FPGM(),
    "random": Random(),
    "taylor": Taylor(),
    "hessian": Hessian(),
    "activation_mean": ActivationMean(),
    "activation_variance": ActivationVariance(),
    "wanda": Wanda(),
}

NEEDED = {"weights": (), "gradients": ("batches", "loss"), "activations": ("batches",)}
"""What criteria read, and the options that it needs."""


def options_of(criterion: Criterion) -> set[str] | None:
    """Which of ``batches`` and ``loss`` a criterion reads, if it declares that; None if it does not.

    Raises:
        PlanError: It declares something else.
    """
    reads = getattr(criterion, "reads", None)
    if reads is None:
        return None
    if not isinstance(reads, (tuple, list, set, frozenset)) or not set(reads) <= NEEDED.keys():
        known = ", ".join(map(repr, NEEDED))
        raise PlanError(explain(f"criterion {name_of(criterion)} has reads={reads!r}, expected a tuple of {known}."))
    return {option for one in reads for option in NEEDED[one]}


OF_GRADIENTS = tuple(name for name, one in NAMES.items() if "loss" in (options_of(one) or ()))
OF_DATA = tuple(name for name, one in NAMES.items() if options_of(one))
OF_WEIGHTS = tuple(name for name in NAMES if name not in OF_DATA)


def find_criterion(criterion: str | Criterion, seed: int) -> Criterion:
    """A criterion by name, or a user's own.

    Raises:
        PlanError: The name is unknown, or it is neither a name nor a function.
    """
    if callable(criterion) and not isinstance(criterion, type):
        return criterion
    if not isinstance(criterion, str) or criterion not in NAMES:
        mend = f"{criterion.__name__}() is one" if isinstance(criterion, type) else ""
        first = f"criterion {criterion!r} is unknown, expected one of {', '.join(NAMES)} or a function."
        raise PlanError(explain(first, mend=mend))
    return Random(seed) if criterion == "random" else NAMES[criterion]


def check_given(criterion: Criterion, name: str, given: Mapping[str, object]) -> None:
    """Refuse data that a criterion says it does not read, before any of it runs.

    Args:
        criterion: One that declares nothing may read anything: :meth:`Scorer.score` finds out.
        name: What it is called.
        given: ``batches`` and ``loss``; None where they are not given.

    Raises:
        PlanError: It reads one of them not.
    """
    options = options_of(criterion)
    if options is not None:
        _refuse_unread(name, [option for option, one in given.items() if one is not None and option not in options])


def _refuse_unread(name: str, unread: Sequence[str]) -> None:
    if unread:
        known = OF_GRADIENTS if "loss" in unread else OF_DATA
        mend = f"leave out {' and '.join(unread)}, or a criterion that reads {unread[-1]}: {', '.join(known)}"
        raise PlanError(explain(f"criterion {name} reads no {unread[0]}, expected {unread[0]}=None.", mend=mend))


def name_of(criterion: str | Criterion) -> str:
    """What a criterion is called in messages."""
    return criterion if isinstance(criterion, str) else getattr(criterion, "__name__", repr(criterion))


class Scorer:
    """Scores groups, each one once."""

    def __init__(self, criterion: str | Criterion, evidence: Evidence) -> None:
        """Find the criterion.

        Args:
            criterion: A name, or ``criterion(group) -> scores (n,)``; with a parameter ``evidence`` it gets that too.
            evidence: What the data says, gathered when the criterion asks; its seed is that of ``"random"``.

        Raises:
            PlanError: The name is unknown.
        """
        self.name = name_of(criterion)
        self.criterion = find_criterion(criterion, evidence.seed)
        self.evidence = evidence
        self._more = {"evidence": evidence} if _takes_evidence(self.criterion) else {}
        self._scores: dict[str, torch.Tensor | None] = {}

    def __call__(self, group: ChannelGroup) -> torch.Tensor | None:
        """The scores of a group's channels, ``(group.size,)``, float64; None where the criterion has none.

        They are rounded to the 24 bits of a float32, so that sums in another order give the same ranking.

        Raises:
            PlanError: The scores have the wrong shape, or hold NaN; or the criterion misses data.
        """
        if group.name not in self._scores:
            scores = self.criterion(group, **self._more)
            self._scores[group.name] = None if scores is None else _rounded(self._checked(group, scores))
        return self._scores[group.name]

    @property
    def comparable(self) -> bool:
        """Whether scores of different groups compare as they are; those of a user's own do if it says so."""
        return bool(getattr(self.criterion, "comparable", False))

    def score(self, groups: Iterable[ChannelGroup]) -> None:
        """Score groups ahead.

        Raises:
            PlanError: A group's scores are refused, no group has any, or the criterion read no data that was given.
        """
        scores = [self(group) for group in groups]
        if scores and all(one is None for one in scores):
            first = f"criterion {self.name} has no score for any of the {len(scores)} channel groups."
            raise PlanError(explain(first, mend='another criterion ("l2")'))
        if scores:
            _refuse_unread(self.name, self.evidence.unread)

    def left_out(self) -> dict[str, str]:
        """The groups that were asked for and have no scores, and why."""
        silent = [name for name, scores in self._scores.items() if scores is None]
        return dict.fromkeys(silent, f"criterion {self.name} has no score for it")

    def _checked(self, group: ChannelGroup, scores: Any) -> torch.Tensor:
        at = f"channel group {group.name!r}"
        try:
            result = torch.as_tensor(scores).detach()
        except (TypeError, ValueError, RuntimeError) as error:
            first = f"criterion {self.name} gave a {type(scores).__name__}, expected scores of shape ({group.size},)."
            raise PlanError(explain(first, at=at)) from error
        if tuple(result.shape) != (group.size,):
            first = f"criterion {self.name} gave scores of shape {tuple(result.shape)}, expected ({group.size},)."
            raise PlanError(explain(first, at=at))
        if result.is_complex():
            raise PlanError(explain(f"criterion {self.name} gave complex scores, expected real ones.", at=at))
        result = result.double().cpu()
        if result.isnan().any():
            count = int(result.isnan().sum())
            first = f"criterion {self.name} gave NaN for {count} of {group.size} channels."
            raise PlanError(explain(first, at=at, mend="check the weights for NaN"))
        return result


def _takes_evidence(criterion: Criterion) -> bool:
    try:
        return "evidence" in inspect.signature(criterion).parameters
    except (TypeError, ValueError):  # a builtin
        return False


def _rounded(scores: torch.Tensor) -> torch.Tensor:
    mantissa, exponent = torch.frexp(scores)
    return mantissa.float().double() * torch.pow(2.0, exponent.double())
