"""onnx's own examples of each operator, with one operand of another shape or type: exported, or refused in our words.

Random mutants meet few of them, as most operators stand in no seed. Members: one axis more at either end, flat, in
reversed order of axes, a row less and a row more, none, one number; other widths, beyond any range, truths as numbers.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgeconv.cli
from edgeconv.reference import OPERATORS

_EXAMPLES = 14  # of one operator


@pytest.fixture(scope="module")
def examples() -> dict[str, list[Any]]:
    """By operator, those of one node whose operands are arrays."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    by_operator: dict[str, list[Any]] = defaultdict(list)
    for case in cases:
        nodes, (operands, _) = case.model.graph.node, case.data_sets[0]
        is_plain = all(isinstance(item, np.ndarray | np.generic) for item in operands)
        if len(nodes) == 1 and is_plain and len(operands) == len(case.model.graph.input):
            by_operator[nodes[0].op_type].append(case)
    return by_operator


def _mutants(array: np.ndarray) -> Iterator[np.ndarray]:
    yield array[..., None]
    yield array[None]
    if array.ndim > 1:
        yield from (array.reshape(-1), array.reshape(array.shape[::-1]))
    if array.ndim and len(array):
        yield from (array[:-1], np.concatenate([array, array[:1]]), array[:0], array.reshape(-1)[0])
    if array.dtype == np.int64:
        yield from (array.astype(np.int32), -array - 1, array + 10**6)
    elif array.dtype == np.float32:
        yield from (array.astype(np.float64), array.astype(np.float16))
    elif array.dtype == np.bool_:
        yield array.astype(np.float32)


def _written(case: Any, folder: Path, index: int, array: np.ndarray, x: int) -> Path:
    """The example as a file with one input; its other operands are stored, and one of them is another."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    inputs = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.append(inputs[x])
    for at, (value, operand) in enumerate(zip(inputs, case.data_sets[0][0], strict=True)):
        if at != x:
            stored = np.asarray(array if at == index else operand)
            model.graph.initializer.append(numpy_helper.from_array(stored, value.name))
    onnx.save(model, folder / "in.onnx")
    return folder / "in.onnx"


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_operands_of_other_shapes_are_exported_or_refused_in_words_of_ours(
    operator: str,
    examples: dict[str, list[Any]],
    tmp_path: Path,
    refusals: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for case in examples[operator][:_EXAMPLES]:
        operands = [np.asarray(item) for item in case.data_sets[0][0]]
        x = next((at for at, item in enumerate(operands) if item.dtype == np.float32), None)
        if x is None:
            continue
        for index in set(range(len(operands))) - {x}:
            for mutant in _mutants(operands[index]):
                path = _written(case, tmp_path, index, mutant, x)
                code = edgeconv.cli.run(["export", str(path), "--out", str(tmp_path / "out"), "--no-parity", "-q"])
                said = f"{case.name}, operand {index} {mutant.dtype} {mutant.shape}: {capsys.readouterr().err}"
                assert code in (0, 2), said
                assert not any(refusals), f"{said}\n{refusals}"
