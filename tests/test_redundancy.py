"""Diffused redundancy against hand-worked grids, the published Table 1 and a brute-force bootstrap."""

import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from dr_utils.redundancy import (
    RULES,
    critical_fraction,
    diffused_redundancy,
    diffused_redundancy_interval,
)
from dr_utils.reference import published

RESNET50 = "resnet50|nonrob|pretrain=imagenet|mode=random"
FRACTIONS = [0.1, 0.2, 0.5, 0.9]


@pytest.mark.parametrize(
    ("dataset", "first", "nearest"),
    [("cifar10", 0.8, 0.9), ("cifar100", 0.5, 0.5), ("flowers", 0.2, 0.2), ("oxford-iiit-pets", 0.8, 0.9)],
)
def test_published_resnet50_accuracies_give_table_1(dataset, first, nearest):
    curve = published(model=RESNET50, dataset=dataset, quantity="probe_test_accuracy_mean")
    full = published(model=RESNET50, dataset=dataset, quantity="probe_test_accuracy", fraction=1.0)
    assert len(curve) == 14 and len(full) == 1
    grid = (curve["fraction"], curve["number"], full["number"].item(), 0.9)
    assert diffused_redundancy(*grid, rule="first") == first
    assert diffused_redundancy(*grid, rule="nearest") == nearest


def test_rules_by_hand():
    accuracy = [0.5, 0.89, 0.92, 0.99]
    assert diffused_redundancy(FRACTIONS, accuracy, 1.0, 0.9) == 0.5
    assert diffused_redundancy(FRACTIONS, accuracy, 1.0, 0.9, rule="nearest") == 0.8
    assert critical_fraction(FRACTIONS, accuracy, 1.0, 0.9, rule="nearest") == 0.2
    # A curve that dips: the smallest fraction that reaches delta counts, even if a larger one does not.
    assert diffused_redundancy(FRACTIONS, [0.95, 0.8, 0.92, 0.99], 1.0, 0.9) == 0.9


def test_first_rule_needs_the_whole_layer_where_no_fraction_reaches_delta():
    assert diffused_redundancy(FRACTIONS, [0.1, 0.2, 0.3, 0.4], 1.0, 0.9) == 0.0
    assert diffused_redundancy(FRACTIONS, [0.1, 0.2, 0.3, 0.4], 1.0, 0.9, rule="nearest") == 0.1


@pytest.mark.parametrize("rule", RULES)
def test_order_of_fractions_does_not_matter(rule):
    rng = np.random.default_rng(0)
    performance = rng.uniform(0.5, 1, size=(4, 3))
    order = [2, 0, 3, 1]
    expected = diffused_redundancy(FRACTIONS, performance, 0.9, 0.9, rule=rule)
    shuffled = np.array(FRACTIONS)[order]
    assert diffused_redundancy(shuffled, performance[order], 0.9, 0.9, rule=rule) == expected


def test_ratio_equal_to_delta_counts_despite_rounding():
    assert 0.36 / 0.4 < 0.9
    assert diffused_redundancy([0.1, 0.5], [0.36, 0.4], 0.4, 0.9) == 0.9
    assert diffused_redundancy([0.1, 0.5], [0.36 - 1e-6, 0.4], 0.4, 0.9) == 0.5


def test_nearest_takes_the_smaller_of_two_equally_near():
    assert abs(0.95 - 0.9) < abs(0.85 - 0.9)
    assert diffused_redundancy([0.2, 0.5], [0.85, 0.95], 1.0, 0.9, rule="nearest") == 0.8


def test_ratio_is_of_means_over_seeds():
    # Mean 0.7 over mean 0.75 is 0.933; the mean of the ratios, 0.9 and 0.971..., would be another number.
    performance, full = [[0.45, 0.95]], [0.5, 1.0]
    assert diffused_redundancy([0.3], performance, full, 0.93) == 0.7
    assert diffused_redundancy([0.3], performance, full, 0.934) == 0.0


