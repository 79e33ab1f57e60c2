"""Values of five to eight axes, on every runtime: LiteRT with XNNPACK, its reference kernels, tflite-runtime 2.14.

Members: elementwise operators that broadcast in every pattern, choices, comparisons, products of matrices, joins,
parts, reductions, softmax, pads, slices with and without steps, permutations, gathers, sums along an axis,
normalizations; of float32, int32 and int64; nine axes, which are refused; an open batch; quantized graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from crossed import diagonal, slow_but
from torch import Tensor, nn
from torch.nn import functional

import edgeconv
from edgeconv.core import Artifact, Emitted, Sample, TensorSpec, Verdict
from edgeconv.devices import DEVICES, start
from edgeconv.emit.tflite._graph import Graph
from edgeconv.emit.tflite._graph import Tensor as Written
from edgeconv.emit.tflite.file._flatbuffer import write
from edgeconv.emit.tflite.file._versions import SINCE
from edgeconv.emit.tflite.simplify import _ranks
from edgeconv.emit.tflite.simplify._ranks import MOST
from edgeconv.errors import EmitError

Array = npt.NDArray[Any]
_SHAPE = (2, 3, 2, 2, 3, 2, 2, 3)


def _odd(x: Tensor) -> Tensor:
    """One element of every second axis."""
    return x[tuple(slice(0, 1) if axis % 2 else slice(None) for axis in range(x.ndim))]


def _even(x: Tensor) -> Tensor:
    return x[tuple(slice(None) if axis % 2 else slice(0, 1) for axis in range(x.ndim))]


_ANY_RANK: dict[str, Callable[[Tensor], Tensor]] = {
    "add a vector": lambda x: x + torch.arange(float(x.shape[-1])),
    "add": lambda x: _odd(x) + _even(x),
    "subtract": lambda x: _odd(x) - _even(x),
    "multiply": lambda x: _odd(x) * _even(x),
    "divide": lambda x: _odd(x) / (_even(x).abs() + 0.5),
    "maximum": lambda x: torch.maximum(_odd(x), _even(x)),
    "power": lambda x: _odd(x).abs() ** (_even(x).abs() + 1),
    "remainder": lambda x: torch.remainder(_odd(x), _even(x).abs() + 0.5),
    "compare": lambda x: (_odd(x) > _even(x)).float(),
    "and": lambda x: ((_odd(x) > 0) & (_even(x) < 0.3)).float(),
    "where": lambda x: torch.where(x > 0.2, _odd(x), _even(x)),
    "where a number": lambda x: torch.where(x > 0.2, x, 2.0),
    "int32": lambda x: ((_odd(x) * 4).int() * (_even(x) * 3).int()).float(),
    "int64": lambda x: ((_odd(x) * 4).long() - (_even(x) * 3).long()).float(),
    "product": lambda x: x @ x.transpose(-1, -2),
    "product with one": lambda x: x @ x[:1, :, :1].transpose(-1, -2),
    "cat": lambda x: torch.cat([x, -x], 3),
    "chunk": lambda x: torch.cat(x.chunk(2, 2)[::-1], 1),
    "softmax": lambda x: x.softmax(-1) + x.softmax(2),
    "log_softmax": lambda x: x.log_softmax(-1),
    "mean": lambda x: x.mean(tuple(range(0, x.ndim, 2))),
    "sum": lambda x: x.sum((1, 3), keepdim=True),
    "amax": lambda x: x.amax((0, 2, 4)) + x.amin((0, 2, 4)),
    "var": lambda x: x.var((0, 2, 4)),
    "argmax": lambda x: x.argmax(3).float(),
    "pad": lambda x: functional.pad(x, (1, 0, 0, 2, 1, 1, 0, 0, 1, 1)),
    "pad with a number": lambda x: functional.pad(x, (1, 0, 0, 2, 1, 1, 0, 0, 1, 1), value=2.0),
    "slice": lambda x: x[(slice(1, None), slice(0, 2), slice(None), slice(1, 2), *[slice(0, 1)] * (x.ndim - 4))],
    "steps": lambda x: x[
        (slice(None, None, 2), slice(None, None, 2), slice(None), *[slice(0, None, 2)] * (x.ndim - 3))
    ],
    "reverse the axes": lambda x: x.permute(tuple(reversed(range(x.ndim)))),
    "swap pairs of axes": lambda x: x.permute([axis ^ 1 if axis ^ 1 < x.ndim else axis for axis in range(x.ndim)]),
    "linear": lambda x: functional.linear(x, torch.ones(4, x.shape[-1])),
    "layer_norm": lambda x: functional.layer_norm(x, x.shape[-2:]),
    "cumsum": lambda x: x.cumsum(3),
    "roll": lambda x: x.roll(1, 3).flip(1, 4),
    "topk": lambda x: x.topk(1, -1)[0],
    "expand": lambda x: x[:1, :, :1].expand(x.shape) + 0,
    "activation": lambda x: functional.leaky_relu(x).sigmoid(),
}


class _All(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(x) for function in _ANY_RANK.values())


@pytest.mark.parametrize("rank", slow_but([6, 8], [5, 6, 7, 8]))
def test_tensors_of_five_to_eight_axes_run_on_every_runtime(tflite: Any, old_runtime: Any, rank: int) -> None:
    x = torch.randn(_SHAPE[:rank], generator=torch.Generator().manual_seed(rank))
    emitted = tflite.to_tflite(tflite.graph_of(_All(), x), metadata={})
    expected = _All()(x)
    for runtime, outputs in {
        "xnnpack": tflite.run(emitted, [x.numpy()]).outputs,
        "reference": tflite.run(emitted, [x.numpy()], "reference").outputs,
        "2.14": old_runtime(emitted, [x.numpy()]),
    }.items():
        for name, actual, tensor in zip(_ANY_RANK, outputs, expected, strict=True):
            assert actual.shape == tuple(tensor.shape), (name, runtime)
            np.testing.assert_allclose(actual, tensor.numpy(), atol=1e-4, err_msg=f"{name} on {runtime}")


def test_nine_axes_are_refused(tflite: Any) -> None:
    module = tflite.Function(lambda x: torch.stack([x, -x], 2).relu())
    with pytest.raises(EmitError, match="9 axes, and TFLite's RESHAPE takes 8"):
        tflite.to_tflite(tflite.graph_of(module, torch.zeros(_SHAPE)), metadata={})


def test_low_ranks_stay_as_they_are(tflite: Any) -> None:
    def forward(x: Tensor) -> Tensor:
        return (functional.pad(x, (1, 1, 0, 2)) * torch.arange(5.0)).sum((1, 3)).softmax(-1)

    ran = tflite.check(tflite.Function(forward), (1, 2, 2, 3), layouts=("nchw",))["nchw"]
    assert "RESHAPE" not in [name for name in ran.operators if name not in ("TRANSPOSE",)][1:-1]


class _Behind(nn.Module):
    """A function of a layer's result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.function = nn.Conv2d(3, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.layer(x))


