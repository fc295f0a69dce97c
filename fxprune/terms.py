"""Axis terms as plain data: how a plan says, without the model, what each parameter axis keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fxprune_passes.axes import Cat, Dim, Prod, Take, Term, fixed, resolve

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


def from_expression(expression: Expression, dims: Mapping[str, Dim]) -> Term:
    """The term that :func:`to_expression` wrote, over the Dims of the groups."""
    if isinstance(expression, int):
        return fixed(expression, "whole")
    if isinstance(expression, str):
        return dims[expression]
    if "take" in expression:
        index = tuple(expression["index"])
        return Take(from_expression(expression["take"], dims), index, len(index))
    parts = tuple(from_expression(one, dims) for one in expression["cat" if "cat" in expression else "prod"])
    if "cat" in expression:
        return Cat(parts, sum(part.size for part in parts))
    return Prod(parts, math.prod(part.size for part in parts))
