"""Large numbers as a person reads them."""

from __future__ import annotations

_STEPS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))


def scaled(value: float, unit: str = "") -> str:
    """Write a number with three figures or more and a decimal prefix.

    Args:
        value: Any number; below ten thousand it is written out.
        unit: Put behind the prefix.

    Returns:
        The number, a space, prefix and unit.

    Example:
        >>> scaled(4_089_184_256, "MACs"), scaled(640, "B"), scaled(1_234_567)
        ('4.09 GMACs', '640 B', '1.23 M')
    """
    if abs(value) >= 10_000:
        for step, prefix in _STEPS:
            if abs(value) >= step:
                return f"{value / step:.2f} {prefix}{unit}"
    return f"{value:g} {unit}".rstrip()
