"""Rules: the equations of every supported ATen op, one file a family."""

from fxprune_passes.rules import (  # noqa: F401  (imported to register)
    contraction,
    factories,
    movement,
    normalization,
    pointwise,
    pooling,
    reduction,
    views,
    vision,
    writing,
)
from fxprune_passes.rules.alike import state_alike
from fxprune_passes.rules.products import Product, products, recurrent_products
from fxprune_passes.rules.recurrent import is_recurrent, recurrent
from fxprune_passes.rules.registry import RULES, Op, Rule, find, is_pointwise, rule

__all__ = [
    "RULES",
    "Op",
    "Product",
    "Rule",
    "find",
    "is_pointwise",
    "is_recurrent",
    "products",
    "recurrent",
    "recurrent_products",
    "rule",
    "state_alike",
]
