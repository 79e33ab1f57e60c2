"""Writes the ``.onnx`` file, in this order: fast forms, opset, onnxsim, own integers, float16, onnx's checker.

onnxsim simplifies the graph until nothing changes any more; each round is checked by onnxsim itself against the graph
before it, on random inputs in onnxruntime.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from edgeconv.core import Array, Emitted, TensorSpec, values
from edgeconv.core.defaults import OPSETS
from edgeconv.core.package import VERSION
from edgeconv.emit.onnx._comparison import computes_the_same, own_noise
from edgeconv.emit.onnx._external import apart, is_too_large, weight_bytes
from edgeconv.emit.onnx._folded import fold_at_load
from edgeconv.emit.onnx._forms import in_fast_forms
from edgeconv.emit.onnx._halves import in_halves, mark, marks_of
from edgeconv.emit.onnx._integers import border_parameters, integer_borders, own_integers
from edgeconv.emit.onnx._mute import mute
from edgeconv.emit.onnx._names import name_invented
from edgeconv.emit.onnx._onnxsim import onnxsim
from edgeconv.emit.onnx._opset import to_opset
from edgeconv.emit.onnx._roundings import keep_rounding
from edgeconv.emit.onnx._small_layers import small_layers_in_float
from edgeconv.errors import TFLITE_ONLY, EmitError, is_own_fault
from edgeconv.graph.argument import checked_metadata, checked_model

_ROUNDS = 8  # of onnxsim; a graph that still changes then may do so for ever
_SKIPPED = (
    "fuse_bn_into_conv",  # folded in float64 before; onnxsim would fold what is left in float32
    "fuse_pad_into_pool",  # ours does where it is right; this one also where the pads are as wide as the window
    "fuse_consecutive_reduce",  # of two reductions with different keepdims it makes one of the wrong rank (0.8.1)
)


def to_onnx(
    model: ir.Model,
    *,
    metadata: Mapping[str, str],
    opset: int | None = None,
    weights: str = "float32",
    io: str = "float32",
    data_name: str = "",
    keep_roundings: bool = False,
) -> Emitted:
    """Writes a graph as a single ``.onnx`` file, weights inside; those above 2 GiB lie in a file beside it.

    The file has the lowest IR version that its opset allows (so that old runtimes load it), the names of the graph's
    values, nodes named after their first output, initializers in the order of their use, and nothing of the machine
    that made it. The same graph and package versions give the same bytes.

    Args:
        model: the graph; it is not changed.
        metadata: ``metadata_props`` of the file, written in this order.
        opset: version of the default ONNX domain (13 to 24); the graph's own by default.
        weights: ``"float16"`` stores and computes in float16, between Casts of the inputs and outputs, but for what
            float16 cannot compute (`edgeconv.emit.half_precision`), which the notes name.
        io: ``"int8"``, like ``"uint8"``, leaves the QuantizeLinear of inputs and the DequantizeLinear of outputs out of
            a quantized graph: these are then integers, uint8 like all activations of the file, with the parameters of
            the specs.
        data_name: of the file that takes weights above 2 GiB; without it, such a graph is refused. onnxsim, which
            compares whole files, simplifies no such graph.
        keep_roundings: whether small layers of a quantized graph are rounded, too, where that takes longer, and
            nothing is rounded otherwise than the graph says.

    Returns:
        The bytes (and those of the file of weights), with the inputs and outputs as the file declares them (NCHW), and
        notes on what stays float32, or is computed in float for speed.

    Raises:
        EmitError: an operator has no form in the opset, the weights take more than 2 GiB and there is no name for
            their file, or onnxsim, onnx's checker or its shape inference refuse the graph.
    """
    checked_model(model, EmitError)
    metadata = checked_metadata(metadata)
    opset = values.maybe_integer(opset, "opset", EmitError, least=OPSETS[0], most=OPSETS[-1])
    _check_names(weights, io)
    # 1. Forms that onnxruntime is fast with; of a quantized graph, what is rounded and what crosses its borders.
    model = in_fast_forms(model)
    if keep_roundings:
        keep_rounding(model.graph)
    written_out = marks_of(model.graph)
    small = () if keep_roundings else small_layers_in_float(model.graph, whole_outputs=io != "float32")
    borders = border_parameters(model.graph) if io != "float32" else {}
    if io != "float32":
        integer_borders(model.graph)
    # 2. The file; weights above 2 GiB are taken out first, since protobuf holds no such message.
    external: tuple[Array, ...] = ()
    notes: tuple[str, ...] = ()
    if is_too_large(model):
        model, notes = in_halves(model) if weights == "float16" else (model, ())
        proto, external = _written_apart(model, opset, data_name)
    else:
        proto = _written(model, opset)
        proto, notes = _halved(proto, written_out) if weights == "float16" else (proto, ())
    # 3. What the file says of itself, last: onnxsim and the checker are not to see it change.
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(metadata))
    graph = proto.graph
    return Emitted(
        data=proto.SerializeToString(deterministic=True),
        inputs=tuple(_spec(value, borders) for value in graph.input),
        outputs=tuple(_spec(value, borders) for value in graph.output),
        notes=(*small, *notes),
        external=external,
    )


def _written(model: ir.Model, opset: int | None) -> onnx.ModelProto:
    """The graph in its opset, simplified and checked."""
    proto = ir.to_proto(model)
    _strip(proto)
    if opset is not None and opset != model.opset_imports.get("", 0):
        _to_opset(proto, opset)
    proto = _simplified(proto)
    own_integers(proto.graph)
    fold_at_load(proto.graph)
    _finish(proto)
    return _checked(proto)


def _written_apart(model: ir.Model, opset: int | None, data_name: str) -> tuple[onnx.ModelProto, tuple[Array, ...]]:
    """The graph, checked without its large constants, and what a file beside it has to hold."""
    beside = is_too_large(model)  # rounded to float16, they may fit
    if beside and not data_name:
        what = f"the weights take {weight_bytes(model) / 2**30:.2f} GiB, and one .onnx file holds less than 2 GiB"
        raise EmitError(what, where=model.graph.name or "", hint="export a smaller variant, or the network in parts")
    parts = apart(model)
    proto = ir.to_proto(parts.model)
    _strip(proto)
    if opset is not None:
        with _mapped(f"ONNX opset {opset}"):
            to_opset(proto, opset)
    _finish(proto)
    proto = _checked(proto)
    external = parts.restored(proto, data_name if beside else "")
    _finish(proto)
    return proto, external


def _check_names(weights: str, io: str) -> None:
    options = {"weights": ("float32", "float16"), "io": ("float32", "int8", "uint8", "int16")}
    for what, option in (("weights", weights), ("io", io)):
        if option not in options[what]:
            raise EmitError(f"unknown {what} {option!r}", where="ONNX", hint=f"use {', '.join(options[what])}")


def _strip(proto: onnx.ModelProto) -> None:
    """Removes what is about the making of the graph, not about the graph."""
    proto.ClearField("doc_string")
    graph = proto.graph
    graph.ClearField("doc_string")
    graph.ClearField("metadata_props")
    for node in graph.node:
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    for tensor in graph.initializer:
        tensor.ClearField("doc_string")
        tensor.ClearField("metadata_props")


def _to_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Converts in place and checks that the result still computes the same."""
    original = onnx.ModelProto()
    original.CopyFrom(proto)
    to_opset(proto, opset)
    _finish(proto)
    with _mapped(f"ONNX opset {opset}"):
        equal = computes_the_same(proto, original)
    if not equal:
        what = "the converted graph does not compute what the graph computes"
        raise EmitError(what, where=f"ONNX opset {opset}", hint="ask for another opset")


