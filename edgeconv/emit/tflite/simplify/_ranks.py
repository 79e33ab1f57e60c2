"""Operators of more axes than every runtime takes are written with fewer: axes that are treated alike are merged.

`MOST` was measured, one operator a file, on LiteRT 2.3 (XNNPACK, the optimized and the reference kernels) and on
tflite-runtime 2.14.0: beyond it one of them refuses the file, or ends the process (the older kernels reckon with arrays
of so many sizes). Where merging leaves too many axes the operator is done in steps, or an operand is repeated first, by
GATHER, which takes any number of them. All of it is exact.

`IN_COMPANY` holds for operators that are right with up to eight axes by themselves: in 2.14 some end the process as
soon as XNNPACK, whose tensors have six axes at most (``XNN_MAX_TENSOR_DIMS``), takes others before them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby

import numpy as np

from edgeconv.core import Array
from edgeconv.emit.tflite._graph import COMPARISONS, Graph, Operator, Tensor

MOST: dict[str, tuple[int, int]] = {
    "ADD": (6, 6),
    "SUB": (6, 5),
    "MUL": (6, 4),
    "DIV": (6, 5),
    "MAXIMUM": (6, 5),
    "MINIMUM": (6, 5),
    "POW": (4, 4),
    "FLOOR_MOD": (4, 4),
    **dict.fromkeys((*COMPARISONS, "LOGICAL_AND", "LOGICAL_OR"), (4, 4)),
    "SELECT_V2": (5, 5),
    "BATCH_MATMUL": (5, 5),
    "FULLY_CONNECTED": (6, 6),
    "CONCATENATION": (6, 6),
    "SPLIT": (6, 6),
    "SOFTMAX": (6, 4),
    "MEAN": (6, 5),
    "SUM": (6, 6),
    "REDUCE_MAX": (6, 6),
    "REDUCE_MIN": (6, 6),
    "PAD": (5, 5),
    "PADV2": (5, 5),
    "SLICE": (5, 5),
    "STRIDED_SLICE": (5, 5),
    "TRANSPOSE": (6, 6),
}
"""The most axes of a float operator and of one of integers (quantized ones, too); operators that broadcast take
`IN_COMPANY` where the shapes of their operands are the same."""

IN_COMPANY = 6  # XNN_MAX_TENSOR_DIMS


def lower_ranks(graph: Graph) -> None:
    """Writes every operator with no more axes than `MOST` says."""
    operators: list[Operator] = []
    for operator in graph.operators:
        steps = _Steps(graph, operator)
        rule = _RULES.get(operator.code)
        if rule is not None and steps.rank > steps.most:
            rule(steps)
            operators += steps.operators
        else:
            operators.append(operator)
    graph.operators = operators


class _Steps:
    """The operators that take the place of one, up to its own result tensors, which stay."""

    def __init__(self, graph: Graph, operator: Operator) -> None:
        self.graph, self.operator = graph, operator
        self.operators: list[Operator] = []
        self.result = operator.outputs[0]

    @property
    def rank(self) -> int:
        """The most axes of any of its tensors."""
        return max(len(tensor.shape) for tensor in (*self.operator.inputs, *self.operator.outputs))

    @property
    def most(self) -> int:
        """The most axes that the operator may have."""
        operator = self.operator
        if operator.code not in MOST:
            return IN_COMPANY
        if (
            _RULES[operator.code] is _broadcast
            and len({tensor.shape for tensor in (*operator.inputs, self.result)}) == 1
        ):
            return IN_COMPANY  # nothing is broadcast: kernels read such operands as flat arrays
        computed = [tensor for tensor in (*operator.inputs, *operator.outputs) if tensor.data is None]
        floats = all(tensor.dtype == np.float32 and tensor.quantization is None for tensor in computed)
        return MOST[operator.code][0 if floats else 1]

    def constant(self, index: int) -> Array:
        """A constant operand."""
        data = self.operator.inputs[index].data
        if data is None:
            raise ValueError(f"{self.operator.code} without a constant {index}")  # a bug of ours: no rule writes one
        return data

    def integers(self, numbers: Sequence[int] | Array) -> Tensor:
        """An int32 constant."""
        return self.graph.constant(np.array(numbers, np.int32), "integers")

    def shaped(self, tensor: Tensor, shape: Sequence[int]) -> Tensor:
        """The same elements in another shape."""
        sizes = [int(size) for size in shape]
        if tensor.shape == tuple(sizes):
            return tensor
        if tensor.data is not None:
            return self.graph.constant(tensor.data.reshape(sizes), tensor.name, tensor.quantization)
        return self._step("RESHAPE", [tensor, self.integers(sizes)], sizes, tensor, {"newShape": sizes})

    def add(self, inputs: Sequence[Tensor], shape: Sequence[int], **options: object) -> Tensor:
        """The operator itself, on other operands; it makes what the old one made, in that shape."""
        result = self._step(self.operator.code, inputs, shape, self.result, {**self.operator.options, **options})
        self.operators[-1].keeps_float = self.operator.keeps_float
        self.operators[-1].places = self.operator.places
        return result

    def repeated(self, tensor: Tensor, axis: int, count: int) -> Tensor:
        """The only element of an axis so many times."""
        shape = [count if at == axis else size for at, size in enumerate(tensor.shape)]
        if tensor.data is not None:
            return self.graph.constant(np.broadcast_to(tensor.data, shape), tensor.name, tensor.quantization)
        return self.gathered(tensor, axis, [0] * count)

    def gathered(self, tensor: Tensor, axis: int, places: Sequence[int]) -> Tensor:
        """These elements along an axis."""
        shape = [len(places) if at == axis else size for at, size in enumerate(tensor.shape)]
        options: dict[str, object] = {"axis": axis, "batchDims": 0}
        return self._step("GATHER", [tensor, self.integers(places)], shape, tensor, options)

    def transposed(self, tensor: Tensor, perm: Sequence[int]) -> Tensor:
        """The axes in another order."""
        shape = [tensor.shape[axis] for axis in perm]
        return self._step("TRANSPOSE", [tensor, self.integers(perm)], shape, tensor, {})

    def _step(
        self, code: str, inputs: Sequence[Tensor], shape: Sequence[int], like: Tensor, options: dict[str, object]
    ) -> Tensor:
        sizes = tuple(int(size) for size in shape)
        name = f"{like.name}/{'x'.join(map(str, sizes))}"
        result = Tensor(name, sizes, like.dtype, quantization=like.quantization)
        self.operators.append(Operator(code, list(inputs), [result], options))
        return result

    def finish(self, tensor: Tensor, result: Tensor | None = None) -> None:
        """Reshapes a tensor to the operator's result (by default its first), whose elements it holds."""
        result = result or self.result
        sizes = list(result.shape)
        self.operators.append(Operator("RESHAPE", [tensor, self.integers(sizes)], [result], {"newShape": sizes}))


