"""One statement of the options of quantization: what a recipe may write is what Python may pass and stages take."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import edgeconv
from edgeconv.core.quantization_options import CHOICES, LEAST, MOST, QuantizationOptions
from edgeconv.errors import QuantizeError, RecipeError
from edgeconv.flow.job import _quantization
from edgeconv.quantize import OBSERVERS
from edgeconv.recipe.quantization import Quantize

_OPTIONS = dataclasses.fields(QuantizationOptions)
_OTHERS: dict[str, Any] = {
    "observer": "percentile",
    "percentile": 99.5,
    "per_channel": False,
    "equalize": False,
    "absorb_biases": True,
    "rounding": "learned",
    "iterations": 7,
    "pair_safe": False,
    "keep_roundings": True,
    "relu6_as_relu": True,
    "io": "int8",
    "keep_float": ("a", "b"),
    "override": (edgeconv.Override(operators=("a",), observer="entropy"),),
}
_REFUSED: list[tuple[str, object, str, str]] = [
    ("observer", "mean", "observer: 'mean' is not known; choose of min-max, ", "quantize.observer: unknown observer"),
    ("observer", "entropi", "did you mean 'entropy'", "unknown observer 'entropi'; did you mean 'entropy'"),
    (
        "rounding",
        "up",
        "rounding: 'up' is not known; choose of nearest, corr",
        "quantize.rounding: unknown rounding 'up'",
    ),
    ("io", "int16", "io: 'int16' is not known; choose of float32, int8, uint8", "quantize.io: unknown io 'int16'"),
    ("equalize", 1, "equalize: it is 1; give True or False", "quantize.equalize: should be true or false, not 1"),
    ("iterations", 0, "iterations: it is 0; give an integer from 1 to 100000", "quantize.iterations: should be"),
    ("iterations", 100_001, "give an integer from 1 to 100000", "quantize.iterations: should be"),
    ("keep_float", "a", "keep_float: it is one string; write ('a',)", "quantize.keep_float: should be a list"),
]


def _recipe(tmp_path: Path, lines: str) -> edgeconv.Recipe:
    head = 'name = "n"\n[model]\nfactory = "torch.nn:ReLU"\n[[inputs]]\nname = "x"\nshape = [1, 3, 8, 8]\n'
    (tmp_path / "n.toml").write_text(f"{head}[quantize]\n{lines}")
    return edgeconv.load_recipe(tmp_path / "n.toml")


def _toml(value: object) -> str:
    if isinstance(value, tuple) and isinstance(value[0], edgeconv.Override):
        tables = [{name: stated for name, stated in vars(item).items() if stated is not None} for item in value]
        pairs = (", ".join(f"{name} = {_toml(stated)}" for name, stated in table.items()) for table in tables)
        return f"[{', '.join(f'{{{table}}}' for table in pairs)}]"
    return str(list(value)) if isinstance(value, tuple) else repr(value).lower().replace("'", '"')


def test_every_option_is_tried() -> None:
    assert list(_OTHERS) == [option.name for option in _OPTIONS]
    assert all(_OTHERS[option.name] != option.default for option in _OPTIONS)


def test_a_recipe_that_states_nothing_has_the_defaults() -> None:
    assert Quantize().options == QuantizationOptions()
    made = edgeconv.Quantization()
    assert {option.name: getattr(made, option.name) for option in _OPTIONS} == vars(QuantizationOptions())


def test_what_a_recipe_states_arrives(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, "".join(f"{name} = {_toml(value)}\n" for name, value in _OTHERS.items()))
    assert vars(recipe.quantize.options) == _OTHERS
    made = _quantization(recipe, dict)
    assert {option.name: getattr(made, option.name) for option in _OPTIONS} == _OTHERS


@pytest.mark.parametrize("option", [option for option in _OPTIONS if CHOICES in option.metadata], ids=lambda o: o.name)
def test_every_choice_is_taken_by_both(option: dataclasses.Field[str]) -> None:
    for choice in option.metadata[CHOICES]:
        assert getattr(edgeconv.Quantization(**{option.name: choice}), option.name) == choice
        assert getattr(Quantize(**{option.name: choice}).options, option.name) == choice


def test_the_ends_of_a_range_are_taken_by_both() -> None:
    for option in _OPTIONS:
        for end in (option.metadata[LEAST], option.metadata[MOST]) if MOST in option.metadata else ():
            chosen = {option.name: end, "observer": "percentile"}
            assert getattr(edgeconv.Quantization(**chosen), option.name) == end
            assert getattr(Quantize(**chosen).options, option.name) == end


@pytest.mark.parametrize(("name", "value", "python", "recipe"), _REFUSED)
def test_each_caller_is_told_in_its_own_words(
    name: str, value: object, python: str, recipe: str, tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError) as caught:
        edgeconv.Quantization(**{name: value})
    assert python in str(caught.value)
    with pytest.raises(RecipeError) as refused:
        _recipe(tmp_path, f"{name} = {_toml(value)}\n")
    assert recipe in str(refused.value)


def test_a_slip_in_a_key_is_told_with_the_nearest_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown key 'pair_save'; did you mean 'pair_safe'"):
        _recipe(tmp_path, "pair_save = true\n")


def test_calibration_data_may_be_the_first_argument() -> None:
    def batches() -> list[dict[str, Any]]:
        return []

    assert edgeconv.Quantization(batches).batches is batches


def test_every_observer_that_may_be_chosen_has_a_function() -> None:
    (choices,) = [option.metadata[CHOICES] for option in _OPTIONS if option.name == "observer"]
    assert set(OBSERVERS) == set(choices)
