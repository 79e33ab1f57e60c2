"""`Report`: what one export proved; the input of every writer in this room."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from edgeconv.core import Artifact, Comparison, GraphSummary, Verdict, values
from edgeconv.errors import ParityError
from edgeconv.report._target_search import TargetSearch

NOTHING_COMPARED = "nothing was compared"


@dataclass(frozen=True)
class Report:
    """The result of a parity run; it is read by the writers and never runs anything.

    Attributes:
        model: the recipe's name.
        description: what the model is, for people; may be empty.
        source: where it came from: ``factory`` (``"package.module:callable"``), ``weights``, ``seed``, ….
        artifacts: the files that were judged.
        comparisons: one per artifact, device and output; those of torch's own float32 row have the artifact ``""``.
        graphs: the graph along the flow, ``"captured"`` first.
        environment: versions, CPU, seeds. A nested mapping is a group (e.g. what one device tells about itself).
        notes: what the reader should know, one line each.
        golden: the name of the file with the inputs and reference values, or ``""``.
        target_search: what was tried for a target; None where there was none.
    """

    model: str
    description: str = ""
    source: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    graphs: tuple[GraphSummary, ...] = ()
    environment: Mapping[str, str | Mapping[str, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    golden: str = ""
    target_search: TargetSearch | None = None

    @property
    def verdict(self) -> Verdict:
        """FAIL when a comparison failed, or when an artifact passed none; PASS otherwise. Never SKIPPED.

        A file that nothing ran is not known to work: a gate that let it through could not be trusted.
        """
        if self.unproved or any(row.verdict is Verdict.FAIL for row in self.comparisons):
            return Verdict.FAIL
        proved = any(row.verdict is Verdict.PASS and is_of_artifact(row) for row in self.comparisons)
        return Verdict.PASS if proved else Verdict.FAIL

    @property
    def reason(self) -> str:
        """Why the verdict is what it is, one line."""
        rows = self.comparisons
        failed = [row for row in rows if row.verdict is Verdict.FAIL]
        if failed:
            return f"{len(failed)} of {values.counted(len(rows), 'comparison')} failed"
        if self.verdict is Verdict.FAIL:
            names = [artifact.path.name for artifact in self.unproved]
            if not names or len(names) == len(self.artifacts):
                return NOTHING_COMPARED
            return f"no device judged {', '.join(names)}"
        passed = sum(row.verdict is Verdict.PASS for row in rows)
        skipped = len(rows) - passed
        tail = f", {skipped} skipped" if skipped else ""
        return f"{values.counted(passed, 'comparison')} within tolerance{tail}"

    @property
    def worst(self) -> Comparison | None:
        """The worst row: failed before passed, files before torch, then by the used share of the bound."""
        judged = [row for row in self.comparisons if row.verdict is not Verdict.SKIPPED]
        return max(judged, key=_severity, default=None)

    @property
    def unproved(self) -> tuple[Artifact, ...]:
        """The artifacts that no device has judged: nothing is known of them."""
        judged = {
            row.artifact for row in self.comparisons if is_of_artifact(row) and row.verdict is not Verdict.SKIPPED
        }
        return tuple(artifact for artifact in self.artifacts if artifact.path.name not in judged)


def is_of_artifact(row: Comparison) -> bool:
    """Whether a row judges a file on a device, and not torch against itself."""
    return bool(row.artifact) and row.device != "torch" and not row.device.startswith("torch-")


def _severity(row: Comparison) -> tuple[bool, bool, float]:
    """To rank rows by: a failed one first, then one of a file, then the larger share of its bound."""
    return row.verdict is Verdict.FAIL, is_of_artifact(row), excess_of(row) or 0.0


def excess_of(row: Comparison) -> float | None:
    """The used share of the row's bound: of all samples together, or the largest of one; above 1 fails.

    NaN counts as infinite.
    """
    if row.excess is not None:
        return math.inf if math.isnan(row.excess) else row.excess
    values = [math.inf if math.isnan(sample.excess) else sample.excess for sample in row.samples]
    return max(values, default=None)


def checked(report: object) -> Report:
    """The report, if it is one.

    Raises:
        ParityError: it is something else.
    """
    hint = "give the report of an export, or what from_json makes of a parity.json"
    return values.instance(report, Report, "report", ParityError, hint=hint)