def _broadcast(steps: _Steps) -> None:
    """Elementwise: neighboring axes are one where each operand has both of them, or neither."""
    merged = _merged(steps, steps.operator.inputs, steps.result.shape, steps.most)
    steps.finish(steps.add(merged, np.broadcast_shapes(*(tensor.shape for tensor in merged))))


def _product(steps: _Steps) -> None:
    """A product of matrices: as elementwise in all axes but the last two."""
    a, b = steps.operator.inputs
    merged = _merged(steps, [a, b], steps.result.shape[:-2], steps.most - 2, tail=2)
    batch = np.broadcast_shapes(*(tensor.shape[:-2] for tensor in merged))
    steps.finish(steps.add(merged, (*batch, *steps.result.shape[-2:])))


def _merged(
    steps: _Steps, operands: Sequence[Tensor], whole: Sequence[int], most: int, *, tail: int = 0
) -> list[Tensor]:
    """The operands with so few axes that still broadcast to all of ``whole``, before ``tail`` axes that stay."""
    tensors, sizes = list(operands), list(whole)
    while True:
        shapes = [_extended(tensor, len(sizes), tail) for tensor in tensors]
        groups = _alike(shapes, sizes)
        for index, (tensor, shape) in enumerate(zip(tensors, shapes, strict=True)):
            tail_shape = tensor.shape[len(tensor.shape) - tail :]
            tensors[index] = steps.shaped(tensor, (*_grouped(shape, groups), *tail_shape))
        sizes = _grouped(sizes, groups)
        if len(sizes) <= max(most, 1):
            return tensors
        # Too many axes are left, since the operands broadcast along different ones: one of them stops doing so.
        operand, axis = _cheapest(tensors, sizes)
        tensors[operand] = steps.repeated(tensors[operand], axis, sizes[axis])


