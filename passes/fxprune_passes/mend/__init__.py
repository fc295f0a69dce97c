"""Mends: how a node is written anew when its sizes change, one small function per target."""

from fxprune_passes.mend import grouped, movement, sizes  # noqa: F401  (imported to register)
from fxprune_passes.mend.inferred import moved
from fxprune_passes.mend.literals import spoken_of, unmended
from fxprune_passes.mend.modules import MODULES
from fxprune_passes.mend.reach import knows_statistics, opaque
from fxprune_passes.mend.registry import MENDS, Call, Scalars, Source, mend
from fxprune_passes.mend.statistics import FULL

__all__ = [
    "FULL",
    "MENDS",
    "MODULES",
    "Call",
    "Scalars",
    "Source",
    "knows_statistics",
    "mend",
    "moved",
    "opaque",
    "spoken_of",
    "unmended",
]
