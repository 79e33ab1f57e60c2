"""Causes that the file's own nodes state: operators, attributes, operands left out, stored integers."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_writing_narrowed import COMPARED, POOLED, STEPS, TOP, judged


@pytest.mark.parametrize(
    ("text", "change", "cause"),
    [
        (COMPARED, ("Greater (x, b)", "Greater (b, x)"), "Greater c is computed as Less"),
        (COMPARED, ("Greater", "LessOrEqual"), "Greater c is computed as Less"),
        (COMPARED, ("Neg (x)", "Ceil (x)"), "Neg n is computed as Ceil"),
        (COMPARED, ("Neg (x)", "Mul (x, x)"), "Neg n is computed as its square"),
        (POOLED, ("[2, 2], strides", "[2, 3], strides"), "has kernel_shape [2, 3] instead of [2, 2]"),
        (POOLED, ("strides = [2, 2]", "strides = [1, 2]"), "has strides [1, 2] instead of [2, 2]"),
        (TOP, ("k = {3}", "k = {2}"), "the integers k of TopK y are [2] instead of [3]"),
        (TOP, ("<axis = 1>", "<axis = 1, largest = 0>"), "has largest 0 instead of its default"),
    ],
)
def test_what_the_files_own_node_states_is_the_cause(
    text: str, change: tuple[str, str], cause: str, tmp_path: Path
) -> None:
    link = judged(text, text.replace(*change), tmp_path)
    assert link.verdict.value == "fail"
    assert cause in link.reason.partition("cause: ")[2]


def test_an_operand_that_is_left_out_is_the_cause(tmp_path: Path) -> None:
    link = judged(STEPS, STEPS.replace("(x, w, r, b)", "(x, w, r)"), tmp_path)
    assert "cause: operand 3 of LSTM" in link.reason
