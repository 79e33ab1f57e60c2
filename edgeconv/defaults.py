"""Numbers that hold where nobody states others. Light: the command line reads them before any stage is imported."""

from __future__ import annotations

DEVICE_TIMEOUT_S = 120.0
"""What a device may take for one artifact, start and load included; after that it counts as hung."""

TOLERANCE = 1e-5
"""Bound of float32 against float64, absolute and relative: some 170 units of float32's last place.

Sums of many terms lose as much; a wrong weight, padding or rounding mode makes far more.
"""

INT8_SQNR_DB = 20.0
"""Acceptance threshold of int8 against float64: noise of a hundredth of the signal's energy. Less is a broken file."""