_BEHIND: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda y: y.reshape(-1, 2, 2, 1, 4, 4) @ y.reshape(-1, 2, 2, 1, 4, 4).transpose(-1, -2),
    "mean": lambda y: y.reshape(-1, 2, 2, 2, 2, 2, 2).mean((2, 4, 6)),
    "permutation": lambda y: y.reshape(-1, 2, 2, 2, 2, 2, 2).permute(0, 6, 4, 2, 5, 3, 1).relu(),
    "pad and part": lambda y: functional.pad(y.reshape(-1, 2, 2, 2, 2, 4), (1, 1, 0, 0, 1, 0))[:, 1:, :, 1:, 1:, ::2],
    "sum": lambda y: y.reshape(-1, 2, 2, 2, 2, 2, 2) + y.reshape(-1, 2, 2, 2, 2, 2, 2)[:, :1, :, :1, :, :1],
}
_EVERYWHERE = ("litert", "litert-reference", "tflite-runtime")


@pytest.mark.parametrize(("name", "variant"), diagonal([*_BEHIND], ["int8", "open batch"]))
def test_quantized_graphs_and_open_batches(tmp_path: Path, name: str, variant: str) -> None:
    module, x = _Behind(_BEHIND[name]).eval(), torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    more: dict[str, Any] = {"dynamic_batch": True}
    if variant == "int8":
        samples = [{"x": torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(i)).numpy()} for i in range(8)]
        more = {"variants": "int8", "quantization": edgeconv.Quantization(batches=lambda: samples)}
    result = edgeconv.export(
        module, (x,), tmp_path, name="m", formats="tflite", input_names=["x"], devices=_EVERYWHERE, **more
    )
    assert result.report is not None
    rows = [(row.device, str(row.verdict), row.reason) for row in result.report.comparisons]
    assert all(verdict == "pass" for _, verdict, _ in rows), rows


