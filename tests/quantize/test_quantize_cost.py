"""What is held of the data in memory: rounding a bounded part, which does not change what comes out, others nothing."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import onnx_ir as ir
import pytest
from quantize_graphs import Graph, data, mobile

from edgeconv.core import Array
from edgeconv.quantize import (
    Plan,
    Target,
    _adaround,
    _sensitivity,
    _walk,
    adaround,
    advice,
    apply,
    calibrate,
    make_plan,
    round_weights,
    search,
    sensitivity,
)

_VALUE_BYTES = 4 * 8 * 6 * 6  # of the network's largest value, one sample


def _network() -> tuple[ir.Model, Plan]:
    g = Graph(0, input=(1, 4, 6, 6))
    g.conv(g.add("Relu", [g.conv("input", "a", (8, 4, 1, 1))], "b"), "c", (8, 1, 3, 3), group=8, pads=[1] * 4)
    model = g.model(g.add("Add", ["b", "c"], "d"))
    return model, make_plan(model, calibrate(model, data(model, 4)))


def _weights(model: ir.Model) -> dict[str, Array]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def test_few_batches_are_held_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = _network()
    seen: list[weakref.ref[Array]] = []
    most = 0

    def batches() -> Iterator[Mapping[str, Array]]:
        nonlocal most
        for number in range(100):
            array = np.full((1, 4, 6, 6), number, np.float32)
            seen.append(weakref.ref(array))
            most = max(most, sum(reference() is not None for reference in seen))
            yield {"input": array}

    monkeypatch.setattr(_walk, "_MOST_BYTES", 5 * _VALUE_BYTES)
    taken = [float(batch["input"].flat[0]) for batch in _walk.chosen(model, batches())]
    assert most <= 13  # twice five, the one that is too many, the one in hand and the one before
    assert len(taken) == 5
    assert max(np.diff(taken)) <= 2 * min(np.diff(taken))  # evenly
    assert (taken[0], taken[-1] >= 70) == (0, True)


@pytest.mark.parametrize("tune", [round_weights, adaround])
def test_what_a_layer_makes_is_the_same_kept_and_computed_again(tune: Callable[..., ir.Model], monkeypatch) -> None:
    model, plan = _network()
    few = {"iterations": 20} if tune is adaround else {}
    kept = _weights(tune(model, plan, data(model, 4), **few))
    monkeypatch.setattr(_walk, "_KEPT_BYTES", 2 * _VALUE_BYTES)
    for name, array in _weights(tune(model, plan, data(model, 4), **few)).items():
        np.testing.assert_array_equal(array, kept[name], err_msg=name)


def test_groups_are_rounded_the_same_together_and_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = _network()
    together = _weights(adaround(model, plan, data(model, 4), iterations=20))
    monkeypatch.setattr(_adaround, "_PART_BYTES", 1)
    for name, array in _weights(adaround(model, plan, data(model, 4), iterations=20)).items():
        np.testing.assert_allclose(array, together[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_walk_holds_integers_of_what_is_quantized_and_forgets_the_rest() -> None:
    model, plan = _network()
    walk = _walk.Walk(apply(model, plan), data(model, 4))
    for node in walk.layers(["c"]):
        held = walk.read(node.inputs[0])
        assert [type(sample) for sample in held] == [_walk.Dequantized] * 4
        assert held[0].integers.dtype == np.int8
    with pytest.raises(Exception, match="the value 'input' was not computed"):
        walk.read(next(iter(model.graph.inputs)))


_COUNT = 20


def _read(what: str, model: ir.Model, plan: Plan, batches: Callable[[], Iterator[Mapping[str, Array]]]) -> None:
    quantized = apply(model, plan)
    if what == "sensitivity":
        sensitivity(model, plan, batches)
    elif what == "search":
        search(model, plan, Target(sqnr_db=60.0), tuned=lambda _: model, batches=batches, judged=batches)
    else:
        words = advice(
            model, plan, quantized, batches=batches, judged=batches, target=Target(sqnr_db=90.0), reference=model
        )
        assert f"dB on {_COUNT} of the parity inputs" in words


@pytest.mark.parametrize("what", ["sensitivity", "search", "advice"])
def test_what_looks_for_layers_to_keep_in_float_reads_data_one_by_one(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sensitivity, "_MOST_HELD", 0)
    model = mobile(seed=2, blocks=1)
    plan = make_plan(model, calibrate(model, data(model, 4)))
    shape = tuple(model.graph.inputs[0].shape or ())
    seen: list[weakref.ref[Array]] = []
    alive = []

    def batches() -> Iterator[Mapping[str, Array]]:
        for number in range(_COUNT):
            array = np.random.default_rng(number).standard_normal(shape).astype(np.float32)
            seen.append(weakref.ref(array))
            alive.append(sum(reference() is not None for reference in seen))
            yield {"input": array}

    _read(what, model, plan, batches)
    assert max(alive) <= 3  # the one in hand, the one before, and the first, of which the outputs are looked at


def test_shares_are_the_same_whether_data_is_held_or_read_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, plan = _network()
    batches, reads = data(model, 4), []

    def read() -> list[Mapping[str, Array]]:
        reads.append(1)
        return batches

    held = sensitivity(model, plan, read)
    assert len(reads) == 1
    monkeypatch.setattr(_sensitivity, "_MOST_HELD", 0)
    assert sensitivity(model, plan, read) == held
    assert len(reads) > 2
