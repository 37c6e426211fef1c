"""The scikit-learn transformers against scikit-learn's own checks, torch's permutation and a plain numpy loop."""

import doctest
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV, ShuffleSplit, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import dr_utils
from dr_utils import CriticalMass, NeuronSubset, transformers
from dr_utils.subsets import n_neurons, random_subsets


def digits(n=300):
    x, y = load_digits(return_X_y=True)
    return x[:n], y[:n]


def permutation(width, seed):
    torch.manual_seed(seed)
    return torch.randperm(width).numpy()


@parametrize_with_checks(
    [
        NeuronSubset(),
        NeuronSubset(n_neurons=1, seed=3),
        CriticalMass(fractions=(0.5, 1.0), seeds=(1, 2), cv=2),
        CriticalMass(estimator=RidgeClassifier(), fractions=(0.1, 0.5), seeds=(1,), cv=2),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# ---- NeuronSubset


@given(st.integers(1, 300), st.integers(1, 1000), st.integers(0, 50))
@settings(max_examples=100, deadline=None)
def test_subset_of_a_fraction_is_the_suites(width, thousandths, seed):
    x = np.arange(2 * width, dtype=np.float32).reshape(2, width)
    fraction = thousandths / 1000
    subset = NeuronSubset(fraction, seed=seed).fit(x)
    expected = permutation(width, seed)[: n_neurons(width, fraction)]
    np.testing.assert_array_equal(subset.indices_, expected)
    np.testing.assert_array_equal(subset.transform(x), x[:, np.sort(expected)], strict=True)
    assert (subset.n_neurons_, subset.n_features_in_) == (len(expected), width)


@given(st.integers(1, 300), st.data())
@settings(max_examples=50, deadline=None)
def test_subset_of_n_neurons_is_the_suites(width, data):
    k = data.draw(st.integers(1, width))
    subset = NeuronSubset(n_neurons=k, seed=2).fit(np.ones((2, width)))
    np.testing.assert_array_equal(subset.indices_, permutation(width, 2)[:k])


def test_half_the_neurons_unless_told():
    assert NeuronSubset().fit(np.ones((2, 9))).n_neurons_ == 4


def test_grid_search_over_the_fraction_in_a_pipeline():
    x, y = digits()
    fractions = [0.02, 0.2, 1.0]
    pipeline = make_pipeline(NeuronSubset(seed=4), RidgeClassifier())
    search = GridSearchCV(pipeline, {"neuronsubset__fraction": fractions}, cv=3).fit(x, y)
    expected = [
        cross_val_score(RidgeClassifier(), x[:, np.sort(random_subsets(64, f, [4])[0])], y, cv=3).mean()
        for f in fractions
    ]
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], expected)
    best = search.best_estimator_[0]
    assert best.n_neurons_ == n_neurons(64, fractions[int(np.argmax(expected))])
    assert clone(best).get_params() == {"fraction": best.fraction, "n_neurons": None, "seed": 4}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fraction": 0}, r"fraction must lie in \(0, 1\].*got 0"),
        ({"fraction": 1.5}, r"fraction must lie in \(0, 1\].*got 1.5"),
        ({"n_neurons": 0}, "integer from 1 to 64, the columns of X; got 0"),
        ({"n_neurons": 65}, "integer from 1 to 64, the columns of X; got 65"),
        ({"n_neurons": 0.2}, "got 0.2. For a share of the layer pass fraction"),
        ({"fraction": 0.2, "n_neurons": 5}, "not both; got fraction=0.2 and n_neurons=5: set one of them to None"),
        ({"seed": 1.5}, "seed must be an integer; got 1.5"),
    ],
)
def test_subset_refuses_bad_settings(change, message):
    with pytest.raises(ValueError, match=message):
        NeuronSubset(**change).fit(digits()[0])


# ---- CriticalMass


def plain_r2(x, y, n_folds):
    """Mean r2 of least squares over contiguous folds."""
    scores = []
    for test in np.array_split(np.arange(len(y)), n_folds):
        train = np.setdiff1d(np.arange(len(y)), test)
        ones = np.ones((len(y), 1))
        weight = np.linalg.lstsq(np.hstack([x, ones])[train], y[train])[0]
        missed = y[test] - np.hstack([x, ones])[test] @ weight
        scores.append(1 - (missed**2).sum() / ((y[test] - y[test].mean()) ** 2).sum())
    return np.mean(scores)


