"""``.onnx`` file -> graph, of the form that later stages rely on.

Shapes are static, constants are initializers, functions and constant branches are inlined, the opset is a supported
one, and operators that later stages do not know are written out. All of that is exact. Values keep the file's names.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from edgeconv.capture import NOTE
from edgeconv.capture.normalize._automatic_pads import settle_automatic_pads
from edgeconv.capture.normalize._clean import UnknownShapeError, clean, infer_shapes
from edgeconv.capture.normalize._group_norm import settle_group_norms
from edgeconv.capture.normalize._silent import silent
from edgeconv.capture.normalize._stated_resizes import check_resize, settle_stated_resizes
from edgeconv.capture.normalize._training import settle_training
from edgeconv.capture.onnx_file._defaults import state_defaults
from edgeconv.capture.onnx_file._dilated_averages import settle_dilated_averages
from edgeconv.capture.onnx_file._file import lifted, opset_of, read_proto, sha256, static_errors
from edgeconv.capture.onnx_file._local_responses import settle_local_responses
from edgeconv.capture.onnx_file._moved_integers import settle_exponents, settle_moved_integers
from edgeconv.capture.onnx_file._numbers import check_numbers, check_scales
from edgeconv.capture.onnx_file._operands import (
    check_axes,
    check_flags,
    check_groups,
    check_operands,
    check_scalars,
    check_windows,
)
from edgeconv.capture.onnx_file._recurrent import check_modes, settle_recurrent
from edgeconv.capture.onnx_file._sorted import sort_largest, sorted_file
from edgeconv.capture.onnx_file._soundness import check_extents, every_graph, every_node
from edgeconv.capture.onnx_file._sums import settle_sums
from edgeconv.capture.onnx_file._transposed import settle_transposed, state_same_pads
from edgeconv.capture.onnx_file._wide_pads import check_mirrored, settle_padded_axes, settle_wide_pads
from edgeconv.core.values import number
from edgeconv.errors import CaptureError
from edgeconv.graph.edit import NODE, remove_unread_constants, tensor_of
from edgeconv.graph.names import free_name, is_named_later, preferred_name, rename_values, reserve_names, take_name
from edgeconv.graph.origin import Origin, origin_of, set_origin
from edgeconv.reference import MOST_ELEMENTS

_INTEGERS = ("INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64", "INT4", "UINT4")
_DTYPES = frozenset(("FLOAT", "BOOL", *_INTEGERS))
"""Element types that values may have; names of `onnx_ir.DataType`."""


@dataclass(frozen=True)
class OnnxTensor:
    """An input or output that a file declares.

    Attributes:
        name: its name in the graph: the file's, without control characters; ``x.output`` for an input ``x`` that is
            also an output.
        dtype: numpy's name of its element type.
        shape: a str is a symbolic dimension, ``"?"`` one without a name; None where the file states no shape.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None


