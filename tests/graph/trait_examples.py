"""Uses of every operator that numbers can show a trait of: what the tests of the traits evaluate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.reference import evaluate_node

_OPSET = 24
GENERATOR = np.random.default_rng(7)
DATA = GENERATOR.normal(size=(2, 4, 6, 6)) * 3
_PARTNER = GENERATOR.normal(size=(4, 1, 6)) * 2
SEQUENCES = {"ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SplitToSequence"}


@dataclass(frozen=True)
class Example:
    """One use of an operator: what stands behind the data, and attributes.

    Attributes:
        parameters: the operands behind the data.
        attributes: of the node.
        results: how many.
        data: what a value of the data's distribution becomes before it is read.
    """

    parameters: tuple[Any, ...] = ()
    attributes: dict[str, Any] = field(default_factory=dict)
    results: int = 1
    data: Callable[[Array], Array] = np.asarray


def _ints(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


def _normal(*shape: int) -> Array:
    return GENERATOR.normal(size=shape)


def _ones(*shape: int) -> Array:
    return np.ones(shape, np.uint8)


def _rows(x: Array) -> Array:
    return x.reshape(-1, 6)


def _bytes(x: Array) -> Array:
    """Large unsigned integers, which a cast to int8 makes negative."""
    return (np.abs(np.round(x)) + 127).astype(np.uint8)


_UNIT = Example(data=lambda x: np.tanh(x) * 0.99)
_ABOVE_ONE = Example(data=lambda x: 1 + np.abs(x))
_WHOLE = Example(data=lambda x: np.round(x).astype(np.int64))
_TRUTH = Example(data=lambda x: x > 0)
KEPT = Example(attributes={"noop_with_empty_axes": 1})
_POOL = {"kernel_shape": [2, 3], "strides": [1, 2], "pads": [1, 0, 0, 1]}
_AXES = (_ints(1, 3),)

_SCALE_SHIFT = (np.linspace(-0.5, 2, 4), np.arange(4.0))
_STEP = (np.float32(0.5), np.uint8(3))

_EXAMPLES: dict[str, tuple[Example, ...]] = {
    "Acos": (_UNIT,), "Asin": (_UNIT,), "Atanh": (_UNIT,), "Acosh": (_ABOVE_ONE,),
    "Log": (Example(data=np.abs),), "Sqrt": (Example(data=np.abs),),
    "BitwiseNot": (_WHOLE,), "Not": (_TRUTH,),
    "Cast": (Example(attributes={"to": 7}), Example(attributes={"to": 1}),
             Example(attributes={"to": 3}, data=_bytes)),
    "CastLike": (Example((np.zeros(1, np.float32),)), Example((np.zeros((2, 1), np.int8),), data=_bytes)),
    "Clip": (Example((np.array(-1.0), np.array(2.0))), Example(), Example((None, np.array(1.0)))),
    "Elu": (Example(), Example(attributes={"alpha": 0.3}), Example(attributes={"alpha": 80.0})),
    "Celu": (Example(), Example(attributes={"alpha": 2.0}), Example(attributes={"alpha": 3e3})),
    "Selu": (Example(), Example(attributes={"alpha": 2.0, "gamma": 4.0})),
    "LeakyRelu": (Example(), Example(attributes={"alpha": -0.5}), Example(attributes={"alpha": 5.0})),
    "HardSigmoid": (Example(), Example(attributes={"alpha": -0.3, "beta": 0.1})),
    "Gelu": (Example(), Example(attributes={"approximate": "tanh"})),
    "Swish": (Example(), Example(attributes={"alpha": -1.5})),
    "Shrink": (Example(), Example(attributes={"lambd": 0.2, "bias": 0.7}), Example(attributes={"bias": -99.0})),
    "ThresholdedRelu": (Example(), Example(attributes={"alpha": -2.0})),
    "AveragePool": (Example(attributes=_POOL), Example(attributes={**_POOL, "count_include_pad": 1})),
    "LpPool": (Example(attributes=_POOL), Example(attributes={**_POOL, "p": 1})),
    "MaxPool": (Example(attributes=_POOL), Example(attributes={**_POOL, "dilations": [2, 1]})),
    "GlobalLpPool": (Example(), Example(attributes={"p": 3}), Example(attributes={"p": 1})),
    "PRelu": (Example((np.linspace(-1, 4, 4).reshape(4, 1, 1),)),),
    "Pow": (Example((np.array(3.0),)),),
    "Compress": (Example((np.array([True, False, True]),), {"axis": 2}), Example((np.arange(9) % 2 == 0,))),
    "Concat": (Example((DATA[:, :2],), {"axis": 1}),),
    "DepthToSpace": (Example(attributes={"blocksize": 2}), Example(attributes={"blocksize": 2, "mode": "CRD"})),
    "SpaceToDepth": (Example(attributes={"blocksize": 3}),),
    "Expand": (Example((_ints(3, 1, 4, 1, 1),)),),
    "Gather": (Example((_ints(0, -1, 1),), {"axis": 1}),),
    "GatherElements": (Example((GENERATOR.integers(0, 4, (2, 4, 6, 6)),), {"axis": 1}),),
    "GatherND": (Example((np.array([[1, 2], [0, 3]]),)),),
    "Reshape": (Example((_ints(4, -1),)),),
    "ReverseSequence": (Example((_ints(2, 1, 3, 6),), {"batch_axis": 1, "time_axis": 2}),),
    "Slice": (Example((_ints(3), _ints(0), _ints(1), _ints(-1))),),
    "Split": (Example((_ints(1, 3),), {"axis": 1}, results=2),),
    "Squeeze": (Example(data=lambda x: x[:1]),),
    "Unsqueeze": (Example((_ints(0, 2),)),),
    "Tile": (Example((_ints(1, 2, 1, 3),)),),
    "Transpose": (Example(), Example(attributes={"perm": [2, 0, 3, 1]})),
    "TopK": (Example((_ints(3),), results=2), Example((_ints(2),), {"largest": 0, "axis": 1}, results=2)),
    "Trilu": (Example(), Example(attributes={"upper": 0})),
    "CumSum": (Example((np.array(1),)),),
    "MaxUnpool": (Example((np.arange(288).reshape(2, 4, 6, 6),), {"kernel_shape": [1, 1]}),),
    "LRN": (Example(attributes={"size": 3}),),
    "BatchNormalization": (Example((*_SCALE_SHIFT, np.arange(-1.0, 3), np.linspace(0.5, 4, 4))),),
    "Conv": (Example((_normal(8, 2, 3, 3), _normal(8)), {"pads": [1, 1, 1, 1], "group": 2}),),
    "ConvTranspose": (Example((_normal(4, 3, 3, 3), _normal(3)), {"strides": [2, 2]}),),
    "Gemm": (Example((_normal(6, 5), _normal(5)), data=_rows),), "MatMul": (Example((_normal(6, 5),)),),
    "GroupNormalization": (Example(_SCALE_SHIFT, {"num_groups": 2}),),
    "InstanceNormalization": (Example(_SCALE_SHIFT),),
    "LayerNormalization": (Example((_normal(6), _normal(6))),), "RMSNormalization": (Example((_normal(6),)),),
    **{name: (Example((_normal(1, 3 * gates, 6), _normal(1, 3 * gates, 3), _normal(1, 6 * gates)), {"hidden_size": 3},
                      data=lambda x: x[0]),) for name, gates in (("GRU", 3), ("LSTM", 4), ("RNN", 1))},
    "GridSample": tuple(Example((GENERATOR.uniform(-1.2, 1.2, (2, 3, 5, 2)),), {"mode": mode})
                        for mode in ("linear", "nearest", "cubic")),
    "Resize": tuple(Example((None, np.array([1, 1, *scales])), {"mode": mode})
                    for mode in ("linear", "nearest", "cubic") for scales in ((2, 1.5), (0.5, 0.3))),
    "Upsample": (Example((np.array([1.0, 1, 2, 2]),)),),
    "Pad": tuple(Example((_ints(0, 0, 1, 1, 0, 0, 2, 0),), {"mode": mode}) for mode in ("constant", "reflect")),
    "CenterCropPad": (Example((_ints(4, 8),), {"axes": [2, 3]}),),
    "Col2Im": (Example((_ints(4, 4), _ints(2, 2)), data=lambda x: x.reshape(2, 144)[:, :72].reshape(2, 8, 9)),),
    "ConvInteger": (Example((_ones(3, 4, 2, 2),), data=_bytes),),
    "QLinearConv": (Example((*_STEP, _ones(3, 4, 2, 2), *_STEP, np.float32(9), np.uint8(3)), data=_bytes),),
    "CumProd": (Example((np.array(1),)),),
    "EyeLike": (Example(data=lambda x: x[0, 0]),),
    "OneHot": (Example((np.array(5), np.array([0.0, 1.0])), data=lambda x: np.abs(np.round(x)).astype(np.int64) % 5),),
    "QuantizeLinear": (Example((np.float32(0.1), np.int8(3))),),
    "DequantizeLinear": (Example((np.float32(0.1), np.uint8(3)), data=_bytes),),
}  # fmt: skip
_TWO = {"BitShift": (Example(attributes={"direction": "LEFT"}, data=lambda x: np.abs(np.round(x)).astype(np.uint8)),)}
_INTEGERS = {"BitwiseAnd", "BitwiseOr", "BitwiseXor"}
_BOOLS = {"And", "Or", "Xor"}


def examples_of(operator: str) -> tuple[Example, ...]:
    if operator in having(Trait.REDUCES) - having(Trait.RANKS):
        return Example(_AXES), Example(attributes={"keepdims": 0})
    if operator in _INTEGERS:
        return (_WHOLE,)
    return _EXAMPLES.get(operator) or _TWO.get(operator) or ((_TRUTH,) if operator in _BOOLS else (Example(),))


def evaluated(operator: str, example: Example, *data: Array) -> tuple[Array, ...]:
    with np.errstate(all="ignore"):
        operands = [*(example.data(array) for array in data), *example.parameters]
    inputs = [None if array is None else ir.Value(name=f"i{at}") for at, array in enumerate(operands)]
    attributes = ir.convenience.convert_attributes(example.attributes)
    node = ir.Node("", operator, inputs, attributes, num_outputs=example.results)
    with np.errstate(all="ignore"):
        return evaluate_node(node, operands, opset=_OPSET)


def operands_of(operator: str, example: Example, *, positive: bool = False) -> list[Array]:
    """The data's operands: one, two that broadcast, or three of which the first is a condition."""
    arrays = [DATA]
    if operator in having(Trait.BROADCASTS) and not example.parameters:
        arrays = [DATA, _PARTNER]
        arrays = [DATA > 0, *arrays] if operator == "Where" else arrays
    return [np.abs(array) if positive and array.dtype != np.bool_ else array for array in arrays]


def floats_by(function: Callable[[Array], Array], example: Example) -> tuple[Array | None, ...]:
    """The parameters, with those that are data too changed."""
    return tuple(
        function(array) if array is not None and array.dtype == np.float64 else array for array in example.parameters
    )
