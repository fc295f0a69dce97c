"""Error types, by whose fault it is, and the one function that lays out a message."""

from __future__ import annotations

from fxprune_passes.sources import code_at


class FxPruneError(Exception):
    """Root of every error that fxprune raises on purpose."""


class PlanError(FxPruneError):
    """The plan asks for something that the model does not allow."""


class CaptureError(FxPruneError):
    """The model, or its example inputs, cannot be captured as a graph."""


class UnsupportedError(FxPruneError):
    """The model is fine; fxprune cannot rewrite it yet."""


class VerifyError(FxPruneError):
    """The rewritten graph is not what the terms predict: a bug in a pass, or a changed model."""


class RuleError(FxPruneError):
    """A rule or a mend is registered for what cannot have it, or has one."""


class ArtifactError(FxPruneError):
    """A file cannot be read or written."""


def explain(first: str, *, at: str = "", why: str = "", mend: str = "") -> str:
    """Lay out a message: what/expected/got first, then where, why, and what to do.

    Args:
        first: One line: what was wrong, what was expected, what was found.
        at: Where in the model; the text of a source line that it names is put below.
        why: The reason, one fact a line.
        mend: What the user can do.

    Returns:
        The message, one labelled line for each part that is not empty.

    Example:
        >>> print(explain("plan keeps index 64 of 64.", mend="indices run from 0 to 63"))
        plan keeps index 64 of 64.
          mend    indices run from 0 to 63
    """
    parts = [first]
    at = "\n".join(filter(None, (at, code_at(at))))
    for label, text in (("at", at), ("why", why), ("mend", mend)):
        for number, line in enumerate(text.splitlines()):
            parts.append(f"  {label if number == 0 else '':<8}{line}")
    return "\n".join(parts)
