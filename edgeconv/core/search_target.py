"""Search targets: the SQNR or agreement that a quantized graph has to reach, with its worst layers in float."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgeconv.core import values
from edgeconv.errors import QuantizeError, Wording

MOST_DB = 100.0  # float32 itself ends between 120 and 140
_FLAGS = {"sqnr_db": "--target-sqnr", "agreement": "--target-agreement"}


@dataclass(frozen=True)
class Target:
    """The least SQNR, or the least agreement, of a quantized graph against the float graph; one of the two.

    Attributes:
        sqnr_db: least signal to quantization noise ratio of every output over all data, above 0 up to 100.
        agreement: least share of the data whose largest score is where the float graph has it, above 0 up to 1.
        index_agreement: besides, the least share of the elements of an output of indices that are equal; None for any.
        lost_parts: besides, most parts of outputs that may say nothing (`edgeconv.core.variation`); None for any.
        confidence: besides, how sure it has to be that the SQNR holds on data that were not measured, above 0.5 and
            below 1; None where it is about the measured data alone.

    Raises:
        QuantizeError: none or both are given, or one is out of range.
    """

    sqnr_db: float | None = None
    agreement: float | None = None
    index_agreement: float | None = None
    lost_parts: int | None = None
    confidence: float | None = None

    def __post_init__(self) -> None:
        least = values.maybe_number(self.index_agreement, "target, index_agreement", QuantizeError, most=1.0)
        most = values.maybe_count(self.lost_parts, "target, lost_parts", QuantizeError)
        values.settle(self, index_agreement=least, lost_parts=most)
        if self.confidence is not None and not 0.5 < self.confidence < 1.0:
            what = f"it is {self.confidence:g}"
            raise QuantizeError(what, where="target, confidence", hint="give one above 0.5 and below 1")
        targets = {"sqnr_db": (self.sqnr_db, MOST_DB), "agreement": (self.agreement, 1.0)}
        stated = {name: pair for name, pair in targets.items() if pair[0] is not None}
        if len(stated) != 1:
            raise QuantizeError(f"there are {len(stated)} targets", where="target", hint="give an SQNR or an agreement")
        for name, (value, top) in stated.items():
            where = Wording(_FLAGS[name], name, f"target, {name}")
            number = values.number(value, where, QuantizeError, least=-math.inf)
            if not 0.0 < number <= top:
                raise QuantizeError(f"it is {number:g}", where=where, hint=f"give one above 0 and at most {top:g}")
            values.settle(self, **{name: number})

    def holds(self, measured: Measured) -> bool:
        """Whether what was measured is enough."""
        if self.lost_parts is not None and measured.lost_parts > self.lost_parts:
            return False
        equal = 1.0 if measured.index_agreement is None else measured.index_agreement
        if self.index_agreement is not None and equal < self.index_agreement:
            return False
        if self.sqnr_db is not None:
            bound = measured.sqnr_bound_db
            sure = self.confidence is None or bound is None or bound >= self.sqnr_db
            return sure and measured.sqnr_db >= self.sqnr_db
        return measured.agreement is not None and self.agreement is not None and measured.agreement >= self.agreement


@dataclass(frozen=True)
class Measured:
    """A quantized graph measured against the float graph.

    Attributes:
        sqnr_db: of the output that lost most, over all data.
        agreement: share of the data whose largest score is where the float graph has it, of the output that agrees
            least; None where no output is scores of classes.
        index_agreement: share of the elements that are equal, of the output of indices that agrees least; None where
            there is none. Such outputs have no part in `sqnr_db`.
        lost_parts: of the output with the most that say nothing.
        sqnr_bound_db: that `sqnr_db` is at least on other data like these, with the target's confidence; None where
            none is asked for, or there are too few data to tell.
    """

    sqnr_db: float
    agreement: float | None
    index_agreement: float | None = None
    lost_parts: int = 0
    sqnr_bound_db: float | None = None