@dataclass(frozen=True)
class OnnxFile:
    """A file that was read and checked.

    Attributes:
        path: of the file.
        data: the bytes of a single file that computes the same: the file itself, or the file with its external data.
        opset: of the file.
        inputs: without initializers that are listed among the inputs, which count as constants.
        outputs: in the file's order.
        proto: of one of `edgeconv.capture.FILE_OPSETS`, without functions and operators of other domains.
    """

    path: Path
    data: bytes
    opset: int
    inputs: tuple[OnnxTensor, ...]
    outputs: tuple[OnnxTensor, ...]
    proto: onnx.ModelProto

    @classmethod
    def load(cls, path: Path, opsets: range) -> Self:
        """Reads a file with its external data.

        Raises:
            CaptureError: see `edgeconv.capture.open_onnx`.
        """
        # 1. The file as it is, then in a supported opset, then the interface that it declares.
        where = str(path)
        proto, data = read_proto(path)
        opset = opset_of(proto)
        proto = lifted(proto, opsets, where)
        sort_largest(proto)
        check_extents(proto, where)
        constants = {tensor.name for tensor in proto.graph.initializer}
        inputs = tuple(_declared(value, where) for value in proto.graph.input if value.name not in constants)
        outputs = _apart(tuple(_declared(value, where) for value in proto.graph.output), inputs)
        # 2. What no file for devices could have.
        names = [value.name for value in (*inputs, *outputs)]
        if not outputs or not inputs:
            missing = "input" if outputs else "output"
            raise CaptureError(f"it has no {missing}", where=where, hint="export a model that computes something")
        for tensor in inputs:
            if 0 in (tensor.shape or ()):
                what = f"its input {tensor.name!r} has the shape {list(tensor.shape or ())}, which holds no elements"
                raise CaptureError(what, where=where, hint="export it with a batch of 1, or with an open one")
        for name in names:
            if names.count(name) > 1:
                place = "inputs and outputs" if name in [value.name for value in inputs] else "outputs"
                raise CaptureError(f"its {place} name {name!r} twice", where=where, hint="name it once, or rename one")
        return cls(path, data, opset, inputs, outputs, proto)

    def fixed(self, values: Mapping[str, float]) -> Self:
        """The file with some of its inputs replaced by constants.

        Args:
            values: by name of the input; every element gets that value, and open dimensions get the size 1.

        Raises:
            CaptureError: there is no such input, or its type cannot hold the number.
        """
        if not values:
            return self
        declared = {tensor.name: tensor for tensor in self.inputs}
        arrays = {name: _filled(declared, name, value, str(self.path)) for name, value in values.items()}
        proto, whole = onnx.ModelProto(), onnx.ModelProto.FromString(self.data)
        proto.CopyFrom(self.proto)
        for model in (proto, whole):
            others = [tensor for tensor in model.graph.input if tensor.name not in values]
            del model.graph.input[:]
            model.graph.input.extend(others)
            model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
            model.ir_version = max(model.ir_version, 4)  # before version 4 initializers had to be inputs as well
        open_inputs = tuple(tensor for tensor in self.inputs if tensor.name not in values)
        if not open_inputs:
            raise CaptureError("all of its inputs are fixed", where=str(self.path), hint="leave one of them open")
        return replace(self, data=whole.SerializeToString(), inputs=open_inputs, proto=proto)

    @property
    def comparable(self) -> bytes:
        """`data` for a run whose results are compared with the graph's: its TopK sort, as the graph's do."""
        return sorted_file(self.data)

    @property
    def sha256(self) -> str:
        """The checksum of `data`, hexadecimal."""
        return sha256(self.data)

    @property
    def is_quantized(self) -> bool:
        """Whether it is a quantized model: it contains a QuantizeLinear of something that is no constant."""
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        for node in self.proto.graph.node:
            if not constants.issuperset(name for name in node.input if name):
                if node.op_type == "QuantizeLinear":
                    return True
            else:
                constants.update(node.output)
        return False

    def graph(self, shapes: Mapping[str, Sequence[int]]) -> ir.Model:
        """The graph for inputs of these shapes.

        Args:
            shapes: a static shape per input, by name.

        Raises:
            CaptureError: a shape inside depends on values, an operator runs a subgraph, or a value is of a type that
                is not exported; names the node.
        """
        # 1. A graph with static input shapes, without anything inferred for other shapes.
        where = str(self.path)
        model = _plain(self.proto)
        graph = model.graph
        _own_interface(graph, self.inputs, shapes)
        names = [output.name for output in self.outputs]
        remove_unread_constants(graph)
        for value in graph.initializers.values():
            if value.dtype == ir.DataType.STRING:  # onnx's inference would fail on the whole graph
                _check_dtype(value.name or "", value.dtype, where)
        # 2. Checks that do not need shapes; inference and clean-up; checks that need shapes.
        _set_origins(graph)
        state_defaults(graph)
        try:
            check_flags(graph)
            check_modes(graph)
            check_operands(graph)
            state_same_pads(graph)
            stored = 0 if self.is_quantized else sum(map(_is_stored_weight, graph))
            with silent():
                infer_shapes(model, strict=False)  # the dtypes, which folded constants are rounded to
                check_scales(graph)
                check_windows(graph)
                _check_extents(graph)
                check_scalars(graph)
                clean(model)
                check_operands(graph)
                check_windows(graph)
                _check_extents(graph)
                check_groups(graph)
                check_axes(graph)
            # 3. Operators are rewritten to forms that later stages and all runtimes know.
            settle_stated_resizes(graph)
            notes = settle_automatic_pads(graph)
            settle_wide_pads(graph)
            settle_dilated_averages(graph)
            settle_padded_axes(graph)
            check_mirrored(graph)
            settle_local_responses(graph)
            settle_group_norms(graph)
            settle_sums(graph)
            settle_recurrent(graph)
            settle_training(graph)
            settle_transposed(graph)
            settle_moved_integers(graph)
            settle_exponents(graph)
            check_numbers(graph)
        except CaptureError as error:
            if isinstance(error, UnknownShapeError):  # strict inference reports contradictory shapes, the real cause
                with static_errors(where):
                    onnx.shape_inference.infer_shapes(ir.to_proto(model), check_type=True, strict_mode=True)
            raise CaptureError(error.what, where=f"{where}: node {error.where}", hint=error.hint) from error
        # 4. Types, names, and what the report says of the capture.
        _check_known(graph, where)
        remove_unread_constants(graph)
        _name(graph, names)
        reserve_names(graph)
        graph.name = self.path.stem
        if self.opset != opset_of(self.proto):
            notes.insert(0, f"converted from opset {self.opset} to {opset_of(self.proto)}")
        if stored:
            notes.append(
                f"constants that are stored as integers ({stored}) become floats; int8-weights stores them so again"
            )
        notes.extend(self._renamed())
        if notes:
            model.metadata_props[NOTE] = "; ".join(notes)
        return model

    def _renamed(self) -> Iterator[str]:
        """Notes on inputs and outputs whose names are not the file's: callers of the written files need them."""
        constants = {tensor.name for tensor in self.proto.graph.initializer}
        own_inputs = [value.name for value in self.proto.graph.input if value.name not in constants]
        own_outputs = [value.name for value in self.proto.graph.output]
        for kind, names, tensors in (("input", own_inputs, self.inputs), ("output", own_outputs, self.outputs)):
            for name, tensor in zip(names, tensors, strict=True):
                if name != tensor.name:
                    yield f"the {kind} {name!r} is named {tensor.name!r} in the files"


