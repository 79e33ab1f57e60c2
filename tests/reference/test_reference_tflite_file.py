"""What the reader says of a `.tflite` file, and how it refuses one that is damaged, hostile or not computed."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from tflite_files import Spec, constant, file_of, ints, packed

from edgeconv.errors import EdgeconvError, EmitError
from edgeconv.reference import tflite

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))
from foresight import unforeseen
from tflite_mutants import tflite_of

X = Spec((1, 6, 6, 3))
OPTIONS = {"table": "Conv2DOptions", "strideH": 1, "strideW": 2, "fusedActivationFunction": 3}


def _conv(**further: Any) -> bytes:
    weights = constant(np.ones((4, 3, 3, 3)), "int8", scale=[0.1, 0.2, 0.3, 0.4])
    x, y = Spec((1, 6, 6, 3), "int8", 0.5, -3), Spec((1, 6, 3, 4), "int8", 0.25, 7)
    bias = constant(np.arange(4), "int32", scale=[0.05, 0.1, 0.15, 0.2])
    return file_of("CONV_2D", [x, weights, bias], [y], version=3, **(OPTIONS | further))


def _changed(data: bytes, change: Callable[[Any], object]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    return packed(model)


def test_a_file_as_values() -> None:
    graph = tflite.read(_conv())
    assert [tensor.name for tensor in graph.tensors] == ["x0", "x1", "x2", "y0"]
    assert (graph.inputs, graph.outputs) == ((0,), (3,))
    x, weights, bias, y = graph.tensors
    assert x == x
    assert (x.shape, x.dtype, x.data) == ((1, 6, 6, 3), "int8", None)
    assert x.quantization == tflite.Quantization((0.5,), (-3,), 0)
    assert weights.quantization is not None
    assert weights.quantization.per_channel
    assert weights.data is not None
    assert not weights.data.flags.writeable
    assert bias.dtype == "int32"
    assert not y.floating
    (operator,) = graph.operators
    assert (operator.name, operator.version, operator.inputs, operator.outputs) == ("CONV_2D", 3, (0, 1, 2), (3,))
    assert operator.options["stride_w"] == 2
    assert operator.options["dilation_h_factor"] == 1
    assert operator.options["fused_activation_function"] == 3


def test_options_that_are_left_out_have_the_schemas_defaults() -> None:
    data = _changed(_conv(), lambda model: setattr(model.subgraphs[0].operators[0], "builtinOptionsType", 0))
    options = tflite.read(data).operators[0].options
    assert (options["padding"], options["dilation_w_factor"], options["stride_h"]) == (0, 1, 0)


def test_constants_of_every_type() -> None:
    numbers = np.array([[1, -2, 3]])
    for kind in ("float32", "float16", "int8", "int16", "int32", "int64", "int4"):
        tensor = tflite.read(file_of("RESHAPE", [constant(numbers, kind), ints(3)], [Spec((3,), kind)])).tensors[0]
        assert tensor.data is not None
        np.testing.assert_array_equal(tensor.data, numbers)
        assert tensor.held_as == np.dtype("float64" if "float" in kind else "int8" if kind == "int4" else kind)
    brain = _changed(
        file_of("RESHAPE", [constant([[16256, 49152]], "uint16"), ints(2)], [Spec((2,))]),
        lambda model: setattr(model.subgraphs[0].tensors[0], "type", schema.TensorType.BFLOAT16),
    )
    np.testing.assert_array_equal(tflite.read(brain).tensors[0].data, [[1.0, -2.0]])


def test_values_behind_the_table() -> None:
    """Files of more than 2 GB hold the offset of a buffer's values, from the beginning of the file."""

    def moved(model: Any, offset: int) -> None:
        buffer = model.buffers[1]
        buffer.data, buffer.offset, buffer.size = None, offset, 12

    data = file_of("RESHAPE", [constant([1.0, 2.0, 3.0]), ints(3)], [Spec((3,))])
    length = len(_changed(data, lambda model: moved(model, 2**20)))
    stored = _changed(data, lambda model: moved(model, length)) + np.array([1, 2, 3], np.float32).tobytes()
    np.testing.assert_array_equal(tflite.read(stored).tensors[0].data, [1, 2, 3])
    with pytest.raises(EmitError, match="outside of the file"):
        tflite.read(stored[:-1])


