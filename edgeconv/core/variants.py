"""The variants of a model, and the default acceptance threshold of each."""

from __future__ import annotations

from collections.abc import Mapping

from edgeconv.core.defaults import INT8_SQNR_DB
from edgeconv.core.exchanged import Fidelity

MIXED = "int8-mixed"
"""int8 with the fewest layers in float that reach its acceptance thresholds: by default those of int8."""

DEFAULT_FIDELITY: Mapping[str, Fidelity] = {
    "fp16": Fidelity(sqnr_db=40.0, index_agreement=0.98),
    "int8": Fidelity(sqnr_db=INT8_SQNR_DB),
    MIXED: Fidelity(sqnr_db=INT8_SQNR_DB),
    "int8-weights": Fidelity(sqnr_db=INT8_SQNR_DB),
    "int16x8": Fidelity(sqnr_db=30.0, index_agreement=0.96),
}
"""Default acceptance thresholds of the approximating variants; a file that misses them is broken."""

VARIANTS = ("fp32", *DEFAULT_FIDELITY)
