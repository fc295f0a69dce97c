"""What verification found: every check with its error, and the first node that is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from tabulate import tabulate

from fxprune_passes.errors import VerifyError, explain


@dataclass(frozen=True, slots=True)
class Case:
    """One check.

    Attributes:
        name: What was compared.
        ok: Whether it holds; None where it could not be asked.
        error: Largest relative error of the outputs, where numbers were compared.
        note: What was found instead.
    """

    name: str
    ok: bool | None
    error: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Wrong:
    """The first node, parameter or buffer that is not as expected.

    Attributes:
        name: Node of the original graph, or parameter name.
        detail: What was found there.
        module: Path of the module that the node is in.
        source: File and line of the model's code.
    """

    name: str
    detail: str
    module: str = ""
    source: str = ""

    def __str__(self) -> str:
        """Read as ``add in layer1.0 (resnet.py:102): relative error 0.3``."""
        inside = f" in {self.module}" if self.module else ""
        line = f" ({self.source})" if self.source else ""
        return f"{self.name}{inside}{line}: {self.detail}"


@dataclass(frozen=True, slots=True)
class Report:
    """The result of :func:`fxprune.verify`.

    Attributes:
        cases: Every check that was made.
        first_wrong: Where the first check that fails goes wrong, or None.
        tolerance: Relative errors up to this are rounding.
        statistics: Over which channels means and variances run.
        notes: What a reader must know of how the numbers were taken.
        against: What the compiled graph is compared with.
    """

    cases: tuple[Case, ...]
    first_wrong: Wrong | None
    tolerance: float
    statistics: str
    notes: tuple[str, ...] = ()
    against: str = "the masked original"

    @property
    def ok(self) -> bool:
        """Whether every check that could be made holds."""
        return all(case.ok is not False for case in self.cases)

    @property
    def max_error(self) -> float:
        """Largest relative error of all outputs of all checks."""
        return max((case.error for case in self.cases if case.error is not None), default=0.0)

    def __str__(self) -> str:
        """A verdict, a table of the checks, and the first wrong node."""
        verdict = "verified: the compiled graph is" if self.ok else "WRONG: the compiled graph is not"
        lines = [f'{verdict} {self.against} (statistics="{self.statistics}", tolerance {self.tolerance:.0e}).']
        rows = [(case.name, _said(case.ok), _number(case.error), case.note) for case in self.cases]
        table = tabulate(
            rows,
            headers=("check", "holds", "error", "found"),
            maxcolwidths=[None, None, None, 70],
            disable_numparse=True,
        )
        lines += [table, *(f"note: {note}" for note in self.notes)]
        return "\n".join([*lines, *([f"first wrong: {self.first_wrong}"] if self.first_wrong else [])])

    def raise_if_wrong(self) -> None:
        """Do nothing if all is well.

        Raises:
            VerifyError: A check failed; the message names the first wrong node.
        """
        if self.ok:
            return
        failed = next(case for case in self.cases if case.ok is False)
        wrong = self.first_wrong or Wrong("output", failed.note)
        first = f"compiled graph is wrong at {wrong.name!r}: {wrong.detail}."
        at = f"{wrong.module} {wrong.source}".strip()
        raise VerifyError(explain(first, at=at, why=": ".join(filter(None, (failed.name, failed.note)))))


def _said(ok: bool | None) -> str:
    return "not asked" if ok is None else "yes" if ok else "NO"


def _number(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"