def _is_stored_weight(node: ir.Node) -> bool:
    return node.op_type == "DequantizeLinear" and tensor_of(node.inputs[0]) is not None


def _apart(outputs: tuple[OnnxTensor, ...], inputs: tuple[OnnxTensor, ...]) -> tuple[OnnxTensor, ...]:
    """Renames outputs that are inputs, too: in TFLite a tensor cannot be both."""
    taken = {tensor.name for tensor in inputs}
    names = taken | {tensor.name for tensor in outputs}
    return tuple(
        replace(tensor, name=free_name(f"{tensor.name}.output", names)) if tensor.name in taken else tensor
        for tensor in outputs
    )


def _declared(value: onnx.ValueInfoProto, where: str) -> OnnxTensor:
    tensor = value.type.tensor_type
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type" or tensor.elem_type not in ir.DataType._value2member_map_:
        raise CaptureError(f"{value.name} is no tensor", where=where, hint="export a model of tensors")
    dtype = ir.DataType(tensor.elem_type)
    _check_dtype(value.name, dtype, where)
    shape = None
    if tensor.HasField("shape"):
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
        shape = tuple(dim if isinstance(dim, str) or dim >= 0 else "?" for dim in shape)
    return OnnxTensor(_safe(value.name), dtype.numpy().name, shape)


def _check_dtype(name: str, dtype: ir.DataType, where: str) -> None:
    if dtype.name not in _DTYPES:
        kind = "float64" if dtype.name == "DOUBLE" else dtype.name.lower()
        text = dtype == ir.DataType.STRING
        raise CaptureError(
            f"{name} is {kind}, and only float32 (beside integers and booleans) is exported",
            where=where,
            hint="leave text to the program around it"
            if text
            else "export the model in float32: a cast here would alter what it computes",
        )


def _safe(name: str) -> str:
    """The name without control characters; all runtimes take letters of any script, and spaces."""
    return "".join(character if character.isprintable() else "_" for character in name) or "tensor"


