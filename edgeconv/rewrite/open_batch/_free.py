"""Makes the batch size of a graph symbolic."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from edgeconv.errors import FIXED_BATCH, RewriteError
from edgeconv.graph.argument import checked_model
from edgeconv.graph.edit import dims, remove_unread, remove_unread_constants
from edgeconv.graph.origin import place_of
from edgeconv.rewrite.open_batch._axis import Batch, Place
from edgeconv.rewrite.open_batch._compare import Freed, require_same
from edgeconv.rewrite.open_batch._rules import RULES

__all__ = ["free_batch"]


def free_batch(
    model: ir.Model, *, inputs: Collection[str], symbol: str = "batch", beside: ir.Model | None = None
) -> ir.Model:
    """Makes dimension 0 of graph inputs a symbol, and with it every dimension that follows from it.

    A rule per operator follows the batch from the inputs through the graph. It may change its axis: attention moves it
    to another one, or merges it with its heads (a dimension ``8*batch``). Constants that contain the batch size
    (shapes, sizes, repeated rows) are rewritten to forms that hold for every batch size.

    Args:
        model: changed in place; after an error it is of no use. Captured with static shapes and a batch of at least
            2 (the same for all of ``inputs``; 1 could not be told from a dimension that is always 1). Called after
            `optimize` and before a file is written.
        inputs: names of the graph inputs whose dimension 0 is the batch. The others keep their shapes.
        symbol: the name of the dimension.
        beside: the same network captured with another batch size and treated alike since. It is freed too, and both
            must then be the same graph. Without it a number that was made from the batch size (``x / x.shape[0]``)
            is taken for a constant.

    Returns:
        The same model. Dimension 0 of the named inputs and of the outputs that depend on them is
        ``ir.SymbolicDim(symbol)``; inside, dimensions are ``symbol`` or a multiple of it.

    Raises:
        RewriteError: an operator cannot carry the batch (it works along it, or takes constants that differ from image
            to image), an output does not keep it at dimension 0, ``inputs`` does not fit the graph, or ``beside`` is
            not the same.
    """
    checked_model(model, RewriteError)
    first = Freed(model, _free(model, inputs, symbol))
    if beside is not None:
        require_same(first, Freed(beside, _free(beside, inputs, symbol)))
    return model


def _free(model: ir.Model, inputs: Collection[str], symbol: str) -> int:
    """Makes the batch of one graph symbolic; returns the batch size that it was captured with."""
    batch = _begin(model.graph, inputs)
    for node in tuple(model.graph):
        if any(value in batch.places for value in node.inputs if value is not None):
            _follow(batch, node)
    _check_outputs(batch, model.graph)
    for value, place in batch.places.items():
        if value.shape is not None:
            sizes: list[int | ir.SymbolicDim] = [int(size) for size in value.shape.numpy()]
            factor = place.outer * place.inner
            sizes[place.axis] = ir.SymbolicDim(symbol) if factor == 1 else ir.SymbolicDim(symbol) * factor
            value.shape = ir.Shape(sizes)
    # Rows that were reduced to one leave their Expand, and constants, without a reader.
    remove_unread(node.outputs[0] for node in tuple(model.graph) if node.outputs and not node.outputs[0].uses())
    remove_unread_constants(model.graph)
    return batch.size


def _begin(graph: ir.Graph, inputs: Collection[str]) -> Batch:
    """The state before the first node: the batch size, and the batch in the named inputs."""
    by_name = {value.name or "": value for value in graph.inputs}
    sizes = {}
    for name in inputs:
        shape = dims(by_name.get(name))
        if shape is None or not shape:
            what = f"{name!r} is no input of the graph with a static shape and a dimension 0"
            raise RewriteError(what, where="free_batch", hint=f"its inputs are {', '.join(by_name)}")
        sizes[name] = shape[0]
    if len(set(sizes.values())) != 1 or min(sizes.values()) < 2:
        listed = ", ".join(f"{name} of {size}" for name, size in sizes.items())
        what = f"the batch must be captured with one size of at least 2, not {listed or 'no input'}"
        raise RewriteError(what, where="free_batch", hint="capture with a batch of 2")
    batch = Batch(next(iter(sizes.values())))
    batch.places = {by_name[name]: Place(0) for name in sizes}
    return batch


def _follow(batch: Batch, node: ir.Node) -> None:
    """Applies the rule of a node, and records where its results carry the batch."""
    rule = RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        batch.refuse(node, "has no rule for an open batch")
    results = [value for value in node.outputs if value.name]
    place = rule(batch, node)
    for value in results:  # a rule with several results has recorded those that differ (recurrent layers)
        batch.places.setdefault(value, place)


def _check_outputs(batch: Batch, graph: ir.Graph) -> None:
    """Checks that every output has the batch as dimension 0, or does not depend on it.

    An output that does not depend on it, but has its size as dimension 0, was expanded with the number, and is refused.
    """
    for value in graph.outputs:
        place, shape = batch.places.get(value), dims(value)
        if place == Place(0) or (place is None and (not shape or shape[0] != batch.size)):
            continue
        producer = value.producer()
        why = (
            "does not have the batch by itself at dimension 0"
            if place
            else "does not depend on the input and has its batch"
        )
        what = f"output {value.name!r} {why}"
        raise RewriteError(what, where=place_of(producer) if producer else "", hint=FIXED_BATCH)
