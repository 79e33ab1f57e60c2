"""Removes from a graph what is not computation (constants, sequences, branches, no-ops), exactly; fuses nothing.

`clean` is for graphs of torch.onnx and of files, `clean_known` for those of the fast path.
"""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass, ShapeInferencePass, TopologicalSortPass

from edgeconv.capture.normalize._attention import state_shapes
from edgeconv.capture.normalize._automatic_pads import drop_rounding
from edgeconv.capture.normalize._branches import has_subgraph, take_branches
from edgeconv.capture.normalize._compress import settle_compress
from edgeconv.capture.normalize._fixable import hint_to_fix
from edgeconv.capture.normalize._group_norm import inferable
from edgeconv.capture.normalize._loops import unroll_loops
from edgeconv.capture.normalize._optionals import settle_optionals
from edgeconv.capture.normalize._pooling import may_be_short, settle_first_short
from edgeconv.capture.normalize._runtime_places import STATED
from edgeconv.capture.normalize._spectra import SPECTRAL, settle_spectra
from edgeconv.capture.normalize._stated_resizes import may_round, settle_first_size
from edgeconv.capture.normalize._training import check_dropouts
from edgeconv.capture.normalize.fold_constants import FoldConstantsPass, lift_constants
from edgeconv.capture.normalize.remove_no_ops import FORMS, RemoveNoOpsPass
from edgeconv.capture.normalize.split_sequences import SplitSequencesPass
from edgeconv.errors import CaptureError
from edgeconv.graph.constants import take_exact
from edgeconv.graph.edit import constant, remove_unread_constants
from edgeconv.graph.names import forget_all_but_name, unique_name
from edgeconv.graph.origin import origin_of, place_of, set_origin
from edgeconv.graph.traits import TRAITS, Trait, having
from edgeconv.reference import ImpossibleError


def clean(model: ir.Model) -> None:
    """Lifts and folds constants, removes sequences, branches, no-ops and dead nodes, and infers every shape and dtype.

    Raises:
        CaptureError: a shape depends on the values of a tensor, an operator runs a subgraph, or the module draws
            random numbers.
    """
    graph = model.graph
    if model.functions:
        InlinePass()(model)
    _own_initializers(graph)
    weights = frozenset(graph.initializers.values())
    lift_constants(graph)
    # Each step may enable another: a folded shape gives static shapes, which let the next Shape be folded. Constant
    # nodes are lifted first, so that the number of nodes changes only with those that compute.
    before = (-1, 0)
    while before != (now := _progress(graph)):
        before = now
        _fold_constants(model)
        settle_compress(graph)
        settle_optionals(graph)
        take_branches(graph)
        if unroll_loops(graph):
            before = (-1, 0)
        SplitSequencesPass()(model)
        RemoveNoOpsPass(FORMS, capturing=True, parameters=weights)(model)
        RemoveUnusedNodesPass()(model)
        infer_shapes(model)
        if settle_spectra(graph):
            before = (-1, 0)
    TopologicalSortPass()(model)
    _separate_outputs(graph)
    _plain_reshapes(graph)
    remove_unread_constants(graph)
    _strip(model)
    _check(graph)


def clean_known(model: ir.Model) -> None:
    """`clean` for a graph of the fast path: its shapes are all known, and it has no sequences, branches or metadata."""
    graph = model.graph
    weights = frozenset(graph.initializers.values())
    _fold_constants(model)
    RemoveNoOpsPass(FORMS, capturing=True, parameters=weights)(model)
    RemoveUnusedNodesPass()(model)
    _separate_outputs(graph)
    take_exact(model)


def _progress(graph: ir.Graph) -> tuple[int, int]:
    """How many nodes there are, and of how many results the shape is known."""
    return len(graph), sum(_is_known(value) for node in graph for value in node.outputs)


def _fold_constants(model: ir.Model) -> None:
    """Evaluates nodes that depend on constants and known shapes only.

    Raises:
        CaptureError: a node has no result for its constant operands.
    """
    try:
        FoldConstantsPass(capturing=True)(model)
    except ImpossibleError as error:
        raise CaptureError(error.what, where=error.where, hint=error.hint or "correct the model") from error


def infer_shapes(model: ir.Model, *, strict: bool = True) -> None:
    """onnx's shape inference, which replaces no static shape that is known already (torch's).

    Args:
        model: changed in place. So are pools for which onnx infers a window too many, and resizes whose scale, rounded
            to float32, gives another size than onnxruntime's.
        strict: infers nothing if anything contradicts itself; otherwise whatever can be inferred.
    """
    drop_rounding(model.graph)
    # One pool or resize is corrected per round, the first: sizes behind it were inferred from its wrong one.
    while any(map(may_be_short, model.graph)) or any(map(may_round, model.graph)):
        before = {value: value.shape for node in model.graph.all_nodes() for value in node.outputs}  # in branches, too
        resizes = list(filter(may_round, model.graph))
        _infer(model, strict=False)  # a size that is still wrong may contradict what follows
        if not (settle_first_short(model.graph) or settle_first_size(resizes)):
            break
        for value, shape in before.items():
            value.shape = shape
    _infer(model, strict=strict)


