"""Layers of a file of integers on the module's own values: what only resembles one of them."""

from __future__ import annotations

import numpy as np
import pytest

from edgeconv.parity.writing._alike import Alike, Candidates
from edgeconv.parity.writing._layers import Walk, first_wrong
from edgeconv.parity.writing._real_file import Part, RealFile
from edgeconv.parity.writing._steps import steps_of

PLACES = np.stack(np.meshgrid(np.arange(10.0), np.arange(10.0)), -1).reshape(100, 2) + 0.5


def _file(offset: float = 0.0) -> RealFile:
    """Places of anchors, made of a constant as the file runs, and added to its input."""
    parts = (
        Part("RESHAPE", ("table",), ("anchors",), lambda values: [values["table"].reshape(100, 2) + offset]),
        Part("ADD", ("x", "anchors"), ("boxes",), lambda values: [values["x"] + values["anchors"]]),
    )
    return RealFile(parts, ("x",), ("boxes",), {"table": PLACES.reshape(-1)}, {}, {}, {})


def _first_wrong(file: RealFile) -> str | None:
    x = np.random.default_rng(4).standard_normal((100, 2))
    values = {"corners": PLACES + x / 20, "boxes": x + PLACES}
    layers = Walk(file, reach=0.5, factors=False).layers({"x": x}, values, {"boxes": Alike("boxes", (0, 1))})
    wrong = first_wrong(layers, ("boxes",))
    return None if wrong is None else str(wrong.tensor)


def test_what_is_made_of_constants_alone_is_no_wrong_layer_where_it_resembles_one() -> None:
    """The grid of a detector is near to its boxes' corners, which are the grid and small offsets."""
    assert _first_wrong(_file()) is None


def test_a_wrong_number_in_it_is_told() -> None:
    """What reads it is no value of the module then, and it is where that begins."""
    assert _first_wrong(_file(0.5)) == "anchors"


@pytest.mark.parametrize("corrected", [False, True])
def test_a_bias_may_be_corrected_where_a_channel_has_no_data(corrected: bool) -> None:
    x = np.random.default_rng(5).standard_normal((200, 3)) * [1, 1, 0]
    keys = ("x", "w", "b")
    part = Part("CONV", keys, ("y",), lambda v: [v["x"] * v["w"] + v["b"]], keys, lambda v: [v["x"] * v["w"] + v["b"]])
    constants = {"w": np.array([1.01, 0.99, 1.01]), "b": np.array([0.0, 0.0, 0.01])}
    steps = {"w": np.full(3, 0.02), "b": np.full(3, 1e-5)}
    file = RealFile((part,), ("x",), ("y",), constants, steps, {}, {})
    walk = Walk(file, reach=0.5, factors=False, corrected=corrected)
    (layer,) = walk.layers({"x": x}, {"y": x.copy()}, {"y": Alike("y", (0, 1))})
    assert layer.holds == corrected


def _hard_swish(ends: float) -> RealFile:
    """x times the sixth of an x + 3 whose integers end at 0 and at a number; ranges end where the sample has few."""
    parts = (
        Part("ADD", ("x", "three"), ("gate",), lambda v: [v["x"] + v["three"]]),
        Part("MUL", ("gate", "sixth"), ("part",), lambda v: [v["gate"] * v["sixth"]]),
        Part("MUL", ("x", "part"), ("y",), lambda v: [v["x"] * v["part"]]),
    )
    ranges = {
        "x": steps_of(9 / 255, -43, "int8"),
        "gate": steps_of(ends / 255, -128, "int8"),
        "part": steps_of(ends / 6 / 255, -128, "int8"),
        "y": steps_of(6.5 / 255, -113, "int8"),
    }
    constants = {"three": np.array(3.0), "sixth": np.array(1 / 6)}
    return RealFile(parts, ("x",), ("y",), constants, {}, ranges, {})


@pytest.mark.parametrize("forms", [(), ("shifted",), ("shifted", "sixths")])
@pytest.mark.parametrize(("ends", "is_right"), [(6.0, True), (5.0, False), (9.0, False)])
def test_the_end_of_a_range_may_be_a_clamp_of_the_module(ends: float, is_right: bool, forms: tuple[str, ...]) -> None:
    """A right HardSwish was called wrong where x + 3 alone is a value of the module, and ends nowhere."""
    x = 2 * np.random.default_rng(6).standard_normal((400, 8))
    steps = {"shifted": x + 3, "sixths": (x + 3) / 6}
    values = {"x": x, **{name: steps[name] for name in forms}, "y": x * np.clip(x + 3, 0, 6) / 6}
    layers = Walk(_hard_swish(ends), reach=0.5, factors=False).layers({"x": x}, values, {"y": Alike("y", (0, 1))})
    wrong = first_wrong(layers, ("y",))
    assert (wrong is None) == is_right


def test_channels_that_are_nearly_always_shut_have_the_order_of_what_they_are_computed_of() -> None:
    """Both are one number, at the same place: a right file had a channel of the other's, times 0.4."""
    value = np.random.default_rng(7).standard_normal((64, 6))
    value[:, :2] = 0
    value[40, :2] = 2, 5
    order = np.array([3, 1, 0, 5, 4, 2])
    candidates = Candidates({"y": value})
    found = candidates.find(value[:, order], None, factors=True, orders=[order])
    assert found is not None
    assert found.order is not None
    np.testing.assert_array_equal(found.order, order)
    assert found.factors == pytest.approx(np.ones(6))
