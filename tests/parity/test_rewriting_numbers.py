"""Link 1 of numbers that a forward writes down, which capture or a rewrite takes for their neighbors in float32."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from crossed import diagonal
from test_rewriting import Case
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.core.verdicts import Verdict

_SHAPE = (1, 8, 14, 14)
FORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "pad": lambda x: functional.pad(x, (1, 0, 0, 2), value=0.37),
    "threshold": lambda x: functional.threshold(x, 0.2, -0.4),
    "a sixth": lambda x: x * (functional.relu6(x + 3) * (1 / 6)),
    "a written sixth": lambda x: x * functional.hardtanh(x + 3, 0, 6) * 0.16666667,
}


class Form(nn.Module):
    """A convolution and a function of it."""

    def __init__(self, form: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.form = nn.Conv2d(8, 8, 1), form

    def forward(self, x: Tensor) -> Tensor:
        return self.form(self.conv(x))


@pytest.mark.parametrize(("name", "seed"), diagonal([*FORMS], range(3)))
def test_a_number_that_float32_cannot_tell_from_another_is_that(name: str, seed: int) -> None:
    """Changes of one size canceled behind each other, and one element of 256 was allowed nothing."""
    torch.manual_seed(seed)
    link = Case(Form(FORMS[name]).eval(), _SHAPE).link()
    assert link.verdict is Verdict.PASS, link.reason


@pytest.mark.parametrize("ulp", [1, -1])
def test_a_number_that_float32_tells_from_a_sixth_is_none(ulp: int) -> None:
    factor = float(np.nextafter(np.float32(1 / 6), np.float32(ulp)))
    cases = []
    for form in (lambda x: x * (functional.relu6(x + 3) * factor), FORMS["a sixth"]):
        torch.manual_seed(0)
        cases.append(Case(Form(form).eval(), _SHAPE))
    other, sixth = cases
    assert [any(node.op_type == "HardSwish" for node in case.rewritten.graph) for case in cases] == [False, True]
    assert other.link().verdict is Verdict.PASS
    assert other.link(sixth.rewritten).verdict is Verdict.FAIL
