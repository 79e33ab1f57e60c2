"""Takes from the exporter's graph whatever is not computation, exactly: nothing is fused here."""

from __future__ import annotations

import logging

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, RemoveUnusedNodesPass, ShapeInferencePass, TopologicalSortPass

from edgeconv.capture.normalize._attention import state_shapes
from edgeconv.capture.normalize._automatic_pads import drop_rounding
from edgeconv.capture.normalize._branches import has_subgraph, take_branches
from edgeconv.capture.normalize._compress import settle_compress
from edgeconv.capture.normalize._group_norm import inferable
from edgeconv.capture.normalize._pooling import may_be_short, settle_first_short
from edgeconv.capture.normalize._runtime_places import STATED
from edgeconv.capture.normalize._stated_resizes import may_round, settle_first_size
from edgeconv.capture.normalize._training import check_dropouts
from edgeconv.capture.normalize.fold_constants import FoldConstantsPass, lift_constants
from edgeconv.capture.normalize.remove_no_ops import FORMS, RemoveNoOpsPass
from edgeconv.capture.normalize.split_sequences import SplitSequencesPass
from edgeconv.errors import CaptureError
from edgeconv.graph.constants import take_exact
from edgeconv.graph.edit import constant, remove_unread_constants
from edgeconv.graph.names import forget_all_but_name, unique_name
from edgeconv.graph.origin import origin_of, set_origin
from edgeconv.graph.traits import TRAITS, Trait, having
from edgeconv.reference import ImpossibleError


def clean(model: ir.Model) -> None:
    """Constants lifted and folded, sequences and identities and dead nodes gone, every value with shape and dtype.

    Raises:
        CaptureError: a shape depends on the values of a tensor, an operator runs a subgraph, or the module draws
            random numbers.
    """
    graph = model.graph
    if model.functions:
        InlinePass()(model)
    _own_initializers(graph)
    weights = frozenset(graph.initializers.values())
    lift_constants(graph)  # the loop goes on as long as the number of nodes changes: of those that compute
    before = -1
    while before != len(graph):
        before = len(graph)
        _fold_constants(model)
        settle_compress(graph)
        take_branches(graph)
        SplitSequencesPass()(model)
        RemoveNoOpsPass(FORMS, capturing=True, parameters=weights)(model)
        RemoveUnusedNodesPass()(model)
        infer_shapes(model)
    TopologicalSortPass()(model)
    _separate_outputs(graph)
    _plain_reshapes(graph)
    remove_unread_constants(graph)
    _strip(model)
    _check(graph)


def clean_known(model: ir.Model) -> None:
    """`clean` for a graph that was made with all shapes known, without anything of the exporter's."""
    graph = model.graph
    weights = frozenset(graph.initializers.values())
    _fold_constants(model)
    RemoveNoOpsPass(FORMS, capturing=True, parameters=weights)(model)
    RemoveUnusedNodesPass()(model)
    _separate_outputs(graph)
    take_exact(model)


def _fold_constants(model: ir.Model) -> None:
    """Evaluates what depends on constants and known shapes alone.

    Raises:
        CaptureError: there are operands that have no result.
    """
    try:
        FoldConstantsPass(capturing=True)(model)
    except ImpossibleError as error:
        raise CaptureError(error.what, where=error.where, hint=error.hint or "correct the model") from error


def infer_shapes(model: ir.Model, *, strict: bool = True) -> None:
    """ONNX's own inference; where torch knew a static shape, torch's stays.

    Args:
        model: changed in place; so are pools whose inferred size counts a window too many, and
            resizes whose scale, rounded to float32, says another size than onnxruntime's.
        strict: nothing is inferred where anything contradicts; else what can be.
    """
    drop_rounding(model.graph)
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
    log = logging.getLogger("onnx_ir")  # which writes down, with a traceback, what the check below says better
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
    """An output that is an input, a constant or an output already gets an Identity, so that it has its own name."""
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
    """Removes every trace of the exporter: stack traces, paths, torch's own names."""
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
    """What cannot be converted has a shape that is not known: shapes that contradict each other may be the cause."""


def _check(graph: ir.Graph) -> None:
    """Every operator is one that can be converted; all that are not are told together."""
    check_dropouts(graph)
    wrong = [(node, *reason) for node in graph for reason in [_why_unfit(node)] if reason is not None]
    if not wrong:
        return
    first, what, _ = wrong[0]
    others = [f"{_place_of(node)}: {also}" for node, also, _ in wrong[1:_TOLD]]
    more = [f"and {len(wrong) - _TOLD} more"] if len(wrong) > _TOLD else []
    hints = list(dict.fromkeys(advice for _, _, advice in wrong[:_TOLD]))
    kind = UnknownShapeError if all(hint == _STATIC for _, _, hint in wrong) else CaptureError
    raise kind("; ".join([what, *others, *more]), where=_place_of(first), hint="; ".join(hints))


_TOLD = 2  # operators in one message
_STATIC = "keep every shape a function of the input shapes"
_REPLACE = "replace that part of the model (`edgeconv operators` lists what can be exported)"


def _place_of(node: ir.Node) -> str:
    return origin_of(node).module or origin_of(node).operation


def _why_unfit(node: ir.Node) -> tuple[str, str] | None:
    """Why an operator cannot be converted and what to do about it, if it cannot."""
    if node.op_type in having(Trait.RANDOM):
        hint = "take the random tensor as an input, or leave it out of the model"
        return f"{node.op_type} draws random numbers, and a file computes the same each time", hint
    if has_subgraph(node):
        hint = "export the model without loops, and without branches that depend on values"
        return f"{node.op_type} runs a subgraph, and only plain graphs are converted", hint
    if any(value is not None and not _is_known(value) for value in node.inputs):
        return None  # what it reads is to blame
    if all(not value.name or _is_known(value) for value in node.outputs):
        return None
    operation = origin_of(node).operation
    operator = operation if operation == node.op_type else f"{operation} ({node.op_type})"
    if node.op_type not in TRAITS:  # onnx derives no shape of many of them, whatever the model states
        return f"no shape can be derived for {operator}: it is not among the operators that are exported", _REPLACE
    return f"{operator} has a shape that is not known before it runs", _STATIC


def _is_known(value: ir.Value) -> bool:
    return value.shape is not None and value.shape.is_static() and value.dtype is not None
