"""The gate lets the right file pass and rejects a wrong one; rows become a page and a picture."""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
from crossed import diagonal
from exports import Export, Model, exports_of
from gate import Gate, Reference
from kinds import KINDS, SINGLE_ULP, plant
from mutant_networks import BENIGN, NETWORKS, RANDOM
from mutant_plot import svg
from mutant_rows import CleanRow, FaultRow, document, markdown
from rivals import RULES, rejected_by
from trials import Plan, tried

from edgeconv.core import Run
from edgeconv.core.verdicts import Link, Verdict
from edgeconv.flow.links import with_links
from edgeconv.progress import Silent

_PLAN = Plan(seed=0, faults=1, graph_faults=1, kinds=KINDS, variants=(("fp32", "tflite"), ("int8", "tflite")))


@pytest.fixture(scope="module")
def rows() -> tuple[list[CleanRow], list[FaultRow]]:
    return tried("dsconv", BENIGN, _PLAN)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    with Gate(tmp_path, ("litert",)) as gate:
        yield gate


def _export() -> Export:
    return next(exports_of(Model.of(NETWORKS["dsconv"], BENIGN, 0), [("fp32", "tflite")]))


def test_the_gate_tells_right_from_wrong(gate: Gate) -> None:
    export = _export()
    model = export.model
    reference = Reference.of(export, model.samples, model.golden(model.samples))
    assert not gate.judge(export, export.data, reference).broken
    other = next(exports_of(Model.of(NETWORKS["dsconv"], BENIGN, 1), [("fp32", "tflite")]))
    judged = gate.judge(export, other.data, reference)
    assert {Link.WRITING, Link.END_TO_END} <= judged.broken.keys()
    assert judged.links_on("litert") == judged.broken


def test_a_file_that_no_runtime_takes_is_rejected_by_all(gate: Gate) -> None:
    export = _export()
    model = export.model
    reference = Reference.of(export, model.samples, model.golden(model.samples))
    judged = gate.judge(export, export.data[:-100], reference)
    assert judged.broken
    assert rejected_by(judged.runs[0], model.float32(model.samples)) == list(RULES)


@pytest.mark.parametrize(
    ("kind", "variant"),
    diagonal(["relu-to-relu6", "input-channels-exchanged", "weight-zero", "small-weights-zeroed"], ["int8", "int16x8"]),
)
def test_faults_of_integers_that_no_input_shows_are_told(kind: str, variant: str, tmp_path: Path) -> None:
    """A clamp that is not reached, channels that are zero, a number that the file has elsewhere, too."""
    model = Model.of(NETWORKS["repvgg"], RANDOM, 2113)
    (export,) = exports_of(model, [(variant, "tflite")])
    golden = model.golden(model.samples)
    for seed in range(3):
        planted = plant(export.data, "tflite", kind, random.Random(seed))
        assert planted is not None
        artifact = export.renewed(planted.data, tmp_path)
        (linked,) = with_links([artifact], [export.variant], golden, Silent())
        link = next(link for link in linked.links if link.link is Link.WRITING)
        assert link.verdict is Verdict.FAIL, planted.where


def test_clean_rows_pass_and_live_faults_are_found(rows: tuple[list[CleanRow], list[FaultRow]]) -> None:
    clean, faults = rows
    assert len(clean) == 2 * 3 + 2
    assert not any(row.rejected for row in clean)
    live = [row for row in faults if row.status == "live"]
    assert {(row.variant, row.place) for row in live} >= {("fp32", "file"), ("fp32", "graph"), ("int8", "file")}
    assert all(row.rejected for row in live)
    ulps = [row for row in faults if row.kind in SINGLE_ULP and row.variant == "fp32"]
    assert len(ulps) > 2
    assert all(Link.WRITING in row.links for row in ulps)


def test_rules_of_others() -> None:
    def run(values: list[float]) -> Run:
        import numpy as np

        return Run("device", "file", ({"a": np.array(values, np.float32)},))

    torch_run = run([1.0, 10.0])
    assert rejected_by(torch_run, torch_run) == []
    assert rejected_by(run([1.0005, 10.0]), torch_run) == ["1e-4 absolute"]
    assert rejected_by(run([1.002, 10.0]), torch_run) == ["torch.onnx (1e-3, 1e-5)", "1e-4 absolute", "1e-3 absolute"]
    assert rejected_by(run([10.0, 1.0]), torch_run) == list(RULES)


def test_the_page_and_the_picture(rows: tuple[list[CleanRow], list[FaultRow]]) -> None:
    result = document(*rows, seed=0)
    live = sum(row.status == "live" for row in rows[1])
    missed = sum(row.status == "live" and not row.rejected for row in rows[1])
    assert result["all"]["live"] == live
    assert result["all"]["live"] - result["all"]["found"]["edgeconv"] == missed == len(result["missed"])
    assert sum(counts["live"] for counts in result["by kind"].values()) == live
    page = markdown(result)
    assert f"{live} live faults" in page
    assert all(row.kind in page for row in rows[1] if row.status == "live")
    panels = [item for item in ET.fromstring(svg(result)).iter() if item.get("class") == "grid" and item.get("height")]
    assert len(panels) == 1 + len(result["by weights"])