def _grouped(shape: Sequence[int], groups: Sequence[Sequence[int]]) -> list[int]:
    """The size of each group of axes, as one axis."""
    return [math.prod(shape[axis] for axis in group) for group in groups]


def _extended(tensor: Tensor, rank: int, tail: int) -> tuple[int, ...]:
    """The shape without its last ``tail`` axes, with ones before it up to this rank."""
    shape = tensor.shape[: len(tensor.shape) - tail]
    return (1,) * (rank - len(shape)) + shape


def _alike(shapes: Sequence[Sequence[int]], whole: Sequence[int]) -> list[list[int]]:
    """Neighboring axes that each of the shapes either has or has not; axes of size 1 join what lies before them."""
    groups: list[list[int]] = []
    last: tuple[bool, ...] | None = None
    for axis, size in enumerate(whole):
        pattern = tuple(shape[axis] != 1 for shape in shapes)
        if groups and (size == 1 or last is None or pattern == last):
            groups[-1].append(axis)
        else:
            groups.append([axis])
        last = last if size == 1 else pattern
    return groups


def _cheapest(tensors: Sequence[Tensor], whole: Sequence[int]) -> tuple[int, int]:
    """The operand, and its axis of size 1, whose repetition leaves the fewest axes; of these the smallest."""

    def cost(choice: tuple[int, int]) -> tuple[int, int]:
        operand, axis = choice
        shapes = [list(tensor.shape[: len(whole)]) for tensor in tensors]
        shapes[operand][axis] = whole[axis]
        return len(_alike(shapes, whole)), math.prod(shapes[operand])

    choices = [
        (operand, axis)
        for operand, tensor in enumerate(tensors)
        for axis, size in enumerate(whole)
        if tensor.shape[axis] == 1 != size
    ]
    return min(choices, key=cost)


def _rows(steps: _Steps) -> None:
    """Along the last axis, each row by itself."""
    source, *constants = steps.operator.inputs
    rows = math.prod(source.shape[:-1])
    options = {"keepNumDims": True} if steps.operator.code == "FULLY_CONNECTED" else {}
    flat = steps.shaped(source, (rows, source.shape[-1]))
    steps.finish(steps.add([flat, *constants], (rows, steps.result.shape[-1]), **options))


def _along(steps: _Steps) -> None:
    """Along one axis, which is a constant operand or an option: what lies before it is one axis, and what is behind."""
    source, *others = steps.operator.inputs
    is_option = "axis" in steps.operator.options
    axis = steps.operator.options["axis"] if is_option else int(steps.constant(1).reshape(()))
    flat = steps.shaped(source, _around(source.shape, axis % len(source.shape)))
    if is_option:
        (index,) = others
        flat_index = steps.shaped(index, (math.prod(index.shape),))
        steps.finish(steps.add([flat, flat_index], (flat.shape[0], *flat_index.shape, flat.shape[2]), axis=1))
        return
    # The axis is an operand: of CUMSUM, whose result has the shape of its data, or of ARG_MAX and ARG_MIN.
    place = steps.integers(np.ones(others[0].shape, np.int32))
    is_index = len(steps.result.shape) < len(source.shape)
    steps.finish(steps.add([flat, place], (flat.shape[0], flat.shape[2]) if is_index else flat.shape))


