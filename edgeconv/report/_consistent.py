"""Finds contradictions in a report that was read: rows that pass against their own numbers, rows of unknown files.

Whoever can write the folder can still make up numbers that agree: what is proven needs the recipe, or another run. But
a verdict that was edited alone, a bound that was exchanged or a row that was added is found here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from edgeconv.core import Comparison, Fidelity, SampleResult, Tolerance, Verdict
from edgeconv.core.variants import DEFAULT_FIDELITY
from edgeconv.core.verdicts import LinkResult
from edgeconv.parity import judge_layers, used_share
from edgeconv.parity.chain import held_to_links, is_beyond_own_scale, proven_right
from edgeconv.report._report import Report


def contradictions(report: Report) -> Iterator[str]:
    """The contradictions in a report, one line each; none in a report as it was written."""
    # 1. Each artifact by itself.
    names = [artifact.path.name for artifact in report.artifacts]
    yield from (f"it speaks of the file {name!r} twice" for name in _twice([name.lower() for name in names]))
    for artifact in report.artifacts:
        if not artifact.path.name.endswith(f".{artifact.format}"):
            yield f"{artifact.path.name!r} is said to be {artifact.format}"
        if artifact.data_sha256 is not None and artifact.format != "onnx":
            yield f"{artifact.path.name!r} is said to have weights beside it, which only .onnx files have"
        for side in (artifact.inputs, artifact.outputs):
            names_twice = _twice([spec.name for spec in side])
            yield from (f"{artifact.path.name!r} has the tensor {name!r} twice" for name in names_twice)
    # 2. Links, and the rows that they decide: verdicts are derived anew and compared with those that are stated.
    variants = {artifact.path.name: artifact.variant for artifact in report.artifacts}
    rows = report.comparisons
    for links in (*(artifact.links for artifact in report.artifacts), *(row.links for row in rows)):
        yield from (f"it has the link {name!r} twice" for name in _twice([link.link.value for link in links]))
        yield from (f"the link {link.link.value} passes beyond its bound" for link in links if _is_beyond(link))
    for row, held in zip(rows, held_to_links(rows, report.artifacts), strict=True):
        if row.verdict is Verdict.PASS and held.verdict is not Verdict.PASS:
            yield f"{_place(row)}: it passes though {held.reason}"
    for row, proven in zip(rows, proven_right(rows, report.artifacts), strict=True):
        if row.verdict is Verdict.PASS and is_beyond_own_scale(row) and not proven:
            yield f"{_place(row)}: it passes though its channels are beyond their own scale, and not every link holds"
    # 3. Each row by its own numbers.
    yield from (f"it has two rows of {place}" for place in _twice([_place(row) for row in rows]))
    for row in rows:
        yield from (f"{_place(row)}: {what}" for what in _of_row(row, variants))


def _of_row(row: Comparison, variants: dict[str, str]) -> Iterator[str]:
    if row.artifact and row.artifact not in variants:
        yield "there is no such file among its artifacts"
    together = isinstance(row.tolerance, Fidelity)
    variant = variants.get(row.artifact)
    if together and (variant not in DEFAULT_FIDELITY if row.artifact else row.device == "torch"):
        yield f"the bound of an approximation is applied to {variant or 'the module itself'}"
    yield from (f"it has the sample {name!r} twice" for name in _twice([sample.sample for sample in row.samples]))
    if row.verdict is not Verdict.PASS:
        return
    if not row.samples or row.metrics is None:
        yield "it passes though nothing was measured"
    for sample in row.samples:
        if sample.verdict is not Verdict.PASS or (not together and not _within(sample, row.tolerance)):
            yield f"it passes though the sample {sample.sample!r} does not"
    if isinstance(row.tolerance, Fidelity) and row.metrics is not None and row.samples:
        if not max(row.excess or 0.0, used_share(row, row.tolerance)) <= 1.0:
            yield "it passes though its numbers are beyond its bound"
        if judge_layers(row, row.layers).verdict is not Verdict.PASS:
            yield "it passes though a layer is beyond its bound"


def _within(sample: SampleResult, bound: Tolerance | Fidelity) -> bool:
    """Whether a sample's own numbers are within its bound; NaN is not."""
    if sample.metrics is None or not 0.0 <= sample.excess <= 1.0:
        return False
    most = bound.max_abs if isinstance(bound, Tolerance) else None
    # The product was rounded once more when the row was judged.
    return most is None or sample.metrics.max_abs <= max(1.0, sample.scale) * most * (1 + 1e-9)


def _is_beyond(link: LinkResult) -> bool:
    """Whether a link passes against its own numbers; NaN is beyond any bound."""
    shares = [link.used, *(layer.used for layer in link.layers)]
    return link.verdict is Verdict.PASS and any(share is not None and not share <= 1.0 for share in shares)


def _place(row: Comparison) -> str:
    return f"{row.artifact or 'the source'} on {row.device}, output {row.output!r}"


def _twice(names: list[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
