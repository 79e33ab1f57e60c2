"""parity.junit.xml, as a CI system parses it."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from report_samples import REPORTS, failing_report, hostile_report, passing_report

from edgeconv.core import Verdict
from edgeconv.report import Report, to_junit


def _parse(report: Report) -> ET.Element:
    return ET.fromstring(to_junit(report).encode("utf-8"))


def _count(root: ET.Element, name: str) -> int:
    return int(root.get(name, "-1"))


def test_counts_agree_with_the_rows(report: Report) -> None:
    root = _parse(report)
    failed = sum(row.verdict is Verdict.FAIL for row in report.comparisons)
    assert root.tag == "testsuites"
    for attribute in ("tests", "failures", "skipped", "errors"):
        assert _count(root, attribute) == sum(_count(suite, attribute) for suite in root.iter("testsuite"))
    assert _count(root, "tests") == len(list(root.iter("testcase")))
    rowless = {item.path.name for item in report.artifacts} - {row.artifact for row in report.comparisons}
    links = [link for item in (*report.artifacts, *report.comparisons) for link in item.links]
    broken = sum(link.verdict is Verdict.FAIL for link in links)
    assert _count(root, "failures") == broken + len(rowless) + (failed or int(report.verdict is Verdict.FAIL))
    assert (_count(root, "failures") == 0) == (report.verdict is Verdict.PASS), "CI must see what the exit code says"


def test_a_suite_per_artifact_and_a_case_per_device_and_output() -> None:
    root = _parse(passing_report())
    assert [suite.get("name") for suite in root] == [
        "mobile_dsc.fp32.onnx",
        "mobile_dsc.fp32.tflite",
        "mobile_dsc.fp32.nchw.tflite",
        "torch",
    ]
    case = root[1].find("testcase")
    assert case is not None
    assert case.attrib == {
        "name": "litert: output",
        "classname": "mobile_dsc.mobile_dsc.fp32.tflite",
        "time": "0.003130",
    }
    assert "max_abs: 4.2" in case.findtext("system-out", "")


def test_each_link_is_a_case_and_a_broken_one_is_told_in_one_line() -> None:
    holds, breaks, unjudged, _ = _parse(REPORTS["chained"]())
    cases = {case.get("name"): case for case in breaks.iter("testcase")}
    assert list(cases)[:6] == [
        "link 1 (rewrites)",
        "link 2 (rounding)",
        "link 3 (writing)",
        "litert: link 4 (running)",
        "litert-reference: link 4 (running)",
        "tflite-runtime: link 4 (running)",
    ]
    failure = cases["link 3 (writing)"].find("failure")
    assert failure is not None
    assert failure.get("message", "").startswith("link 3 (writing) breaks: CONV_2D features.0.0 is 2.1e-07 from what")
    assert holds[2].findtext("system-out") == "error: 3e-07\nsqnr_db: 141.3\nwhere: output"
    assert [skip.get("message") for skip in unjudged.iter("skipped")] == [
        "not judged: the reference does not compute GRU",
        "whatever value it tells, it computes otherwise",
    ]


def test_failures_and_skips_say_why() -> None:
    root = _parse(failing_report())
    failures = {failure.get("message"): failure.text or "" for failure in root.iter("failure")}
    assert set(failures) == {
        "max |a-b| is 17.5 times the bound on coffee.png",
        "NaN at 12 positions where the reference is finite",
        "the runtime was killed by signal 9 (SIGKILL) after 1.2 s",
    }
    assert "tolerance atol: 1e-05" in failures["max |a-b| is 17.5 times the bound on coffee.png"]
    assert [skip.get("message") for skip in root.iter("skipped")] == [
        "tflite-runtime 2.14.0 has no build for Python 3.13"
    ]


def test_a_file_that_nothing_judged_is_a_failed_case() -> None:
    report = Report(model="m", artifacts=passing_report().artifacts[:1], comparisons=passing_report().comparisons[2:])
    suite = _parse(report)[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("mobile_dsc.fp32.onnx", "1", "1")


def test_environment_is_in_the_properties() -> None:
    properties = {item.get("name"): item.get("value") for item in _parse(passing_report())[0].iter("property")}
    assert properties["torch"] == "2.13.0+cpu"
    assert properties["tflite-runtime.version"] == "2.14.0"
    assert len(properties["mobile_dsc.fp32.onnx.sha256"] or "") == 64


def test_control_characters_are_left_out() -> None:
    text = to_junit(hostile_report())
    assert "\x07" not in text
    names = [case.get("name", "") for case in ET.fromstring(text.encode("utf-8")).iter("testcase")]
    assert any("<script>fetch(" in name for name in names)