def test_no_offset_leads_outside_of_the_file() -> None:
    """The place of a tensor's sparsity was followed unseen."""

    def sparse(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.sparsity = schema.SparsityParametersT()

    data = _changed(_conv(), sparse)
    with pytest.raises(EmitError, match="sparse"):
        tflite.read(data)
    for at, width in itertools.product(range(8, len(data) - 3), (2, 4)):
        with contextlib.suppress(EmitError):
            tflite.read(data[:at] + (60_000).to_bytes(width, "little") + data[at + width :])


def test_names_that_the_file_uses_twice_get_their_index() -> None:
    data = file_of("ADD", [Spec((2,), name="a"), Spec((2,), name="a")], [Spec((2,))])
    graph = tflite.read(data)
    assert [tensor.name for tensor in graph.tensors] == ["a#0", "a#1", "y0"]
    np.testing.assert_array_equal(tflite.evaluate(graph, {"a#0": np.ones(2), "a#1": np.ones(2)})["y0"], [2, 2])


@pytest.mark.parametrize(
    ("stored", "unique"),
    [
        (["x", "x", "x#0"], ["x#0#0", "x#1", "x#0"]),
        (["x#1", "x", "x"], ["x#1", "x#1#1", "x#2"]),
        (["", "#0", ""], ["#0#0", "#0", "#2"]),
        (["x", "x", "x#0", "x#0"], ["x#0", "x#1", "x#0#2", "x#0#3"]),
    ],
)
def test_no_name_stands_for_two_tensors(stored: list[str], unique: list[str]) -> None:
    def rename(model: Any) -> None:
        for tensor, name in zip(model.subgraphs[0].tensors, stored, strict=True):
            tensor.name = name

    data = file_of("ADD_N", [Spec((2,))] * (len(stored) - 1), [Spec((2,))])
    assert [tensor.name for tensor in tflite.read(_changed(data, rename)).tensors] == unique


def test_every_tensor_is_evaluated_in_its_own_kind() -> None:
    values = tflite.evaluate(tflite.read(_conv()), {"x0": np.zeros((1, 6, 6, 3), np.int8)})
    assert set(values) == {"x0", "x1", "x2", "y0"}
    assert values["y0"].dtype == np.int8
    half = file_of("DEQUANTIZE", [constant([0.1], "float16")], [Spec((1,))])
    value = tflite.evaluate(tflite.read(half), {})["y0"]
    assert value.dtype == np.float64
    assert value[0] == np.float64(np.float16(0.1))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "no value for the input 'x0'"),
        ({"x0": np.zeros((1, 6, 6, 3), np.int8), "x1": 0}, "'x1' is no input of the graph"),
        ({"x0": np.zeros((1, 6, 6), np.int8)}, r"the input has shape \[1, 6, 6\]"),
        ({"x0": np.zeros((1, 6, 6, 3))}, "the input is float64, and the file states int8"),
    ],
)
def test_inputs_that_are_not_the_graphs(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(EmitError, match=message):
        tflite.evaluate(tflite.read(_conv()), inputs)


def _tensor(index: int, **fields: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in fields.items():
            setattr(model.subgraphs[0].tensors[index], name, value)

    return change


def _quantization(index: int, **fields: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in fields.items():
            setattr(model.subgraphs[0].tensors[index].quantization, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_tensor(0, shape=[1, -6, 6, 3]), "has the shape"),
        (_tensor(0, shape=[2**20, 2**20]), "more than 536,870,912 elements"),
        (_tensor(0, shape=[1] * 9), "has 9 dimensions"),
        (_tensor(1, shape=[4, 3, 3, 4]), "scale|bytes where it needs"),
        (_tensor(2, shape=[5], quantization=None), "has 16 bytes where it needs 20"),
        (_quantization(1, scale=[0.1, 0.2]), "has 2 scales along axis 0"),
        (_quantization(1, quantizedDimension=7), "along axis 7"),
        (_quantization(0, scale=[float("nan")]), "no positive number"),
        (_quantization(0, scale=[0.0]), "no positive number"),
        (_quantization(1, zeroPoint=[0, 0, 0]), "4 scales and 3 zero points"),
        (_quantization(0, zeroPoint=[2**40]), "more than 32 bits"),
    ],
)
def test_damaged_files_are_refused_for_what_is_wrong(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(EmitError, match=message):
        tflite.read(_changed(_conv(), change))


def _signature(inputs: dict[str, int], outputs: dict[str, int], subgraph: int = 0) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = "serve", subgraph
        signature.inputs, signature.outputs = ([_entry(*item) for item in side.items()] for side in (inputs, outputs))
        model.signatureDefs = [signature]

    return change


def _entry(name: str, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name.strip(), index
    return entry


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_signature({"x": 1}, {"y": 3}), "names 'x' as input, whose tensor is no input of the graph"),
        (_signature({"x": 0}, {"y": 0}), "names 'y' as output, whose tensor is no output of the graph"),
        (_signature({"x": 99}, {"y": 3}), "whose tensor is no input of the graph"),
        (_signature({}, {"y": 3}), "names the input 'x0' 0 times"),
        (_signature({"x": 0, "z": 0}, {"y": 3}), "names the input 'x0' 2 times"),
        (_signature({"x": 0}, {"y": 3, "y ": 3}), "has 2 outputs named 'y'"),
        (_signature({"x": 0}, {}), "leaves out the output"),
        (_signature({"x": 0}, {"y": 3}, subgraph=4), "is of subgraph 4, which the file does not have"),
    ],
)
def test_a_signature_names_the_ends_of_the_graph(change: Callable[[Any], None], message: str) -> None:
    assert tflite.read(_changed(_conv(), _signature({"x": 0}, {"y": 3, "again": 3}))).outputs == (3,)
    with pytest.raises(EmitError, match=f"signature 'serve' .*{message}"):
        tflite.read(_changed(_conv(), change))


