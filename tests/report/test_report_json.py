"""parity.json: strict, described, versioned, and the same on every machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import REPORTS, artifact, comparison, failing_report, passing_report, skipped

import edgeconv.report
from edgeconv.core import Comparison, Verdict
from edgeconv.core.verdicts import LayerUse, Link, LinkResult
from edgeconv.errors import ParityError
from edgeconv.report import Report, from_json, to_json
from edgeconv.report._schema import schema_text

LINKS = (
    LinkResult(Link.REWRITES, Verdict.PASS, 1e-14, 1e-12, 0.01, 290.0, "output"),
    LinkResult(Link.WRITING, Verdict.PASS, 0.0, 1e-13, 0.0, math.inf, "features.0"),
)
SCHEMA_FILE = Path(edgeconv.report.__file__).with_name("parity.schema.json")
TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "null": type(None),
}
KEYWORDS: dict[str, Callable[[Any, Any], bool]] = {
    "const": lambda value, const: bool(value == const),
    "enum": lambda value, options: value in options,
    "pattern": lambda value, pattern: re.search(pattern, value) is not None,
    "minimum": lambda value, least: bool(value >= least),
}


def _refuse(token: str) -> None:
    raise AssertionError(f"{token} is not JSON")


def _strict(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse)


def _faults(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$") -> Iterator[str]:
    """What a value breaks of the keywords that the schema uses; keys that it does not describe are faults too."""
    if "$ref" in schema:
        schema = {**root["$defs"][schema["$ref"].rsplit("/", 1)[1]], **schema}
    if "type" in schema and not isinstance(value, TYPES[schema["type"]]):
        yield f"{at}: {value!r} is no {schema['type']}"
        return
    for keyword, holds in KEYWORDS.items():
        if keyword in schema and not holds(value, schema[keyword]):
            yield f"{at}: {value!r} breaks {keyword}"
    if "anyOf" in schema and all(list(_faults(value, option, root, at)) for option in schema["anyOf"]):
        yield f"{at}: {value!r} fits no option"
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _faults(item, schema.get("items", {}), root, f"{at}[{index}]")
    if isinstance(value, dict) and {"properties", "additionalProperties"} & set(schema):
        yield from _object_faults(value, schema, root, at)


def _object_faults(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    known, others = schema.get("properties", {}), schema.get("additionalProperties")
    yield from (f"{at}: {key} is missing" for key in schema.get("required", []) if key not in value)
    for key, item in value.items():
        if key not in known and others is None:
            yield f"{at}: {key} is not described"
        yield from _faults(item, known.get(key, others or {}), root, f"{at}.{key}")


def test_what_is_written_is_what_the_shipped_schema_describes(report: Report) -> None:
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    assert list(_faults(_strict(to_json(report)), schema, schema)) == []


def test_the_schema_notices_a_wrong_report() -> None:
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    plain = _strict(to_json(passing_report()))
    plain["verdict"] = "maybe"
    plain["comparisons"][0]["metrics"]["sqnr_db"] = "loud"
    del plain["artifacts"][0]["sha256"]
    faults = [fault.split(":")[0] for fault in _faults(plain, schema, schema)]
    assert faults == ["$.verdict", "$.artifacts[0]", "$.comparisons[0].metrics"]


def test_the_shipped_schema_is_the_present_one_and_describes_every_field() -> None:
    assert SCHEMA_FILE.read_text("utf-8") == schema_text()
    schema = json.loads(SCHEMA_FILE.read_text("utf-8"))
    for part in (schema, *schema["$defs"].values()):
        assert part["description"]
        for name, field in part.get("properties", {}).items():
            assert field.get("description"), name


def test_a_report_that_is_read_is_written_again_letter_for_letter(report: Report) -> None:
    text = to_json(report)
    again = from_json(text)
    assert to_json(again) == text
    assert (again.verdict, again.reason) == (report.verdict, report.reason)


def test_reading_gives_the_values_back() -> None:
    before = failing_report()
    after = from_json(to_json(before))
    assert [row.top1 for row in after.comparisons] == [row.top1 for row in before.comparisons]
    assert after.graphs == before.graphs
    assert after.artifacts[0] == replace(before.artifacts[0], path=Path("digits.fp32.onnx"))
    metrics = after.comparisons[5].metrics
    assert metrics is not None
    assert math.isnan(metrics.max_abs)
    assert (metrics.max_rel, metrics.sqnr_db) == (math.inf, -math.inf)
    assert after.comparisons[0].samples == before.comparisons[0].samples


@settings(deadline=None, max_examples=25)
@given(st.floats(), st.floats(min_value=0))
def test_every_float_survives(number: float, excess: float) -> None:
    row = comparison("a.onnx", "onnxruntime", 0.5)
    assert row.metrics is not None
    verdict = Verdict.PASS if excess <= 1 else Verdict.FAIL
    row = replace(
        row,
        metrics=replace(row.metrics, max_abs=number),
        verdict=verdict,
        samples=(replace(row.samples[0], excess=excess, verdict=verdict),),
        picture=None,
    )
    again = from_json(to_json(Report(model="m", artifacts=(artifact("a.onnx"),), comparisons=(row,)))).comparisons[0]
    assert again.metrics is not None
    assert repr(again.metrics.max_abs) == repr(number)
    assert repr(again.samples[0].excess) == repr(excess)


def test_the_documented_keys_come_in_their_order_without_folders() -> None:
    text = to_json(passing_report())
    plain = _strict(text)
    assert list(plain)[:2] == ["schema", "verdict"]
    assert (plain["schema"], plain["verdict"], plain["model"]) == (1, "pass", "mobile_dsc")
    metrics = plain["comparisons"][0]["metrics"]
    assert list(metrics)[:6] == ["max_abs", "max_rel", "max_ulp", "mean_abs", "cosine", "sqnr_db"]
    assert "/home/" not in text
    assert max(map(len, text.splitlines())) < 2000, "an error map's row takes one line, not the whole map"
    assert text.count("\n") < 2500


def _row(verdict: Verdict, device: str = "litert", artifact: str = "a.tflite") -> Comparison:
    return replace(skipped(artifact, device, "no such runtime"), verdict=verdict)


@pytest.mark.parametrize(
    ("rows", "verdict", "reason"),
    [
        ((), Verdict.FAIL, "nothing was compared"),
        ((_row(Verdict.SKIPPED),), Verdict.FAIL, "nothing was compared"),
        ((_row(Verdict.PASS, "torch", ""),), Verdict.FAIL, "nothing was compared"),
        ((_row(Verdict.PASS, "torch-float64", ""), _row(Verdict.SKIPPED)), Verdict.FAIL, "nothing was compared"),
        ((_row(Verdict.PASS), _row(Verdict.FAIL)), Verdict.FAIL, "1 of 2 comparisons failed"),
        ((_row(Verdict.PASS), _row(Verdict.FAIL, "torch", "")), Verdict.FAIL, "1 of 2 comparisons failed"),
        ((_row(Verdict.PASS), _row(Verdict.SKIPPED)), Verdict.PASS, "1 comparison within tolerance, 1 skipped"),
    ],
)
def test_the_verdict_of_a_report_follows_from_its_rows(
    rows: tuple[Comparison, ...], verdict: Verdict, reason: str
) -> None:
    report = Report(model="m", comparisons=rows)
    assert (report.verdict, report.reason) == (verdict, reason)
    assert _strict(to_json(report))["verdict"] in ("pass", "fail")


def test_the_worst_row_is_a_failed_one_even_without_numbers_and_then_that_of_a_file() -> None:
    crashed = _row(Verdict.FAIL)
    assert Report(model="m", comparisons=(comparison("a", "litert", 0.9), crashed)).worst is crashed
    torch_row, file_row = comparison("", "torch", 0.9), comparison("a.onnx", "onnxruntime", 0.3)
    assert Report(model="m", comparisons=(torch_row, file_row)).worst is file_row, "files are what is shipped"
    worst = failing_report().worst
    assert worst is not None
    assert (worst.artifact, worst.device, worst.output) == ("digits.fp32.tflite", "litert", "logits")


def _edited(edit: Callable[[Any], object]) -> str:
    plain = _strict(to_json(passing_report()))
    edit(plain)
    return json.dumps(plain)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "it is not JSON"),
        ("[1, 2", "it is not JSON"),
        ("[" * 100_000, "it is not JSON"),
        ("[]", "it has no 'schema'"),
        ('{"verdict": "pass"}', "it has no 'schema'"),
        ('{"schema": 2}', "schema version is 2"),
        ('{"schema": "1"}', "schema version is '1'"),
        ('{"schema": true}', "schema version is True"),
        ('{"schema": 1}', "verdict: is required"),
        ('{"schema": 1, "reason": NaN}', "NaN is not JSON"),
        (_edited(lambda plain: plain.update(verdict="fail")), "it was altered"),
        (_edited(lambda plain: plain["comparisons"][2].update(verdict="fail")), "it was altered"),
        (_edited(lambda plain: plain["comparisons"][0].update(latency_ms="quick")), "comparisons.0.latency_ms"),
        (_edited(lambda plain: plain["artifacts"][0].update(file="../../etc/passwd")), "artifacts.0.file"),
        (_edited(lambda plain: plain["artifacts"][0].update(size_bytes=-1)), "artifacts.0.size_bytes"),
    ],
)
def test_a_report_that_cannot_be_read_is_one_line(text: str, says: str) -> None:
    with pytest.raises(ParityError) as caught:
        from_json(text)
    assert says in str(caught.value)
    assert str(caught.value).startswith("parity.json: ")
    assert "\n" not in str(caught.value)


def test_keys_of_a_later_edgeconv_are_passed_over() -> None:
    assert from_json(_edited(lambda plain: plain.update(weather="fine"))) == from_json(to_json(passing_report()))


def test_layers_come_back_and_their_counts_are_added_up() -> None:
    report = REPORTS["quantized"]()
    rows = json.loads(to_json(report))["comparisons"]
    assert rows[0]["layers"] == []
    tanh = rows[2]["layers"][2]
    assert tanh == {
        "name": "tanh",
        "operators": ["Tanh"],
        "lsb": {"-3": 1, "0": 9, "2": 6},
        "most": 3,
        "reason": "the kernel draws straight lines",
    }
    assert rows[2]["layer_lsb"] == {"-3": 1, "-1": 30, "0": 10885, "1": 190, "2": 8}
    assert from_json(to_json(report)).comparisons[2].layers == report.comparisons[2].layers
    old = to_json(report).replace('"layer_lsb"', '"unknown"').replace('"layers"', '"unknown too"')
    assert from_json(old).comparisons[2].layers == ()  # reports of before


def _linked(links: tuple[LinkResult, ...]) -> Report:
    report = passing_report()
    return replace(report, artifacts=tuple(replace(item, links=links) for item in report.artifacts))


def test_links_of_the_proof_are_read_as_they_were_written_and_are_not_needed() -> None:
    text = to_json(_linked(LINKS))
    assert from_json(text).artifacts[0].links == LINKS
    plain = json.loads(text)
    for item in (*plain["artifacts"], *plain["comparisons"]):
        del item["links"]
    assert from_json(json.dumps(plain)).artifacts[0].links == ()


def _profiled(*used: float) -> Report:
    """The first file's row with a link that was judged layer by layer."""
    layers = tuple(LayerUse(f"layer.{at}", "Conv", share, 2 * share, 1e-7, 140.0) for at, share in enumerate(used))
    link = LinkResult(Link.RUNNING, Verdict.PASS, 1e-7, 1e-6, max(used), 140.0, "layer.0", layers=layers)
    source, row, *others = passing_report().comparisons
    return replace(passing_report(), comparisons=(source, replace(row, links=(link,)), *others))