def _reversed(steps: _Steps) -> None:
    """Along one axis, by lengths along another: what lies before, between and behind the two is one axis each."""
    source, lengths = steps.operator.inputs
    time, images = (steps.operator.options[name] for name in ("seqDim", "batchDim"))
    first, second = sorted((time, images))
    around, behind = _around(source.shape, first)[:2], _around(source.shape[first + 1 :], second - first - 1)
    flat = steps.shaped(source, (*around, *behind))
    places = {"seqDim": 1 if time == first else 3, "batchDim": 1 if images == first else 3}
    steps.finish(steps.add([flat, lengths], flat.shape, **places))


def _largest(steps: _Steps) -> None:
    """The largest of each row, and where they lie."""
    source, count = steps.operator.inputs
    flat = steps.shaped(source, (math.prod(source.shape[:-1]), source.shape[-1]))
    parts = [
        Tensor(f"{output.name}/rows", (flat.shape[0], output.shape[-1]), output.dtype, quantization=output.quantization)
        for output in steps.operator.outputs
    ]
    steps.operators.append(Operator("TOPK_V2", [flat, count], list(parts), steps.operator.options))
    for part, result in zip(parts, steps.operator.outputs, strict=True):
        steps.finish(part, result)


def _concatenation(steps: _Steps) -> None:
    """Along one axis: what lies before it is one axis, and what lies behind it."""
    axis = steps.operator.options["axis"] % len(steps.result.shape)
    parts = [steps.shaped(tensor, _around(tensor.shape, axis)) for tensor in steps.operator.inputs]
    steps.finish(steps.add(parts, _around(steps.result.shape, axis), axis=1))


def _split(steps: _Steps) -> None:
    source = steps.operator.inputs[1]
    axis = int(steps.constant(0)) % len(source.shape)
    whole = steps.shaped(source, _around(source.shape, axis))
    flat = [
        Tensor(f"{output.name}/part", _around(output.shape, axis), output.dtype, quantization=output.quantization)
        for output in steps.operator.outputs
    ]
    new = Operator("SPLIT", [steps.integers(np.array(1)), whole], list(flat), steps.operator.options)
    new.keeps_float = steps.operator.keeps_float
    steps.operators.append(new)
    for part, result in zip(flat, steps.operator.outputs, strict=True):
        steps.finish(part, result)