def test_options_of_another_operator() -> None:
    def change(model: Any) -> None:
        operator = model.subgraphs[0].operators[0]
        operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()

    with pytest.raises(EmitError, match=r"operator 0 \(CONV_2D\) has the options of another operator"):
        tflite.read(_changed(_conv(), change))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.tflite")
    for name, message in (("none.tflite", "no such file"), (".", "is a folder"), ("pipe.tflite", "is a pipe")):
        with pytest.raises(EmitError, match=message):
            tflite.read(tmp_path / name)
    with pytest.raises(EmitError, match="not a TFLite file"):
        tflite.read(b"nothing of the kind")


@pytest.mark.parametrize("source", [5, bytearray(b"TFL3"), None, "", "a\0b"])
def test_what_is_no_path_is_refused_in_one_line(source: Any) -> None:
    with pytest.raises(EmitError, match=r"give the path of a \.tflite file, or its bytes") as caught:
        tflite.read(source)
    assert "\n" not in str(caught.value)


def _sharing(operators: int, indices: int) -> bytes:
    """A file whose operators are one and the same table, with one vector of indices for its inputs and outputs."""
    builder = flatbuffers.Builder(1 << 16)

    def table(name: str, **fields: int) -> int:
        getattr(schema, f"{name}Start")(builder)
        for field, value in fields.items():
            getattr(schema, f"{name}Add{field}")(builder, value)
        return int(getattr(schema, f"{name}End")(builder))

    def vector(*tables: int) -> int:
        builder.StartVector(4, len(tables), 4)
        for offset in tables:
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    shape, own = (builder.CreateNumpyVector(np.array([at], np.int32)) for at in (1, 0))
    shared = builder.CreateNumpyVector(np.zeros(indices, np.int32))
    tensors = vector(table("Tensor", Shape=shape))
    listed = vector(*[table("Operator", Inputs=shared, Outputs=shared)] * operators)
    graphs = vector(table("SubGraph", Tensors=tensors, Operators=listed, Inputs=own, Outputs=own))
    codes = vector(table("OperatorCode", BuiltinCode=0))
    model = table("Model", Version=3, Subgraphs=graphs, OperatorCodes=codes)
    builder.Finish(model, file_identifier=b"TFL3")
    return bytes(builder.Output())