def brute_force(fractions, performance, full, delta, rule):
    """Every ordered draw of the seeds, each with the same weight."""
    n_seeds = performance.shape[1]
    full = np.broadcast_to(full, n_seeds)
    values = np.sort(
        [
            diffused_redundancy(fractions, performance[:, list(draw)], full[list(draw)], delta, rule=rule)
            for draw in product(range(n_seeds), repeat=n_seeds)
            if full[list(draw)].any()
        ]
    )
    share = np.arange(1, len(values) + 1) / len(values)
    return values[np.argmax(share >= 0.025)], values[np.argmax(share >= 0.975)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n_seeds", [2, 3, 4])
@pytest.mark.parametrize("paired", [True, False])
def test_interval_is_the_exact_bootstrap(rule, n_seeds, paired):
    widths = set()
    for seed in range(6):
        rng = np.random.default_rng(seed)
        fractions = np.linspace(0.1, 1, 10)
        performance = 0.6 + 0.3 * fractions[:, None] + rng.normal(0, 0.05, size=(10, n_seeds))
        full = rng.normal(0.9, 0.05, n_seeds) if paired else 0.9
        curve = (fractions, performance, full, 0.9)
        dr, low, high = diffused_redundancy_interval(*curve, rule=rule)
        expected = brute_force(*curve, rule)
        assert dr == diffused_redundancy(*curve, rule=rule)
        assert (low, high) == (min(expected[0], dr), max(expected[1], dr))
        widths.add(high - low)
    assert len(widths) > 1  # the spread is seen, not a constant


@pytest.mark.parametrize("rule", RULES)
def test_seeds_without_a_right_answer_count_in_the_mean(rule):
    # 12 test images: one seed's whole layer got none of them right. Resamples of that seed alone have no ratio.
    fractions, full = np.array([0.1, 0.5, 1.0]), np.array([1, 0, 1]) / 12
    performance = np.array([[1, 2, 0], [1, 1, 1], [1, 0, 1]]) / 12
    dr, low, high = diffused_redundancy_interval(fractions, performance, full, 0.9, rule=rule)
    expected = brute_force(fractions, performance, full, 0.9, rule)
    assert dr == diffused_redundancy(fractions, performance, full, 0.9, rule=rule)
    assert (low, high) == (min(expected[0], dr), max(expected[1], dr))


def test_pairing_cancels_what_a_seed_shares_with_its_full_layer():
    shared = np.array([0.8, 0.9, 1.0, 1.1, 1.2])
    performance = np.outer([0.5, 0.88, 0.95, 1.0], shared) * 0.7
    dr, low, high = diffused_redundancy_interval(FRACTIONS, performance, shared * 0.7, 0.9)
    assert dr == low == high == 0.5
    dr, low, high = diffused_redundancy_interval(FRACTIONS, performance, 0.7, 0.9)
    assert low < dr < high


def test_many_seeds_are_drawn_the_same_way_each_time():
    rng = np.random.default_rng(0)
    fractions = np.linspace(0.05, 1, 20)
    performance = 0.7 + 0.3 * fractions[:, None] + rng.normal(0, 0.03, size=(20, 9))
    first = diffused_redundancy_interval(fractions, performance, 1.0, 0.9)
    assert first == diffused_redundancy_interval(fractions, performance, 1.0, 0.9)
    assert 0 <= first[1] <= first[0] <= first[2] < 1
    assert first[1] < first[2]


def test_one_seed_has_no_interval():
    for performance in ([0.5, 0.95], [[0.5], [0.95]]):
        dr, low, high = diffused_redundancy_interval([0.1, 0.5], performance, 1.0, 0.9)
        assert dr == 0.5 and np.isnan(low) and np.isnan(high)


GOOD = {"fractions": [0.1, 0.5], "performance": [[0.5, 0.6], [0.9, 0.95]], "full": 1.0, "delta": 0.9}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 0}, r"delta must lie in \(0, 1\]"),
        ({"delta": 1.2}, r"delta must lie in \(0, 1\]"),
        ({"fractions": [0, 0.5]}, r"fractions must be distinct shares of the layer in \(0, 1\].*got \[0"),
        ({"fractions": [0.1, 1.5]}, r"fractions must be distinct shares of the layer in \(0, 1\].*1.5"),
        ({"fractions": [0.1, np.nan]}, r"shares of the layer in \(0, 1\]"),
        ({"fractions": [0.5, 0.5]}, "must be distinct"),
        ({"fractions": []}, "at least one"),
        ({"fractions": [[0.1, 0.5]]}, "must be distinct"),
        ({"performance": [0.5]}, r"must have shape \[2\] or \[2, seeds\]"),
        ({"performance": np.ones((2, 2, 2))}, r"must have shape \[2\] or \[2, seeds\]"),
        ({"performance": [[0.5, 0.6], [np.nan, 0.9]]}, "NaN or infinite at fraction 0.5"),
        ({"full": [1.0, 0.9, 0.8]}, r"one per seed \(2\)"),
        ({"full": 0}, r"on average above 0; got \[0"),
        ({"full": np.nan}, "above 0"),
        ({"full": np.inf}, "above 0"),
        ({"full": [-0.1, 0.9]}, "above 0"),
        ({"rule": "frist"}, "unknown rule 'frist'; known, nearest first: first"),
    ],
)
@pytest.mark.parametrize("function", [diffused_redundancy, diffused_redundancy_interval, critical_fraction])
def test_bad_input_is_refused(function, change, message):
    function(**GOOD)
    with pytest.raises(ValueError, match=message):
        function(**{**GOOD, **change})


def test_arrays_in_numbers_out_imports_no_torch():
    code = "import sys, dr_utils.redundancy, dr_utils.fairness, dr_utils.cka, dr_utils.subsets; "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_crossing_is_interpolation_in_the_logarithm_of_the_fraction():
    rng = np.random.default_rng(3)
    for _ in range(200):
        n = rng.integers(2, 12)
        fractions = np.sort(rng.choice(np.arange(1, 100), n, replace=False)) / 100
        fractions[-1] = 1.0
        curve = np.sort(rng.random(n)) + np.arange(n) * 1e-3  # rises, so that it has an inverse
        delta = rng.uniform(0.05, 1)
        found = critical_fraction(fractions, curve, curve[-1], delta, rule="crossing")
        expected = np.exp(np.interp(delta * curve[-1], curve, np.log(fractions)))
        assert found == pytest.approx(expected, rel=1e-9)
        # It lies in the last step of the grid before the point that "first" gives.
        first = critical_fraction(fractions, curve, curve[-1], delta)
        assert found <= first + 1e-12 and not ((fractions > found + 1e-12) & (fractions < first - 1e-12)).any()


def test_crossing_takes_the_first_of_several_and_1_where_there_is_none():
    assert critical_fraction([0.1, 0.2, 0.4, 1], [0.5, 0.95, 0.6, 1], 1.0, 0.9, rule="crossing") < 0.2
    assert critical_fraction([0.1, 0.5], [0.2, 0.3], 1.0, 0.9, rule="crossing") == 1.0
    assert critical_fraction([0.1, 0.5], [0.95, 1.0], 1.0, 0.9, rule="crossing") == 0.1
