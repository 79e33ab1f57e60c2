"""Attention (opsets 23 and 24), written out as products, a mask and a softmax, as that of a module is.

Specification: Attention. A query attends to the keys that the mask (constant or computed) and causality allow; a query
that may attend to none gives zeros. Shapes are (batch, heads, length, size) inside.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.errors import CaptureError
from edgeconv.graph.edit import constant, input_of, is_taken
from edgeconv.graph.origin import place_of
from edgeconv.graph.steps import Steps, sizes_of

_RAW, _CAPPED, _WEIGHTS = 0, 1, 3  # modes of ``qk_matmul_output``; masked scores (2), which hold -inf, have no form
_FLOAT = ir.DataType.FLOAT
_LOWEST = np.float32(-1e30)  # below every score, and finite: -inf in a whole row would give NaN


def attention(steps: Steps, node: ir.Node) -> Mapping[ir.Value, ir.Value]:
    """Writes the node out; returns the replacements of its results.

    Raises:
        CaptureError: ``nonpad_kv_seqlen`` is given, masked scores are an output, or shapes do not fit.
    """
    # 1. Heads, with the keys and values of earlier calls (the cache of a decoder) in front.
    _check(node)
    groups = node.attributes.get_int("kv_num_heads", 0)
    query = _heads(steps, node.inputs[0], node.attributes.get_int("q_num_heads", 0), "query")
    key, value = (_heads(steps, node.inputs[i], groups, name) for i, name in ((1, "key"), (2, "value")))
    results: dict[ir.Value, ir.Value] = {}
    key, value = (_joined(steps, node, i, new) for i, new in ((4, key), (5, value)))
    for index, joined in ((1, key), (2, value)):
        if len(node.outputs) > index and is_taken(node.outputs[index]):
            results[node.outputs[index]] = joined
    # 2. Grouped queries: several heads of queries share one head of keys and values.
    shared = sizes_of(query)[1] // sizes_of(key)[1]
    key, value = (_repeated(steps, state, shared, name) for state, name in ((key, "keys"), (value, "values")))
    # 3. Scores, softmax, weighted sum of the values.
    raw = _scores(steps, node, query, key)
    capped = _capped(steps, raw, node.attributes.get_float("softcap", 0.0))
    weights = _weights(steps, node, capped)
    if len(node.outputs) > 3 and is_taken(node.outputs[3]):
        stages = {_RAW: raw, _CAPPED: capped, _WEIGHTS: weights}
        results[node.outputs[3]] = stages[node.attributes.get_int("qk_matmul_output_mode", 0)]
    y = steps.add("seen", "MatMul", [weights, value], [*sizes_of(weights)[:3], sizes_of(value)[3]])
    if len(sizes_of(node.inputs[0])) == 3:
        batch, count, length, size = sizes_of(y)
        y = steps.reshape(steps.transpose(y, (0, 2, 1, 3), "moved"), [batch, length, count * size], "joined")
    return {node.outputs[0]: y, **results}


def state_shapes(graph: ir.Graph) -> None:
    """Sets the shapes of Attention's optional results, which onnx's inference leaves open."""
    for node in graph:
        if node.op_type != "Attention" or node.domain != "" or len(node.outputs) == 1:
            continue
        shapes = [value.shape if value is not None else None for value in node.inputs[:3]]
        if any(shape is None or not shape.is_static() for shape in shapes):
            continue
        query, key, value = (_as_heads(node, index) for index in range(3))
        past = input_of(node, 4)
        keys = key[2] + (0 if past is None or past.shape is None else int(str(past.shape[2])))
        state_sizes = [(*key[:2], keys, key[3]), (*value[:2], keys, value[3]), (*query[:3], keys)]
        for result, sizes in zip(node.outputs[1:], state_sizes, strict=False):
            result.shape, result.type = ir.Shape(sizes), node.outputs[0].type


def _as_heads(node: ir.Node, index: int) -> list[int]:
    """The sizes of an input as (N, heads, length, size)."""
    sizes = sizes_of(node.inputs[index])
    count = node.attributes.get_int("kv_num_heads" if index else "q_num_heads", 1)
    return sizes if len(sizes) == 4 else [sizes[0], count, sizes[1], sizes[2] // max(count, 1)]


def _check(node: ir.Node) -> None:
    why = ""
    if input_of(node, 6) is not None:
        why = "takes nonpad_kv_seqlen"
    mode = node.attributes.get_int("qk_matmul_output_mode", 0)
    if len(node.outputs) > 3 and is_taken(node.outputs[3]) and mode not in (_RAW, _CAPPED, _WEIGHTS):
        why = f"gives qk_matmul_output of mode {mode}"
    if why:
        where = place_of(node)
        raise CaptureError(f"Attention {why}, which has no form", where=where, hint="leave that out of the model")
    if not _fit(node):
        operands = [sizes_of(value) for value in node.inputs[:6] if value is not None]
        what = f"Attention cannot compute with operands of the shapes {', '.join(map(str, operands))}"
        raise refused(node, what, "correct the shapes, or the numbers of heads")


def _fit(node: ir.Node) -> bool:
    """Whether queries, keys, values, those of earlier calls, and the mask have shapes of one attention."""
    # 1. All three (N, heads, length, size), or (N, length, heads · size) with the numbers of heads as attributes.
    ranks = {len(sizes_of(value)) for value in node.inputs[:3]}
    if len(ranks) != 1 or not ranks <= {3, 4}:
        return False
    counts = [node.attributes.get_int(name, 0) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    flat = [(sizes_of(value)[2], count) for value, count in zip(node.inputs[:3], counts, strict=True)]
    if ranks == {3} and any(count < 1 or size % count for size, count in flat):
        return False
    query, key, value = (_as_heads(node, index) for index in range(3))
    pasts = []
    for index, new in ((4, key), (5, value)):
        past = input_of(node, index)
        pasts.append([*new[:2], 0, new[3]] if past is None else sizes_of(past))
    # 2. Queries may have several heads for each head of keys and values (grouped queries), and values another size.
    fits = (
        query[0] == key[0] == value[0]
        and key[1:3] == value[1:3]
        and key[1] > 0
        and query[1] % key[1] == 0
        and query[3] == key[3]
        and all(len(past) == 4 for past in pasts)
        and [past[:2] + past[3:] for past in pasts] == [new[:2] + new[3:] for new in (key, value)]
        and pasts[0][2] == pasts[1][2]
    )
    mask = input_of(node, 3)
    if not fits or mask is None:
        return fits
    # 3. The mask broadcasts to (N, heads, queries, keys); columns that it lacks are masked out.
    *outer, columns = [1] * (4 - len(sizes_of(mask))) + sizes_of(mask)
    around = all(size in (1, whole) for size, whole in zip(outer, query[:3], strict=False))
    return len(outer) == 3 and around and bool(sizes_of(mask)) and columns <= pasts[0][2] + key[2]


def _heads(steps: Steps, value: ir.Value | None, count: int, name: str) -> ir.Value:
    """(N, length, heads · size) as (N, heads, length, size); a value of rank 4 has that shape already."""
    sizes = sizes_of(value)
    if value is not None and len(sizes) == 4:
        return value
    split = steps.reshape(value, [*sizes[:2], count, sizes[2] // max(count, 1)], f"{name}.split")
    return steps.transpose(split, (0, 2, 1, 3), name)


def _joined(steps: Steps, node: ir.Node, index: int, new: ir.Value) -> ir.Value:
    """The keys or values of earlier calls (input `index`), if there are any, and then the new ones."""
    past = input_of(node, index)
    if past is None:
        return new
    sizes = sizes_of(new)
    sizes[2] += sizes_of(past)[2]
    return steps.add(f"present_{index}", "Concat", [past, new], sizes, {"axis": 2})


def _repeated(steps: Steps, value: ir.Value, times: int, name: str) -> ir.Value:
    """Each head `times` times in a row."""
    if times == 1:
        return value
    return steps.gather(value, [int(i) for i in np.repeat(np.arange(sizes_of(value)[1]), times)], 1, name)


def _scores(steps: Steps, node: ir.Node, query: ir.Value, key: ir.Value) -> ir.Value:
    factor = node.attributes.get_float("scale", 1 / math.sqrt(sizes_of(query)[-1]))
    turned = steps.transpose(key, (0, 1, 3, 2), "turned")
    shape = [*sizes_of(query)[:3], sizes_of(key)[2]]
    return steps.add("scores", "MatMul", [steps.scaled(query, factor, "scaled"), turned], shape)


def _capped(steps: Steps, scores: ir.Value, cap: float) -> ir.Value:
    """cap · tanh(scores / cap); 0 is no cap."""
    if not cap:
        return scores
    bent = steps.add("bent", "Tanh", [steps.scaled(scores, 1 / cap, "narrow")], sizes_of(scores))
    return steps.scaled(bent, cap, "capped")


def _weights(steps: Steps, node: ir.Node, scores: ir.Value) -> ir.Value:
    """The softmax of the scores under the mask; 0 in a row without an allowed key."""
    shape = sizes_of(scores)
    allowed, bias, computed = _mask(node, shape)
    is_choice = computed is not None and computed.dtype == ir.DataType.BOOL
    if computed is not None and is_choice:
        chosen = [computed, scores, steps.constant(np.array(_LOWEST), "lowest")]
        scores = steps.add("chosen", "Where", chosen, shape, dtype=_FLOAT)
    elif computed is not None:
        scores = steps.add("masked", "Add", [scores, computed], shape)
    blind = ~allowed.any(-1, keepdims=True)  # queries without an allowed key: softmax of -inf only would be NaN
    bias = np.where(allowed | blind, bias, -np.inf).astype(np.float32)
    if bias.any():
        scores = steps.add("limited", "Add", [scores, steps.constant(bias, "mask")], shape)
    weights = steps.add("weights", "Softmax", [scores], shape, {"axis": -1})
    if computed is not None and is_choice:
        ones = steps.add("allowed", "Cast", [computed], sizes_of(computed), {"to": int(_FLOAT)}, _FLOAT)
        weights = steps.add("sighted", "Mul", [weights, ones], shape)
    if blind.any():
        weights = steps.add("kept", "Mul", [weights, steps.constant(allowed.astype(np.float32), "kept")], shape)
    return weights


def _mask(node: ir.Node, shape: list[int]) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32], ir.Value | None]:
    """The mask of an attention with scores of `shape` (batch, heads, rows, columns).

    Returns:
        Which keys are allowed for a query, as far as that is constant; what is added to the scores; the mask itself, if
        it is computed (and else None).
    """
    rows, columns = shape[-2:]
    past = input_of(node, 4)
    before = 0 if past is None else sizes_of(past)[2]
    allowed = np.ones((rows, columns), np.bool_)
    if node.attributes.get_int("is_causal", 0):
        allowed = np.tril(allowed, before)
    bias, stated = np.zeros(1, np.float32), input_of(node, 3)
    array = constant(stated)
    if stated is None or array is None:
        if stated is not None and sizes_of(stated)[-1] != columns:
            what = f"Attention takes a mask of {sizes_of(stated)[-1]} keys for {columns}"
            raise refused(node, what, "give the mask one column per key")
        return allowed, bias, stated
    missing = [(0, 0)] * (array.ndim - 1) + [(0, columns - array.shape[-1])]  # a shorter mask excludes the last keys
    if array.dtype == np.bool_:
        return allowed & np.pad(array, missing), bias, None
    bias = np.pad(array.astype(np.float32), missing, constant_values=-np.inf)
    return allowed & ~np.isneginf(bias), np.where(np.isneginf(bias), np.float32(0), bias), None
