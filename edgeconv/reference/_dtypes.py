"""The torch dtype in which the reference computes each ONNX element type.

Floats of every width are float64. Integers keep their dtype if torch computes in it; those below 8 bits are held in 8,
and unsigned ones above 8 in the next wider signed dtype (torch has few operators for uint16 to uint64). Strings and
complex numbers are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgeconv.errors import RewriteError

_HELD: dict[ir.DataType, torch.dtype] = {
    ir.DataType.BOOL: torch.bool,
    ir.DataType.INT2: torch.int8,
    ir.DataType.INT4: torch.int8,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT2: torch.uint8,
    ir.DataType.UINT4: torch.uint8,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.int32,
    ir.DataType.UINT32: torch.int64,
    ir.DataType.UINT64: torch.int64,
}


def held_as(dtype: ir.DataType) -> torch.dtype:
    """The torch dtype that holds values of an ONNX element type.

    Raises:
        RewriteError: strings and complex numbers.
    """
    if dtype.is_floating_point():
        return torch.float64
    if dtype not in _HELD:
        raise RewriteError(f"the reference does not compute with {dtype.name.lower()} tensors")
    return _HELD[dtype]


def from_ir(tensor: ir.TensorProtocol) -> torch.Tensor:
    """A constant of the graph, as the reference holds it."""
    return from_numpy(tensor.numpy(), tensor.dtype)


def from_numpy(array: npt.NDArray[Any], dtype: ir.DataType) -> torch.Tensor:
    """A copy of an array of element type ``dtype``, as the reference holds it."""
    return torch.from_numpy(np.array(array, dtype=str(held_as(dtype)).removeprefix("torch."), order="C"))


def shared(array: npt.NDArray[Any], dtype: ir.DataType) -> torch.Tensor:
    """As `from_numpy`, but shares the array's memory if it can: nobody may change it while the tensor is in use."""
    converted = np.asarray(array, dtype=str(held_as(dtype)).removeprefix("torch."), order="C")
    return torch.from_numpy(converted if converted.flags.writeable else converted.copy())  # torch warns of read-only


def wrapped(tensor: torch.Tensor, dtype: ir.DataType | None) -> torch.Tensor:
    """A result of an integer type that is held in a wider one, wrapped into the range of its own type."""
    if dtype not in _WIDENED or tensor.is_floating_point():
        return tensor
    low, high = integer_range(dtype)
    return ((tensor.to(torch.int64) - low) % (high - low + 1) + low).to(held_as(dtype))


_WIDENED = (
    *(ir.DataType.INT2, ir.DataType.INT4, ir.DataType.UINT2, ir.DataType.UINT4),
    *(ir.DataType.UINT16, ir.DataType.UINT32),
)


def integer_range(dtype: ir.DataType) -> tuple[int, int]:
    """The smallest and the largest value of an integer element type."""
    bits = dtype.bitwidth
    signed = dtype.name.startswith("INT")
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
