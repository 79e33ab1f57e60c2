"""The chain of the proof: which link breaks first, and what that leaves of the rows of an artifact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeconv.core import Artifact, Comparison
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.parity._fidelity import failed


def first_broken(links: Sequence[LinkResult]) -> LinkResult | None:
    """The first link of the chain that does not hold; None where all do that were judged."""
    broken = [link for link in links if link.verdict is Verdict.FAIL]
    return min(broken, key=lambda link: link.link.number, default=None)


def told(link: LinkResult) -> str:
    """Which link it is: ``"link 3 (writing)"``."""
    return f"link {link.link.number} ({link.link.value.replace('_', ' ')})"


def diagnosis(link: LinkResult) -> str:
    """One line on a broken link: which, where, how far beyond its bound."""
    name = f"{told(link)} breaks"
    return f"{name}: {link.reason}" if link.reason else f"{name} at {link.where}"


def held_to_links(rows: Sequence[Comparison], artifacts: Sequence[Artifact]) -> tuple[Comparison, ...]:
    """The rows; those of an artifact with a broken link fail for that reason, as do rows with a broken link themselves.

    A row that was skipped stays so: nothing ran there.

    Args:
        rows: judged by their outputs.
        artifacts: with their links.
    """
    by_file = {artifact.path.name: artifact.links for artifact in artifacts}
    return tuple(_held(row, by_file) for row in rows)


def _held(row: Comparison, by_file: Mapping[str, Sequence[LinkResult]]) -> Comparison:
    broken = first_broken((*by_file.get(row.artifact, ()), *row.links))
    if broken is None or row.verdict is Verdict.SKIPPED:
        return row
    reason = diagnosis(broken)
    return row if reason in row.reason else failed(row, reason)


def proven_right(rows: Sequence[Comparison], artifacts: Sequence[Artifact]) -> list[bool]:
    """Whether each row is of a file whose every link was judged and holds, on its device too.

    A link of rewrites may be none: files of other converters are read back against the module itself.
    """
    by_file = {artifact.path.name: artifact.links for artifact in artifacts}
    by_run = {(row.artifact, row.device): row.links for row in rows if row.links}
    proven = []
    for row in rows:
        links = (*by_file.get(row.artifact, ()), *by_run.get((row.artifact, row.device), ()))
        judged = {link.link: link.verdict for link in links}
        needed = (Link.WRITING, Link.RUNNING)
        proven.append(all(judged.get(link) is Verdict.PASS for link in {*needed, *judged} - {Link.ROUNDING}))
    return proven


def relieved(rows: Sequence[Comparison], artifacts: Sequence[Artifact]) -> list[Comparison]:
    """The rows; one that fails by the own scale of its channels alone passes where every link holds, and says so.

    That scale is no bound that somebody stated, and a runtime may be further off than it allows: onnxruntime's sigmoid
    is 1e-7 off a score of 1.6e-5, where torch is 1e-11 off. Then link 4 has judged that very operator.
    """
    return [
        _relieved(row) if proven and is_beyond_own_scale(row) else row
        for row, proven in zip(rows, proven_right(rows, artifacts), strict=True)
    ]


def is_beyond_own_scale(row: Comparison) -> bool:
    """Whether the own scale of its channels is all that a row is beyond."""
    samples_pass = all(sample.verdict is Verdict.PASS for sample in row.samples)
    return samples_pass and any(not group.used <= 1.0 for group in row.groups)


def _relieved(row: Comparison) -> Comparison:
    return replace(row, verdict=Verdict.PASS, reason=f"{row.reason}; every link holds: the file is right")


def states(artifact: Artifact, rows: Sequence[Comparison]) -> tuple[LinkResult, ...]:
    """All five links of an artifact in their order, those of rows put together: the worst of them counts.

    Args:
        artifact: with its links.
        rows: its own, on all devices.
    """
    judged = {link.link: link for link in artifact.links}
    running = [link for row in rows for link in row.links if link.link is Link.RUNNING]
    judged |= {Link.RUNNING: worst} if (worst := _worst(running)) is not None else {}
    judged |= {Link.END_TO_END: worst} if (worst := _worst([_end_to_end(row) for row in rows])) is not None else {}
    return tuple(judged.get(link, LinkResult(link, Verdict.SKIPPED, reason="not judged")) for link in Link)


def _worst(links: Sequence[LinkResult]) -> LinkResult | None:
    order = {Verdict.FAIL: 2, Verdict.PASS: 1, Verdict.SKIPPED: 0}
    return max(links, key=lambda link: (order[link.verdict], link.used or 0.0), default=None)


def _end_to_end(row: Comparison) -> LinkResult:
    used = row.excess if row.excess is not None else max((sample.excess for sample in row.samples), default=None)
    metrics = row.metrics
    return LinkResult(
        Link.END_TO_END,
        row.verdict,
        error=None if metrics is None else metrics.max_abs,
        used=used,
        sqnr_db=None if metrics is None else metrics.sqnr_db,
        where=f"{row.output} on {row.device}",
        reason=row.reason,
    )
