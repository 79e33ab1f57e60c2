"""The chain of the proof: the first link that breaks fails the rows of its artifact, and says where."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeconv.core import Artifact, Comparison, Tolerance
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.parity.chain import diagnosis, first_broken, held_to_links, states

SOUND = tuple(LinkResult(link, Verdict.PASS, 1e-14, 1e-12, 0.01) for link in (Link.REWRITES, Link.WRITING))
BROKEN = LinkResult(Link.WRITING, Verdict.FAIL, 1e-8, 1e-13, 1e5, None, "conv.weight", "conv.weight[3] is 1 ulp off")
RUNS = LinkResult(Link.RUNNING, Verdict.FAIL, 1e-3, 1e-6, 1e3, None, "conv", "conv is 1000 times its bound off")


def artifact(*links: LinkResult) -> Artifact:
    return Artifact(Path("net.fp32.onnx"), "onnx", "fp32", "nchw", "0" * 64, (), (), links=links)


def row(verdict: Verdict = Verdict.PASS, *links: LinkResult) -> Comparison:
    return Comparison("net.fp32.onnx", "onnxruntime", "output", None, Tolerance(), verdict, excess=0.5, links=links)


def test_the_first_link_that_breaks_is_the_diagnosis() -> None:
    assert first_broken(SOUND) is None
    assert first_broken((RUNS, BROKEN)) is BROKEN
    assert diagnosis(BROKEN) == "link 3 (writing) breaks: conv.weight[3] is 1 ulp off"


def test_rows_of_a_broken_artifact_fail_once_with_one_line() -> None:
    rows = (row(), row(Verdict.SKIPPED), replace(row(), artifact="other.onnx"))
    held = held_to_links(rows, [artifact(*SOUND, BROKEN)])
    assert [item.verdict for item in held] == [Verdict.FAIL, Verdict.SKIPPED, Verdict.PASS]
    assert held[0].reason == diagnosis(BROKEN)
    assert held_to_links(held, [artifact(*SOUND, BROKEN)]) == held


def test_a_row_whose_own_link_breaks_fails() -> None:
    (held,) = held_to_links([row(Verdict.PASS, RUNS)], [artifact(*SOUND)])
    assert held.verdict is Verdict.FAIL
    assert held.reason.startswith("link 4 (running) breaks: conv is")


def test_five_links_are_told_and_the_worst_row_counts() -> None:
    rows = (row(), replace(row(Verdict.FAIL, RUNS), excess=3.0))
    told = states(artifact(*SOUND), rows)
    assert [link.link for link in told] == list(Link)
    assert [link.verdict.value for link in told] == ["pass", "skipped", "pass", "fail", "fail"]
    assert told[-1].used == 3.0
