"""``auto_pad`` of ``SAME_UPPER`` and ``SAME_LOWER`` in numbers, for whoever states the padding of a window."""

from __future__ import annotations

from collections.abc import Sequence


def same_pads(totals: Sequence[int], automatic: str) -> list[int]:
    """The attribute ``pads``, all in front, then all behind, of so much padding in all for each axis.

    Specification: of an odd number the larger half lies behind under ``SAME_UPPER``, and in front otherwise.
    """
    halves = [(total // 2, total - total // 2) for total in totals]
    ordered = halves if automatic == "SAME_UPPER" else [half[::-1] for half in halves]
    return [half[at] for at in (0, 1) for half in ordered]
