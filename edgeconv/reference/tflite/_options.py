"""Reads the builtin options of operators.

Layouts are those of schema.fbs: for each table its fields in the order of their slots, each with its kind and default.
Kinds: ``b`` a byte (enumerations), ``?`` a boolean, ``i`` int32, ``f`` float32, ``[i`` a vector of int32,
``[l`` of int64.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from edgeconv.reference.tflite._graph import Option
from edgeconv.reference.tflite._verify import require

_LONGEST_VECTOR = 64  # shapes and axes
_ACTIVATION = "fused_activation_function:b"
_STRIDES = "padding:b stride_w:i stride_h:i"
_DILATIONS = "dilation_w_factor:i=1 dilation_h_factor:i=1"
_LAYOUTS: Mapping[str, str] = {
    "AddOptions": f"{_ACTIVATION} pot_scale_int16:?=1",
    "ArgMaxOptions": "output_type:b",
    "ArgMinOptions": "output_type:b",
    "BatchMatMulOptions": "adj_x:? adj_y:? asymmetric_quantize_inputs:?",
    "CastOptions": "in_data_type:b out_data_type:b",
    "ConcatenationOptions": f"axis:i {_ACTIVATION}",
    "Conv2DOptions": f"{_STRIDES} {_ACTIVATION} {_DILATIONS} quantized_bias_type:b",
    "Conv3DOptions": f"padding:b stride_d:i stride_w:i stride_h:i {_ACTIVATION} dilation_d_factor:i=1 {_DILATIONS}",
    "CumsumOptions": "exclusive:? reverse:?",
    "DepthToSpaceOptions": "block_size:i",
    "DepthwiseConv2DOptions": f"{_STRIDES} depth_multiplier:i {_ACTIVATION} {_DILATIONS}",
    "DivOptions": _ACTIVATION,
    "FullyConnectedOptions": f"{_ACTIVATION} weights_format:b keep_num_dims:? asymmetric_quantize_inputs:? "
    "quantized_bias_type:b",
    "GatherOptions": "axis:i batch_dims:i",
    "GeluOptions": "approximate:?",
    "L2NormOptions": _ACTIVATION,
    "LeakyReluOptions": "alpha:f",
    "LocalResponseNormalizationOptions": "radius:i bias:f alpha:f beta:f",
    "MirrorPadOptions": "mode:b",
    "MulOptions": _ACTIVATION,
    "OneHotOptions": "axis:i",
    "PackOptions": "values_count:i axis:i",
    "Pool2DOptions": f"{_STRIDES} filter_width:i filter_height:i {_ACTIVATION}",
    "ReducerOptions": "keep_dims:?",
    "ReshapeOptions": "new_shape:[i",
    # The first two fields are deprecated, and keep their slots.
    "ResizeBilinearOptions": "new_height:i new_width:i align_corners:? half_pixel_centers:?",
    "ResizeNearestNeighborOptions": "align_corners:? half_pixel_centers:?",
    "ReverseSequenceOptions": "seq_dim:i batch_dim:i",
    "SVDFOptions": f"rank:i {_ACTIVATION} asymmetric_quantize_inputs:?",
    "SequenceRNNOptions": f"time_major:? {_ACTIVATION} asymmetric_quantize_inputs:?",
    "ShapeOptions": "out_type:b",
    "SoftmaxOptions": "beta:f",
    "SpaceToDepthOptions": "block_size:i",
    "SplitOptions": "num_splits:i",
    "SplitVOptions": "num_splits:i",
    "SqueezeOptions": "squeeze_dims:[i",
    "StridedSliceOptions": "begin_mask:i end_mask:i ellipsis_mask:i new_axis_mask:i shrink_axis_mask:i offset:?",
    "StablehloReduceWindowOptions": "window_dimensions:[l window_strides:[l base_dilations:[l window_dilations:[l "
    "padding:[l body_subgraph_index:i",
    "SubOptions": f"{_ACTIVATION} pot_scale_int16:?=1",
    "TransposeConvOptions": f"{_STRIDES} {_ACTIVATION} quantized_bias_type:b",
    "UnidirectionalSequenceLSTMOptions": f"{_ACTIVATION} cell_clip:f proj_clip:f time_major:? "
    "asymmetric_quantize_inputs:? diagonal_recurrent_tensors:?",
    "UnpackOptions": "num:i axis:i",
}
_TABLES: Mapping[str, str] = {
    "ADD": "AddOptions",
    "ARG_MAX": "ArgMaxOptions",
    "ARG_MIN": "ArgMinOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions",
    "CAST": "CastOptions",
    "CONCATENATION": "ConcatenationOptions",
    "CONV_2D": "Conv2DOptions",
    "CONV_3D": "Conv3DOptions",
    "CONV_3D_TRANSPOSE": "Conv3DOptions",
    "CUMSUM": "CumsumOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "DEPTH_TO_SPACE": "DepthToSpaceOptions",
    "DIV": "DivOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "GATHER": "GatherOptions",
    "GELU": "GeluOptions",
    "L2_NORMALIZATION": "L2NormOptions",
    "L2_POOL_2D": "Pool2DOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "LOCAL_RESPONSE_NORMALIZATION": "LocalResponseNormalizationOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "MEAN": "ReducerOptions",
    "MIRROR_PAD": "MirrorPadOptions",
    "MUL": "MulOptions",
    "ONE_HOT": "OneHotOptions",
    "PACK": "PackOptions",
    "REDUCE_ALL": "ReducerOptions",
    "REDUCE_ANY": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions",
    "REDUCE_MIN": "ReducerOptions",
    "REDUCE_PROD": "ReducerOptions",
    "RESHAPE": "ReshapeOptions",
    "RESIZE_BILINEAR": "ResizeBilinearOptions",
    "RESIZE_NEAREST_NEIGHBOR": "ResizeNearestNeighborOptions",
    "REVERSE_SEQUENCE": "ReverseSequenceOptions",
    "SHAPE": "ShapeOptions",
    "SOFTMAX": "SoftmaxOptions",
    "SPACE_TO_DEPTH": "SpaceToDepthOptions",
    "SPLIT": "SplitOptions",
    "SPLIT_V": "SplitVOptions",
    "SQUEEZE": "SqueezeOptions",
    "STRIDED_SLICE": "StridedSliceOptions",
    "SUB": "SubOptions",
    "SUM": "ReducerOptions",
    "SVDF": "SVDFOptions",
    "TRANSPOSE_CONV": "TransposeConvOptions",
    "UNIDIRECTIONAL_SEQUENCE_LSTM": "UnidirectionalSequenceLSTMOptions",
    "UNIDIRECTIONAL_SEQUENCE_RNN": "SequenceRNNOptions",
    "UNPACK": "UnpackOptions",
}
# Of operators whose options stand in the second union, BuiltinOptions2.
_TABLES_2: Mapping[str, str] = {"STABLEHLO_REDUCE_WINDOW": "StablehloReduceWindowOptions"}
_FORMS = {"b": "<b", "?": "<?", "i": "<i", "f": "<f"}


def options_of(name: str, operator: Any, data: bytes, where: str) -> dict[str, Option]:
    """The builtin options of an operator, by the schema's names; what the file leaves out has the schema's default.

    Args:
        name: of the builtin operator; one without options that matter gives none.
        operator: the schema module's object.
        data: the whole file.
        where: how messages name the operator.

    Raises:
        EmitError: they are another operator's, or lie outside of the file.
    """
    if name not in _TABLES and name not in _TABLES_2:
        return {}
    from ai_edge_litert import schema_py_generated as schema

    if name in _TABLES:
        kind_of_table, union = _TABLES[name], schema.BuiltinOptions
        number, stated = operator.BuiltinOptionsType(), operator.BuiltinOptions
    else:
        kind_of_table, union = _TABLES_2[name], schema.BuiltinOptions2
        number, stated = operator.BuiltinOptions2Type(), operator.BuiltinOptions2
    table = stated() if number else None
    require(number in (0, getattr(union, kind_of_table)), f"{where} has the options of another operator")
    options: dict[str, Option] = {}
    for slot, field in enumerate(_LAYOUTS[kind_of_table].split()):
        label, _, form = field.partition(":")
        kind, _, default = form.partition("=")
        at = _place(data, table.Pos, slot, where) if table is not None else None
        options[label] = _value(data, kind, at, default, f"{where}: {label}")
    return options


def _place(data: bytes, table: int, slot: int, where: str) -> int | None:
    """The position of a field of a table; None if it is left out. `_verify` has checked the extent of the table."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size, extent = struct.unpack_from("<HH", data, vtable)
    if 4 + 2 * slot >= size:
        return None
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0]
    require(offset < extent, f"{where} has an option outside of its table")
    return table + int(offset) if offset else None


def _value(data: bytes, kind: str, at: int | None, default: str, where: str) -> Option:
    if kind[0] == "[":
        if at is None:
            return ()
        form = {"[i": "<i", "[l": "<q"}[kind]
        start = at + _unpacked("<I", data, at, where)
        count = _unpacked("<I", data, start, where)
        require(count <= _LONGEST_VECTOR, f"{where} has {count} numbers")
        step = struct.calcsize(form)
        return tuple(_unpacked(form, data, start + 4 + step * index, where) for index in range(count))
    if at is not None:
        require(at + struct.calcsize(_FORMS[kind]) <= len(data), f"{where} lies outside of the file")
        value: Option = struct.unpack_from(_FORMS[kind], data, at)[0]
        return value
    return bool(default) if kind == "?" else 0.0 if kind == "f" else int(default or 0)


def _unpacked(form: str, data: bytes, at: int, where: str) -> int:
    require(at + struct.calcsize(form) <= len(data), f"{where} lies outside of the file")
    return int(struct.unpack_from(form, data, at)[0])
