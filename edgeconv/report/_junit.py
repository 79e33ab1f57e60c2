"""``parity.junit.xml``: the report as the CI systems read it (GitLab, Jenkins, GitHub reporters)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from xml.etree import ElementTree as ET

from edgeconv.core import Comparison, Verdict
from edgeconv.core.seal import sealed
from edgeconv.core.verdicts import LinkResult
from edgeconv.parity.chain import diagnosis, told
from edgeconv.report._report import Report, checked

# Characters that XML 1.0 (section 2.2) cannot hold, not even escaped.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COUNTED = {"failures": "failure", "skipped": "skipped"}  # attribute of a suite: the elements that it counts


def to_junit(report: Report) -> str:
    """Writes JUnit XML: a ``testsuite`` per artifact, a ``testcase`` per link of its proof, device and output.

    A failed comparison is a ``failure``, a skipped one ``skipped``, both with the reason as ``message``; the metrics
    are text. A report that fails without a failed comparison (nothing was compared) has a failed case that says so.
    ``time`` is the wall time of one inference in seconds. The environment stands in each suite's ``properties``.

    Returns:
        Well-formed XML; characters that XML cannot hold are left out.
    """
    checked(report)
    root = ET.Element("testsuites", name=_clean(report.model))
    for title, rows in _suites(report):
        suite = ET.SubElement(root, "testsuite", name=_clean(title))
        _add_properties(suite, report)
        for name, link in _links(report, title, rows):
            _add_link(suite, report, title, name, link)
        for row in rows:
            _add_case(suite, report, title, row)
        if not rows:
            _add_failure(suite, report, title, "it was not compared on any device")
        _count(suite, suite)
    # CI systems know a failure by a failed case: a report that fails as nothing was compared needs one.
    if report.verdict is Verdict.FAIL and not any(row.verdict is Verdict.FAIL for row in report.comparisons):
        suite = ET.SubElement(root, "testsuite", name="verdict")
        _add_failure(suite, report, "verdict", report.reason)
        _count(suite, suite)
    _count(root, root)
    ET.indent(root)
    text = '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"
    return sealed(text, "<!-- {} -->")


def _suites(report: Report) -> Iterator[tuple[str, list[Comparison]]]:
    names = [artifact.path.name for artifact in report.artifacts]
    for name in dict.fromkeys(names + [row.artifact for row in report.comparisons]):
        rows = [row for row in report.comparisons if row.artifact == name]
        yield name or rows[0].device, rows  # the source's own rows: "torch", or the file that was given


def _links(report: Report, title: str, rows: Sequence[Comparison]) -> Iterator[tuple[str, LinkResult]]:
    """The links that were judged, with the names of their cases: those of the file, then those of each device."""
    for artifact in report.artifacts:
        if artifact.path.name == title:
            yield from ((told(link), link) for link in artifact.links)
    yield from ((f"{row.device}: {told(link)}", link) for row in rows for link in row.links)


def _add_link(suite: ET.Element, report: Report, title: str, name: str, link: LinkResult) -> None:
    case = ET.SubElement(suite, "testcase", name=_clean(name), classname=_classname(report, title))
    if link.verdict is Verdict.FAIL:
        ET.SubElement(case, "failure", message=_clean(diagnosis(link)), type="parity")
    elif link.verdict is Verdict.SKIPPED:
        ET.SubElement(case, "skipped", message=_clean(link.reason or "skipped"))
    else:
        numbers = {"used": link.used, "error": link.error, "bound": link.bound, "sqnr_db": link.sqnr_db}
        lines = [f"{key}: {number!r}" for key, number in numbers.items() if number is not None]
        ET.SubElement(case, "system-out").text = _clean("\n".join([*lines, f"where: {link.where}"]))


def _add_properties(suite: ET.Element, report: Report) -> None:
    properties = ET.SubElement(suite, "properties")
    for key, value in _flat(report):
        ET.SubElement(properties, "property", name=_clean(key), value=_clean(value))


def _flat(report: Report) -> Iterable[tuple[str, str]]:
    yield "model", report.model
    yield from report.source.items()
    for key, value in report.environment.items():
        if isinstance(value, str):
            yield key, value
        else:
            yield from ((f"{key}.{name}", text) for name, text in value.items())
    yield from ((f"{artifact.path.name}.sha256", artifact.sha256) for artifact in report.artifacts)


def _add_case(suite: ET.Element, report: Report, title: str, row: Comparison) -> None:
    case = ET.SubElement(
        suite, "testcase", name=_clean(f"{row.device}: {row.output}"), classname=_classname(report, title)
    )
    if row.latency_ms is not None:
        case.set("time", f"{row.latency_ms / 1000:.6f}")
    text = _clean(_metrics_text(row))
    if row.verdict is Verdict.FAIL:
        failure = ET.SubElement(case, "failure", message=_clean(row.reason or "out of tolerance"), type="parity")
        failure.text = text
    elif row.verdict is Verdict.SKIPPED:
        ET.SubElement(case, "skipped", message=_clean(row.reason or "skipped"))
    else:
        ET.SubElement(case, "system-out").text = text


def _add_failure(suite: ET.Element, report: Report, title: str, reason: str) -> None:
    case = ET.SubElement(suite, "testcase", name="compared", classname=_classname(report, title))
    ET.SubElement(case, "failure", message=_clean(reason))


def _classname(report: Report, title: str) -> str:
    return _clean(f"{report.model}.{title}")


def _metrics_text(row: Comparison) -> str:
    """One ``name: value`` per line, full precision; then the samples that failed."""
    lines = [f"reason: {row.reason}"] if row.reason else []
    if row.metrics is not None:
        lines += [f"{name}: {value!r}" for name, value in vars(row.metrics).items()]
    lines += [f"tolerance {name}: {value!r}" for name, value in vars(row.tolerance).items() if value is not None]
    lines += [f"top1 {name}: {value}" for name, value in row.top1.items()]
    lines += [f"parts {name}: {value}" for name, value in row.parts.items()]
    lines += [f"indices {name}: {value}" for name, value in row.indices.items()]
    failed = [sample for sample in row.samples if sample.verdict is Verdict.FAIL]
    lines += [f"sample {s.sample}: {s.reason or 'out of tolerance'} ({s.excess:.3g} times the bound)" for s in failed]
    return "\n".join(lines)


def _count(target: ET.Element, tree: ET.Element) -> None:
    """Writes how many cases there are below an element, and how many of each outcome, as CI systems expect."""
    target.set("tests", str(sum(1 for _ in tree.iter("testcase"))))
    for attribute, tag in _COUNTED.items():
        target.set(attribute, str(sum(1 for _ in tree.iter(tag))))
    target.set("errors", "0")


def _clean(text: str) -> str:
    return _NOT_XML.sub("", text)
