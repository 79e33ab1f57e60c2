"""The windows of average pools, as the reference counts them by itself."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.graph.windows import counted_elements, may_pad, pads_by_size, stated_pads
from edgeconv.reference import evaluate_node

WINDOWS = [(9, 3, 2, (1, 1)), (8, 3, 3, (2, 0)), (7, 2, 2, (0, 1))]


@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize(("size", "kernel", "stride", "pads"), WINDOWS)
def test_counts_are_those_of_the_reference(
    size: int, kernel: int, stride: int, pads: tuple[int, int], dilation: int
) -> None:
    attributes = {
        "kernel_shape": [kernel],
        "strides": [stride],
        "dilations": [dilation],
        "pads": list(pads),
        "ceil_mode": 1,
        "count_include_pad": 1,
    }
    pool = ir.node("AveragePool", [ir.val("x", ir.DataType.FLOAT, [1, 1, size])], attributes)
    (averages,) = evaluate_node(pool, [np.ones((1, 1, size))], opset=19)
    of_elements, of_all = (
        counted_elements(
            *(size, averages.size, kernel, pads), stride=stride, dilation=dilation, with_padding=with_padding
        )
        for with_padding in (False, True)
    )
    np.testing.assert_allclose(averages.ravel(), of_elements / of_all, rtol=1e-12)
    assert (of_all >= of_elements).all()


@pytest.mark.parametrize(
    ("attributes", "stated", "pads"),
    [
        ({}, [0, 0], False),
        ({"pads": [1, 2]}, [1, 2], True),
        ({"auto_pad": "NOTSET", "pads": [0, 0]}, [0, 0], False),
        ({"auto_pad": "VALID"}, [0, 0], False),
    ],
)
def test_valid_pads_nothing(attributes: dict[str, list[int] | str], stated: list[int], pads: bool) -> None:
    node = ir.node("Conv", [None, None], attributes)
    assert (stated_pads(node, 1), pads_by_size(node), may_pad(node)) == (stated, False, pads)


@pytest.mark.parametrize("automatic", ["SAME_UPPER", "SAME_LOWER"])
def test_no_pads_are_read_where_they_follow_from_the_size(automatic: str) -> None:
    node = ir.node("Conv", [None, None], {"auto_pad": automatic})
    assert pads_by_size(node)
    assert may_pad(node)
    with pytest.raises(ValueError, match=f"{automatic}, and not stated"):
        stated_pads(node, 1)
