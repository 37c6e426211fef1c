"""Which neurons are kept: agreement with torch's permutation, nesting, and PCA against scikit-learn."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from dr_utils import subsets

GRID = [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1]


@given(st.integers(1, 5000), st.integers(1, 10_000))
@settings(max_examples=300, deadline=None)
def test_n_neurons_is_the_exact_floor_of_decimal_fractions(width, ten_thousandths):
    exact = Fraction(ten_thousandths, 10_000) * width
    assert subsets.n_neurons(width, ten_thousandths / 10_000) == max(1, exact.__floor__())


@given(st.integers(1, 100_000), st.data())
@settings(max_examples=300, deadline=None)
def test_n_neurons_gives_back_k_of_k_over_width(width, data):
    k = data.draw(st.integers(1, width))
    assert subsets.n_neurons(width, k / width) == k


def test_n_neurons_where_the_float_product_falls_short():
    assert int(0.29 * 100) == 28
    assert subsets.n_neurons(100, 0.29) == 29
    assert [subsets.n_neurons(2048, f) for f in GRID[:3]] == [1, 2, 4]


@pytest.mark.parametrize("seed", [1, 2, 5, 0, -1, 2**31, 2**32 + 3, 2**63 - 1])
def test_random_subsets_are_torchs_global_permutation(seed):
    for width in [*range(1, 40), 127, 128, 1280, 2048, 4097, 32_768, 70_000]:
        torch.manual_seed(seed)
        expected = torch.randperm(width).numpy()
        for fraction in (0.001, 0.3, 1):
            (subset,) = subsets.random_subsets(width, fraction, [seed])
            np.testing.assert_array_equal(subset, expected[: subsets.n_neurons(width, fraction)])
            assert subset.dtype == np.int64


def test_random_subsets_leave_global_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    subsets.random_subsets(100, 0.5, [1, 2])
    subsets.fit_projection("projection_gaussian", np.eye(5), seed=1)
    assert torch.equal(torch.rand(4), expected)


def test_random_subsets_are_nested_and_differ_between_seeds():
    by_fraction = [subsets.random_subsets(512, f, [1, 2]) for f in GRID]
    for smaller, larger in zip(by_fraction, by_fraction[1:], strict=False):
        for a, b in zip(smaller, larger, strict=True):
            np.testing.assert_array_equal(a, b[: len(a)])
    one, two = by_fraction[-1]
    assert sorted(one) == sorted(two) == list(range(512))
    assert not np.array_equal(one, two)


def test_first_subset():
    np.testing.assert_array_equal(subsets.first_subset(2048, 8 / 2048), np.arange(8))


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan"), "half"])
def test_fraction_outside_is_refused(fraction):
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\]"):
        subsets.random_subsets(10, fraction, [1])
    with pytest.raises(ValueError, match=r"fraction must lie in \(0, 1\]"):
        subsets.first_subset(10, fraction)


def test_width_and_seed_are_checked():
    for width in (0, -3, 2.5):
        with pytest.raises(ValueError, match="width must be a positive integer"):
            subsets.n_neurons(width, 0.5)
    with pytest.raises(ValueError, match="seed must be an integer"):
        subsets.random_subsets(10, 0.5, [1.5])


def test_unknown_projection_lists_the_known_ones_nearest_first():
    with pytest.raises(ValueError, match=r"unknown projection 'pca_lest'; known, nearest first: pca_least,"):
        subsets.fit_projection("pca_lest", np.eye(4))


@pytest.mark.parametrize(("n", "width"), [(60, 12), (12, 12), (13, 12), (9, 30), (2, 5), (40, 1)])
def test_pca_is_scikit_learns_up_to_sign(n, width):
    rng = np.random.default_rng(n)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width)) + 50
    others = rng.normal(size=(7, width))
    k = min(n - 1, width)
    projection = subsets.fit_projection("pca", x)
    reference = PCA(n_components=k, svd_solver="full").fit(x)
    assert projection.n_components == k
    np.testing.assert_allclose(projection.mean, x.mean(axis=0), atol=1e-12)
    cosines = (projection.matrix * reference.components_.T).sum(axis=0)
    np.testing.assert_allclose(np.abs(cosines), 1, atol=1e-8)
    expected = reference.transform(others) * np.sign(cosines)
    np.testing.assert_allclose(projection.transform(others), expected, rtol=1e-4, atol=1e-4)


def test_pca_on_few_samples_says_how_many_components_exist():
    projection = subsets.fit_projection("pca", np.random.default_rng(0).normal(size=(6, 20)))
    assert projection.n_components == 5
    assert projection.note == "6 train samples span 5 of 20 components"
    assert projection.transform(np.ones((3, 20)), n_components=18).shape == (3, 5)
    assert subsets.fit_projection("pca", np.random.default_rng(0).normal(size=(21, 20))).note == ""


def test_pca_stays_orthonormal_with_dead_neurons_and_repeated_samples():
    x = np.random.default_rng(0).normal(size=(8, 20))
    x[4:] = x[:4]
    x[:, 5] = 0.0
    for kind in ("pca", "pca_least"):
        matrix = subsets.fit_projection(kind, x).matrix
        np.testing.assert_allclose(matrix.T @ matrix, np.eye(7), atol=1e-10)


def test_pca_least_is_pca_reversed_and_signs_are_fixed():
    x = np.random.default_rng(1).normal(size=(50, 10)) * np.arange(1, 11)
    top, least = subsets.fit_projection("pca", x), subsets.fit_projection("pca_least", x)
    np.testing.assert_array_equal(least.matrix, top.matrix[:, ::-1])
    spread = top.transform(x).std(axis=0)
    assert (np.diff(spread) < 0).all()
    largest = np.take_along_axis(top.matrix, np.abs(top.matrix).argmax(axis=0)[None], axis=0)
    assert (largest > 0).all()
    np.testing.assert_array_equal(subsets.fit_projection("pca", x).matrix, top.matrix)


@pytest.mark.parametrize("kind", ["projection_gaussian", "projection_uniform"])
def test_random_projections(kind):
    x = np.random.default_rng(0).normal(size=(4, 400))
    projection = subsets.fit_projection(kind, x, seed=2)
    assert projection.matrix.shape == (400, 400)
    np.testing.assert_allclose(np.linalg.norm(projection.matrix, axis=0), 1, rtol=1e-12)
    assert not projection.mean.any()
    np.testing.assert_array_equal(projection.matrix, subsets.fit_projection(kind, x, seed=2).matrix)
    assert not np.allclose(projection.matrix, subsets.fit_projection(kind, x, seed=3).matrix)
    # Positive uniform columns meet at cosine E[u]^2 / E[u^2] = 3/4, Gaussian ones at right angles.
    cosines = (projection.matrix.T @ projection.matrix)[np.triu_indices(400, 1)]
    assert cosines.mean() == pytest.approx(0.75 if kind == "projection_uniform" else 0.0, abs=0.01)
    np.testing.assert_allclose(projection.transform(x), x @ projection.matrix, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", subsets.PROJECTIONS)
def test_first_columns_are_the_smaller_projection(kind):
    x = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    projection = subsets.fit_projection(kind, x, seed=1)
    whole = projection.transform(x)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(projection.transform(x[:5], 3), whole[:5, :3], rtol=1e-5, atol=1e-6)


def test_projection_refuses_bad_features():
    x = np.random.default_rng(0).normal(size=(10, 4))
    bad = x.copy()
    bad[3, 1] = np.nan
    for kind in subsets.PROJECTIONS:
        with pytest.raises(ValueError, match="train features hold 1 NaN"):
            subsets.fit_projection(kind, bad)
        with pytest.raises(ValueError, match="constant"):
            subsets.fit_projection(kind, np.ones((5, 4)))
    with pytest.raises(ValueError, match="at least 2 train samples"):
        subsets.fit_projection("pca", x[:1])