def _plain(proto: onnx.ModelProto) -> ir.Model:
    """The model in `onnx_ir`, without shapes and metadata of the file's values, which may be of other input shapes."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    graph = bare.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [declared for declared in graph.input if declared.name not in constants]
    del graph.input[:]
    graph.input.extend(inputs)
    for inner in every_graph(graph):  # onnx's opset converter states shapes in branches, too
        for field in ("value_info", "quantization_annotation", "metadata_props"):
            inner.ClearField(field)
        for value in inner.output if inner is not graph else ():
            value.type.tensor_type.ClearField("shape")
    bare.ClearField("training_info")
    del bare.opset_import[:]
    bare.opset_import.append(onnx.helper.make_opsetid("", opset_of(proto)))
    for node in graph.node:
        node.domain = ""
    for node in every_node(graph):
        if "device_configurations" in node.DESCRIPTOR.fields_by_name:  # of multi-device runs
            node.ClearField("device_configurations")
    return ir.from_proto(bare)


def _own_interface(graph: ir.Graph, inputs: Sequence[OnnxTensor], shapes: Mapping[str, Sequence[int]]) -> None:
    """Sets the static shapes of inputs, and forgets those of outputs, which are inferred."""
    for value in graph.outputs:  # before the inputs, as an output may be one
        value.shape = None
    for value, declared in zip(graph.inputs, inputs, strict=True):
        value.name, value.shape = declared.name, ir.Shape(shapes[declared.name])


def _set_origins(graph: ir.Graph) -> None:
    """Sets the name of each node in error messages: its own, or that of its first output."""
    for node in graph:
        name = node.name or (node.outputs[0].name if node.outputs else "") or ""
        set_origin(node, Origin(modules=(name,), operation=node.op_type, key=f"{id(node)}"))


def _check_extents(graph: ir.Graph) -> None:
    """Checks inferred shapes: no negative size, at most `MOST_ELEMENTS` elements; and ``perm`` against the rank.

    Raises:
        CaptureError: one does not hold; names the value or node.
    """
    for node in graph:
        if node.op_type == "Resize":
            check_resize(node)  # its error is clearer than one about the inferred shape
        for value in node.outputs:
            sizes = [size for size in value.shape or () if isinstance(size, int)]
            if any(size < 0 for size in sizes):
                raise CaptureError(f"it gives the shape {sizes}", where=value.name or "", hint="correct the model")
            if math.prod(sizes) > MOST_ELEMENTS:
                what = f"it gives {math.prod(sizes):,} elements, and at most {MOST_ELEMENTS:,} are computed"
                raise CaptureError(what, where=value.name or "", hint="make the tensor smaller")
        perm, operand = node.attributes.get("perm"), node.inputs[0] if node.inputs else None
        if perm is None or operand is None or operand.shape is None:
            continue
        if len(perm.as_ints()) != len(operand.shape):
            what = f"{node.op_type} has perm {list(perm.as_ints())} for {len(operand.shape)} axes"
            raise CaptureError(what, where=node.name or "", hint="correct the model")


def _check_known(graph: ir.Graph, where: str) -> None:
    """Checks the element types of all constants and results."""
    for value in graph.initializers.values():
        if value.dtype is not None:
            _check_dtype(value.name or "", value.dtype, where)
    for node in graph:
        for value in node.outputs:
            if value.dtype is not None:
                _check_dtype(value.name or "", value.dtype, where)


def _filled(declared: Mapping[str, OnnxTensor], name: str, value: float, where: str) -> npt.NDArray[Any]:
    if name not in declared:
        input_names = ", ".join(declared)
        raise CaptureError(f"it has no input {name!r} to be fixed", where=where, hint=f"name one of {input_names}")
    place = f"{where}: input {name!r}"
    if not isinstance(value, bool):
        value = _fixed_to(value, place)
    shape = tuple(dim if isinstance(dim, int) else 1 for dim in declared[name].shape or ())
    if math.prod(shape) > MOST_ELEMENTS:
        what = f"it has {math.prod(shape):,} elements, and at most {MOST_ELEMENTS:,} are computed"
        raise CaptureError(what, where=place, hint="make the tensor smaller")
    with np.errstate(all="ignore"):
        element = np.asarray(value).astype(declared[name].dtype)
    if not _holds(element, value):
        what = f"its input {name!r} is {element.dtype}, which has no {value}"
        raise CaptureError(what, where=where, hint="fix it to a number of that type")
    return np.full(shape, element)


def _holds(element: npt.NDArray[Any], value: float) -> bool:
    """Whether an element equals that number: exactly as an integer, up to rounding as a normal float."""
    if element.dtype.kind != "f":
        return int(element) == value
    limits = np.finfo(element.dtype)
    return value == 0 or bool(limits.tiny <= abs(element) <= limits.max)


def _fixed_to(value: Any, place: str) -> float:
    """The number that an input is fixed to; an integer stays one where 64 bits hold it."""
    if not hasattr(value, "__index__") or getattr(value, "shape", ()) != ():
        return number(value, place, CaptureError, least=-math.inf)
    integer = operator.index(value)
    if -(2**63) <= integer < 2**64:
        return integer
    return number(integer if integer.bit_length() <= 1024 else math.inf, place, CaptureError, least=-math.inf)


def _rank_of_name(value: ir.Value) -> int:
    """The order in which names are given: the file's own, then those with replaced characters, then new ones."""
    name = value.name or ""
    return 2 if is_named_later(value) else int(_safe(name) != name)


def _name(graph: ir.Graph, outputs: Sequence[str]) -> None:
    """Gives final names: outputs the file's, all other values the file's or preferred ones, made safe and unique."""
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs if value.name)]
    chosen: dict[ir.Value, str] = dict(zip(graph.outputs, outputs, strict=True))
    taken: set[str] = {*outputs, *(value.name or "" for value in graph.inputs)}
    for value in sorted(values, key=_rank_of_name):
        if value not in chosen:
            chosen[value] = take_name(_safe(preferred_name(value)), taken)
    rename_values(graph, chosen)
    for node in graph:
        node.metadata_props[NODE] = origin_of(node).module  # the file's name of the node, for messages
        node.name = next(value.name for value in node.outputs if value.name)
