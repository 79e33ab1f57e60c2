"""Each kind of fault has a place somewhere, changes what it says, and follows from the seed alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import numpy as np
import onnx
import pytest
from exports import Export, Model, exports_of
from graph_faults import GRAPH_KINDS, MODULE_FAULTS, wrong_graphs
from kinds import EDITS, KINDS, SINGLE_ULP, plant
from liveness import LEAST, Clean, change, function_of, graph_outputs
from mutant_networks import BENIGN, NETWORKS, RANDOM
from onnx import numpy_helper

# Small networks that have, together, a place for every kind.
_ENOUGH = (
    "dsconv",
    "prelu",
    "relu6",
    "convnext",
    "mobilevit",
    "yolo-dfl-head",
    "super-resolution",
    "mbconv-same-padding",
)
_KINDS_OF_FILES = (("fp32", "onnx"), ("fp32", "tflite"), ("int8", "onnx"), ("int8", "tflite"))


@pytest.fixture(scope="module")
def exports() -> list[Export]:
    models = [Model.of(NETWORKS[name], RANDOM, 0) for name in _ENOUGH]
    return [export for model in models for export in exports_of(model, _KINDS_OF_FILES)]


@pytest.fixture(scope="module")
def block(exports: list[Export]) -> dict[str, Export]:
    """The files of the leading block, by ``<variant>.<format>``."""
    return {f"{export.variant.name}.{export.artifact.format}": export for export in exports[: len(_KINDS_OF_FILES)]}


def test_there_are_enough_kinds_and_networks() -> None:
    assert len(KINDS) >= 35
    assert len(NETWORKS) >= 16


def test_every_kind_has_a_place(exports: list[Export]) -> None:
    left = set(KINDS)
    for export in exports:
        for kind in sorted(left):
            planted = plant(export.data, export.artifact.format, kind, random.Random(0))
            if planted is not None:
                assert planted.data != export.data
                assert planted.where
                left.remove(kind)
    assert left == set()


@pytest.mark.parametrize("file", ["fp32.onnx", "fp32.tflite", "int8.onnx", "int8.tflite"])
def test_the_seed_alone_decides(file: str, block: dict[str, Export]) -> None:
    export, before = block[file], bytes(block[file].data)
    for kind in ("weight-double", "kernel-rotated", "slope"):
        first, second = (plant(export.data, export.artifact.format, kind, random.Random(3)) for _ in range(2))
        assert first == second
    assert export.data == before
    drawn = [plant(export.data, export.artifact.format, "weight-sign", random.Random(seed)) for seed in range(8)]
    assert len({planted.data for planted in drawn if planted is not None}) > 1


@pytest.mark.parametrize("file", ["fp32.onnx", "fp32.tflite"])
@pytest.mark.parametrize("kind", sorted(SINGLE_ULP - {"scale-ulp", "weight-scale-ulp", "constant-ulp", "slope-ulp"}))
def test_a_unit_in_the_last_place_is_one_number(file: str, kind: str, block: dict[str, Export]) -> None:
    export = block[file]
    planted = plant(export.data, export.artifact.format, kind, random.Random(1))
    assert planted is not None
    before, after = (_numbers(data, export.artifact.format) for data in (export.data, planted.data))
    (at,) = np.flatnonzero(before != after)
    assert abs(int(before.view(np.int32)[at]) - int(after.view(np.int32)[at])) == 1


def _numbers(data: bytes, format_: str) -> np.ndarray:
    """All weights and biases of a float32 file."""
    if format_ == "onnx":
        tensors = [numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(data).graph.initializer]
        return np.concatenate([tensor.ravel() for tensor in tensors if tensor.dtype == np.float32])
    layers = EDITS["tflite"](data).layers()
    constants = [constant for layer in layers for constant in (layer.weights, layer.bias) if constant is not None]
    return np.concatenate([constant.values.ravel() for constant in constants])


def test_only_what_moves_an_output_is_live(block: dict[str, Export]) -> None:
    export = block["fp32.tflite"]
    doubled = plant(export.data, "tflite", "filter-scaled", random.Random(0))
    ulp = plant(export.data, "tflite", "weight-ulp", random.Random(0))
    assert doubled is not None
    assert ulp is not None
    clean = Clean.file(export)
    assert clean.change(function_of(export, doubled.data)) >= LEAST
    assert 0 < clean.change(function_of(export, ulp.data)) < LEAST
    assert clean.change(function_of(export, export.data)) == 0.0


def test_a_change_is_a_part_of_the_largest_magnitude() -> None:
    before = {"a": np.array([0.0, 200.0, np.inf, np.nan])}
    assert change(before, {"a": np.array([1.0, 200.0, np.inf, np.nan])}) == 1 / 200
    assert change(before, {"a": np.array([0.0, 200.0, 5.0, np.nan])}) == np.inf
    assert change(before, {"a": np.zeros(3)}) == np.inf


def test_a_wrong_graph_is_what_its_file_was_written_from(exports: list[Export]) -> None:
    model = exports[0].model
    kinds = ["batch-norm-eps", "batch-norm-twice", "slope"]
    wrong = {item.kind: item.export for item in wrong_graphs(model, "tflite", kinds, random.Random(0))}
    assert set(wrong) == set(kinds)
    sample, clean = model.probes[0], Clean.graph(model)
    for export in wrong.values():
        assert clean.change(partial(graph_outputs, export.model.graph, model.outputs)) >= LEAST
        from_graph = export.model.golden([sample]).reference.outputs[0]  # the module, which is still right
        assert change(from_graph, function_of(exports[0], exports[0].data)(sample)) < 1e-5


def test_all_faults_of_modules_are_among_those_of_graphs() -> None:
    assert set(MODULE_FAULTS) <= set(GRAPH_KINDS)
    assert len(set(GRAPH_KINDS)) == len(GRAPH_KINDS)


def _seeds() -> Iterator[Model]:
    for weights in (BENIGN, RANDOM):
        yield from (Model.of(NETWORKS["dsconv"], weights, seed) for seed in (0, 0, 1))


def test_weights_follow_from_their_seed() -> None:
    first, again, other, *random_ones = (next(exports_of(model, [("fp32", "tflite")])).data for model in _seeds())
    assert first == again != other
    assert random_ones[0] == random_ones[1] not in (random_ones[2], first)