def test_layers_of_a_link_come_back_with_four_digits_and_take_a_line_each() -> None:
    text = to_json(_profiled(0.25, 1 / 3))
    (link,) = from_json(text).comparisons[1].links
    assert link.layers[0] == LayerUse("layer.0", "Conv", 0.25, 0.5, 1e-7, 140.0)
    assert link.layers[1].used == 0.3333
    line = '{"name": "layer.0", "operators": "Conv", "used": 0.25, "likely": 0.5, "error": 1e-07, "sqnr_db": 140.0}'
    assert line in text


def test_a_link_that_passes_with_a_layer_beyond_its_bound_was_altered() -> None:
    text = to_json(_profiled(0.25, 0.5)).replace('"used": 0.25', '"used": 2.5')
    with pytest.raises(ParityError, match="the link running passes beyond its bound"):
        from_json(text)


def test_a_link_that_passes_beyond_its_bound_was_altered() -> None:
    beyond = (replace(LINKS[0], used=2.0),)
    text = to_json(_linked(beyond))
    with pytest.raises(ParityError, match="the link rewrites passes beyond its bound"):
        from_json(text)


def test_a_row_that_passes_though_a_link_is_broken_was_altered() -> None:
    broken = (replace(LINKS[1], verdict=Verdict.FAIL, reason="conv.weight is 1 ulp off"),)
    text = to_json(_linked(broken))
    with pytest.raises(ParityError, match="it passes though link 3"):
        from_json(text)
