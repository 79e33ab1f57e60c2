"""The state of a conversion: which tensors hold which ONNX value, and in which form.

Lowerings (``_operators/``) read their operands by `Lowering.tensor`, append operators by `Lowering.emit` and state
their results by `Lowering.bind`. A form that a reader wants and nobody has made yet is made then, once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import Graph, Tensor
from edgeconv.emit.tflite._quantization import Quantization
from edgeconv.emit.tflite.file._flatbuffer import knows_dtype
from edgeconv.emit.tflite.integer._weights import weights_of
from edgeconv.emit.tflite.lower._inside import Held
from edgeconv.emit.tflite.lower._layout import Form, Shape, between, first, last, permuted, same_memory
from edgeconv.errors import ONNX_ONLY, EmitError
from edgeconv.graph.edit import KEEP_FLOAT, MODULE, NODE, input_of
from edgeconv.graph.traits import Trait, having

Lower = Callable[["Lowering", ir.Node], None]
_TRANSPOSED_AS_IS = 5  # axes; TRANSPOSE of six needs runtime 2.12, so of more those that stay neighbors are merged
_MOST_AXES = 8  # kMaxDims of the kernel of RESHAPE
_MOST_ELEMENTS = 2**31 - 1  # TFLite counts them in 32 bits
_BROADCASTING = {"ADD", "SUB", "MUL", "DIV", "POW", "MAXIMUM", "MINIMUM", "SELECT_V2", "LOGICAL_AND", "LOGICAL_OR"}
_BROADCASTING |= {"GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "EQUAL", "NOT_EQUAL", "FLOOR_MOD"}
_REAL = {"ABS", "CEIL", "COS", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC"}
_REAL |= {"PRELU", "RELU", "RELU6", "ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE", "TANH"}
"""Operators whose kernels refuse integers that stand for no real numbers (`Prepare` of each in tflite/kernels)."""
_WHY = "channels: TFLite's are symmetric, with scales along the output channels"
_FLOAT_WEIGHTS = "its weights are float"
_OTHER_AXIS = "the scales of its weights lie along their inputs, and TFLite has them along the output channels"
_MOVES = ("RESHAPE", "TRANSPOSE")


class Lowering:
    """Holds, for each ONNX value, its constant or its tensors by form; makes missing forms on demand, once.

    Args:
        sizes: of symbolic dimensions, by their names. The shape of a value is then what it is at these sizes.
        activations: quantization of values, by name. Where there is any, forms without integer kernels are avoided.
    """

    def __init__(
        self, sizes: Mapping[str, int] | None = None, *, activations: Mapping[str, Quantization] | None = None
    ) -> None:
        self.activations = activations or {}
        self.integer = bool(activations)
        self.is_int16 = any(quantization.dtype == "int16" for quantization in self.activations.values())
        self.notes: tuple[str, ...] = ()
        self.rounded: list[str] = []  # notes on weights
        self.held: tuple[Held, ...] = ()
        self.sizes = sizes or {}
        self.graph = Graph()
        self.forms: dict[ir.Value, dict[Form, Tensor]] = {}
        self.arrays: dict[ir.Value, Array] = {}
        self.reordered: set[Tensor] = set()  # channels in another order than the graph's, which only the file knows
        self.feature_orders: dict[ir.Value, tuple[Tensor, Array]] = {}
        self.node: ir.Node | None = None
        self.scales: dict[ir.Value, Quantization] = {}  # of constants that were stored as integers, torch's order
        self.unlike: set[ir.Value] = set()  # of those, weights whose scales lie along another axis than TFLite's

    # Facts of a value

    def shape(self, value: ir.Value) -> Shape:
        """The value's static shape, torch's order."""
        if value in self.arrays:
            return self.arrays[value].shape
        shape = value.shape.evaluate(self.sizes) if value.shape is not None and self.sizes else value.shape
        if shape is None or not shape.is_static():
            self.refuse(
                f"the value {value.name!r} has no static shape",
                node=value.producer() or next((use.node for use in value.uses()), None),
            )
        sizes = tuple(int(size) for size in shape.numpy())
        if len(sizes) > _MOST_AXES:
            why = f"the value {value.name!r} has {len(sizes)} axes, and TFLite's RESHAPE takes {_MOST_AXES}"
            self.refuse(why, node=value.producer())
        if math.prod(sizes) > _MOST_ELEMENTS:
            hint = "make it smaller: no device holds it"
            self.refuse(f"the value {value.name!r} has {math.prod(sizes):,} elements", node=value.producer(), hint=hint)
        return sizes

    def dtype(self, value: ir.Value) -> np.dtype[Any]:
        """The value's element type in the file."""
        if value in self.arrays:
            return self.arrays[value].dtype
        if value.dtype is None or not knows_dtype(value.dtype.numpy()):
            self.refuse(
                f"the value {value.name!r} has element type {value.dtype}",
                node=value.producer() or next((use.node for use in value.uses()), None),
                hint=f"make it float32, int32 or int64 in the module, or {ONNX_ONLY}",
            )
        return value.dtype.numpy()

    def array(self, value: ir.Value | None) -> Array | None:
        """The value's constant in torch's order, or None."""
        return None if value is None else self.arrays.get(value)

    def constant(self, value: ir.Value | None, what: str) -> Array:
        """The value's constant; refused when it is computed at run time."""
        array = self.array(value)
        if array is None:
            self.refuse(f"its {what} is not a constant")
        return array

    def scales_of(self, value: ir.Value | None, axis: int) -> Quantization | None:
        """The int8 scales of a weight, whose output channels are its ``axis``; None where it is of floats.

        So is one that was stored with scales along its inputs (ConvTranspose in some configurations of torch and
        executorch): all of it would be rounded once more, which its source never did. Single channels that int8 does
        not reach are rounded again, and noted.
        """
        if value not in self.scales:
            return None
        weight = self.required(value)
        if not self.scales[weight].along(axis):
            self.unlike.add(weight)
            return None
        scales, rounded = weights_of(self.constant(weight, "weight"), self.scales[weight], axis)
        if rounded:
            count = self.shape(weight)[axis]
            self.rounded.append(
                f"the weights of {self.base!r} are rounded to int8 again in {rounded} of {count} {_WHY}"
            )
        return scales

    def scale_of(self, value: ir.Value | None) -> Quantization | None:
        """The one scale that a constant operand was stored with, if it was."""
        scale = self.scales.get(value) if value is not None else None
        return scale if scale is not None and not scale.per_channel else None

    def input(self, node: ir.Node, index: int = 0) -> ir.Value:
        """An input that the node cannot do without."""
        return self.required(input_of(node, index))

    def required(self, value: ir.Value | None) -> ir.Value:
        """The value, which may not have been left out."""
        if value is None:
            self.refuse("an input is missing")
        return value

    # Tensors

    def form(self, value: ir.Value) -> Form:
        """The form that the value is best read in: channels-last where it exists, else as it was made."""
        rank = len(self.shape(value))
        forms = self.forms.get(value)
        if not forms:
            return first(rank)
        return last(rank) if rank == 4 and last(rank) in forms else next(iter(forms))

    def tensor(self, value: ir.Value, form: Form | None = None) -> Tensor:
        """The value's tensor in a form (the best one when None), made by RESHAPE or TRANSPOSE if need be."""
        form = self.form(value) if form is None else form
        array = self.arrays.get(value)
        if array is not None:
            return self.graph.constant(array.transpose(form), value.name or "constant")
        forms = self.forms[value]
        if form not in forms:
            source = self._nearest(value, form)
            name = f"{value.name}/{_suffix(form)}"
            forms[form] = self.transpose(forms[source], between(source, form), name)
        return forms[form]

    def _nearest(self, value: ir.Value, form: Form) -> Form:
        """The existing form that gives this one for a RESHAPE, else the one that was made first."""
        forms, shape = self.forms[value], self.shape(value)
        return next((existing for existing in forms if same_memory(shape, existing, form)), next(iter(forms)))

    def transpose(self, tensor: Tensor, perm: Form, name: str) -> Tensor:
        """The tensor with its axes permuted: itself, a RESHAPE, or a TRANSPOSE."""
        rank, shape = len(perm), permuted(tensor.shape, perm)
        if perm == first(rank):
            return tensor
        if same_memory(tensor.shape, perm, first(rank)):
            return self.reshape(tensor, shape, name)
        if rank > _TRANSPOSED_AS_IS and len(_runs(tensor, perm)) < rank:
            return self._transpose_merged(tensor, perm, name)
        return self.graph.add("TRANSPOSE", [tensor, self.integers(perm)], [shape], name)[0]

    def _transpose_merged(self, tensor: Tensor, perm: Form, name: str) -> Tensor:
        """Merges axes that stay neighbors, so that fewer are left to permute."""
        runs = _runs(tensor, perm)
        # In the tensor, runs lie by their first axes; merged, each is one axis.
        order = sorted(range(len(runs)), key=lambda index: runs[index][0])
        merged = [int(np.prod([tensor.shape[axis] for axis in runs[index]])) for index in order]
        smaller = self.reshape(tensor, merged, f"{name}/merged")
        places = tuple(order.index(index) for index in range(len(runs)))
        moved = self.transpose(smaller, places, f"{name}/moved")
        return self.reshape(moved, permuted(tensor.shape, perm), name)

    def reshape(self, tensor: Tensor, shape: Sequence[int], name: str | None = None) -> Tensor:
        """The same bytes in another shape."""
        if tensor.shape == tuple(shape):
            return tensor
        if tensor.data is not None:
            return self.graph.constant(tensor.data.reshape(tuple(shape)), tensor.name)
        sizes = [int(size) for size in shape]
        return self.graph.add(
            "RESHAPE", [tensor, self.integers(sizes)], [sizes], name or f"{self.base}/reshape", newShape=sizes
        )[0]

    def emit(self, code: str, inputs: Sequence[Tensor], shape: Sequence[int], **options: Any) -> Tensor:
        """Appends an operator with one output of the first input's dtype (option ``dtype``: another)."""
        dtype = options.pop("dtype", None)
        if code in _REAL and inputs[0].dtype.kind in "biu":
            self.refuse(f"it computes {code} of {inputs[0].dtype}, and TFLite computes that of real numbers only")
        if code in _BROADCASTING:
            inputs = self._of_rank(inputs, shape)
        return self.graph.add(code, inputs, [shape], f"{self.base}/{code.lower()}", dtype, **options)[0]

    def _of_rank(self, inputs: Sequence[Tensor], shape: Sequence[int]) -> Sequence[Tensor]:
        """Gives the constants the result's rank where the inputs would not broadcast to its shape as they are."""
        # A constant loses leading axes of size 1 (`aligned`); two such operands may broadcast to a lower rank than the
        # result.
        if np.broadcast_shapes(*(tensor.shape for tensor in inputs)) == tuple(shape):
            return inputs
        rank = len(shape)
        return [
            self.reshape(tensor, ((1,) * rank + tensor.shape)[len(tensor.shape) :])
            if tensor.data is not None
            else tensor
            for tensor in inputs
        ]

    def slice(self, tensor: Tensor, begin: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The block of this shape that begins there."""
        if tuple(shape) == tensor.shape:
            return tensor
        return self.emit("SLICE", [tensor, self.integers(begin), self.integers(shape)], shape)

    def integers(self, values: Sequence[int] | Array) -> Tensor:
        """An int32 constant of rank 1 (or of the array's rank)."""
        return self.graph.constant(np.array(values, np.int32), "integers")

    def floats(self, values: Any, name: str = "") -> Tensor:
        """A float32 constant, rounded once from what is given; at least rank 1, as some delegates want it."""
        array = np.atleast_1d(np.asarray(values)).astype(np.float32, copy=False)
        return self.graph.constant(array, name or f"{self.base}/constant")

    def weighted(
        self, code: str, inputs: Sequence[Tensor], shape: Sequence[int], scales: Quantization | None, **options: Any
    ) -> Tensor:
        """As `emit`, for an operator whose second input is weights, with the scales of their integers.

        Without scales in a quantized graph, the plan left the weights float, and so the operator stays float, too.
        """
        data, weight, *rest = inputs
        if scales is not None and weight.data is not None:
            weight = self.graph.constant(weight.data, weight.name, scales)
        result = self.emit(code, [data, weight, *rest], shape, **options)
        self.graph.operators[-1].keeps_float = _FLOAT_WEIGHTS if self.integer and scales is None else ""
        return result

    def keep_float(self, node: ir.Node, first: int) -> None:
        """Marks what the node was lowered to, the operators from ``first`` on, where it is to stay float.

        Not those that only move elements, which may serve others too, and lose nothing.
        """
        why = node.metadata_props.get(KEEP_FLOAT, "")
        # A float weight in a quantized graph: the plan did not name its layer.
        weight = node.inputs[1] if node.op_type in having(Trait.LAYER) else None
        if not why and weight in self.arrays and (weight not in self.scales or weight in self.unlike):
            why = _OTHER_AXIS if weight in self.unlike else _FLOAT_WEIGHTS
        for operator in self.graph.operators[first:] if why and self.integer else ():
            if operator.code not in _MOVES:
                operator.keeps_float = why

    # Results

    def bind(self, value: ir.Value, form: Form, tensor: Tensor) -> None:
        """Says that the tensor holds the value in this form; a new tensor takes the value's name.

        A tensor of these elements in another shape (images of a volume, say) is reshaped.
        """
        tensor = self.reshape(tensor, permuted(self.shape(value), form))
        if not tensor.owner and tensor.data is None:
            tensor.owner = tensor.name = value.name or "value"
        self.forms.setdefault(value, {})[form] = tensor

    def alias(self, value: ir.Value, source: ir.Value) -> None:
        """Says that a value equals another one."""
        if source in self.arrays:
            self.arrays[value] = self.arrays[source]
        else:
            self.forms[value] = self.forms[source]

    @property
    def base(self) -> str:
        """The beginning of the names of the present node's intermediate tensors."""
        return (self.node.outputs[0].name if self.node else None) or "value"

    def refuse(self, why: str, *, node: ir.Node | None = None, hint: str = "") -> NoReturn:
        """Raises the one error that names the operator (the present one, or the given), its module and the way out."""
        raise refusal(node or self.node, why, hint)


def refusal(node: ir.Node | None, why: str, hint: str = "") -> EmitError:
    """The error for a node that cannot be written."""
    what = f"{subject_of(node)} cannot be written as TFLite: {why}"
    return EmitError(what, where="tflite", hint=hint or f"{ONNX_ONLY}, or {another_way([node])}")


def subject_of(node: ir.Node | None) -> str:
    """A node by the name that the caller knows: its torch module's, or its own in the file."""
    if node is None:
        return "the graph"
    maker = maker_of(node)
    if _is_of_file(node) and maker:
        return f"{maker} ({node.op_type})"
    return f"{node.op_type} (made by {maker})" if maker else node.op_type


def another_way(nodes: Sequence[ir.Node | None]) -> str:
    """What to do about nodes that have no form, in the terms of the module or of the file."""
    many = len(nodes) > 1
    if any(node is not None and _is_of_file(node) for node in nodes):
        return f"replace {'those nodes' if many else 'that node'} of the file"
    return f"replace {'those parts' if many else 'that part'} of the module"


def _is_of_file(node: ir.Node) -> bool:
    return MODULE not in node.metadata_props


def _runs(tensor: Tensor, perm: Form) -> list[list[int]]:
    """The axes in their new order, those together that stay neighbors; axes of size 1 are left out."""
    runs: list[list[int]] = []
    for axis in (axis for axis in perm if tensor.shape[axis] != 1):
        last_axis = runs[-1][-1] if runs else axis
        if axis > last_axis and all(tensor.shape[between] == 1 for between in range(last_axis + 1, axis)):
            runs[-1].append(axis)
        else:
            runs.append([axis])
    return runs


def maker_of(node: ir.Node) -> str:
    """The torch module that made the node, or the node of a file; by the output's name where there is no other."""
    module = node.metadata_props.get(MODULE)
    if module:
        return f"torch module {module!r}"
    name = (node.outputs[0].name if node.outputs else "") or ""
    if module is None:
        name = node.metadata_props.get(NODE) or name
        return f"node {name!r}" if name else ""
    return f"the model's own forward, value {name!r}" if name else "the model's own forward"


def _suffix(form: Form) -> str:
    names: dict[Form, str] = {(0, 1, 2, 3): "nchw", (0, 2, 3, 1): "nhwc"}
    return names.get(form, "axes_" + "".join(str(axis) for axis in form))
