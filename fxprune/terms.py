"""Axis terms as plain data: how a plan says, without the model, what each parameter axis keeps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fxprune_passes.axes import Cat, Dim, Prod, Take, Term, resolve

Expression = int | str | dict[str, Any]


def to_expression(term: Term, names: Mapping[Dim, str]) -> Expression:
    """A term as JSON: a group's name, a size that stays whole, or a dict with the key cat, prod or take."""
    term = resolve(term)
    if isinstance(term, Dim):
        return names.get(term, term.size)
    if isinstance(term, Take):
        return {"take": to_expression(term.base, names), "index": list(term.index)}
    parts = term.parts if isinstance(term, Cat) else term.factors
    expressions = [to_expression(part, names) for part in parts]
    if all(isinstance(one, int) for one in expressions):
        return term.size
    return {"prod" if isinstance(term, Prod) else "cat": expressions}


def evaluate(expression: Expression, masks: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The kept mask of an axis, bool ``(size,)``, from the kept masks of the groups."""
    if isinstance(expression, int):
        return torch.ones(expression, dtype=torch.bool)
    if isinstance(expression, str):
        return masks[expression]
    if "take" in expression:
        return evaluate(expression["take"], masks)[torch.tensor(expression["index"])]
    parts = [evaluate(one, masks) for one in expression["cat" if "cat" in expression else "prod"]]
    if "cat" in expression:
        return torch.cat(parts)
    result = parts[0]
    for factor in parts[1:]:
        result = (result[:, None] & factor).flatten()
    return result
