"""What a recipe says of calibration: its data, and a plan in their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeconv.errors import QuantizeError, RecipeError
from edgeconv.flow.job import job_of
from edgeconv.flow.pipeline import export_recipe
from edgeconv.recipe import load_recipe
from edgeconv.recipe.calibration import calibration_batches

HEAD = """
name = "x"
[model]
factory = "plain:net"
seed = 3
[[inputs]]
name = "input"
shape = [1, 3, 4, 6]
dtype = "float32"
[export]
formats = ["onnx"]
variants = ["int8"]
[quantize]
"""
SECOND = '[[inputs]]\nname = "second"\nshape = [1, 2]\n'
PLAIN = """
import sys
import numpy as np
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 2))

def ends():
    yield np.ones((1, 3, 4, 6), np.float32)
    print("printed by the generator")
    sys.exit(3)
"""


@pytest.fixture
def recipe_of(tmp_path: Path):
    def recipe_of(quantize: str):
        (tmp_path / "plain.py").write_text(PLAIN)
        path = tmp_path / "recipe.toml"
        path.write_text(HEAD + quantize)
        return load_recipe(path)

    return recipe_of


def test_a_plan_without_named_data_is_rounded_to_nearest(recipe_of, tmp_path: Path) -> None:
    export_recipe(recipe_of(""), tmp_path / "a", prove=False)
    (tmp_path / "e.json").write_text((tmp_path / "a" / "x.int8.plan.json").read_text())
    told = export_recipe(recipe_of('plan = "e.json"'), tmp_path / "b", prove=False)
    assert told.notes == ("int8: weights are rounded to nearest: rounding with feedback needs data",)
    nearest = export_recipe(recipe_of('plan = "e.json"\nrounding = "nearest"'), tmp_path / "c", prove=False)
    assert nearest.notes == ()
    assert [one.sha256 for one in told.artifacts] == [one.sha256 for one in nearest.artifacts]
    named = export_recipe(recipe_of('plan = "e.json"\n[[quantize.random]]\ncount = 4'), tmp_path / "d", prove=False)
    assert named.notes == ()
    assert [one.sha256 for one in named.artifacts] != [one.sha256 for one in nearest.artifacts]


def test_a_plan_that_is_no_text_is_refused(recipe_of, tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.float32([0.1, 0.7]))
    with pytest.raises(RecipeError, match=r"data\.npz: is no JSON: it is not UTF-8 at byte \d+; name a plan"):
        job_of(recipe_of('plan = "data.npz"'))


def test_a_generator_that_ends_the_process_is_refused(recipe_of, capsys) -> None:
    recipe = recipe_of('generator = "plain:ends"')
    with pytest.raises(RecipeError, match=r"recipe\.toml: quantize\.generator: it called sys\.exit\(3\); correct the"):
        list(calibration_batches(recipe))
    seen = capsys.readouterr()
    assert (seen.out, "printed by the generator" in seen.err) == ("", True)


def test_errors_of_what_stays_float_name_the_recipe(recipe_of, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"recipe\.toml: quantize\.keep_float: no operator makes 'nothing'"):
        export_recipe(recipe_of('keep_float = ["nothing"]'), tmp_path / "a", prove=False)


@pytest.mark.parametrize(
    ("quantize", "told"),
    [
        ('[[quantize.images]]\nfiles = ["calib/*.png"]', r"no file 'calib/\*\.png'; patterns are not read.*the folder"),
        ('[[quantize.images]]\nfolder = "plain.py"', "'plain.py' is a file; name it under files"),
        ('[[quantize.images]]\nfolder = "none"', "there is no folder 'none'; correct the name"),
        (
            SECOND + '[[quantize.images]]\nfolder = "."',
            r"images are one input, and there are 2 \(input, second\); save",
        ),
        (SECOND + '[[quantize.images]]\nfolder = "."\ncrops = 2', "images are one input, and there are 2"),
    ],
    ids=["pattern", "file as folder", "no folder", "two inputs", "two inputs, cropped"],
)
def test_images_that_cannot_be_used_are_told(quantize: str, told: str, recipe_of, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(RecipeError, match=told):
        list(calibration_batches(recipe_of(f"{quantize}\n[preprocessing]\nresize = 4\n")))
