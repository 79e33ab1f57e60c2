"""The functions of each runtime over the whole range of float32, against the accuracies that bounds rest on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from bounds_models import NodeCase, node_of, on_onnxruntime
from reference.tflite_files import Spec, file_of

from edgeconv.parity.bounds import Arithmetic, of_node, of_tflite
from edgeconv.parity.bounds._arithmetic import ACCURACY
from edgeconv.parity.bounds._bound import bound_of
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.reference import tflite

Array = npt.NDArray[Any]
TFLITE = {
    "cos": "COS",
    "exp": "EXP",
    "log": "LOG",
    "rsqrt": "RSQRT",
    "sigmoid": "LOGISTIC",
    "sin": "SIN",
    "sqrt": "SQRT",
    "tanh": "TANH",
}
KERNELS = {
    "xnnpack": OpResolverType.AUTO,
    "tflite": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
ONNX = [name for name, rows in ACCURACY.items() if "onnxruntime" in rows and name not in ("expm1", "pow", "rsqrt")]
COUNT = 1 << 16


def _operands(start: int, stride: int, name: str) -> Array:
    """Every so-manieth float32 number, finite; of periodic functions the first periods."""
    bits = (start + stride * np.arange(COUNT, dtype=np.uint64)) % (1 << 32)
    values = bits.astype(np.uint32).view(np.float32).copy()
    beyond = ~np.isfinite(values) | (np.abs(values) > 1e4 if name in ("sin", "cos", "tan") else False)
    return np.where(beyond, np.float32(0.3), values)


def _hold(name: str, run: Callable[[Array], Array], arithmetic: Arithmetic, stride: int) -> None:
    for start in range(0, 1 << 32, stride * COUNT):
        x = _operands(start, stride, name)
        with np.errstate(all="ignore"):
            bound = Bounded.of(x, arithmetic).function(name)
            error = np.abs(run(x).astype(np.float64) - bound.value)
            wrong = (error > bound.worst) & np.isfinite(bound.value)
        assert not wrong.any(), (x[wrong][:3], error[wrong][:3], bound.worst[wrong][:3])


def _onnxruntime(name: str) -> Callable[[Array], Array]:
    model = node_of(NodeCase(name.capitalize(), [np.zeros(COUNT, np.float32)]))[0]
    return lambda x: on_onnxruntime(model, [x])[0]


def _litert(name: str, kernels: str) -> Callable[[Array], Array]:
    data = file_of(TFLITE[name], [Spec((COUNT,))], [Spec((COUNT,))])
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=KERNELS[kernels], num_threads=1)
    interpreter.allocate_tensors()

    def run(x: Array) -> Array:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
        interpreter.invoke()
        result: Array = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        return result

    return run


@pytest.mark.parametrize("stride", [65521, pytest.param(1021, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ONNX)
def test_functions_of_onnxruntime(name: str, stride: int) -> None:
    _hold(name, _onnxruntime(name), Arithmetic(runtime="onnxruntime"), stride)


@pytest.mark.parametrize("stride", [65521, pytest.param(1021, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kernels", KERNELS)
@pytest.mark.parametrize("name", TFLITE)
def test_functions_of_litert(name: str, kernels: str, stride: int) -> None:
    runtime = "tflite" if kernels == "reference" else kernels
    _hold(name, _litert(name, kernels), Arithmetic(runtime=runtime), stride)


def test_what_rounds_nothing_may_flush_denormals_and_nothing_else() -> None:
    exact = np.array([1e-40, -(2.0**-149), 2.0**-126, 1.0])
    bound = bound_of(exact, None)
    assert bound.used(np.array([0.0, 0.0, 2.0**-126, 1.0])).max() <= 1
    assert bound.used(np.array([1e-40, 0.0, 0.0, 1.0])).max() > 1
    assert not bound_of(np.array([1, 0, -5]), None).worst.any()


@pytest.mark.parametrize(("operator", "second"), [("Ceil", False), ("Floor", False), ("Sign", False), ("Less", True)])
def test_a_jump_at_zero_may_read_denormals_as_zero(operator: str, second: bool) -> None:
    """XNNPACK's CEIL of 1e-40 is 0: by how much the operand is below the smallest normal number makes no difference."""
    x = np.array([1e-40, -1e-40, 0.5, -0.5, 2.0**-126], np.float32)
    operands = [x, np.zeros(5, np.float32)] if second else [x]
    case = NodeCase(operator, operands)
    _, node = node_of(case)
    (bound,) = of_node(node, operands, opset=case.opset, arithmetic=Arithmetic(runtime="xnnpack"))
    assert bound.worst[:2].max() == 1  # one of the two is a jump
    assert not bound.worst[2:].any()
    (held,) = of_node(node, operands, opset=case.opset, arithmetic=Arithmetic(runtime="xnnpack", flushes=False))
    assert not held.worst[bound.worst == 1].any()
    result = Spec((5,), "bool" if second else "float32")
    graph = tflite.read(file_of(operator.upper(), [Spec((5,))] * len(operands), [result]))
    values = dict(enumerate(operands))
    (same,) = of_tflite(graph, graph.operators[0], values, arithmetic=Arithmetic(runtime="xnnpack"))
    np.testing.assert_array_equal(same.worst, bound.worst)
