"""Recurrent layers, whose results carry the batch on different axes."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of
from edgeconv.rewrite.open_batch._axis import Batch, Place
from edgeconv.rewrite.open_batch._spread import spread

_LENGTHS, _STATES = 4, (5, 6)
"""Inputs of LSTM, GRU and RNN: the length of each sequence, and the initial states."""


def recurrent(batch: Batch, node: ir.Node) -> Place:
    """LSTM, GRU, RNN: sequence and states carry the batch; initial states that do not are repeated for each image."""
    x = node.inputs[0]
    first = node.attributes.get_int("layout", 0)
    images, state, results = (0, 0, 0) if first else (1, 1, 2)  # the batch axis of X, of the states and of Y
    place = batch.place(node)
    if x is None or place != Place(images):
        batch.refuse(node, "does not have the batch by itself as the batch of its sequences")
    carried = {index for index, value in enumerate(node.inputs) if value in batch.places} - {0, _LENGTHS, *_STATES}
    if carried:
        batch.refuse(node, "has parameters that differ from image to image")
    _lengths(batch, node, batch.shape(node, x)[1 if first else 0])
    for index in _STATES:
        value = input_of(node, index)
        if value is None:
            continue
        array = constant(value)
        if array is not None and not array.any():
            node.replace_input_with(index, None)  # states of zeros are the default
        elif value not in batch.places:
            spread(batch, node, index, state, x)
        elif batch.places[value] != Place(state):
            batch.refuse(node, "meets the batch in two places")
    for value in node.outputs[1:]:
        batch.places[value] = Place(state)
    return Place(results)


def _lengths(batch: Batch, node: ir.Node, length: int) -> None:
    """Removes constant lengths of sequences if all are the whole length, which is the default; else refuses them."""
    value = input_of(node, _LENGTHS)
    if value is None or value in batch.places:
        if value is not None and batch.places[value] != Place(0):
            batch.refuse(node, "meets the batch in two places")
        return
    if set(batch.constant(node, _LENGTHS)) != {length}:
        batch.refuse(node, "has lengths of sequences that are constants")
    node.replace_input_with(_LENGTHS, None)
