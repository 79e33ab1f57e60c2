"""Which outputs of a graph are indices: class numbers of an ArgMax, places of a TopK.

No distance means anything between class 3 and class 7, so that such an output is judged by how much of it is equal.
Integers that stand for quantities (pixels, coordinates that were rounded) are numbers like any others.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import constant
from edgeconv.graph.traits import Trait, having

_RANKS, _MOVES = having(Trait.RANKS), having(Trait.MOVES)
_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16})


def indices_of(graph: ir.Graph) -> frozenset[str]:
    """The names of the outputs that hold indices, or integers that are computed or looked up with indices alone.

    1. What ranks elements (ArgMax, ArgMin, TopK's second result) makes indices.
    2. Integers that are made of indices and constants are indices, too: the column of a place in a flattened map, a
       label out of a table.
    3. Answers of yes and no are classes of two.
    4. As floats indices stay indices as long as they are only moved; what is computed with them then is a quantity.
    """
    indices, computed = set[ir.Value](), set[ir.Value]()  # indices, and what is computed with indices alone
    for node in graph:
        for at, value in enumerate(node.outputs):
            ranked = _ranked(node, at)
            if ranked or _of_indices(node, computed):
                computed.add(value)
                if ranked or value.dtype not in _FLOATS or _moved(node, indices):
                    indices.add(value)
    answers = {value for value in graph.outputs if value.dtype is ir.DataType.BOOL}
    return frozenset(value.name or "" for value in graph.outputs if value in indices | answers)


def _ranked(node: ir.Node, at: int) -> bool:
    """Whether a node's result number `at` holds the places of elements that were chosen by value."""
    return node.op_type in _RANKS and at == (1 if node.op_type == "TopK" else 0)


def _of_indices(node: ir.Node, computed: set[ir.Value]) -> bool:
    """Whether a node reads what is computed with indices, and constants besides."""
    read = [source for source in node.inputs if source is not None and constant(source) is None]
    others = [source for source in read if source not in computed]
    # The condition of a Where may be of anything.
    return len(others) < len(read) and all(source.dtype is ir.DataType.BOOL for source in others)


def _moved(node: ir.Node, indices: set[ir.Value]) -> bool:
    """Whether a node's results are indices as floats; an embedding that is looked up by an index is none."""
    return node.op_type in _MOVES | {"Cast"} and node.inputs[0] in indices
