"""Large numbers and durations as a person reads and writes them."""

from __future__ import annotations

import re

_STEPS = ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k"))
_NUMBER = re.compile(r"([\d_]*\d\.?\d*(?:[eE][+-]?\d+)?|\.\d+)\s*([kMGT]?)")
_DURATIONS = ((1, "s"), (1e3, "ms"), (1e6, "us"), (1e9, "ns"))
_DURATION = re.compile(r"(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)\s*(s|ms|us|µs|ns)")


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


def parsed_number(text: str) -> float | None:
    """Read a number that may end in a decimal prefix: whole ones as integers; None for what is no number.

    Example:
        >>> parsed_number("10M"), parsed_number("0.5"), parsed_number("1.5e9"), parsed_number("200_000")
        (10000000, 0.5, 1500000000.0, 200000)
    """
    found = _NUMBER.fullmatch(text.strip())
    if found is None:
        return None
    digits, factor = found[1].replace("_", ""), next((step for step, prefix in _STEPS if prefix == found[2]), 1)
    if digits.isdecimal():
        return int(digits) * factor
    return float(digits) if factor == 1 else round(float(digits) * factor)


def duration(seconds: float) -> str:
    """Write seconds with three figures and a decimal prefix.

    Example:
        >>> duration(0.00312), duration(41e-6), duration(12.0), duration(0)
        ('3.12 ms', '41 us', '12 s', '0 s')
    """
    if seconds == 0:
        return "0 s"
    factor, unit = next((one for one in _DURATIONS if seconds * one[0] >= 0.9995), _DURATIONS[-1])
    return f"{seconds * factor:.3g} {unit}" if seconds * factor < 999.5 else f"{seconds * factor:.0f} {unit}"


def parsed_duration(text: str) -> float | None:
    """Read seconds; None for what is no duration.

    Example:
        >>> parsed_duration("5ms"), parsed_duration("0.01 s"), parsed_duration("5")
        (0.005, 0.01, None)
    """
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        return None
    factor = next(factor for factor, unit in _DURATIONS if unit == found[2].replace("µ", "u"))
    return float(found[1]) / factor