def test_choice_is_that_of_a_plain_loop():
    chosen = set()
    for case in range(12):
        rng = np.random.default_rng(case)
        width, n_folds = int(rng.integers(1, 25)), int(rng.integers(2, 6))
        x = rng.normal(size=(120, width)) + rng.normal(size=(120, 1))
        y = x @ rng.normal(1, 0.5, size=width) + rng.normal(size=120)
        fractions, seeds = rng.uniform(0.01, 1, size=4), rng.permutation(9)[:3]
        delta = float(rng.choice([0.2, 0.8, 0.9, 0.95, 1.0]))
        mass = CriticalMass(delta, estimator=LinearRegression(), fractions=fractions, seeds=seeds, cv=n_folds)
        mass.fit(x, y)

        full = plain_r2(x, y, n_folds)
        sizes = sorted({max(1, int(f * width)) for f in fractions} | {width})
        scores = np.array([[plain_r2(x[:, permutation(width, s)[:k]], y, n_folds) for s in seeds] for k in sizes])
        size = next(k for k, row in zip(sizes, scores, strict=True) if row.mean() >= delta * full - 1e-9)
        assert mass.full_score_ == pytest.approx(full)
        np.testing.assert_allclose(mass.scores_, scores)
        np.testing.assert_allclose(mass.fractions_, np.array(sizes) / width)
        assert (mass.n_neurons_, mass.fraction_) == (size, size / width)
        assert mass.diffused_redundancy_ == pytest.approx(1 - size / width)
        # The first seed's subset, whichever scores best.
        np.testing.assert_array_equal(mass.indices_, permutation(width, seeds[0])[:size])
        np.testing.assert_array_equal(mass.transform(x), x[:, np.sort(mass.indices_)])
        chosen.add((size == sizes[0], size == width))
    assert chosen >= {(True, False), (False, True), (False, False)}  # the smallest, the whole layer, and in between


def test_string_labels_are_chosen_for_as_their_numbers_are():
    x, y = digits()
    mass = CriticalMass(fractions=(0.1, 0.5), seeds=(1, 2), cv=3)
    by_number = clone(mass).fit(x, y)
    by_name = clone(mass).fit(x, np.array([f"digit {label}" for label in y]))
    np.testing.assert_array_equal(by_name.scores_, by_number.scores_)
    assert by_name.n_neurons_ == by_number.n_neurons_


def test_folds_of_a_classifier_are_stratified():
    x, y = digits()
    order = np.argsort(y)
    # Sorted by label, contiguous folds would test the probe on digits it was never shown.
    assert CriticalMass(fractions=(0.5,), seeds=(1,)).fit(x[order], y[order]).full_score_ > 0.8


def test_all_subsets_see_the_same_folds():
    rng = np.random.default_rng(0)
    x, y = np.repeat(rng.normal(size=(60, 1)), 8, axis=1), rng.integers(0, 2, 60)
    mass = CriticalMass(0.9, estimator=KNeighborsClassifier(1), fractions=(0.2, 0.5), cv=ShuffleSplit(3)).fit(x, y)
    np.testing.assert_array_equal(mass.scores_, mass.full_score_)


def test_equal_sizes_and_the_full_layer_are_measured_once():
    x, y = digits(100)
    widths = []

    def scoring(probe, x_test, y_test):
        widths.append(x_test.shape[1])
        return probe.score(x_test, y_test)

    mass = CriticalMass(estimator=RidgeClassifier(), fractions=(0.5, 1, 0.001, 0.02), seeds=(1, 2), cv=2)
    mass.set_params(scoring=scoring).fit(x, y)
    assert sorted(widths) == [1] * 4 + [32] * 4 + [64] * 2
    assert mass.scores_.shape == (3, 2)
    assert (mass.scores_[-1] == mass.full_score_).all()


def test_subsets_are_measured_in_the_order_that_transform_gives():
    x = np.random.default_rng(0).random((40, 8)) + 2 * np.arange(8)  # every row rises
    in_order = []

    def scoring(probe, x_test, y_test):
        in_order.append(bool((np.diff(x_test) > 0).all()))
        return 1.0

    mass = CriticalMass(estimator=RidgeClassifier(), fractions=(0.5, 0.9), scoring=scoring, cv=2)
    transformed = mass.fit_transform(x, np.arange(40) % 2)
    assert (np.diff(transformed) > 0).all() and in_order == [True] * 22


def test_jobs_do_not_change_the_result():
    x, y = digits(100)
    mass = CriticalMass(estimator=RidgeClassifier(), fractions=(0.1, 0.5), cv=2)
    with joblib.parallel_config(backend="threading"):
        parallel = clone(mass).set_params(n_jobs=2).fit(x, y)
    np.testing.assert_array_equal(parallel.scores_, clone(mass).fit(x, y).scores_)