def _simplified(proto: onnx.ModelProto) -> onnx.ModelProto:
    """onnxsim's fixpoint; each round that changes something is checked."""
    for _ in range(_ROUNDS):
        _finish(proto)
        simpler = _simplify(proto)
        name_invented(proto, simpler)
        _finish(simpler)
        if simpler.graph == proto.graph:  # 2 ms for 33 MB of weights; comparing their bytes took 60 to 290
            return simpler
        with _mapped("onnxsim"):  # ResNet-18: 0.6 s, and mostly nothing has changed
            equal = computes_the_same(simpler, proto)
        if not equal:
            what = "the simplified graph does not compute what the graph computes"
            raise EmitError(what, where="onnxsim", hint=f"install another version of onnxsim, or {TFLITE_ONLY}")
        proto = simpler
    what = f"the graph still changes after {_ROUNDS} rounds"
    raise EmitError(what, where="onnxsim", hint=f"install another version of it, or {TFLITE_ONLY}")


def _halved(proto: onnx.ModelProto, written_out: Mapping[str, str]) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The simplified graph in float16, with notes on what of it stays float32; the marks are those of `marks_of`.

    Halved before, each round was compared by float32's tolerance with a graph that onnxruntime rounds elsewhere:
    between other operators, and where a constant is folded. Of 1,000 random graphs 36 were refused for that alone.
    """
    model = ir.from_proto(proto)
    mark(model.graph, written_out)
    model, notes = in_halves(model)
    halves = ir.to_proto(model)
    _strip(halves)
    _finish(halves)
    return _checked(halves), notes


def _simplify(proto: onnx.ModelProto) -> onnx.ModelProto:
    simpler: onnx.ModelProto
    package = onnxsim()
    with _mapped("onnxsim"), mute(), own_noise():
        simpler, _ = package.simplify(
            proto,
            check_n=0,
            skipped_optimizers=list(_SKIPPED),
            import_custom_schemas=False,  # all of onnx's are gone through for those in each call: 15 ms
        )
    return simpler


def _finish(proto: onnx.ModelProto) -> None:
    """Names, order and versions that do not depend on the way the graph was made."""
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    # The lowest that the opset allows: old runtimes refuse a newer one.
    proto.ir_version = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", opset)])
    proto.producer_name = "edgeconv"
    proto.producer_version = VERSION
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    stated = [value for value in graph.value_info if value.name not in constants]  # as onnxsim leaves them
    del graph.value_info[:]
    graph.value_info.extend(stated)
    # Initializers in the order of their first use, so that the order in which passes made them leaves no trace.
    used: dict[str, int] = {}
    for node in graph.node:
        node.name = node.output[0]
        for name in node.input:
            used.setdefault(name, len(used))
    weights = sorted(graph.initializer, key=lambda tensor: used.get(tensor.name, len(used)))
    del graph.initializer[:]
    graph.initializer.extend(weights)


def _checked(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with the shapes of all its values, after onnx has checked it in full."""
    with _mapped("onnx"):
        del proto.graph.value_info[:]
        try:
            inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        except onnx.shape_inference.InferenceError:
            # Its propagation of shapes takes any vector that is sliced or gathered for one, and has a column of three
            # and a row of four not be broadcast (onnx 1.23).
            inferred = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True)
        onnx.checker.check_model(inferred)  # its full check would infer the shapes again
    return inferred


@contextlib.contextmanager
def _mapped(where: str) -> Iterator[None]:
    try:
        yield
    except EmitError:
        raise
    # The border: onnx and onnxsim raise their own classes, protobuf's and plain RuntimeError from C++.
    except Exception as error:
        if is_own_fault(error):
            raise
        what = f"{type(error).__name__}: {error}"
        raise EmitError(what, where=where, hint=f"replace that part of the model, or {TFLITE_ONLY}") from error


def _spec(value: onnx.ValueInfoProto, borders: Mapping[str, tuple[float, int]]) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)).name
    if dtype == "float32" or value.name not in borders:
        return TensorSpec(name=value.name, shape=shape, dtype=dtype)
    scale, zero_point = borders[value.name]
    return TensorSpec(name=value.name, shape=shape, dtype=dtype, scale=scale, zero_point=zero_point)
