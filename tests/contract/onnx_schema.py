"""Nodes for the schema walk: for every operator a plain one, and what sets each member of its schema.

A member is an attribute, an optional input or an optional output. ``Plain`` is the node without them; ``changes`` says
how each is set to something that is not its default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_draw = np.random.default_rng(0)


def f(*shape: int) -> Array:
    """Noise."""
    return _draw.standard_normal(shape).astype(np.float32)


def i64(*numbers: Any) -> Array:
    return np.array(numbers, np.int64)


@dataclass(frozen=True)
class Plain:
    """A node, and its changes.

    Attributes:
        inputs: by position; the first is an input of the graph, the others are constants; None leaves one out.
        attributes: what the plain node cannot do without.
        changes: by the member's name: attributes that are set together, an array for an input, True for an output.
        opsets: in which this is the form.
        fed: positions of inputs of the graph.
    """

    inputs: Sequence[Array | None] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    opsets: range = range(7, 25)
    fed: Sequence[int] = (0,)


X = f(1, 4, 6, 5)
B = X > 0
N = (np.arange(24).reshape(2, 3, 4) % 7).astype(np.int32)
P = np.abs(f(2, 6)) + np.float32(0.1)
ROWS = f(2, 6)
C = f(4)
UNIT = np.clip(f(2, 6) / 3, -0.9, 0.9).astype(np.float32)
OLD, NEW = range(7, 18), range(18, 25)


def _convolution(weight: Array, **more: Any) -> dict[str, Any]:
    return {
        "auto_pad": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        "dilations": {"dilations": [2, 1]},
        "group": more.pop("group"),
        "pads": {"pads": [1, 0, 2, 1]},
        "strides": {"strides": [2, 1]},
        "B": f(weight.shape[more.pop("out", 0)]),
        **more,
    }


def _pool(**more: Any) -> dict[str, Any]:
    return {
        "auto_pad": {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
        "dilations": {"dilations": [2, 1]},
        "ceil_mode": {"ceil_mode": 1, "strides": [2, 2]},
        "kernel_shape": {"kernel_shape": [2, 3]},
        "pads": {"pads": [1, 0, 1, 1]},
        "strides": {"strides": [2, 1]},
        **more,
    }


def _reduction(since: int) -> list[Plain]:
    flags = {"keepdims": {"keepdims": 0}}
    return [
        Plain([X], {}, {"axes": {"axes": [1, -1]}, **flags}, range(7, since)),
        Plain(
            [X, i64(2)], {},
            {"axes": i64(1, -1), **flags, "noop_with_empty_axes": {"noop_with_empty_axes": 1, "axes": None}},
            range(since, 25),
        ),
    ]  # fmt: skip


W, WT = f(4, 4, 3, 2), f(4, 2, 3, 2)
_HEADS = {"q_num_heads": 2, "kv_num_heads": 2}
_REDUCED = ("L1", "L2", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_Q = np.array(0.1, np.float32), np.array(3, np.uint8)
# Less their zero point, weights are within int8; TFLite has none beyond, and rounds those again, with a note.
_QW = np.array(0.1, np.float32), np.array(99, np.uint8)


def _layer(gates: int, **more: Any) -> Plain:
    """A recurrent layer of 3 inputs and 2 states over 5 steps of a batch of 2."""
    both = {"direction": "bidirectional", "W": f(2, 2 * gates, 3), "R": f(2, 2 * gates, 2), "B": f(2, 4 * gates)}
    own = ["LeakyRelu", "Elu", "HardSigmoid"][: {1: 1, 3: 2, 4: 3}[gates]]
    changes: dict[str, Any] = {
        "B": f(1, 4 * gates), "sequence_lens": np.array([5, 3], np.int32), "initial_h": f(1, 2, 2), "Y": True,
        "Y_h": True,
        "activation_alpha": {"activations": own, "activation_alpha": [0.3, 0.4, 0.5][: len(own)]},
        "activation_beta": {"activations": ["HardSigmoid", *own[1:]], "activation_beta": [0.1],
                            "activation_alpha": [0.3, 0.4][: 1 + (len(own) > 1)]},
        "activations": {"activations": own}, "clip": {"clip": 0.3}, "direction": both,
        "layout": {"layout": 1, "X": f(2, 5, 3), "Y_h": True}, **more,
    }  # fmt: skip
    return Plain([f(5, 2, 3), f(1, 2 * gates, 3), f(1, 2 * gates, 2)], {"hidden_size": 2}, changes)


PLAIN: Mapping[str, Sequence[Plain]] = {
    "GRU": [_layer(3, linear_before_reset={"linear_before_reset": 1, "B": f(1, 12)})],
    "LSTM": [_layer(4, initial_c=f(1, 2, 2), P=f(1, 6), Y_c=True, input_forget={"input_forget": 1})],
    "RNN": [_layer(1)],
    "AffineGrid": [Plain([f(2, 2, 3), i64(2, 3, 4, 5)], {}, {"align_corners": {"align_corners": 1}})],
    "ArgMax": [Plain([N.astype(np.float32)], {}, {"axis": {"axis": -1}, "keepdims": {"keepdims": 0},
                     "select_last_index": {"select_last_index": 1, "axis": 1}})],
    "ArgMin": [Plain([N.astype(np.float32)], {}, {"axis": {"axis": -1}, "keepdims": {"keepdims": 0},
                     "select_last_index": {"select_last_index": 1, "axis": 1}})],
    "Attention": [Plain(
        [f(1, 3, 8), f(1, 5, 8), f(1, 5, 8)], _HEADS,
        {"attn_mask": f(3, 5), "past_key": {"past_key": f(1, 2, 4, 4), "past_value": f(1, 2, 4, 4)},
         "past_value": {"past_key": f(1, 2, 4, 4), "past_value": f(1, 2, 4, 4)},
         "present_key": True, "present_value": True, "qk_matmul_output": True,
         "qk_matmul_output_mode": {"qk_matmul_output_mode": 3, "qk_matmul_output": True},
         "is_causal": {"is_causal": 1}, "scale": {"scale": 0.3}, "softcap": {"softcap": 0.5},
         "q_num_heads": {"q_num_heads": 4, "kv_num_heads": 4}, "kv_num_heads": {"q_num_heads": 4, "kv_num_heads": 2,
         "Q": f(1, 3, 16)}, "nonpad_kv_seqlen": i64(3)}, fed=(0, 1, 2))],
    "AveragePool": [Plain([X], {"kernel_shape": [3, 2]}, _pool(
        count_include_pad={"count_include_pad": 1, "pads": [1, 0, 1, 1]}))],
    "BatchNormalization": [Plain([X, C, f(4), f(4), np.abs(f(4))], {}, {
        "epsilon": {"epsilon": 0.3}, "momentum": {"momentum": 0.3, "training_mode": 1, "mean": True, "var": True,
                                                  "running_mean": True, "running_var": True},
        "spatial": {"spatial": 0}, "training_mode": {"training_mode": 1, "running_mean": True, "running_var": True},
        **{name: {"training_mode": 1, name: True} for name in ("mean", "var", "saved_mean", "saved_var")},
        **{name: {"training_mode": 1, "running_mean": True, "running_var": True}
           for name in ("running_mean", "running_var")}})],
    "BitShift": [Plain([N.astype(np.uint32), np.array(2, np.uint32)], {"direction": "RIGHT"},
                       {"direction": {"direction": "LEFT"}})],
    "Cast": [Plain([X * 3], {"to": 6}, {"to": {"to": 9}})],
    "CastLike": [Plain([X * 3, N])],
    "Celu": [Plain([X], {}, {"alpha": {"alpha": 0.4}})],
    "CenterCropPad": [Plain([X, i64(1, 3, 7, 4)], {}, {"axes": {"axes": [2, 1], "shape": i64(7, 3)}})],
    "Clip": [Plain([X], {}, {"min": {"min": -0.5}, "max": {"max": 0.5}}, range(7, 11)),
             Plain([X], {}, {"min": np.array(-0.5, np.float32), "max": np.array(0.5, np.float32)}, range(11, 25))],
    "Col2Im": [Plain([f(1, 12, 6), i64(4, 4), i64(2, 2)], {"strides": [1, 2], "dilations": [1, 1]}, {
        "dilations": {"dilations": [2, 1], "input": f(1, 12, 4)},
        "pads": {"pads": [1, 0, 1, 0], "image_shape": i64(2, 4)},
        "strides": {"strides": [2, 1]}})],
    "Compress": [Plain([ROWS, np.array([True, False])], {"axis": 0}, {"axis": {"axis": 1}})],
    "Concat": [Plain([X, f(1, 4, 6, 5)], {"axis": 1}, {"axis": {"axis": -1}})],
    "ConstantOfShape": [Plain([i64(2, 3)], {}, {"value": {"value": np.array([2.5], np.float32)}}, fed=())],
    "Conv": [Plain([X, W], {}, _convolution(W, group={"group": 2, "W": f(6, 2, 3, 2)}))],
    "ConvInteger": [Plain([(X * 20 + 99).astype(np.uint8), (W * 20 + 99).astype(np.uint8)], {}, {
        **_convolution(W, group={"group": 2, "w": f(6, 2, 3, 2).astype(np.uint8)}),
        "x_zero_point": np.array(90, np.uint8), "w_zero_point": np.array(3, np.uint8)})],
    "ConvTranspose": [Plain([X, WT], {}, _convolution(
        WT, out=1, group={"group": 2}, output_padding={"output_padding": [1, 0], "strides": [2, 2]},
        output_shape={"output_shape": [11, 9], "strides": [2, 2]}))],
    "CumProd": [Plain([X, np.array(1)], {}, {"exclusive": {"exclusive": 1}, "reverse": {"reverse": 1}})],
    "CumSum": [Plain([X, np.array(1)], {}, {"exclusive": {"exclusive": 1}, "reverse": {"reverse": 1}})],
    "DepthToSpace": [Plain([X], {"blocksize": 2}, {"mode": {"mode": "CRD", "input": f(1, 8, 2, 3)},
                                                 "blocksize": {"blocksize": 2, "input": f(1, 12, 2, 3)}})],
    "DequantizeLinear": [Plain([N.astype(np.uint8)[0], _Q[0]], {}, {
        "x_zero_point": np.array(3, np.uint8), "axis": {"axis": 0, "x_scale": np.abs(f(3))},
        "block_size": {"block_size": 2, "x_scale": np.abs(f(3, 2))}})],
    "Det": [Plain([f(2, 3, 3)])],
    "Dropout": [Plain([X], {}, {"mask": True}, range(7, 12)),
                Plain([X], {}, {"mask": True,
                                "training_mode": {"ratio": np.array(0.5, np.float32), "training_mode": np.array(True)}},
                      range(12, 25))],
    "Einsum": [Plain([ROWS, f(6, 3)], {"equation": "ab,bc->ac"}, {"equation": {"equation": "ab,bc->c"}})],
    "Elu": [Plain([X], {}, {"alpha": {"alpha": 0.4}})],
    "EyeLike": [Plain([ROWS], {}, {"k": {"k": 1}, "dtype": {"dtype": 6}})],
    "Expand": [Plain([f(1, 4, 1), i64(2, 4, 3)])],
    "Flatten": [Plain([X], {}, {"axis": {"axis": 2}})],
    "Gather": [Plain([ROWS, i64(0)], {}, {"axis": {"axis": 1}})],
    "GatherElements": [Plain([f(3, 3), i64([0, 2, 1], [1, 0, 2], [2, 2, 0])], {}, {"axis": {"axis": 1}})],
    "GatherND": [Plain([f(2, 2, 3), i64([[0, 1]], [[1, 0]])], {}, {"batch_dims": {"batch_dims": 1,
                                                                              "indices": i64([1], [0])}})],
    "Gelu": [Plain([X], {}, {"approximate": {"approximate": "tanh"}})],
    "Gemm": [Plain([f(3, 3), f(3, 3)], {}, {"C": f(3), "alpha": {"alpha": 0.4}, "beta": {"beta": 0.3, "C": f(3)},
                                            "transA": {"transA": 1}, "transB": {"transB": 1}}, range(11, 25)),
             Plain([f(3, 3), f(3, 3), f(3)], {}, {"alpha": {"alpha": 0.4}, "beta": {"beta": 0.3},
                                                  "transA": {"transA": 1}, "transB": {"transB": 1}}, range(7, 11))],
    "GlobalLpPool": [Plain([X], {}, {"p": {"p": 3}})],
    "GridSample": [Plain([X, np.clip(f(1, 3, 3, 2), -1.5, 1.5)], {}, {
        "align_corners": {"align_corners": 1}, "mode": {"mode": "nearest"},
        "padding_mode": {"padding_mode": "border"}})],
    "GroupNormalization": [Plain([X, f(2), f(2)], {"num_groups": 2}, {"epsilon": {"epsilon": 0.3},
                                                                     "num_groups": {"num_groups": 1, "scale": f(1),
                                                                                    "bias": f(1)}}, range(18, 21)),
                           Plain([X, f(4), f(4)], {"num_groups": 2}, {"epsilon": {"epsilon": 0.3},
                                                                     "num_groups": {"num_groups": 1}}, range(21, 25))],
    "HardSigmoid": [Plain([X], {}, {"alpha": {"alpha": 0.4}, "beta": {"beta": 0.3}})],
    "Hardmax": [Plain([X], {}, {"axis": {"axis": 2}})],
    "InstanceNormalization": [Plain([X, C, f(4)], {}, {"epsilon": {"epsilon": 0.3}})],
    "IsInf": [Plain([np.array([[1, -np.inf, np.inf]], np.float32)], {}, {"detect_negative": {"detect_negative": 0},
                                                                        "detect_positive": {"detect_positive": 0}})],
    "LRN": [Plain([X], {"size": 3}, {"alpha": {"alpha": 0.4}, "beta": {"beta": 0.3, "alpha": 0.4},
                                    "bias": {"bias": 2.0}, "size": {"size": 5, "alpha": 0.4}})],
    "LayerNormalization": [Plain([X, f(5)], {}, {"B": f(5), "Mean": True, "InvStdDev": True,
                                                "epsilon": {"epsilon": 0.3}, "axis": {"axis": 2, "Scale": f(6, 5)}})],
    "LeakyRelu": [Plain([X], {}, {"alpha": {"alpha": 0.4}})],
    "LogSoftmax": [Plain([X], {}, {"axis": {"axis": 2}})],
    "LpNormalization": [Plain([X], {}, {"axis": {"axis": 1}, "p": {"p": 1}})],
    "LpPool": [Plain([X], {"kernel_shape": [3, 2]}, _pool(p={"p": 3}))],
    "MatMul": [Plain([ROWS, f(6, 3)])],
    "MatMulInteger": [Plain([(ROWS * 20 + 99).astype(np.uint8), (f(6, 3) * 20 + 99).astype(np.uint8)], {}, {
        "a_zero_point": np.array(90, np.uint8), "b_zero_point": np.array(3, np.uint8)})],
    "MaxPool": [Plain([X], {"kernel_shape": [3, 2]}, _pool(
        Indices=True, storage_order={"storage_order": 1, "Indices": True}))],
    "MaxUnpool": [Plain([f(1, 1, 2, 2), i64(0, 3, 8, 14).reshape(1, 1, 2, 2)], {"kernel_shape": [2, 2],
                                                                             "strides": [2, 2]}, {
        "output_shape": i64(1, 1, 5, 5), "pads": {"pads": [1, 0, 0, 0], "I": i64(0, 3, 8, 11).reshape(1, 1, 2, 2)},
        "strides": {"strides": [3, 2]}, "kernel_shape": {"kernel_shape": [3, 2]}})],
    "MeanVarianceNormalization": [Plain([X], {}, {"axes": {"axes": [1]}})],
    "Mod": [Plain([N - 3, np.array(2, np.int32)], {}, {"fmod": {"fmod": 1}})],
    "OneHot": [Plain([i64(0, 2), np.array(3), np.array([0, 1], np.float32)], {}, {"axis": {"axis": 0}}, range(9, 25))],
    "PRelu": [Plain([X, f(4, 1, 1)])],
    "Pad": [Plain([X], {"pads": [0, 0, 1, 0, 0, 0, 0, 2]}, {"mode": {"mode": "reflect"}, "value": {"value": 2.0},
                                                          "pads": {"pads": [0, 1, 0, 0, 0, 0, 0, 0]}}, range(7, 11)),
            Plain([X, i64(0, 0, 1, 0, 0, 0, 0, 2)], {}, {
                "mode": {"mode": "reflect"}, "constant_value": np.array(2, np.float32),
                "axes": {"axes": i64(2, 1), "pads": i64(1, 0, 0, 2)}}, range(11, 25))],
    "QLinearConv": [Plain([(X * 20 + 99).astype(np.uint8), *_Q, (W * 20 + 99).astype(np.uint8), *_QW,
                           np.array(50, np.float32), np.array(90, np.uint8)], {}, {
        **_convolution(W, group={"group": 2, "w": (f(6, 2, 3, 2) * 20 + 99).astype(np.uint8)}),
        "B": np.arange(4, dtype=np.int32) * 900})],
    "QLinearMatMul": [Plain([(ROWS * 20 + 99).astype(np.uint8), *_Q, (f(6, 3) * 20 + 99).astype(np.uint8), *_QW,
                             np.array(0.5, np.float32), np.array(90, np.uint8)])],
    "QuantizeLinear": [Plain([ROWS, _Q[0]], {}, {
        "y_zero_point": np.array(3, np.uint8), "axis": {"axis": 0, "y_scale": np.abs(f(2))},
        "output_dtype": {"output_dtype": 3}, "block_size": {"block_size": 2, "y_scale": np.abs(f(2, 3))}})],
    "RMSNormalization": [Plain([X, f(5)], {}, {"epsilon": {"epsilon": 0.3}, "axis": {"axis": 2, "scale": f(6, 5)}})],
    "Range": [Plain([np.array(1.0, np.float32), np.array(6.0, np.float32), np.array(2.0, np.float32)], fed=())],
    **{f"Reduce{name}": _reduction(18) for name in (*_REDUCED, "LogSum")},
    "ReduceSum": _reduction(13),
    "Reshape": [Plain([X, i64(0, -1)], {}, {"allowzero": {"allowzero": 1, "shape": i64(20, 6)}})],
    "ReverseSequence": [Plain([f(3, 3, 2), i64(1, 3, 2)], {}, {"batch_axis": {"batch_axis": 0, "time_axis": 1},
                                                           "time_axis": {"batch_axis": 0, "time_axis": 1}})],
    "RotaryEmbedding": [Plain([f(1, 2, 3, 4), f(1, 3, 2), f(1, 3, 2)], {}, {
        "position_ids": {"position_ids": i64([2, 0, 1]), "cos_cache": f(5, 2), "sin_cache": f(5, 2)},
        "interleaved": {"interleaved": 1}, "num_heads": {"num_heads": 2, "X": f(1, 3, 8)},
        "rotary_embedding_dim": {"rotary_embedding_dim": 2, "cos_cache": f(1, 3, 1), "sin_cache": f(1, 3, 1)}})],
    "Scatter": [Plain([f(3, 3), i64([1, 0, 2]), f(1, 3)], {}, {"axis": {"axis": 1}}, range(9, 11))],
    "ScatterElements": [Plain([f(3, 3), i64([1, 0, 2]), f(1, 3)], {}, {"axis": {"axis": 1},
                                                                     "reduction": {"reduction": "add"}})],
    "ScatterND": [Plain([f(3, 3), i64([1], [0]), f(2, 3)], {}, {"reduction": {"reduction": "add"}})],
    "Selu": [Plain([X], {}, {"alpha": {"alpha": 0.4}, "gamma": {"gamma": 0.3}})],
    "Shape": [Plain([X], {}, {"start": {"start": 1}, "end": {"end": -1}})],
    "Shrink": [Plain([X], {}, {"bias": {"bias": 0.2}, "lambd": {"lambd": 0.9}})],
    "Slice": [Plain([X], {"starts": [0, 1], "ends": [1, 3]}, {
        "axes": {"axes": [0, -1]}, "starts": {"starts": [0, 2]}, "ends": {"ends": [1, 2]}}, range(7, 10)),
              Plain([X, i64(0, 1), i64(1, 3)], {}, {
                  "axes": i64(0, -1), "steps": {"steps": i64(1, 2), "axes": i64(0, -1)}}, range(10, 25))],
    "Softmax": [Plain([X], {}, {"axis": {"axis": 2}})],
    "SpaceToDepth": [Plain([f(1, 2, 4, 6)], {"blocksize": 2}, {"mode": {"mode": "CRD"},
                                                            "blocksize": {"blocksize": 2, "input": f(1, 1, 6, 2)}})],
    "Split": [Plain([X], {"axis": 1}, {"axis": {"axis": -2}, "split": {"split": [3, 1, 1], "axis": 3}}, range(7, 13)),
              Plain([X, i64(1, 1, 2)], {"axis": 1}, {"axis": {"axis": -1, "split": i64(2, 1, 2)},
                                                    "split": i64(2, 1, 1)}, range(13, 18)),
              Plain([X], {"num_outputs": 3, "axis": 1}, {"axis": {"axis": -1, "num_outputs": 3},
                                                        "split": {"split": i64(2, 1, 1), "num_outputs": None},
                                                        "num_outputs": {"num_outputs": 3, "axis": 2}}, range(18, 25))],
    "Squeeze": [Plain([f(1, 4, 1)], {}, {"axes": {"axes": [2]}}, range(7, 13)),
                Plain([f(1, 4, 1)], {}, {"axes": i64(2)}, range(13, 25))],
    "Swish": [Plain([X], {}, {"alpha": {"alpha": 0.4}})],
    "ThresholdedRelu": [Plain([X], {}, {"alpha": {"alpha": 0.4}})],
    "Tile": [Plain([ROWS, i64(2, 1)])],
    "TopK": [Plain([f(3, 5)], {"k": 2}, {"axis": {"axis": 0}, "k": {"k": 3}}, range(7, 10)),
             Plain([f(3, 5), i64(2)], {}, {"axis": {"axis": 0}, "largest": {"largest": 0}}, range(10, 25))],
    "Transpose": [Plain([X], {}, {"perm": {"perm": [0, 2, 3, 1]}})],
    "Trilu": [Plain([f(3, 4)], {}, {"k": np.array(1), "upper": {"upper": 0}})],
    "Unsqueeze": [Plain([ROWS], {"axes": [0, -1]}, {"axes": {"axes": [1]}}, range(7, 13)),
                  Plain([ROWS, i64(0, -1)], opsets=range(13, 25))],
    "Where": [Plain([B, X, f(5)])],
}  # fmt: skip

SILENT: Mapping[str, str] = {
    "Attention.softmax_precision": "the type that a runtime computes in",
    "Cast.round_mode": "of floats of 8 bits, which are refused",
    "Cast.saturate": "of floats of 8 bits, which are refused",
    "CastLike.round_mode": "of floats of 8 bits, which are refused",
    "CastLike.saturate": "of floats of 8 bits, which are refused",
    "DequantizeLinear.output_dtype": "the element type, where it is no float32, is refused",
    "Dropout.ratio": "of what training drops, which is refused",
    "Dropout.seed": "of random numbers, which are refused",
    "Conv.kernel_shape": "that of the weight",
    "ConvInteger.kernel_shape": "that of the weight",
    "ConvTranspose.kernel_shape": "that of the weight",
    "QLinearConv.kernel_shape": "that of the weight",
    "GroupNormalization.stash_type": "the type that a runtime computes in",
    "LayerNormalization.stash_type": "the type that a runtime computes in",
    "GRU.hidden_size": "that of the weights",
    "LSTM.hidden_size": "that of the weights",
    "QuantizeLinear.precision": "the type that a runtime computes in",
    "QuantizeLinear.saturate": "of floats of 8 bits, which are refused",
    "RMSNormalization.stash_type": "the type that a runtime computes in",
    "RNN.hidden_size": "that of the weights",
    "TopK.sorted": "unsorted, any order is right",
}
"""Members that say nothing of what is computed, and why."""

ALWAYS = 99
REFUSED: Mapping[str, int] = {
    "Attention.nonpad_kv_seqlen": ALWAYS,
    "BatchNormalization.mean": ALWAYS,
    "BatchNormalization.momentum": 14,
    "BatchNormalization.saved_mean": ALWAYS,
    "BatchNormalization.saved_var": ALWAYS,
    "BatchNormalization.spatial": ALWAYS,
    "BatchNormalization.var": ALWAYS,
    "Dropout.mask": 12,
    "Dropout.training_mode": ALWAYS,
    "MaxUnpool.output_shape": ALWAYS,
    "NonZero": ALWAYS,
}
"""Operators, and members of them, that no format takes, in opsets below that number."""

REFUSED_BY_TFLITE = {
    "DequantizeLinear.block_size",
    "QuantizeLinear.axis",  # of what is computed, integers have one scale
    "QuantizeLinear.block_size",
}
"""The same of TFLite alone."""