def test_default_probe_does_not_let_the_full_layer_overfit():
    # As many neurons as there are train samples, a fifth of the labels wrong: a fixed small penalty fits the noise.
    rng = np.random.default_rng(0)
    x, y = digits(600)
    x = np.maximum(0, x / 16 @ rng.normal(size=(64, 400)) + rng.normal(size=400))
    y = np.where(rng.random(600) < 0.2, rng.integers(0, 10, 600), y)
    mass = CriticalMass(fractions=(0.1,), seeds=(1,), cv=3)
    fixed = clone(mass).set_params(estimator=make_pipeline(StandardScaler(), RidgeClassifier())).fit(x, y)
    assert fixed.scores_[0, 0] > 1.1 * fixed.full_score_
    mass.fit(x, y)
    assert mass.scores_[0, 0] < mass.full_score_ > 1.2 * fixed.full_score_


def test_critical_mass_in_a_pipeline_and_its_own_settings_searched():
    x, y = digits()
    mass = CriticalMass(estimator=RidgeClassifier(), fractions=(0.1, 0.3, 0.5), seeds=(1, 2), cv=2)
    pipeline = make_pipeline(mass, RidgeClassifier()).fit(x, y)
    kept = pipeline[0].n_neurons_
    assert 1 < kept < 64 and pipeline[1].n_features_in_ == kept
    search = GridSearchCV(pipeline, {"criticalmass__delta": [0.1, 1.0]}, cv=2).fit(x, y)
    assert search.best_params_ == {"criticalmass__delta": 1.0}


@pytest.mark.parametrize(
    "transformer",
    [NeuronSubset(0.3), CriticalMass(estimator=RidgeClassifier(), fractions=(0.3,), seeds=(1,), cv=2, delta=0.1)],
)
def test_frames_keep_the_names_of_their_columns(transformer):
    x, y = digits(100)
    frame = pd.DataFrame(x, columns=[f"neuron_{d}" for d in range(64)])
    kept = transformer.set_output(transform="pandas").fit_transform(frame, y)
    pd.testing.assert_frame_equal(kept, frame.iloc[:, np.sort(permutation(64, 1)[:19])])


GOOD = {"estimator": RidgeClassifier(), "fractions": (0.5,), "seeds": (1,), "cv": 2}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"delta": 0}, r"delta must lie in \(0, 1\].*got 0"),
        ({"delta": 90}, r"delta must lie in \(0, 1\].*got 90"),
        ({"fractions": ()}, r"fractions must be a non-empty list; got \(\)"),
        ({"fractions": 0.5}, "fractions must be a non-empty list; got 0.5"),
        ({"fractions": (0.5, 2)}, r"fraction must lie in \(0, 1\].*got 2"),
        ({"seeds": ()}, r"seeds must be a non-empty list; got \(\)"),
        ({"seeds": 3}, "seeds must be a non-empty list; got 3"),
        ({"seeds": ("one",)}, "seed must be an integer; got 'one'"),
        ({"cv": 50}, "n_splits=50 cannot be greater than the number of members in each class"),
        ({"scoring": "neg_log_loss", "estimator": KNeighborsClassifier()}, "scoring='neg_log_loss'.*only above 0.*use"),
        ({"scoring": lambda *_: float("nan")}, "the full layer scores nan"),
        ({"n_jobs": 0}, "n_jobs == 0 in Parallel has no meaning"),
    ],
)
def test_critical_mass_refuses_bad_settings(change, message):
    x, y = digits(100)
    CriticalMass(**GOOD).fit(x, y)
    with pytest.raises(ValueError, match=message):
        CriticalMass(**{**GOOD, **change}).fit(x, y)


def test_critical_mass_needs_labels():
    with pytest.raises(ValueError, match="requires y to be passed"):
        CriticalMass().fit(digits()[0], None)


# ---- The package


def test_examples_in_the_docstrings():
    result = doctest.testmod(transformers)
    assert result.attempted > 8 and not result.failed


def test_package_offers_both_and_imports_neither_torch_nor_scikit_learn():
    code = "import sys, dr_utils; sys.exit(bool({'torch', 'sklearn', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert dr_utils.NeuronSubset is transformers.NeuronSubset
    assert {"NeuronSubset", "CriticalMass", "__version__"} <= set(dir(dr_utils))
    with pytest.raises(AttributeError, match="no attribute 'NeuronSubsets'"):
        dr_utils.NeuronSubsets  # noqa: B018
