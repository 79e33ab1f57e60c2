"""A border maps what others raise to one line of ours; a bug of ours goes through it, and is told as one.

Members thought of: whole conversions of files, damaged files, onnx reading and writing, onnxruntime; bugs (an attribute
that is not there, a name, a wrong call) and what libraries raise of bad data; networks of `edgeconv.nn`, which count as
the user's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

import edgeconv
from edgeconv.capture import whatever_it_brings
from edgeconv.capture.onnx_file._file import static_errors
from edgeconv.errors import EdgeconvError, is_own_fault
from edgeconv.flow.inspection.damaged import damaged
from edgeconv.quantize._calibrate import mapped

PACKAGE = Path(edgeconv.__file__).parent
BORDERS: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "a file's conversion": lambda: whatever_it_brings(Path("net.onnx")),
    "a damaged file": lambda: damaged("it is damaged"),
    "onnx": lambda: static_errors("net.onnx"),
    "onnxruntime": lambda: mapped("onnxruntime"),
}


def _raised_in(module: str, statement: str) -> None:
    exec(f"def function():\n    {statement}\nfunction()", {"__name__": module})


@pytest.mark.parametrize("border", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize(
    ("statement", "error"), [("None.shape", AttributeError), ("len()", TypeError), ("unknown", NameError)]
)
def test_a_bug_of_ours_is_not_told_as_the_files_fault(
    border: Callable[[], AbstractContextManager[None]], statement: str, error: type[Exception]
) -> None:
    with pytest.raises(error), border():
        _raised_in("edgeconv.rewrite.some", statement)


@pytest.mark.parametrize("border", BORDERS.values(), ids=BORDERS)
@pytest.mark.parametrize(
    ("module", "statement"),
    [("onnx.helper", "None.shape"), ("edgeconv.rewrite.some", "int('x')"), ("edgeconv.nn.some", "len()")],
    ids=["a library's", "bad data", "a network's"],
)
def test_what_bad_data_bring_about_is_one_line(
    border: Callable[[], AbstractContextManager[None]], module: str, statement: str
) -> None:
    with pytest.raises(EdgeconvError), border():
        _raised_in(module, statement)


def test_an_exception_that_nobody_raised_is_no_fault_of_ours() -> None:
    assert not is_own_fault(TypeError())


def test_whoever_catches_everything_says_why_beside_it() -> None:
    silent = []
    for path in sorted(PACKAGE.rglob("*.py")):
        lines = path.read_text().splitlines()
        for at, line in enumerate(lines):
            if re.match(r"\s*except( Exception| BaseException|:)", line):
                reasons = [part.partition("#")[2].replace("noqa: BLE001", "") for part in lines[at - 1 : at + 1]]
                if not any(re.search(r"\w{2}", reason) for reason in reasons):
                    silent.append(f"{path.relative_to(PACKAGE)}:{at + 1}")
    assert silent == []
