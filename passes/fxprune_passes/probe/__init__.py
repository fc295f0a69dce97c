"""Find out by running an op which axes it carries along: data movement, and axes whose slices it treats alike.

Two tests on real tensors, in float64 where the op takes it:

- *Alike*: an axis of an input and one of the output go together if a changed slice of the one changes that slice of the
  other alone, and if the op on kept slices is the kept slices of the op. The choices of slices are the binary digits of
  the slice numbers and their opposites: for any two slices, one choice keeps the first without the second, so that what
  one slice of the output is cannot depend on another slice of the input, nor on how many there are.
- *Moved*: unique numbers go in, and every number that comes out is one of them, at a place that factorises into one
  index vector per axis.

Nothing is concluded from an op that draws random numbers, changes its inputs, is large or slow.
"""

from fxprune_passes.probe.found import Found, probe
from fxprune_passes.probe.movement import Moved
from fxprune_passes.probe.runs import Like, tensors_of

__all__ = ["Found", "Like", "Moved", "probe", "tensors_of"]