def test_shared_vectors_are_counted_as_often_as_they_are_read() -> None:
    tflite.open_tflite(_sharing(100, 100))
    data = _sharing(60_000, 60_000)
    assert len(data) < 500_000
    with pytest.raises(EmitError, match="too many tables share a vector"):
        tflite.open_tflite(data)


def test_constants_that_share_a_buffer_are_counted_together() -> None:
    """500 constants of 2^21 bytes, which lie in one buffer and would take 8 GiB in float64."""
    large = np.zeros(2**21, np.int8)

    def share(model: Any) -> None:
        (graph,) = model.subgraphs
        graph.tensors += [graph.tensors[0]] * 500

    data = file_of("RESHAPE", [constant(large, "int8"), ints(2**21)], [Spec((2**21,), "int8")])
    with pytest.raises(EmitError, match="constants have more than 536,870,912 elements together"):
        tflite.read(_changed(data, share))


def test_results_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeconv.reference.tflite._evaluate.MOST_ELEMENTS", 11)
    graph = tflite.read(file_of("ADD", [Spec((4,)), Spec((4,))], [Spec((4,))]))
    with pytest.raises(EmitError, match="y0: with this result there are more than 11 elements"):
        tflite.evaluate(graph, {"x0": np.ones(4), "x1": np.ones(4)})


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([0], "writes 'x0', which has a value"),
        ([1], "writes 'x1', which has a value"),
        ([], "computes the output 'y0'"),
    ],
)
def test_operators_write_every_output_and_nothing_that_has_a_value(outputs: list[int], message: str) -> None:
    """x0 is an input, x1 a constant."""

    def change(model: Any) -> None:
        model.subgraphs[0].operators[0].outputs = outputs

    data = file_of("ADD", [Spec((2,)), constant([1.0, 2.0])], [Spec((2,))])
    with pytest.raises(EmitError, match=message):
        tflite.read(_changed(data, change))


REDUCE = {"table": "ReducerOptions"}
PADS = constant([[0, 2**30], [0, 2**30]], "int32")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (file_of("FFT2D" if hasattr(schema.BuiltinOperator, "FFT2D") else "RFFT2D", [X], [X]), "is not computed"),
        (file_of("TILE", [X, ints(1, 2**20, 2**20, 1)], [X]), "more than are computed"),
        (file_of("PAD", [Spec((1, 1)), PADS], [X]), "more than are computed"),
        (file_of("PAD", [X, ints(1, 2)], [X]), "has the paddings"),
        (file_of("FILL", [ints(2**30, 2**30), constant(1.0)], [X]), "more than are computed"),
        (file_of("BROADCAST_TO", [Spec((1,)), ints(2**30, 2**30)], [X], version=2), "more than are computed"),
        (file_of("RESIZE_BILINEAR", [X, ints(2**30, 2**30)], [X]), "more than are computed"),
        (file_of("ADD", [Spec((2**16, 1)), Spec((1, 2**16))], [X]), "more than are computed"),
        (file_of("ADD", [Spec((3,)), Spec((4,))], [X]), "operands that do not fit"),
        (file_of("SUM", [X, ints(9)], [X], **REDUCE), "axis 9 of a tensor of 4 axes"),
        (file_of("GATHER", [X, ints(-1)], [X], axis=1), "index below 0"),
        (file_of("GATHER", [X, ints(6)], [X], axis=1), "operands that do not fit"),
        (file_of("CONV_2D", [X, constant(np.ones((2, 3, 3, 3)))], [X], **(OPTIONS | {"strideH": 0})), "a stride of 0"),
        (file_of("CONV_2D", [X, constant(np.ones((2, 3, 3, 5)))], [X], **OPTIONS), "has weights"),
        (file_of("CONV_2D", [X, constant(np.ones((2, 7, 3, 3)))], [X], **OPTIONS, padding=1), "a window of 7"),
        (file_of("CONV_2D", [X], [X], **OPTIONS), "has no input 1"),
        (file_of("MUL", [X, X], [X], fusedActivationFunction=4), "fused activation 4"),
        (file_of("STRIDED_SLICE", [X, ints(0), ints(1), ints(0)], [X]), "a stride of 0"),
        (file_of("FLOOR_DIV", [Spec((2,), "int32"), ints(0, 1)], [Spec((2,), "int32")]), "divides by zero"),
        (file_of("NEG", [X], [Spec((1, 6, 6, 3), "int32")]), "gives float64, and the file states int32"),
    ],
)
def test_operands_that_admit_no_result(data: bytes, message: str) -> None:
    graph = tflite.read(data)
    inputs = {
        graph.tensors[at].name: np.ones(graph.tensors[at].shape, graph.tensors[at].held_as) for at in graph.inputs
    }
    with pytest.raises(EmitError, match=message) as caught:
        tflite.evaluate(graph, inputs)
    assert "\n" not in str(caught.value)


