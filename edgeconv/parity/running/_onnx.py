"""``.onnx`` files: probes, and the walk over their nodes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx_ir.passes.common import InlinePass

from edgeconv.core import Array
from edgeconv.core.threads import one_thread
from edgeconv.errors import ParityError
from edgeconv.graph.edit import producer_of
from edgeconv.graph.quantized_operators import spell_out
from edgeconv.graph.stored_integers import dequantize_stored
from edgeconv.graph.traits import Trait, having, having_any
from edgeconv.parity.bounds import Arithmetic, Bound, of_node
from edgeconv.parity.running._layers import Judged, carried_through, judged_layers
from edgeconv.parity.running._step import Operand, Step

_SUMS = having(Trait.LAYER) | {"AveragePool", "BatchNormalization"}
_AFFINE = having(Trait.AFFINE)
# What onnxruntime may fuse into a sum before it: ConvActivationFusion, ConvAddFusion, ConvMulFusion, MatMulAddFusion in
# onnxruntime/core/optimizer.
_FUSED_BEHIND = having_any([Trait.CLAMPS, Trait.FUNCTION, Trait.AFFINE]) | {"LeakyRelu", "PRelu"}
_HALVES_NOT_RETURNED = having_any([Trait.CLAMPS, Trait.REARRANGES])
_QUANTIZING = ("QuantizeLinear", "QLinearConv", "QLinearMatMul")
_PROBE = "/probe"
_HALF_UNIT, _HALF_LEAST = 2.0**-11, 2.0**-25  # of float16: half a relative spacing, and half of the smallest number


class OnnxFile:
    """A file, with the arithmetic of the runtime that it is judged for.

    A runtime fuses a convolution with the activation or the sum behind it, which asks nothing else of it: such values
    are not returned. Of half precision, onnxruntime computes in float32 and rounds where it has a kernel for halves; a
    clamp behind a convolution is such a place, and a value is returned in float32, before it is rounded.

    Args:
        path: where it lies; its external data beside it.
        data: its bytes.
        arithmetic: of the runtime.

    Raises:
        ParityError: another command has written something else there.
    """

    def __init__(self, path: Path, data: bytes, arithmetic: Arithmetic) -> None:
        self._data = data
        try:
            model = ir.from_proto(onnx.load_model_from_string(data))
        except DecodeError as error:
            raise ParityError("is no ONNX file any more", where=path.name, hint="export it again") from error
        ir.external_data.set_base_dir(model.graph, path.parent)
        if model.functions:
            InlinePass()(model)
        dequantize_stored(model.graph)
        self._spelled = spell_out(model)
        self._graph = model.graph
        self._opset = model.graph.opset_imports.get("", 1)
        self._arithmetic = arithmetic
        self._constants = _constants(model.graph)
        self._quantized = any(node.op_type in _QUANTIZING for node in model.graph)
        self._casts = {value.name for node in model.graph if node.op_type == "Cast" for value in node.outputs}
        self._halves = {value.name or "" for value in _values(self._graph) if value.dtype == ir.DataType.FLOAT16}

    @property
    def groups(self) -> Sequence[Collection[str]]:
        outputs = set(self._graph.outputs)
        groups: dict[Hashable, list[str]] = defaultdict(list)
        for node in self._graph:
            for value in node.outputs:
                if (
                    value.name
                    and value.name not in self._spelled
                    and value not in outputs
                    and not self._is_fused(node, value)
                ):
                    groups[node.op_type, tuple(sorted({use.node.op_type for use in value.uses()}))].append(value.name)
        return list(groups.values())

    def _is_fused(self, node: ir.Node, value: ir.Value) -> bool:
        if not value.uses() or value in self._constants:
            return True
        if self._quantized:
            return node.op_type not in _QUANTIZING
        readers = [use.node.op_type for use in value.uses()]
        alone = len(readers) == 1
        if value.name in self._halves:
            return node.op_type in _HALVES_NOT_RETURNED or (node.op_type in _SUMS and alone and readers[0] in _AFFINE)
        return node.op_type in _SUMS and alone and readers[0] in _FUSED_BEHIND

    @property
    def remembers(self) -> bool:
        """See `ProbedFile`: no file of ONNX does."""
        return False

    def probe(self, names: Sequence[str]) -> bytes:
        """See `ProbedFile`. Messages of one kind behind each other are one (Protocol Buffers, merging).

        So the bytes of the file stay as they are, and a graph of nothing but outputs, and Casts for them, comes behind.
        """
        extra = onnx.GraphProto()
        for name in names:
            returned = name
            if name in self._halves - self._casts:
                returned = f"{name}{_PROBE}"
                extra.node.append(onnx.helper.make_node("Cast", [name], [returned], to=onnx.TensorProto.FLOAT))
            extra.output.append(onnx.ValueInfoProto(name=returned))
        behind: bytes = onnx.ModelProto(graph=extra).SerializeToString()
        return self._data + behind

    def judge(self, inputs: Sequence[Array], outputs: Sequence[Array], returned: Mapping[str, Array]) -> Judged:
        """See `ProbedFile`."""
        results: dict[Hashable, Array] = dict(returned.items())
        results |= {value.name: array for value, array in zip(self._graph.outputs, outputs, strict=True)}
        steps = [self._step(node, results) for node in self._graph]
        readings = [_as_returned, self._rounded, self._either] if self._halves else [_as_returned]

        with one_thread():
            return judged_layers(steps, self._held(inputs), results, readings, str)

    def carried(self, inputs: Sequence[Array]) -> Sequence[Bound]:
        """The outputs, with the errors that correct evaluations may add up from the inputs on.

        Raises:
            ParityError: an operator has no bound of operands that have errors.
        """

        steps = [self._step(node, {}) for node in self._graph]
        with one_thread():
            return carried_through(steps, self._held(inputs), [value.name for value in self._graph.outputs])

    def _held(self, inputs: Sequence[Array]) -> dict[Hashable, Operand]:
        """Constants and inputs, by name."""
        held: dict[Hashable, Operand] = {}
        for name, value in self._graph.initializers.items():
            if value.const_value is not None:
                held[name] = value.const_value.numpy()
        fed = [value for value in self._graph.inputs if not value.is_initializer()]
        return held | {value.name: array for value, array in zip(fed, inputs, strict=True)}

    def _step(self, node: ir.Node, returned: Mapping[Hashable, Array]) -> Step:
        halves = [value.name for value in node.outputs if value.name in self._halves]
        arithmetic = replace(self._arithmetic, inner_storage="float16") if halves else self._arithmetic
        if any(not _is_wider(returned.get(name)) for name in halves):
            arithmetic = replace(arithmetic, storage="float16")
        inputs = tuple(None if value is None else value.name for value in node.inputs)
        bounds = partial(_bounds, node, self._opset, arithmetic, [_terms(value, returned) for value in node.inputs])
        return Step(node.op_type, inputs, tuple(value.name for value in node.outputs), bounds)

    def _rounded(self, key: Hashable, returned: Array) -> Operand:
        """A value that was rounded to a half behind the place where it was returned."""
        return returned.astype(np.float16) if key in self._halves and returned.dtype.kind == "f" else returned

    def _either(self, key: Hashable, returned: Array) -> Operand:
        """A value that was rounded to a half behind the place where it was returned, or before, here and not there."""
        if key not in self._halves or returned.dtype.kind != "f":
            return returned
        exact = returned.astype(np.float64)
        error = _HALF_UNIT * np.abs(exact) + _HALF_LEAST
        return Bound(exact, error, error)


def _as_returned(key: Hashable, returned: Array) -> Operand:
    return returned


def _is_wider(returned: Array | None) -> bool:
    """Whether a value was returned that no half holds: the runtime stored none."""
    if returned is None or returned.dtype != np.float32:
        return False
    with np.errstate(over="ignore"):
        return bool((returned.astype(np.float16) != returned)[np.isfinite(returned)].any())


def _terms(value: ir.Value | None, returned: Mapping[Hashable, Array]) -> int:
    """How many products a convolution adds up whose result is not returned, as it is fused with what reads it; else 0.

    BatchNormalization is a convolution of one product in onnxruntime's blocked layout (NchwcTransformer).
    """
    node = producer_of(value)
    if value is None or node is None or value.name in returned:
        return 0
    if node.op_type == "BatchNormalization":
        return 1
    if node.op_type != "Conv" or node.inputs[1] is None:
        return 0
    shape = node.inputs[1].shape
    return math.prod(size for size in shape[1:] if isinstance(size, int)) if shape is not None else 0


def _bounds(
    node: ir.Node, opset: int, arithmetic: Arithmetic, terms: Sequence[int], operands: Sequence[Operand]
) -> Sequence[Bound]:
    bounds = of_node(node, operands, opset=opset, arithmetic=arithmetic)
    if node.op_type == "QuantizeLinear" and isinstance(operands[0], Bound):
        # A kernel of integers rounds its bias and the product of its scales once more: the next integer is right, too.
        return [bound.at_least(1.0) for bound in bounds]
    if node.op_type == "Add" and any(terms):
        # The convolution may begin with what is added: each of its partial sums is rounded with it.
        addends = [_exact(item) for item, count in zip(operands, terms, strict=True) if not count or all(terms)]
        error = max(terms) * arithmetic.unit * sum(np.abs(addend) for addend in addends)
        return [Bound(bound.exact, bound.worst + error, bound.likely + error) for bound in bounds]
    return bounds


def _exact(operand: Operand) -> Array:
    exact = operand.exact if isinstance(operand, Bound) else operand
    return np.asarray(exact, np.float64)


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(value for node in graph for value in node.outputs)]


def _constants(graph: ir.Graph) -> set[ir.Value]:
    """What is computed of constants alone, which a runtime does beforehand."""
    constants = set(graph.initializers.values())
    for node in graph:
        if all(value is None or value in constants for value in node.inputs):
            constants.update(node.outputs)
    return constants