# The table itself: what it says is taken on every runtime, and one axis more is not.

_SIZES = (2, 3, 2, 3, 2, 2, 3)
_BINARY: Mapping[str, Callable[[Array, Array], Array]] = {
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "DIV": lambda a, b: a / b if a.dtype.kind == "f" else a // b,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "POW": np.power,
    "FLOOR_MOD": np.mod,
    "EQUAL": np.equal,
    "NOT_EQUAL": np.not_equal,
    "GREATER": np.greater,
    "GREATER_EQUAL": np.greater_equal,
    "LESS": np.less,
    "LESS_EQUAL": np.less_equal,
    "LOGICAL_AND": np.logical_and,
    "LOGICAL_OR": np.logical_or,
}
_REDUCED = {"MEAN": np.mean, "SUM": np.sum, "REDUCE_MAX": np.max, "REDUCE_MIN": np.min}
_DIFFER = ("SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM")  # take fewer axes of integers without a scale


def _case(code: str, rank: int, kind: type) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    """Operands, which of them are constants, the result and the options of an operator that uses all its axes."""
    sizes = _SIZES[:rank]
    generator = np.random.default_rng(rank)

    def numbers(shape: tuple[int, ...]) -> Array:
        if code.startswith("LOGICAL"):
            return generator.random(shape) > 0.5
        return generator.integers(1, 6, shape).astype(kind)

    x = numbers(sizes)
    spread = [tuple(size if axis % 2 == odd else 1 for axis, size in enumerate(sizes)) for odd in (0, 1)]
    if code in _BINARY:
        a, b = map(numbers, spread)
        return [a, b], [], _BINARY[code](a, b), {}
    if code == "SELECT_V2":
        a, b = map(numbers, spread)
        return [x > 2, a, b], [], np.where(x > 2, a, b), {}
    if code in _REDUCED:
        axes = np.arange(0, rank, 2, dtype=np.int32)
        return [x, axes], [1], _REDUCED[code](x, axis=tuple(axes), keepdims=True), {"keepDims": True}
    return _SHAPED[code](x)


def _shaped_pad(x: Array) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    table = np.ones((x.ndim, 2), np.int32)
    return [x, table], [1], np.pad(x, table), {}


def _shaped_padv2(x: Array) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    table = np.ones((x.ndim, 2), np.int32)
    return [x, table, np.full(1, 7, x.dtype)], [1, 2], np.pad(x, table, constant_values=7), {}


def _shaped_slice(x: Array) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    cut = x[(slice(1, None),) * x.ndim]
    return [x, np.ones(x.ndim, np.int32), np.array(cut.shape, np.int32)], [1, 2], cut, {}


def _shaped_strided(x: Array) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    bounds = [np.zeros(x.ndim, np.int32), np.array(x.shape, np.int32), np.full(x.ndim, 2, np.int32)]
    return [x, *bounds], [1, 2, 3], x[(slice(None, None, 2),) * x.ndim], {}


def _shaped_product(x: Array) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    other = np.ascontiguousarray(x.swapaxes(-1, -2))
    return [x, other], [], x @ other, {"adjX": False, "adjY": False}


def _shaped_rows(x: Array) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    weight = np.arange(4 * x.shape[-1], dtype=np.float32).reshape(4, -1)
    return [x, weight, np.zeros(4, np.float32)], [1, 2], x @ weight.T, {"keepNumDims": True}


def _shaped_softmax(x: Array) -> tuple[list[Array], list[int], Array, dict[str, Any]]:
    return [x], [], np.exp(x) / np.exp(x).sum(-1, keepdims=True), {"beta": 1.0}


