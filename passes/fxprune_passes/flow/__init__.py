"""What may depend on what: a run of a graph noted op by op, and the elements that no input can change."""

from fxprune_passes.flow import contraction, movement, pointwise, windows
from fxprune_passes.flow.tape import Tape, noted
from fxprune_passes.flow.values import Value, is_constant

__all__ = ["Tape", "Value", "contraction", "is_constant", "movement", "noted", "pointwise", "windows"]
