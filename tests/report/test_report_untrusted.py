"""A report that a stranger wrote is one line, and never a pass that its own numbers do not give.

Members thought of: bounds, scales and time limits that are NaN, infinite (number and text), negative, booleans, text,
lists; scales beyond float32; numbers of 400 digits and integers beyond 64 bits; names with folders of either kind,
"..", a drive, NUL, blanks, 300 characters, of the report itself; lone surrogates; keys twice; files, tensors, rows,
samples twice, also but for case; rows of other files; nested and ragged values; a pass over failed, missing or NaN
samples, metrics, layers and shares; a bound of the other kind; depth; bytes that are no UTF-8;
models and devices without a name, or of 300 characters; millions of values in any place.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
from report_samples import REPORTS

from edgeconv.errors import ParityError
from edgeconv.report import from_json, to_json

Edit = Callable[[dict[str, Any]], object]


@cache
def _written(name: str) -> str:
    return to_json(REPORTS[name]())


def _text(edit: Edit, of: str = "passing") -> str:
    plain = json.loads(_written(of))
    edit(plain)
    return json.dumps(plain)


def _row(plain: dict[str, Any]) -> dict[str, Any]:
    return plain["comparisons"][1]


def _set(*path: str | int, value: object) -> Edit:
    def edit(plain: dict[str, Any]) -> None:
        target: Any = plain
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value

    return edit


def _again(key: str, change: Callable[[dict[str, Any]], object] = lambda item: None) -> Edit:
    def edit(plain: dict[str, Any]) -> None:
        twin = json.loads(json.dumps(plain[key][1]))
        change(twin)
        plain[key].append(twin)

    return edit


NO_BOUNDS = ["nan", "inf", "-inf", -1.0, True, "soon", [1e-5], {}, None, 10**400]
NO_NAMES = [
    "../../victim.onnx",
    "/etc/passwd.onnx",
    "..",
    "",
    ".onnx",
    "a\\b.onnx",
    "C:a.onnx",
    "a\0.onnx",
    "a b.onnx",
    "a\n.onnx",
    "x" * 300 + ".onnx",
    "é.onnx",
    7,
    ["a.onnx"],
]
EDITS: dict[str, Edit] = {
    **{f"tolerance {value!r:.9}": _set("comparisons", 1, "tolerance", "rtol", value=value) for value in NO_BOUNDS},
    **{
        f"largest {value!r:.9}": _set("comparisons", 1, "tolerance", "max_abs", value=value)
        for value in NO_BOUNDS
        if value is not None
    },
    **{f"scale {value!r:.9}": _set("comparisons", 1, "samples", 0, "scale", value=value) for value in NO_BOUNDS},
    **{f"artifact {value!r:.20}": _set("artifacts", 0, "file", value=value) for value in NO_NAMES},
    **{
        f"golden {value!r:.20}": _set("golden", value=value)
        for value in [*NO_NAMES, "parity.json", "a/b.safetensors"]
        if value
    },
    **{
        f"time limit {value!r:.9}": _set("environment", "timeout, s", value=value)
        for value in ["soon", "inf", "nan", "-1", "0", "", "1e9", {"a": "b"}]
    },
    "checksum of the golden file": _set("environment", "golden sha256", value="0" * 63),
    **{f"model {value!r:.9}": _set("model", value=value) for value in ["", "x" * 300, 7]},
    **{f"device {value!r:.9}": _set("comparisons", 1, "device", value=value) for value in ["", "x" * 300]},
    "checksum": _set("artifacts", 0, "sha256", value="A" * 64),
    "the report as an artifact": _set("artifacts", 0, "file", value="parity.json"),
    "nhwc of rank 2": _set("artifacts", 0, "outputs", 0, "layout", value="nhwc"),
    "a layout": _set("artifacts", 0, "outputs", 0, "layout", value="nwhc"),
    "a dtype": _set("artifacts", 0, "outputs", 0, "dtype", value="object"),
    "a scale of floats": _set("artifacts", 0, "outputs", 0, "scale", value=0.5),
    "a dimension below zero": _set("artifacts", 0, "inputs", 0, "shape", value=[-1, 3, 4, 4]),
    "a dimension of many digits": _set("artifacts", 0, "inputs", 0, "shape", value=[10**30]),
    "nested": _set("comparisons", 1, "samples", 0, "sample", value=[["a"]]),
    "ragged map": _set("comparisons", 1, "picture", "map", value=[[1.0, 2.0], [1.0]]),
    "huge map": _set("comparisons", 1, "picture", "map", value=[[0.0] * 65]),
    "edges": _set("comparisons", 1, "picture", "log10_edges", value=[1.0]),
    "counts": _set("comparisons", 1, "picture", "counts", value=[-1]),
    "latency": _set("comparisons", 1, "latency_ms", value="nan"),
    "files twice": _again("artifacts"),
    "files twice but for case": _again("artifacts", lambda item: item.update(file=item["file"].replace("m", "M", 1))),
    "rows twice": _again("comparisons"),
    "a row of another file": _again("comparisons", lambda row: row.update(artifact="other.fp32.onnx")),
    "samples twice": lambda plain: _row(plain)["samples"].append(_row(plain)["samples"][0]),
    "tensors twice": lambda plain: plain["artifacts"][0]["inputs"].append(plain["artifacts"][0]["inputs"][0]),
    "a failed sample": _set("comparisons", 1, "samples", 0, "verdict", value="fail"),
    "a skipped sample": _set("comparisons", 1, "samples", 0, "verdict", value="skipped"),
    "a sample beyond its bound": _set("comparisons", 1, "samples", 0, "excess", value=1.5),
    "a sample of no number": _set("comparisons", 1, "samples", 0, "excess", value="nan"),
    "a sample below nothing": _set("comparisons", 1, "samples", 0, "excess", value=-1.0),
    "an error beyond the further bound": _set("comparisons", 1, "samples", 0, "metrics", "max_abs", value=0.1),
    "nothing measured": _set("comparisons", 1, "metrics", value=None),
    "no samples": _set("comparisons", 1, "samples", value=[]),
    "the bound of an approximation": _set(
        "comparisons",
        1,
        "tolerance",
        value=dict.fromkeys(("sqnr_db", "cosine", "agreement", "accuracy_drop", "lsb", "layer_lsb")),
    ),
}
QUANTIZED: dict[str, Edit] = {
    "SQNR": _set("comparisons", 0, "metrics", "sqnr_db", value=3.0),
    "SQNR of no number": _set("comparisons", 0, "metrics", "sqnr_db", value="nan"),
    "cosine": _set("comparisons", 0, "metrics", "cosine", value=0.1),
    "classes": _set("comparisons", 0, "top1", value={"agree": 1}),
    "labels without counts": _set("comparisons", 0, "top1", value={"labelled": 6}),
    "steps": _set("comparisons", 0, "lsb", value={"9": 1}),
    "steps that are none": _set("comparisons", 0, "lsb", value={"soon": 1}),
    "the share": _set("comparisons", 0, "excess", value=7.0),
    "a layer": lambda plain: plain["comparisons"][0].update(layers=plain["comparisons"][2]["layers"]),
    "a cosine beyond 1": _set("comparisons", 0, "tolerance", "cosine", value=1.5),
    "endless decibels": _set("comparisons", 0, "tolerance", "sqnr_db", value="-inf"),
    "a zero point": _set("artifacts", 0, "inputs", 0, "zero_point", value=200),
    "a scale above float32": _set("artifacts", 0, "inputs", 0, "scale", value=1e308),
    "a scale that is 0 in float32": _set("artifacts", 0, "inputs", 0, "scale", value=5e-324),
}


def _replaced(old: str, new: str) -> str:
    return _text(lambda plain: None).replace(old, new, 1)


# Written when a test asks: at import, each process would write all of them.
CHAINED: dict[str, Edit] = {
    "a layer beyond its bound": _set("comparisons", 1, "links", 0, "layers", 3, "used", value=1.5),
    "a layer of no number": _set("comparisons", 1, "links", 0, "layers", 3, "used", value="nan"),
    "a layer of text": _set("comparisons", 1, "links", 0, "layers", 3, "likely", value="soon"),
    "a layer of lists": _set("comparisons", 1, "links", 0, "layers", 3, "operators", value=["Conv"]),
    "a layer without a name": lambda plain: plain["comparisons"][1]["links"][0]["layers"][0].pop("name"),
    "many layers": lambda plain: plain["comparisons"][1]["links"][0].update(
        layers=40_000 * plain["comparisons"][1]["links"][0]["layers"][:1]
    ),
    "a link twice": lambda plain: plain["artifacts"][0]["links"].append(plain["artifacts"][0]["links"][0]),
    "a link that is none": _set("artifacts", 0, "links", 0, "link", value="luck"),
    "a share of text": _set("artifacts", 0, "links", 0, "used", value="half"),
    "parts below nothing": _set("artifacts", 0, "coverage", "counts", "clamp", value=-1),
    "parts of a kind that is none": _set("artifacts", 0, "coverage", "counts", value={"luck": 1}),
    "more parts unreached than there are": _set("artifacts", 1, "coverage", "counts", value={"clamp": 19, "branch": 8}),
    "more classes certain than inputs": _set("artifacts", 0, "certificate", "certain", value=101),
    "a margin of text": _set("artifacts", 0, "certificate", "margin", value="wide"),
    "a part of lists": _set("artifacts", 1, "coverage", "unreached", 0, "part", value=["above 6"]),
    "many parts": lambda plain: plain["artifacts"][1]["coverage"].update(
        counts={"clamp": 10**9}, unreached=40_000 * plain["artifacts"][1]["coverage"]["unreached"][:1]
    ),
}
TEXTS: dict[str, Callable[[], str]] = {
    **{name: partial(_text, edit) for name, edit in EDITS.items()},
    **{f"int8 {name}": partial(_text, edit, "quantized") for name, edit in QUANTIZED.items()},
    **{f"links, {name}": partial(_text, edit, "chained") for name, edit in CHAINED.items()},
    "surrogate": partial(_replaced, "mobile_dsc.fp32.onnx", "\\ud800.onnx"),
    "surrogate in a text": partial(_text, _set("model", value="\ud800")),
    "a key twice": partial(_replaced, '"verdict": "pass"', '"verdict": "pass", "verdict": "pass"'),
    "depth of lists": partial(_replaced, '"notes"', '"deep": ' + "[" * 900 + "]" * 900 + ', "notes"'),
    "depth": lambda: '{"schema": 1, "deep": ' + '{"a":' * 50_000 + "1" + "}" * 50_001,
    "a version of many digits": lambda: '{"schema": ' + "1" * 5000 + "}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_one_line_and_no_pass(name: str) -> None:
    with pytest.raises(ParityError) as caught:
        from_json(TEXTS[name]())
    told = str(caught.value)
    assert told.startswith("parity.json: ")
    assert told.isprintable()
    assert len(told) < 600
    assert not any(words in told for words in PYDANTIC), told


PYDANTIC = ("Input should", "should match", "Field required", "Value error", "valid ", "constrained", "Node")


@pytest.mark.parametrize(
    ("path", "item"),
    [
        (("notes",), "[]"),
        (("zzz",), "[[]]"),
        (("comparisons",), "{}"),
        (("comparisons", 1, "picture", "map"), "[1]"),
        (("environment",), '{"a": 1}'),
        (("graphs", 0, "nodes"), '{"op": "a", "name": "b", "inputs": [], "shape": []}'),
    ],
)
def test_millions_of_values_are_refused_at_once(path: tuple[str | int, ...], item: str) -> None:
    text = _text(_set(*path, value="@")).replace('"@"', f"[{','.join([item] * 1_500_001)}]")
    before = time.process_time()
    with pytest.raises(ParityError, match="more than 1,500,000 values"):
        from_json(text)
    assert time.process_time() - before < 2


def test_a_wrong_list_is_told_by_its_first_item() -> None:
    with pytest.raises(ParityError, match=r"parity\.json: notes\.0: should be a string; "):
        from_json(_text(_set("notes", value=[7] * 400_000)))


@pytest.mark.parametrize("name", list(REPORTS))
def test_what_is_written_is_read(name: str) -> None:
    assert from_json(to_json(REPORTS[name]())).verdict == REPORTS[name]().verdict
