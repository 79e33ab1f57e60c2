"""Numbers as people read them: three significant digits, true minus and multiplication signs."""

from __future__ import annotations

import math

NOTHING = "–"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def power_of_ten(exponent: int) -> str:
    """``power_of_ten(-6) == "10⁻⁶"``."""
    return "10" + str(exponent).translate(_RAISED)


def number(value: float | None, digits: int = 3) -> str:
    """``4.4e-6`` as ``"4.4×10⁻⁶"``; plain from 0.001 up to 100,000; None as a dash."""
    if value is None:
        return NOTHING
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        text = f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
        return text.replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".").replace("-", "−")
    power = power_of_ten(int(exponent))
    return power if mantissa == "1" else f"−{power}" if mantissa == "−1" else f"{mantissa}×{power}"


def decibel(value: float | None) -> str:
    """One decimal: ``"127.4"``."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:.1f}".replace("-", "−")


def cosine(value: float | None) -> str:
    """A cosine by its distance from 1, which is what differs: ``"1 − 3.1×10⁻¹³"``."""
    if value is None or not math.isfinite(value):
        return number(value)
    if value == 1:
        return "1"
    return f"1 − {number(1 - value, 2)}" if 0 < 1 - value < 1e-3 else f"{value:.4f}".replace("-", "−")


def share(value: float | None) -> str:
    """The used share of a tolerance: ``"44 %"`` inside; outside of it ``"17.5 times"``, and never ``"1 times"``."""
    if value is None or not math.isfinite(value):
        return number(value)
    if value > 1:
        return f"{number(value if value >= 10 else math.ceil(100 * value) / 100)} times"
    return "below 1 %" if 0 < value < 0.01 else f"{math.floor(100 * value)} %"


def used(value: float) -> str:
    """As `share`, of a bound that is derived, where small shares matter, too: ``"0.034 %"``, ``"exact"`` of none."""
    if value == 0:
        return "exact"
    if not math.isfinite(value):
        return f"{number(value)} times"
    return f"{number(100 * value, 2)} %" if 0 < value < 0.01 else share(value)


def used_of(value: float, bound: str) -> str:
    """``"0.034 % of its bound"``, ``"341 times its bound"``, ``"exact"``."""
    of = " of" if 0 < value <= 1 else ""
    return f"{used(value)}{of} {bound}" if value else used(value)


def percentage(part: int, whole: int) -> str:
    """``"97.5 %"``; rounded down, so that only all of them are ``"100 %"``."""
    return "100 %" if part == whole else f"{math.floor(1000 * part / whole) / 10:.1f} %"


def wilson(part: int, whole: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share, 0 to 1 (Wilson's score interval, 1927): sound near 0 and 1, too."""
    z = 1.959964
    share = part / whole
    middle = share + z * z / (2 * whole)
    spread = z * math.sqrt(share * (1 - share) / whole + z * z / (4 * whole * whole))
    divisor = 1 + z * z / whole
    return max(0.0, (middle - spread) / divisor), min(1.0, (middle + spread) / divisor)


def size(size_bytes: int | None) -> str:
    """``"1.23 MB (1,234,567 bytes)"``; decimal units, as file managers and app stores count."""
    if size_bytes is None:
        return "not known"
    exact = f"{size_bytes:,} bytes"
    for factor, unit in _UNITS:
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit} ({exact})"
    return exact


def milliseconds(value: float | None) -> str:
    """``"2.71 ms"``; microseconds below 0.1 ms."""
    if value is None:
        return NOTHING
    return f"{number(1000 * value)} µs" if value < 0.1 else f"{number(value)} ms"