def _infer(model: ir.Model, *, strict: bool) -> None:
    values = [value for node in model.graph for value in node.outputs]
    static_shapes = {value: value.shape for value in values if value.shape is not None and value.shape.is_static()}
    log = logging.getLogger("onnx_ir")  # it logs failures with a traceback; `_check` reports them in one line
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with inferable(model.graph):
            ShapeInferencePass(strict_mode=strict)(model)
    finally:
        log.setLevel(level)
    state_shapes(model.graph)
    for value, shape in static_shapes.items():
        value.shape = shape


def _own_initializers(graph: ir.Graph) -> None:
    """Weights are copied, so that training the module further does not change the graph."""
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            value.const_value = ir.tensor(np.array(value.const_value.numpy(), copy=True, order="C"), name=name)


def _plain_reshapes(graph: ir.Graph) -> None:
    """Reshape without ``allowzero``, which means something only for empty tensors and is missing in older opsets."""
    for node in graph:
        if node.op_type == "Reshape" and (shape := constant(node.inputs[1])) is not None and (shape != 0).all():
            node.attributes.pop("allowzero", None)


def _separate_outputs(graph: ir.Graph) -> None:
    """Puts an Identity before an output that is also an input, a constant or another output: it needs its own name."""
    own_outputs: set[ir.Value] = set()
    for index, value in enumerate(graph.outputs):
        if value in own_outputs or value.producer() is None:
            node = ir.node("Identity", [value])
            node.outputs[0].shape, node.outputs[0].type = value.shape, value.type
            node.outputs[0].name = unique_name(graph, f"{value.name}.output.{index}")
            graph.append(node)
            graph.outputs[index] = node.outputs[0]
        own_outputs.add(value)


def _strip(model: ir.Model) -> None:
    """Removes metadata of the exporter: stack traces, file paths, torch's internal names."""
    model.metadata_props.clear()
    model.doc_string = None
    model.producer_name = model.producer_version = model.domain = None
    graph = model.graph
    graph.metadata_props.clear()
    graph.doc_string = None
    values = [*graph.inputs, *graph.initializers.values()]
    for node in graph:
        origin, scales = origin_of(node), node.meta.get(STATED)
        node.metadata_props.clear()
        node.meta.clear()
        node.doc_string = None
        set_origin(node, origin)
        if scales is not None:
            node.meta[STATED] = scales
        values.extend(node.outputs)
    for value in values:
        value.metadata_props.clear()
        forget_all_but_name(value)
        value.doc_string = None


class UnknownShapeError(CaptureError):
    """Every operator that cannot be converted has an unknown shape; contradictory input shapes may be the cause."""


def _check(graph: ir.Graph) -> None:
    """Checks that every operator can be converted.

    Raises:
        CaptureError: some cannot; names the first two, and the number of the others.
    """
    check_dropouts(graph)
    reasons = ((node, _why_unfit(node)) for node in graph)
    unfit = [(node, *reason) for node, reason in reasons if reason is not None]
    if not unfit:
        return
    first, what, _ = unfit[0]
    others = [f"{place_of(node)}: {also}" for node, also, _ in unfit[1:_LISTED]]
    more = [f"and {len(unfit) - _LISTED} more"] if len(unfit) > _LISTED else []
    hints = list(dict.fromkeys(advice for _, _, advice in unfit[:_LISTED]))
    kind = UnknownShapeError if all(hint == _STATIC for _, _, hint in unfit) else CaptureError
    raise kind("; ".join([what, *others, *more]), where=place_of(first), hint="; ".join(hints))


_LISTED = 2  # operators in one message
_DECIDING = {"If": 1, "Loop": 2}  # how many inputs say which subgraph runs, and how often
_SIZED_BY_REALS = {"Range": 0, "Resize": 2, "Upsample": 1}  # the first operand of real numbers that gives a size
_STATIC = "keep every shape a function of the input shapes"
_REPLACE = "replace that part of the model (`edgeconv operators` lists what can be exported)"


def _why_unfit(node: ir.Node) -> tuple[str, str] | None:
    """Why an operator cannot be converted, and the hint; None where it can."""
    if node.op_type in having(Trait.RANDOM):
        hint = "take the random tensor as an input, or leave it out of the model"
        return f"{node.op_type} draws random numbers, and a file computes the same each time", hint
    if has_subgraph(node):
        hint = hint_to_fix(node.inputs[: _DECIDING.get(node.op_type, 0)])
        otherwise = "export the model without loops, and without branches that depend on values"
        return f"{node.op_type} runs a subgraph, and only plain graphs are converted", hint or otherwise
    if any(value is not None and not _is_known(value) for value in node.inputs):
        return None  # the node that gives this input is reported
    if all(not value.name or _is_known(value) for value in node.outputs):
        return None
    operation = origin_of(node).operation
    operator = operation if operation == node.op_type else f"{operation} ({node.op_type})"
    # onnx has no shape inference for many operators that are not exported
    if node.op_type not in TRAITS and node.op_type not in SPECTRAL:
        return f"no shape can be derived for {operator}: it is not among the operators that are exported", _REPLACE
    sizes = [value for index, value in enumerate(node.inputs) if value is not None and _is_size(node, index, value)]
    return f"{operator} has a shape that is not known before it runs", hint_to_fix(sizes) or _STATIC


def _is_size(node: ir.Node, index: int, value: ir.Value) -> bool:
    """Whether the shape of a result may follow from the numbers of an operand."""
    is_integer = value.dtype is not None and value.dtype.is_integer()
    return is_integer or index >= _SIZED_BY_REALS.get(node.op_type, len(node.inputs))


def _is_known(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static() and value.dtype is not None
