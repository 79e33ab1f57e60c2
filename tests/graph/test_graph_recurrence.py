"""The parameters of recurrent layers' activations, as ONNX's specification lists them."""

from __future__ import annotations

import onnx.defs
import pytest

from edgeconv.graph.recurrence import PARAMETERS, RECURRENT, Activation, activations_of


@pytest.mark.parametrize("op_type", RECURRENT)
def test_the_specification_names_every_activation_of_the_table(op_type: str) -> None:
    text = onnx.defs.get_schema(op_type).doc.lower()
    assert [name for name in PARAMETERS if f"{name}(" not in text] == []


def test_each_activation_takes_the_next_number_of_the_list() -> None:
    names = ["LeakyRelu", "Tanh", "HardSigmoid", "Elu", "Relu", "HardSigmoid"]
    first = activations_of("LSTM", 0, names, [0.25, 0.5, 2.0], [0.125])
    assert first == [
        Activation("leakyrelu", {"alpha": 0.25}),
        Activation("tanh", {}),
        Activation("hardsigmoid", {"alpha": 0.5, "beta": 0.125}),
    ]
    second = activations_of("LSTM", 1, names, [0.25, 0.5, 2.0], [0.125])
    assert second == [
        Activation("elu", {"alpha": 2.0}),
        Activation("relu", {}),
        Activation("hardsigmoid", {"alpha": 0.2, "beta": 0.5}),  # the lists have ended
    ]


@pytest.mark.parametrize("op_type", RECURRENT)
def test_a_layer_that_states_no_activations_has_its_own_in_both_directions(op_type: str) -> None:
    names = [activation.name for activation in activations_of(op_type, 0, [], [], [])]
    assert names == list(RECURRENT[op_type].activations)
    assert activations_of(op_type, 1, [], [], []) == activations_of(op_type, 0, [], [], [])
