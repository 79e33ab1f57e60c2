"""What a target needs, and what counts as one that holds in the files."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeconv
from edgeconv.core import Comparison, Fidelity, Metrics, Verdict
from edgeconv.core.search_target import Target
from edgeconv.flow.job import job_of
from edgeconv.flow.target import reached

GOOD = Metrics(max_abs=0.0, max_rel=0.0, rel_floor=1.0, max_ulp=0.0, mean_abs=0.0, cosine=1.0, sqnr_db=30.0)
SQNR, AGREEMENT = Target(sqnr_db=25.0), Target(agreement=0.9)


def _row(verdict: Verdict, metrics: Metrics | None, agree: int = 10) -> Comparison:
    return Comparison(
        artifact="net.int8.onnx",
        device="onnxruntime",
        output="y",
        metrics=metrics,
        tolerance=Fidelity(),
        verdict=verdict,
        reason="",
        top1={"agree": agree},
        samples=(),
    )


@pytest.mark.parametrize("target", [SQNR, AGREEMENT])
def test_a_device_that_fails_holds_no_target(target: Target) -> None:
    good = _row(Verdict.PASS, GOOD)
    assert reached([good], target)
    assert reached([good, _row(Verdict.SKIPPED, None)], target)
    assert not reached([good, _row(Verdict.FAIL, None)], target)
    assert reached([_row(Verdict.FAIL, GOOD)], target)  # of the recipe's own bound, which is another one


def test_a_recipe_without_an_input_for_the_variant_is_refused() -> None:
    recipe = edgeconv.load_recipe(Path(edgeconv.__file__).parents[1] / "models" / "digits_dsc.toml")
    arrays = tuple(one.model_copy(update={"variants": ("fp32",)}) for one in recipe.parity.arrays)
    parity = recipe.parity.model_copy(update={"arrays": arrays, "random": (), "images": ()})
    with pytest.raises(edgeconv.RecipeError, match=r"no parity input is for int8; leave `variants` out of one input"):
        job_of(recipe.model_copy(update={"parity": parity}), variants=("int8",))