_SHAPED: dict[str, Callable[[Array], tuple[list[Array], list[int], Array, dict[str, Any]]]] = {
    "PAD": _shaped_pad,
    "PADV2": _shaped_padv2,
    "SLICE": _shaped_slice,
    "STRIDED_SLICE": _shaped_strided,
    "BATCH_MATMUL": _shaped_product,
    "FULLY_CONNECTED": _shaped_rows,
    "SOFTMAX": _shaped_softmax,
    "CONCATENATION": lambda x: ([x, x], [], np.concatenate([x, x], 0), {"axis": 0}),
    "SPLIT": lambda x: ([np.array(0, np.int32), x], [0], x[:1], {"numSplits": 2}),
    "TRANSPOSE": lambda x: ([x, np.arange(x.ndim, dtype=np.int32)[::-1].copy()], [1], np.ascontiguousarray(x.T), {}),
}


def _file(code: str, rank: int, kind: type) -> tuple[Emitted, list[Array], Array]:
    """A file of the one operator, as it is."""
    operands, constants, expected, options = _case(code, rank, kind)
    graph = Graph()
    tensors = []
    for number, array in enumerate(operands):
        if number in constants:
            tensors.append(graph.constant(array, f"constant{number}"))
            continue
        graph.inputs.append(Written(f"x{number}", array.shape, array.dtype, owner="x"))
        tensors.append(graph.inputs[-1])
    shapes = [expected.shape] * (2 if code == "SPLIT" else 1)
    graph.outputs = graph.add(code, tensors, shapes, "y", expected.dtype, **options)
    for number, tensor in enumerate(graph.outputs):
        tensor.name = f"y{number}"
    data, _ = write(graph, {})
    specs = [tuple(_spec(tensor) for tensor in border) for border in (graph.inputs, graph.outputs)]
    return Emitted(data, *specs), [array for number, array in enumerate(operands) if number not in constants], expected


def _spec(tensor: Written) -> TensorSpec:
    return TensorSpec(tensor.name, tensor.shape, tensor.dtype.name, "nchw")


def _is_right(tflite: Any, folder: Path, code: str, rank: int, kind: type) -> bool:
    """Whether every runtime takes a file of the operator with so many axes; each file in a process of its own."""
    emitted, inputs, expected = _file(code, rank, kind)
    try:
        outputs = [tflite.run(emitted, inputs, resolver).outputs[0] for resolver in ("xnnpack", "reference")]
    except (RuntimeError, ValueError):
        return False
    path = folder / "probe.tflite"
    path.write_bytes(emitted.data)
    artifact = Artifact(path, "tflite", "fp32", "nchw", "", emitted.inputs, emitted.outputs)
    sample = Sample("one", {spec.name: array for spec, array in zip(emitted.inputs, inputs, strict=True)})
    with start(DEVICES["tflite-runtime"]) as session:
        run = session.run(artifact, [sample], timeout_s=60)
    if run.verdict is Verdict.SKIPPED:
        pytest.skip(run.reason)
    if run.verdict is not Verdict.PASS:
        return False
    outputs.append(run.outputs[0]["y0"])
    return all(array.shape == expected.shape and np.allclose(array, expected, rtol=1e-4) for array in outputs)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "kind"), [*((code, np.float32) for code in MOST), *((code, np.int32) for code in _DIFFER)]
)
def test_the_table_is_what_the_runtimes_take(tflite: Any, tmp_path: Path, code: str, kind: type) -> None:
    most = MOST[code][0 if kind is np.float32 else 1]
    assert _is_right(tflite, tmp_path, code, most, kind)
    assert not _is_right(tflite, tmp_path, code, most + 1, kind)


def test_every_operator_that_takes_any_number_of_axes_has_a_rule() -> None:
    """But for those that the emitter writes for images only, for RESHAPE, and for what takes flat operands."""
    of_images = {
        code for code in SINCE if code.endswith(("_2D", "_CONV", "_BILINEAR", "_NEIGHBOR", "_DEPTH", "_SPACE"))
    }
    assert set(SINCE) - set(_ranks._RULES) == of_images | {"RESHAPE", "PRELU", "SCATTER_ND"}
