"""Noise of integers is what the readers of an input are defined on: onnxruntime runs them, and sees both ends."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

import edgeconv
from edgeconv.core.domain import Domain, draw
from edgeconv.graph.domains import READERS, domains_of
from edgeconv.recipe import load_recipe

_HEAD = '<ir_version: 10, opset_import: ["": 20]> g (int64[{0}] i, float[1, 4, 6, 6] x) => ({2} y) <{1}> {{ {3} }}'


def _model(size: str, constants: str, result: str, body: str) -> ir.Model:
    proto = onnx.parser.parse_model(_HEAD.format(size, constants, result, body))
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def _drawn(size: str, constants: str, body: str, result: str = "float") -> np.ndarray:
    """What `i` is drawn as; onnxruntime has run the graph on it."""
    model = _model(size, constants, result, body)
    shape = tuple(int(part) for part in size.split(",") if part)
    values = draw(domains_of(model).get("i", Domain()), shape, np.int64, 0)
    proto = ir.to_proto(model)
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    session.run(None, {"i": values, "x": np.ones((1, 4, 6, 6), np.float32)})
    return values


@pytest.mark.parametrize(
    ("size", "constants", "body", "ends"),
    [
        ("400", "", "y = Gather<axis = 1>(x, i)", (-4, 3)),
        ("1, 4, 6, 40", "", "y = GatherElements<axis = 3>(x, i)", (-6, 5)),
        ("400", "", "c = Cast<to = 6>(i) u = Identity(c) y = Gather<axis = 2>(x, u)", (-6, 5)),
        ("400", "int64[1] a = {1}", "u = Unsqueeze(i, a) y = Gather<axis = 1>(x, u)", (-4, 3)),
        ("400", "int64 k = {2}", "u = Mul(i, k) y = Gather<axis = 3>(x, u)", (-3, 2)),
        ("400", "int64 k = {2}", "u = Add(i, k) y = Gather<axis = 3>(x, u)", (-8, 3)),
        ("400", "int64 k = {2}", "u = Sub(k, i) y = Gather<axis = 3>(x, u)", (-3, 8)),
        ("400", "", "u = Neg(i) y = Gather<axis = 3>(x, u)", (-5, 6)),
        ("400", "int64 d = {7}, float[2] v = {0.0, 1.0}", "y = OneHot(i, d, v)", (-7, 6)),
        ("400", "int64[3] k = {3, 5, 9}, int64[1] a = {1}",
         "u = Unsqueeze(i, a) e = Equal(u, k) n = Not(e) y = Cast<to = 1>(n)", (3, 9)),
        ("400", "float k = {-10000.0}", "c = Cast<to = 1>(i) y = Mul(c, k)", (0, 1)),
        ("400", "float k = {1.0}", "c = Cast<to = 1>(i) y = Sub(k, c)", (0, 1)),
        ("400", "", "y = Cast<to = 1>(i)", (-8, 8)),
        ("", "", "y = CumSum(x, i)", (-4, 3)),
        ("400", "", "c = Cast<to = 3>(i) y = Cast<to = 1>(c)", (-8, 8)),
        ("400", "", "c = Cast<to = 2>(i) y = Cast<to = 1>(c)", (0, 8)),
        ("400", "int64 k = {100}", "e = Equal(i, k) y = Cast<to = 1>(e)", (98, 102)),
        ("400", "int64 k = {2}, int64 z = {0}, int64 s = {6}",
         "l = Less(i, z) a = Add(i, s) w = Where(l, a, i) y = Gather<axis = 3>(x, w)", (-12, 5)),
    ],
)  # fmt: skip
def test_indices_are_of_the_axis_and_from_one_end_to_the_other(
    size: str, constants: str, body: str, ends: tuple[int, int]
) -> None:
    values = _drawn(size, constants, body)
    if values.ndim:
        assert (values.min(), values.max()) == ends
    assert ends[0] <= values.min() <= values.max() <= ends[1]


@pytest.mark.parametrize(
    "body",
    [
        "u = Mod(k, i) y = Cast<to = 1>(u)",
        "u = Div(k, i) y = Cast<to = 1>(u)",
        "c = Cast<to = 1>(i) d = Cast<to = 1>(k) y = Div(d, c)",
        "c = Cast<to = 1>(i) y = Reciprocal(c)",
    ],
)
def test_no_divisor_is_zero(body: str) -> None:
    values = _drawn("400", "int64 k = {7}", body)
    assert np.all(values != 0)
    assert values.min() == -8


def test_what_is_written_by_index_meets_nowhere() -> None:
    values = _drawn("1, 4, 6, 6", "", "y = ScatterElements<axis = 1>(x, i, x)") % 4
    assert np.array_equal(np.sort(values, axis=1), np.broadcast_to(np.arange(4).reshape(1, 4, 1, 1), (1, 4, 6, 6)))
    rows = _drawn("20, 3", "int64[2] s = {20, 6}", "u = ConstantOfShape(s) y = ScatterND(x, i, u)")
    assert len({tuple(row) for row in rows % (1, 4, 6)}) == 20
    assert (rows < 0).any()
    added = _drawn("1, 4, 6, 6", "", 'y = ScatterElements<axis = 1, reduction = "add">(x, i, x)') % 4
    assert len(np.unique(np.sort(added, axis=1)[:, 0])) > 1, "with a sum, they may"
    spread = "int64[4] s = {1, 4, 6, 6}, int64[3] a = {0, 2, 3}"
    moved = _drawn("4", spread, "u = Unsqueeze(i, a) e = Expand(u, s) y = ScatterElements<axis = 1>(x, e, x)")
    assert sorted(moved % 4) == [0, 1, 2, 3]


def test_places_of_unpooling_differ() -> None:
    values = _drawn(
        "1, 4, 6, 6", "", "y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i)", "float[1, 4, 12, 12]"
    )
    assert len(np.unique(values)) == values.size
    assert values.min() >= 0
    assert values.max() < 4 * 144


def test_lengths_exponents_and_shifts_are_small() -> None:
    lengths = _drawn(
        "36", "int64[2] s = {4, 36}", "r = Reshape(x, s) y = ReverseSequence<batch_axis = 1, time_axis = 0>(r, i)"
    )
    assert 1 <= lengths.min() <= lengths.max() <= 4
    assert set(_drawn("400", "int64 k = {3}", "p = Pow(k, i) y = Cast<to = 1>(p)")) == {0, 1, 2, 3}
    shifts = _drawn(
        "400", "uint64 k = {1}", 'c = Cast<to = 13>(i) s = BitShift<direction = "LEFT">(k, c) y = Cast<to = 1>(s)'
    )
    assert (shifts.min(), shifts.max()) == (0, 7)


def test_every_rule_names_an_operator_and_gives_a_domain_or_none() -> None:
    from edgeconv.graph.traits import TRAITS

    assert set(READERS) <= set(TRAITS)


@pytest.mark.parametrize(
    ("dtype", "ends"), [("uint8", (0, 255)), ("int8", (-128, 127)), ("int32", (-8, 8)), ("uint16", (0, 8))]
)
def test_integers_that_nothing_bounds_have_the_range_of_their_type(dtype: str, ends: tuple[int, int]) -> None:
    values = draw(Domain(), (5000,), dtype, 0)
    assert values.dtype == dtype
    assert (values.min(), values.max()) == ends
    assert np.array_equal(values, draw(Domain(), (5000,), dtype, 0))


class _Table(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, i: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
        return self.table(i) + torch.gather(self.table.weight, 0, i[:, None]) * (i % n)[:, None]


def table() -> nn.Module:
    torch.manual_seed(0)
    return _Table()


@pytest.mark.parametrize("scale", ["", "scale = 1000"])
def test_a_module_is_proved_and_calibrated_on_rows_that_it_has(tmp_path: Path, scale: str) -> None:
    (tmp_path / "r.toml").write_text(
        f'name = "m"\n[model]\nfactory = "{__name__}:table"\n[[inputs]]\nname = "i"\nshape = [30]\ndtype = "int64"\n'
        '[[inputs]]\nname = "n"\nshape = [30]\ndtype = "int64"\n'
        '[export]\nvariants = ["fp32", "int8"]\n'
        f"[[parity.random]]\nseed = 1\n{scale}\n[[quantize.random]]\ncount = 16\n{scale}"
    )
    recipe = load_recipe(tmp_path / "r.toml")
    result = edgeconv.export_recipe(recipe, tmp_path / "out", devices=("onnxruntime", "litert"))
    assert result.report is not None
    assert result.report.verdict.value == "pass"
    rows = load_file(tmp_path / "out" / "m.golden.safetensors")
    indices = next(array for name, array in rows.items() if array.dtype == np.int64 and name.endswith("i"))
    assert len(np.unique(indices)) > 15
