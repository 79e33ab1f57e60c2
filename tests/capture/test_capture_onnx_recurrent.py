"""Recurrent layers of files whose sequences end at places of their own, beside onnxruntime.

Members thought of: LSTM, GRU and RNN, each direction, lengths that are constant or computed, with initial states.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper
from right_from_file import assert_right_from_file, file_of, noise

_STEPS, _BATCH, _INPUTS, _HIDDEN = 5, 3, 4, 6
_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("is_computed", [False, True])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", _GATES)
def test_sequences_of_other_lengths(operator: str, direction: str, is_computed: bool, tmp_path: Path) -> None:
    count, gates = 1 + (direction == "bidirectional"), _GATES[operator] * _HIDDEN
    constants = {
        "w": noise(count, gates, _INPUTS), "r": noise(count, gates, _HIDDEN) / 3, "b": noise(count, 2 * gates),
        "begin": noise(count, _BATCH, _HIDDEN), "first": np.array(0, np.int64),
        "lowest": np.float32(1), "highest": np.float32(_STEPS),
    }  # fmt: skip
    lengths = [
        helper.make_node("Gather", ["x", "first"], ["row"], axis=0),
        helper.make_node("Gather", ["row", "first"], ["column"], axis=1),
        helper.make_node("Exp", ["column"], ["grown"]),
        helper.make_node("Clip", ["grown", "lowest", "highest"], ["bounded"]),
        helper.make_node("Cast", ["bounded"], ["lengths"], to=6),
    ]
    if not is_computed:
        lengths, constants["lengths"] = [], np.array([5, 2, 3], np.int32)
    inputs = ["x", "w", "r", "b", "lengths", *["begin"] * (2 if operator == "LSTM" else 1)]
    outputs = ["y", "end", "cell"][: 3 if operator == "LSTM" else 2]
    layer = helper.make_node(operator, inputs, outputs, hidden_size=_HIDDEN, direction=direction)
    path = file_of(tmp_path, [*lengths, layer], (_STEPS, _BATCH, _INPUTS), 18, **constants)
    assert_right_from_file(path, (_STEPS, _BATCH, _INPUTS), tmp_path, variants=("fp32",))
