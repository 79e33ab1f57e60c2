"""int8 that misses its threshold: the note says what helps, and `int8-mixed` reaches it by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from digits import RECIPE, written

import edgeconv
from edgeconv.core.search_target import Target
from edgeconv.flow.target_points import margin_words
from edgeconv.quantize import Plan
from edgeconv.recipe import Recipe
from edgeconv.recipe.quantization import FidelitySection


def _recipe(sqnr_db: float, path: Path = RECIPE) -> Recipe:
    recipe = edgeconv.load_recipe(path)
    fidelity = {**recipe.parity.fidelity, "int8": FidelitySection(sqnr_db=sqnr_db)}
    return recipe.model_copy(update={"parity": recipe.parity.model_copy(update={"fidelity": fidelity})})


def test_the_margin_is_told_as_it_was_reached() -> None:
    target = Target(sqnr_db=20.0, confidence=0.95)
    assert margin_words(target, 20.5) == ", with a margin: 95% sure of other inputs like them"
    assert "not even everything in float" in margin_words(target, 19.5)
    assert not margin_words(target, None)
    assert not margin_words(Target(sqnr_db=20.0), 30.0)


@pytest.mark.slow  # the search, 30 s of one core
def test_mixed_reaches_what_int8_misses(tmp_path: Path) -> None:
    result = edgeconv.export_recipe(_recipe(32.0), tmp_path, variants=("int8", "int8-mixed"), devices=("onnxruntime",))
    report = result.report
    assert report is not None
    verdicts = {(row.artifact.split(".")[1], row.verdict.value) for row in report.comparisons if row.artifact}
    assert verdicts == {("int8", "fail"), ("int8-mixed", "pass")}
    (note,) = [note for note in result.notes if "asked for" in note]
    plan = Plan.from_json((tmp_path / "digits_dsc.int8.plan.json").read_text())
    named = note.split("would give back: ")[1].split(";")[0]
    assert all(part.split(" ")[0] in plan.weights and part.endswith(" dB") for part in named.split(", "))
    assert "--variant int8-mixed" in note
    assert "--variant int16x8" in note

    search = report.target_search
    assert search is not None
    (chosen,) = [point for point in search.points if point.chosen]
    assert 0 < chosen.kept < search.layers
    assert "with a margin: 95% sure of other inputs" in search.judged_on
    bounds = {point.kept: point.sqnr_bound_db or point.sqnr_db for point in search.points}
    assert all(bounds[point.kept] <= point.sqnr_db for point in search.points)
    assert bounds[chosen.kept] >= 32
    assert all(bound < 32 for kept, bound in bounds.items() if kept < chosen.kept)
    mixed = Plan.from_json((tmp_path / "digits_dsc.int8-mixed.plan.json").read_text())
    assert set(chosen.layers) <= mixed.kept_float.keys()
    assert set(chosen.layers) <= plan.weights.keys(), "int8 beside it stays whole"


def test_mixed_keeps_nothing_in_float_where_int8_is_enough(tmp_path: Path) -> None:
    recipe, variants = _recipe(20.0, written(tmp_path / "recipe", 20)), ("int8", "int8-mixed")
    result = edgeconv.export_recipe(recipe, tmp_path, variants=variants, devices=("onnxruntime",))
    assert not any("asked for" in note for note in result.notes)
    plans = [Plan.from_json((tmp_path / f"digits_dsc.{name}.plan.json").read_text()) for name in ("int8", "int8-mixed")]
    assert plans[0] == plans[1]
    assert plans[1].kept_float == {}
