"""Tensors made of attributes and shapes.

Specification: Constant, ConstantOfShape, EyeLike, Range, Shape, Size.
"""

from __future__ import annotations

import onnx_ir as ir
import torch

from edgeconv.reference._call import Call, Operator, Tensor
from edgeconv.reference._dtypes import from_ir, held_as
from edgeconv.reference._moves import range_terms, shape_result


def _constant(call: Call) -> Tensor:
    (name,) = call.node.attributes
    if name == "value":
        return from_ir(call.node.attributes["value"].as_tensor())
    if name not in ("value_int", "value_ints", "value_float", "value_floats"):
        raise call.refuse(f"of kind {name} is not known to the reference")
    dtype = torch.float64 if "float" in name else torch.int64
    return torch.tensor(call.node.attributes[name].value, dtype=dtype)


def _filled(call: Call) -> Tensor:
    shape = call[0].tolist()
    if not call.has("value"):
        return torch.zeros(shape, dtype=torch.float64)
    return from_ir(call.node.attributes["value"].as_tensor()).reshape(()).expand(shape)


def _eye(call: Call) -> Tensor:
    rows, columns = call[0].shape
    offset = call.attribute("k", 0)
    dtype = held_as(ir.DataType(call.attribute("dtype", 0))) if call.has("dtype") else call[0].dtype
    return (torch.arange(rows)[:, None] + offset == torch.arange(columns)[None, :]).to(dtype)


def _range(call: Call) -> Tensor:
    start, count, delta = range_terms(call)
    return start + torch.arange(count, dtype=call[0].dtype) * delta


def _shape(call: Call) -> Tensor:
    return torch.from_numpy(shape_result(call.node, call[0].shape))


OPERATORS: dict[str, Operator] = {
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "EyeLike": _eye,
    "Range": _range,
    "Shape": _shape,
    "Size": _shape,
}