def test_an_operator_before_what_it_reads() -> None:
    def change(model: Any) -> None:
        model.subgraphs[0].inputs = []

    with pytest.raises(EmitError, match="reads 'x0', which nothing has computed yet"):
        tflite.read(_changed(_conv(), change))


def test_a_vector_has_scales_along_its_one_axis_whatever_is_stated() -> None:
    """Converters of 2019 write the axis of a depthwise weight, 3, to its biases, too."""
    quantization = tflite.read(_changed(_conv(), _quantization(2, quantizedDimension=3))).tensors[2].quantization
    assert quantization is not None
    assert quantization.axis == 0


def _details(index: int, details: Any) -> Callable[[Any], None]:
    kind = getattr(schema.QuantizationDetails, type(details).__name__.removesuffix("T"))
    return _quantization(index, detailsType=kind, details=details)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_tensor(1, externalBuffer=1), "its values are in another file"),
        (_details(1, schema.BlockwiseQuantizationT()), "quantized by blocks"),
        (_details(0, schema.CustomQuantizationT()), "by a rule of its own"),
    ],
)
def test_numbers_that_are_elsewhere_or_mean_something_else(change: Callable[[Any], None], message: str) -> None:
    with pytest.raises(EmitError, match=message):
        tflite.read(_changed(_conv(), change))


def test_mutants_are_refused_in_one_line() -> None:
    """Read, and, where small enough, evaluated: what goes wrong was foreseen."""
    rng = random.Random(3)
    originals = [
        _conv(),
        file_of("STRIDED_SLICE", [X, ints(0, 1, 1, 0), ints(1, 5, 5, 3), ints(1, 1, 2, 1)], [X], beginMask=1),
        file_of("TRANSPOSE_CONV", [ints(1, 12, 12, 2), constant(np.ones((2, 3, 3, 3))), X], [X], strideH=2, strideW=2),
        file_of(
            "AVERAGE_POOL_2D", [X], [X], table="Pool2DOptions", filterHeight=2, filterWidth=2, strideH=1, strideW=1
        ),
    ]
    read = evaluated = 0
    refusals: list[EdgeconvError] = []
    for _ in range(400):
        try:
            graph = tflite.read(tflite_of(rng.choice(originals), rng))
            read += 1
            if sum(int(np.prod(tensor.shape)) for tensor in graph.tensors) > 10**6:
                continue
            inputs = [graph.tensors[at] for at in graph.inputs]
            tflite.evaluate(graph, {tensor.name: np.zeros(tensor.shape, tensor.held_as) for tensor in inputs})
            evaluated += 1
        except EdgeconvError as error:
            refusals.append(error)
    assert 0 < evaluated < read < 400
    assert not [unforeseen(error) for error in refusals if unforeseen(error) or "\n" in str(error)]


def test_a_file_is_read_without_torch() -> None:
    program = (
        "import sys; from edgeconv.reference import tflite; tflite.read; tflite.evaluate; "
        "assert 'torch' not in sys.modules and not any(name.startswith('edgeconv.emit') for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
