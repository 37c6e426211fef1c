"""Gini and coefficient of variation against hand-worked values and their definitions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_utils.fairness import coefficient_of_variation, gini

accuracies = st.lists(st.floats(0, 1).filter(lambda v: v == 0 or v > 1e-6), min_size=1, max_size=40)


def test_hand_worked_values():
    # Pairs differ by 1, 2, 3, 1, 2, 1 (each counted twice) over 16 pairs: 20 / 16 over 2 * 2.5.
    assert gini([1, 2, 3, 4]) == pytest.approx(0.25)
    assert gini([4, 1, 3, 2]) == pytest.approx(0.25)
    assert gini([0, 1]) == pytest.approx(0.5)
    # Variance (1 + 1) / 3 around 2.
    assert coefficient_of_variation([1, 2, 3]) == pytest.approx(np.sqrt(2 / 3) / 2)


@pytest.mark.parametrize("n", [1, 2, 10, 102])
def test_extremes(n):
    one = np.zeros(n)
    one[n // 2] = 0.3
    assert gini(one) == pytest.approx((n - 1) / n)
    assert coefficient_of_variation(one) == pytest.approx(np.sqrt(n - 1))
    for value in (0.0, 0.1, 1.0):
        assert gini([value] * n) == 0
        assert coefficient_of_variation([value] * n) == 0


@given(accuracies)
@settings(deadline=None)
def test_gini_is_the_mean_absolute_difference(values):
    x = np.array(values)
    expected = np.abs(x[:, None] - x).mean() / (2 * x.mean()) if x.any() else 0
    assert gini(x) == pytest.approx(expected, abs=1e-12)
    assert -1e-12 < gini(x) < 1
    spread = np.sqrt(np.mean((x - x.mean()) ** 2)) / x.mean() if x.any() else 0
    assert coefficient_of_variation(x) == pytest.approx(spread, abs=1e-12)


@pytest.mark.parametrize("function", [gini, coefficient_of_variation])
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "non-empty"),
        ([0.1, np.nan], "finite"),
        ([0.1, np.inf], "finite"),
        ([0.1, -0.2], "not negative"),
    ],
)
def test_bad_values_are_refused(function, values, message):
    with pytest.raises(ValueError, match=message):
        function(values)
