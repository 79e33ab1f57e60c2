"""Values that readers stumble over, and how bytes get damaged."""

from __future__ import annotations

import random
import struct

NUMBERS = (0, 1, -1, 2, 7, 255, 2**15, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, -(2**63), 10**9, 10**5)
FLOATS = (0.0, -1.0, 1e-45, 1e38, float("nan"), float("inf"), float("-inf"), 0.5)
WORDS = ("", "x", "y", "\x1b[2J", "\0", "..", "../../a", "/etc/passwd", "é", "a" * 300, "nan", "inf", "-1", "soon")
RAW_WORDS = (*(word.encode() for word in WORDS), b"\xff\xfe", b"\xed\xa0\x80")
"""Some are no UTF-8."""


def bytes_of(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, doubles and overwrites."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(max(1, len(changed)))
        kind = rng.randrange(5)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            changed[at : at + 4] = struct.pack("<i", rng.choice([0, 1, -1, 2**31 - 1, -(2**31), 255, 65536]))
        elif kind == 2:
            del changed[at : at + rng.randint(1, 64)]
        elif kind == 3:
            changed[at:at] = changed[at : at + rng.randint(1, 64)]
        else:
            changed = changed[: max(1, at)]
    return bytes(changed)
