"""Ranges by percentile as numpy defines them, and choices for some operators alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import edgeconv
from edgeconv.cli import run
from edgeconv.errors import QuantizeError
from edgeconv.quantize import OBSERVERS, Plan
from edgeconv.quantize._histogram import Histogram

_RNG = np.random.default_rng(0)
_DATA = [{"x": _RNG.normal(size=(1, 3, 16, 16)).astype(np.float32)} for _ in range(8)]


def _seen(*arrays: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Histogram:
    seen = Histogram()
    for array in arrays:
        seen.add(array, "test")
    return seen


@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from(["normal", "laplace", "relu", "spikes", "integers", "tiny"]),
    st.floats(60.0, 100.0),
    st.integers(1, 20_000),
)
@example(0, "relu", 99.99, 20_000)
@example(1, "normal", 100.0, 1)
def test_a_percentile_is_numpys_within_a_bin(seed: int, kind: str, percent: float, count: int) -> None:
    rng = np.random.default_rng(seed)
    drawn = {
        "normal": lambda: rng.normal(size=count),
        "laplace": lambda: rng.laplace(3.0, 2.0, count),
        "relu": lambda: np.maximum(rng.normal(size=count), 0),
        "spikes": lambda: rng.normal(size=count) * np.where(rng.random(count) < 1e-3, 1e4, 1),
        "integers": lambda: rng.integers(-5, 6, count),
        "tiny": lambda: rng.normal(size=count) * 1e-20,
    }[kind]()
    elements = drawn.astype(np.float32)
    seen = _seen(*np.array_split(elements, 3))
    low, high = OBSERVERS["percentile"](seen, 256, percent)
    tail, bin_width = (1 - percent / 100) / 2, 2.0**seen.exponent
    near = [-1e-9, 1e-9]  # a tail of a whole number of elements is rounded either way
    lows, highs = (
        np.quantile(elements.astype(np.float64), np.clip(side + np.array(near), 0, 1), method="inverted_cdf")
        for side in (tail, 1 - tail)
    )
    assert min(lows[0] - bin_width, 0.0) <= low <= min(lows[1], 0.0)
    assert max(highs[0], 0.0) <= high <= max(highs[1] + bin_width, 0.0)


def test_all_percent_are_the_whole_range() -> None:
    seen = _seen(_RNG.normal(size=999).astype(np.float32))
    assert OBSERVERS["percentile"](seen, 256, 100.0) == OBSERVERS["min-max"](seen, 256, 0.0)


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Sigmoid())
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


torch.manual_seed(0)
_NET = _Net().eval()


def _export(folder: Path, variant: str = "int8", **options: object) -> edgeconv.ExportResult:
    chosen = {"batches": lambda: _DATA, "rounding": "nearest", "pair_safe": False, "equalize": False, **options}
    return edgeconv.export(
        _NET, (torch.zeros(1, 3, 16, 16),), folder, name="m", variants=variant, input_names=["x"], output_names=["y"],
        quantization=edgeconv.Quantization(**chosen),  # type: ignore[arg-type]
    )  # fmt: skip


def _plan(folder: Path, variant: str = "int8", **options: object) -> Plan:
    _export(folder, variant, **options)
    return Plan.from_json((folder / f"m.{variant}.plan.json").read_text())


def _widths(plan: Plan) -> Mapping[str, float]:
    return {name: parameters.scale for name, parameters in plan.tensors.items()}


@pytest.mark.parametrize(
    ("operators", "changed"),
    [
        (("x",), {"x"}),
        (("body.0",), {"body.1"}),  # whose ReLU is fused
        (("Conv",), {"body.1", "body.2", "y"}),
        (("body.*", "y"), {"body.1", "body.2", "y"}),  # a Sigmoid's scale is fixed
        (("*",), {"x", "body.1", "body.2", "y"}),
    ],
)
def test_an_observer_of_some_operators(operators: tuple[str, ...], changed: set[str], tmp_path: Path) -> None:
    choice = edgeconv.Override(operators=operators, observer="percentile", percentile=90.0)
    before, after = (
        _widths(_plan(tmp_path, observer="min-max")),
        _widths(_plan(tmp_path, observer="min-max", override=(choice,))),
    )
    assert {name for name in before if before[name] != after[name]} == changed
    assert all(after[name] < before[name] for name in changed)


def test_the_last_override_of_an_operator_counts(tmp_path: Path) -> None:
    first = edgeconv.Override(operators=("*",), observer="percentile", percentile=90.0)
    last = edgeconv.Override(operators=("body.2",), observer="min-max")
    whole, one, two = (_widths(_plan(tmp_path, observer="min-max", override=o)) for o in ((), (first,), (first, last)))
    assert two == {**one, "body.2": whole["body.2"]}


@pytest.mark.parametrize("variant", ["int8", "int16x8", "int8-weights"])
def test_one_scale_per_weight_of_some_operators(variant: str, tmp_path: Path) -> None:
    scales = _plan(
        tmp_path, variant, override=(edgeconv.Override(operators=("body.2",), per_channel=False),)
    ).weights  # fmt: skip
    assert {name: len(parameters.scales) for name, parameters in scales.items()} == {
        name: 1 if name == "body.2" else size
        for name, size in {"body.0": 8, "body.2": 8, "y": 4}.items()
        if name in scales
    }


def test_names_follow_channels_that_are_brought_into_another_order(tmp_path: Path) -> None:
    choice = edgeconv.Override(operators=("body.*",), observer="percentile", percentile=90.0)
    prepared = {"pair_safe": True, "equalize": True, "rounding": "feedback", "observer": "min-max"}
    before, after = _widths(_plan(tmp_path, **prepared)), _widths(_plan(tmp_path, **prepared, override=(choice,)))
    smaller = {name.removesuffix(".reordered") for name in before if after[name] < before[name]}
    assert smaller == {"body.1", "body.2"}
    assert any(name.endswith(".reordered") for name in before)


def test_outliers_of_the_calibration_data_cost_least_by_percentile(tmp_path: Path) -> None:
    """Hot pixels, one of 12,288 numbers: min-max and mse keep a range for what unseen images do not have."""
    torch.manual_seed(0)
    rng = np.random.default_rng(1)
    hot, unseen = (rng.normal(size=(count, 1, 3, 64, 64)).astype(np.float32) for count in (8, 4))
    hot[:, 0, 0, 20, 30] = 60.0
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.LeakyReLU(0.5), nn.Conv2d(8, 4, 1, bias=False)).eval()
    reached = {}
    for observer, rest in {"min-max": {}, "mse": {}, "percentile": {"percentile": 99.9}}.items():
        result = edgeconv.export(
            net, (torch.zeros(1, 3, 64, 64),), tmp_path, name="m", variants="int8", formats="onnx", input_names=["x"],
            devices="onnxruntime", samples=[edgeconv.Sample(f"s{i}", {"x": x}) for i, x in enumerate(unseen)],
            quantization=edgeconv.Quantization(
                batches=lambda: [{"x": x} for x in hot], observer=observer, **rest  # type: ignore[arg-type]
            ),
        )  # fmt: skip
        assert result.report is not None
        reached[observer] = min(row.metrics.sqnr_db for row in result.report.comparisons if row.metrics is not None)
    assert reached["percentile"] > max(reached["min-max"], reached["mse"]) + 5.0, reached


def test_an_override_is_refused_in_pythons_terms(tmp_path: Path) -> None:
    def override(**fields: object) -> edgeconv.Override:
        return edgeconv.Override(**fields)  # type: ignore[arg-type]

    refused = [
        (lambda: override(operators="a", observer="mse"), r"override: operators is one string; write \('a',\)"),
        (lambda: override(operators=(), observer="mse"), "override: it names no operators"),
        (
            lambda: override(operators=("a",)),
            "override: it chooses nothing; give observer, percentile, range or",
        ),
        (lambda: override(operators=("a",), observer="mean"), "override, observer: 'mean' is not known"),
        (lambda: override(operators=("a",), percentile=101), "override, percentile: it is 101; give a number from 50"),
        (lambda: override(operators=("a",), range=(1, 0)), "override, range: it is 1 to 0; give the smaller number"),
        (lambda: override(operators=("a",), range=1.0), "override, range: it is a float; give two numbers"),
        (lambda: override(operators=("a",), range=(0, 1), observer="mse"), "override: it has a range and an observer"),
        (
            lambda: _plan(tmp_path, override=(override(operators=("body.0",), range=(0, 1)),)),
            "override: 'body.0' is no input; state ranges of inputs alone",
        ),
        (lambda: override(operators=("a",), per_channel=1), "override, per_channel: it is 1; give True or False"),
        (lambda: edgeconv.Quantization(percentile=99.0), 'percentile: no observer heeds it; choose observer = "per'),
        (
            lambda: edgeconv.Quantization(override=(override(operators=("a",), percentile=99.0),)),
            "percentile: no observer heeds it",
        ),
        (
            lambda: _plan(tmp_path, override=(override(operators=("hed",), observer="mse"),)),
            r"override: no operator makes 'hed'; did you mean 'head'\? .*a torch module or a type, .*, or an input",
        ),
        (lambda: _plan(tmp_path, keep_float=("conv",)), r"keep_float: no operator makes 'conv'; did you mean 'Conv'\?"),
        (
            lambda: _plan(tmp_path, override=(override(operators=("hed.*",), observer="mse"),)),
            r"override: 'hed\.\*' matches no operator",
        ),
    ]
    for call, message in refused:
        with pytest.raises(QuantizeError, match=message):
            call()


_HEAD = 'name = "n"\n[model]\nfactory = "torch.nn:ReLU"\n[[inputs]]\nname = "x"\nshape = [1, 3, 8, 8]\n[export]\n'
_TABLE = "[[quantize.override]]\n"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (f"{_TABLE}observer = 'mse'", "n.toml: quantize.override[0].operators: is required"),
        (
            f"{_TABLE}operators = []\nobserver = 'mse'",
            "override[0].operators: has 0 items and needs at least 1",
        ),
        (
            f"{_TABLE}operators = ['x']",
            "n.toml: quantize: override: it chooses nothing; give observer, ",
        ),
        (f"{_TABLE}operators = ['x']\nobserver = 'mean'", "quantize.override[0].observer: unknown observer 'mean'"),
        (f"{_TABLE}operators = ['x']\nobserve = 'mse'", "unknown key 'observe'; did you mean 'observer'"),
        (f"{_TABLE}operators = ['x']\npercentile = 99", "n.toml: quantize: percentile: no observer heeds it"),
        (
            "[quantize]\nobserver = 'percentile'\npercentile = 30",
            "quantize.percentile: should be at least 50.0, not",
        ),
        ("[quantize]\npercentile = 99.5", 'quantize: percentile: no observer heeds it; choose observer = "percentile"'),
        (f"{_TABLE}operators = ['conv.*']\nobserver = 'mse'", "quantize.override: 'conv.*' matches no operator"),
    ],
)
def test_a_recipe_is_told_what_is_wrong(
    lines: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "n.toml").write_text(f'{_HEAD}variants = ["int8"]\n{lines}\n[[quantize.random]]\ncount = 2\n')
    assert run(["export", str(tmp_path / "n.toml"), "--out", str(tmp_path), "--no-parity", "-q"]) == 2
    assert message in capsys.readouterr().err


def test_a_recipe_says_what_python_says(tmp_path: Path) -> None:
    lines = "[quantize]\nobserver = 'percentile'\npercentile = 99\n[[quantize.override]]\noperators = ['a', 'B']\n"
    (tmp_path / "n.toml").write_text(f"{_HEAD}{lines}per_channel = false\npercentile = 99.9\n")
    options = edgeconv.load_recipe(tmp_path / "n.toml").quantize.options
    assert (options.observer, options.percentile) == ("percentile", 99.0)
    assert options.override == (edgeconv.Override(operators=("a", "B"), percentile=99.9, per_channel=False),)
