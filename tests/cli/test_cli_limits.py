"""A time limit that no timer takes is told in one line, in our words, by every verb that has one.

Members thought of: 0, negative, NaN, infinite by its word and by its exponent, beyond a timer's range, with a unit, in
other digits, empty; and other options whose values are no numbers.
"""

from __future__ import annotations

import pytest

from edgeconv.cli import run

VERBS = {
    "export": ["export", "x.toml"],
    "quantize": ["quantize", "x.toml", "--target-sqnr", "9"],
    "parity": ["parity", "x"],
    "cost": ["cost", "x.toml"],
    "bench": ["bench", "x"],
    "bisect": ["bisect", "x"],
}


@pytest.mark.parametrize("verb", list(VERBS))
@pytest.mark.parametrize(
    "limit", ["0", "-1", "0.05", "nan", "inf", "-inf", "1e400", "1e300", "9" * 20, "5s", "0x10", " ", "9" * 400, "1e10"]
)
def test_a_limit_that_is_none(verb: str, limit: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*VERBS[verb], "--timeout", limit]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("edgeconv: error: Invalid value for '--timeout': ")
    assert "is no number of seconds from 0.1 to 1,000,000,000" in line


@pytest.mark.parametrize(("arguments", "words"), [(["--rounds", "a"], "an integer"), (["--rounds", "0"], "at least 1")])
def test_numbers_that_are_none_are_told_in_our_words(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "x", *arguments]) == 2
    assert (
        capsys.readouterr().err
        == f"edgeconv: error: Invalid value for '--rounds': should be {words}; see `edgeconv --help`\n"
    )