def _around(shape: Sequence[int], axis: int) -> tuple[int, int, int]:
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def _reduction(steps: _Steps) -> None:
    """Neighboring axes that are reduced are one, and those that are kept; of too many the reduced are moved behind."""
    source = steps.operator.inputs[0]
    reduced = {int(axis) % len(source.shape) for axis in steps.constant(1).reshape(-1)}
    groups = [(key, list(axes)) for key, axes in groupby(range(len(source.shape)), lambda axis: axis in reduced)]
    sizes = [math.prod(source.shape[axis] for axis in axes) for _, axes in groups]
    places = [place for place, (key, _) in enumerate(groups) if key]
    flat = steps.shaped(source, sizes)
    # Kept and reduced axes alternate too often: the kept ones become rows, and the reduced ones their columns.
    if len(groups) > steps.most:
        kept_places = [place for place in range(len(groups)) if place not in places]
        rows = math.prod(sizes[place] for place in kept_places)
        flat = steps.shaped(_moved(steps, flat, [*kept_places, *places]), (rows, math.prod(sizes) // rows))
        sizes, places = list(flat.shape), [1]
    sizes = [1 if place in places else size for place, size in enumerate(sizes)]
    steps.finish(steps.add([flat, steps.integers(places)], sizes, keepDims=True))


def _pad(steps: _Steps) -> None:
    """An axis that is padded and those behind it that are not are one; too many are padded one by one."""
    source, _, *value = steps.operator.inputs
    amounts = [(int(before), int(after)) for before, after in steps.constant(1)]
    for before, after, behind, shape in _blocks(source.shape, amounts):
        flat = steps.shaped(source, shape)
        table = np.array([[0, 0], [before * behind, after * behind]])
        source = steps.add([flat, steps.integers(table), *value], (shape[0], shape[1] + int(table[1].sum())))
    steps.finish(source)


def _slice(steps: _Steps) -> None:
    """An axis that is cut and those behind it that are not are one; each is cut by itself."""
    source = steps.operator.inputs[0]
    begins, sizes = (steps.constant(index).tolist() for index in (1, 2))
    cuts = [(-begin, size + begin - whole) for begin, size, whole in zip(begins, sizes, source.shape, strict=True)]
    for before, after, behind, shape in _blocks(source.shape, cuts):
        flat = steps.shaped(source, shape)
        cut_shape = (shape[0], shape[1] + (before + after) * behind)
        source = steps.add([flat, steps.integers([0, -before * behind]), steps.integers(cut_shape)], cut_shape)
    steps.finish(source)


def _blocks(shape: Sequence[int], amounts: Sequence[tuple[int, int]]) -> list[tuple[int, int, int, tuple[int, int]]]:
    """Each axis that grows (or shrinks) before or after: by how much, of how many elements, in which two axes."""
    # Two axes: what lies before, and the axis with all behind it, which grows in blocks of `behind` elements.
    sizes, blocks = list(shape), []
    for axis, (before, after) in enumerate(amounts):
        if before or after:
            lead, size, behind = _around(sizes, axis)
            blocks.append((before, after, behind, (lead, size * behind)))
            sizes[axis] += before + after
    return blocks


def _strided(steps: _Steps) -> None:
    """Each axis that is cut, by itself: gathered, between what lies before and behind it."""
    source = steps.operator.inputs[0]
    sizes = list(source.shape)
    for axis, bounds in enumerate(zip(*(steps.constant(index).tolist() for index in (1, 2, 3)), strict=True)):
        part = range(*bounds)
        if part != range(sizes[axis]):
            source = steps.gathered(steps.shaped(source, _around(sizes, axis)), 1, list(part))
            sizes[axis] = len(part)
    steps.finish(source)


def _transpose(steps: _Steps) -> None:
    steps.finish(_moved(steps, steps.operator.inputs[0], steps.constant(1).tolist()))


def _moved(steps: _Steps, source: Tensor, perm: Sequence[int]) -> Tensor:
    """The axes in that order: at once, or one by one, as two neighboring blocks that change places."""
    if len(perm) <= MOST["TRANSPOSE"][0]:
        return steps.transposed(source, perm)
    order, sizes = list(range(len(perm))), source.shape
    for place, axis in enumerate(perm):
        at = order.index(axis)
        if at == place:
            continue
        blocks = [order[:place], order[place:at], [axis], order[at + 1 :]]
        flat = steps.shaped(source, [math.prod(sizes[member] for member in block) for block in blocks])
        source = steps.transposed(flat, _SWAPPED)
        order = [member for block in _SWAPPED for member in blocks[block]]
    return steps.shaped(source, [sizes[axis] for axis in perm])


_SWAPPED = (0, 2, 1, 3)  # of four blocks, the two in the middle

_UNARY = (
    *("ABS", "CAST", "CEIL", "COS", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGICAL_NOT"),
    *("LOGISTIC", "NEG", "RELU", "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "TANH"),
)

_RULES: dict[str, Callable[[_Steps], None]] = {
    **dict.fromkeys((*MOST, *_UNARY), _broadcast),
    "BATCH_MATMUL": _product,
    "FULLY_CONNECTED": _rows,
    **dict.fromkeys(("SOFTMAX", "LOG_SOFTMAX"), _rows),
    "CONCATENATION": _concatenation,
    "SPLIT": _split,
    **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD"), _reduction),
    **dict.fromkeys(("GATHER", "CUMSUM", "ARG_MAX", "ARG_MIN"), _along),
    "REVERSE_SEQUENCE": _reversed,
    "TOPK_V2": _largest,
    "PAD": _pad,
    "PADV2": _pad,
    "SLICE": _slice,
    "STRIDED_SLICE": _strided,
    "TRANSPOSE": _transpose,
}
