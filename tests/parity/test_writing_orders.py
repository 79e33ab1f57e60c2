"""Link 3's questions about the order of numbers: a quick answer is the right one."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from edgeconv.parity.writing import _ends
from edgeconv.parity.writing._axes import is_in_another_order

GENERATOR = np.random.default_rng(7)


def symmetric(size: int) -> np.ndarray:
    x = GENERATOR.normal(size=(1, size, 4))
    return x @ x.transpose(0, 2, 1)


@pytest.mark.parametrize("size", [3, 40])
def test_a_product_of_a_matrix_with_itself_is_the_same_in_two_orders(size: int) -> None:
    value = symmetric(size)
    assert is_in_another_order(value, value, (0, 1, 2))


def test_one_differing_number_among_many_tells_two_orders_apart() -> None:
    value = np.zeros((1, 60, 60))  # most places are alike in every order
    value[0, 7, 31] = 1.0
    assert not is_in_another_order(value, value, (0, 1, 2))
    value[0, 31, 7] = 1.0
    assert is_in_another_order(value, value, (0, 1, 2))


def test_an_axis_of_one_element_makes_no_other_order() -> None:
    value = GENERATOR.normal(size=(1, 5, 1, 6))
    for axes in itertools.permutations(range(4)):
        assert not is_in_another_order(value.transpose(axes).copy(), value, axes)


def test_numbers_mixed_again_have_the_same_order_however_many_others_were_mixed_between() -> None:
    array = GENERATOR.normal(size=(2, 3, 50))
    first = _ends.mixed(array)
    for size in range(1, 16):
        _ends.mixed(np.ones((size, 1 << 17)))  # beyond what is kept
    again = _ends.mixed(array)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, array)
    assert sum(_ends._ORDERS._kept) <= _ends._MOST_KEPT
