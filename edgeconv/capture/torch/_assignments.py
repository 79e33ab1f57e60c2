"""Assignments to constant places of a tensor: every other row, some channels, a diagonal.

A single number becomes Where with a constant mask. Otherwise old and new elements are concatenated along the axis and
gathered in their final order. Both formats run these operators fast; ScatterND would need transposes around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir
import torch

from edgeconv.capture.torch._builder import Builder, sizes_of


def replaced(b: Builder, x: ir.Value, values: ir.Value, places: Sequence[int], axis: int) -> ir.Value:
    """A tensor with other elements at some places of an axis.

    Args:
        b: appends the nodes.
        x: the tensor before.
        values: the new elements: of x's shape, except that the axis has one element per place.
        places: indices from 0; where one stands twice, its last value counts, as torch writes in order.
        axis: from 0.
    """
    size = sizes_of(x)[axis]
    number = _number(b, values)
    if number is not None:
        mask = torch.zeros(size, dtype=torch.bool)
        mask[list(places)] = True
        shape = [size if index == axis else 1 for index in range(len(sizes_of(x)))]
        return chosen(b, b.exactly(mask.view(shape), ir.DataType.BOOL), number, x, sizes_of(x))
    order = list(range(size))  # positions in the concatenation of x and the values
    for index, place in enumerate(places):
        order[place] = size + index
    if min(order) >= size:  # every element is replaced
        x, order = values, [index - size for index in order]
    else:
        x = b.concat([x, values], axis)
    shape = [len(order) if index == axis else length for index, length in enumerate(sizes_of(x))]
    return b.add("Gather", x, b.ints(*order), shape=shape, axis=axis)


def chosen(b: Builder, condition: ir.Value, x: ir.Value, other: ir.Value, shape: Sequence[int]) -> ir.Value:
    """Where: elements of x where a condition is true, of `other` elsewhere.

    onnxruntime has no kernel of Where for bool, int8 and int16: of booleans it is written with And and Or, narrow
    integers are cast to int32 and back.
    """
    if x.dtype is ir.DataType.BOOL:
        here, elsewhere = b.add("And", condition, x), b.add("And", b.add("Not", condition), other)
        return b.add("Or", here, elsewhere, shape=shape)
    if x.dtype in (ir.DataType.INT8, ir.DataType.INT16):
        wide = (b.cast(value, ir.DataType.INT32) for value in (x, other))
        return b.cast(b.add("Where", condition, *wide, shape=shape, dtype=ir.DataType.INT32), x.dtype)
    return b.add("Where", condition, x, other, shape=shape, dtype=x.dtype)


def diagonal(b: Builder, x: ir.Value, offset: int, dim1: int, dim2: int) -> ir.Value:
    """A diagonal of matrices, which becomes the last axis."""
    flat, _, places = _matrices(b, x, offset, dim1, dim2)
    shape = (*sizes_of(flat)[:-1], len(places))
    return b.add("Gather", flat, b.ints(*places), shape=shape, axis=len(shape) - 1)


def with_diagonal(b: Builder, x: ir.Value, values: ir.Value, offset: int, dim1: int, dim2: int) -> ir.Value:
    """Matrices with other elements on a diagonal."""
    flat, perm, places = _matrices(b, x, offset, dim1, dim2)
    written = replaced(b, flat, values, places, len(sizes_of(flat)) - 1)
    moved = b.reshape(written, [sizes_of(x)[axis] for axis in perm])
    return b.transpose(moved, [perm.index(axis) for axis in range(len(perm))])


def _matrices(b: Builder, x: ir.Value, offset: int, dim1: int, dim2: int) -> tuple[ir.Value, list[int], list[int]]:
    """A tensor with its two matrix axes flattened into one last axis.

    Returns:
        The tensor; the order of x's axes in it, before flattening; the places of the diagonal on the last axis.
    """
    sizes = sizes_of(x)
    matrix_axes = [dim1 % len(sizes), dim2 % len(sizes)]
    perm = [*(axis for axis in range(len(sizes)) if axis not in matrix_axes), *matrix_axes]
    rows, columns = (sizes[axis] for axis in matrix_axes)
    places = torch.arange(rows * columns).view(rows, columns).diagonal(offset).tolist()
    return b.reshape(b.transpose(x, perm), (*(sizes[axis] for axis in perm[:-2]), rows * columns)), perm, places


def _number(b: Builder, value: ir.Value) -> ir.Value | None:
    """A scalar constant that every element of a value equals; None where there is none."""
    producer = value.producer()
    if producer is not None and producer.op_type == "Expand" and producer.inputs[0] is not None:
        value = producer.inputs[0]
    constant = b.constant_of(value)
    if constant is None and value.const_value is not None:
        constant = torch.from_numpy(value.const_value.numpy().copy())
    if constant is None or not constant.numel() or value.dtype is None:
        return None
    first = constant.flatten()[0]
    return b.exactly(first, value.dtype) if bool((constant == first).all()) else None
