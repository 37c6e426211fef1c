"""CKA against kernel matrices written out in full, for whole representations and for subsets of neurons."""

import itertools
import warnings

import numpy as np
import pytest
import torch

from dr_utils import cka, subsets

SHAPES = [
    # (n, D1, D2): n < D, n > D, width 1 and the smallest n are all among them; the rest are drawn.
    (4, 1, 1),
    (4, 3, 50),
    (5, 1, 7),
    (6, 40, 40),
    (30, 1, 1),
    (30, 1, 64),
    (64, 5, 3),
    (10, 100, 120),
    *[tuple(int(v) for v in np.random.default_rng(i).integers((4, 1, 1), (80, 90, 90))) for i in range(42)],
]


def kernel_cka(x, y, estimator):
    """CKA by its definition, n x n, in extended precision: centring matrix or U-statistic sums."""
    x, y = np.asarray(x, dtype=np.longdouble), np.asarray(y, dtype=np.longdouble)
    n = len(x)

    def biased(k, m):
        h = np.eye(n, dtype=np.longdouble) - np.longdouble(1) / n
        return np.trace(k @ h @ m @ h) / (n - 1) ** 2

    def hsic1(k, m):
        k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
        one = np.ones(n, dtype=np.longdouble)
        total = (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
        return (np.trace(k @ m) + total - 2 / np.longdouble(n - 2) * (one @ k @ m @ one)) / (n * (n - 3))

    hsic = biased if estimator == "biased" else hsic1
    k, m = x @ x.T, y @ y.T
    return float(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))


def draw(n, d1, d2, seed):
    """Two related representations whose scale and offset differ from case to case and between the two."""
    rng = np.random.default_rng(seed)
    scales, offsets = 10.0 ** rng.uniform(-3, 3, 2), rng.uniform(-20, 20, 2)
    x = rng.normal(size=(n, d1))
    y = np.maximum(x @ rng.normal(size=(d1, d2)), 0) + rng.normal(size=(n, d2)) * rng.uniform(0, 2)
    return (x + offsets[0]) * scales[0], (y + offsets[1]) * scales[1]


def statistics(x, *cuts):
    stats = cka.CKAStatistics(x.shape[1])
    for batch in np.split(x, cuts):
        stats.update(batch)
    return stats


def random_masks(width, count, seed):
    rng = np.random.default_rng(seed)
    return [rng.permutation(width)[: rng.integers(1, width + 1)] for _ in range(count)]


@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
@pytest.mark.parametrize(("case", "shape"), list(enumerate(SHAPES)))
def test_linear_cka_is_the_kernel_matrix_form(case, shape, estimator):
    x, y = draw(*shape, seed=case)
    got = cka.linear_cka(x, y, estimator=estimator)
    assert got == pytest.approx(kernel_cka(x, y, estimator), abs=1e-8)
    assert cka.linear_cka(y, x, estimator=estimator) == pytest.approx(got, abs=1e-12)


@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
@pytest.mark.parametrize(("case", "shape"), list(enumerate(SHAPES)))
def test_subsets_are_the_kernel_matrix_form(case, shape, estimator):
    x, _ = draw(*shape[:2], 1, seed=case)
    n, width = x.shape
    q = statistics(x, n // 3).matrix(estimator)
    masks = random_masks(width, 4, case)
    whole = cka.part_whole(q, masks)
    both = cka.part_part(q, masks)
    pairs = list(itertools.combinations(range(4), 2))
    listed = cka.part_part(q, masks, pairs)
    for i, a in enumerate(masks):
        assert whole[i] == pytest.approx(kernel_cka(x[:, a], x, estimator), abs=1e-8)
        for j, b in enumerate(masks):
            assert both[i, j] == pytest.approx(kernel_cka(x[:, a], x[:, b], estimator), abs=1e-8)
    np.testing.assert_allclose(listed, [both[pair] for pair in pairs], atol=1e-12)


def test_debiased_differs_from_biased_and_is_near_zero_for_unrelated_features():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 400)), rng.normal(size=(100, 400))
    assert cka.linear_cka(x, y) > 0.7
    assert abs(cka.linear_cka(x, y, estimator="debiased")) < 0.05


@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
@pytest.mark.parametrize("shape", [(50, 8, 8), (10, 40, 40)])
def test_invariance_to_rotation_scale_and_offset(shape, estimator):
    x, y = draw(*shape, seed=1)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(shape[1], shape[1])))[0]
    expected = cka.linear_cka(x, y, estimator=estimator)
    moved = 1e80 * (x @ rotation) - 1e81
    assert cka.linear_cka(moved, 1e-90 * y, estimator=estimator) == pytest.approx(expected, abs=1e-10)
    assert cka.linear_cka(x, x, estimator=estimator) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
def test_streaming_in_uneven_batches_equals_one_batch(estimator):
    x, _ = draw(101, 24, 1, seed=5)
    x = x.astype(np.float32)
    masks = random_masks(24, 6, 0)
    once, uneven = statistics(x), statistics(x, 1, 4, 50, 100)
    assert once.n == uneven.n == 101
    expected = cka.part_part(once.matrix(estimator), masks)
    np.testing.assert_allclose(cka.part_part(uneven.matrix(estimator), masks), expected, atol=1e-10)
    again = cka.CKAStatistics(24, estimators=[estimator]).update(torch.from_numpy(x))
    np.testing.assert_allclose(again.matrix(estimator), once.matrix(estimator), rtol=1e-12)


@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
def test_offsets_far_above_the_spread_cost_no_accuracy(estimator):
    x = np.random.default_rng(0).normal(size=(60, 10))
    masks = random_masks(10, 5, 1)
    expected = [kernel_cka(x[:, a], x, estimator) for a in masks]
    got = cka.part_whole(statistics(x + 1e5, 20, 40).matrix(estimator), masks)
    np.testing.assert_allclose(got, expected, atol=1e-8)


def test_biased_matrix_is_the_squared_covariance():
    x, _ = draw(40, 6, 1, seed=3)
    centred = x - x.mean(axis=0)
    np.testing.assert_allclose(statistics(x, 13).matrix("biased"), (centred.T @ centred) ** 2, rtol=1e-9)


@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
def test_nested_prefixes_of_all_seeds_at_once(estimator):
    x, _ = draw(50, 40, 1, seed=9)
    q = statistics(x).matrix(estimator)
    chosen = [s for f in (0.1, 0.5, 1) for s in subsets.random_subsets(40, f, range(1, 6))]
    got = cka.part_whole(q, chosen)
    expected = [cka.linear_cka(x[:, s], x, estimator=estimator) for s in chosen]
    np.testing.assert_allclose(got, expected, atol=1e-10)
    np.testing.assert_allclose(got[-5:], 1, atol=1e-12)
    masks = [np.isin(np.arange(40), s) for s in chosen]
    np.testing.assert_array_equal(cka.part_whole(q, masks), got)


@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
@pytest.mark.parametrize("constant", [0.0, 0.1, 1e6 / 3])
def test_constant_representation_is_nan_without_a_warning(estimator, constant):
    x = np.random.default_rng(0).normal(size=(9, 4))
    x[:, 2] = constant
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(cka.linear_cka(x[:, [2]], x, estimator=estimator))
        assert np.isnan(cka.linear_cka(x, np.full((9, 3), constant), estimator=estimator))
        got = cka.part_whole(statistics(x, 2, 5).matrix(estimator), [[2], [2, 0], [0]])
    assert np.isnan(got).tolist() == [True, False, False]
    assert got[1] == pytest.approx(got[2], abs=1e-9)


@pytest.mark.parametrize("seed", range(20))
def test_neuron_active_on_one_image_has_no_debiased_cka(seed):
    # Its kernel without the diagonal is zero, so its HSIC_1 with itself is rounding, of either sign.
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(11, 3))
    x[:, 1] = 0.0
    x[rng.integers(11), 1] = rng.uniform(0.1, 10)
    assert np.isnan(cka.linear_cka(x[:, [1]], x, estimator="debiased"))
    assert np.isfinite(cka.linear_cka(x[:, [1]], x))
    for cuts in [(), (1,), (4, 7)]:
        got = cka.part_whole(statistics(x, *cuts).matrix("debiased"), [[1], [0, 1]])
        assert np.isnan(got).tolist() == [True, False]


@pytest.mark.parametrize("seed", range(20))
def test_orthonormal_rows_have_no_debiased_cka(seed):
    x = np.linalg.qr(np.random.default_rng(seed).normal(size=(8, 8)))[0]
    assert np.isnan(cka.linear_cka(x, x, estimator="debiased"))
    assert np.isnan(cka.part_whole(statistics(x).matrix("debiased"), [np.arange(8)])).all()


@pytest.mark.parametrize("seed", range(12))
def test_law_is_the_expansion_of_all_subsets(seed):
    """Its means, variances and covariances are those over every subset of every size."""
    rng = np.random.default_rng(seed)
    width = int(rng.integers(2, 10))
    x = rng.normal(size=(40, width)) * rng.gamma(3, size=width)
    x = np.maximum(x, 0) if seed % 2 else x @ rng.normal(size=(width, width))
    q = cka.CKAStatistics(width).update(x).matrix()
    u, sizes = q.sum(axis=1), list(range(1, width + 1))
    for order in (1, 2):
        whole, part = cka.subset_cka_law(q, sizes, order=order)
        for k in sizes:
            masks = np.array(
                [np.isin(range(width), chosen) for chosen in itertools.combinations(range(width), k)], float
            )
            self_hsic = np.einsum("nd,de,ne->n", masks, q, masks)
            mean, chosen = self_hsic.mean(), masks.mean(axis=0)
            if order == 2 and self_hsic.var() < mean**2:
                covariance = (masks * self_hsic[:, None]).mean(axis=0) - chosen * mean
                chosen = chosen * (1 + 3 / 8 * self_hsic.var() / mean**2) - covariance / (2 * mean)
            chosen = chosen / np.sqrt(mean)
            assert whole[k - 1] == pytest.approx(chosen @ u / np.sqrt(q.sum()), abs=1e-10)
            assert part[k - 1] == pytest.approx(chosen @ q @ chosen, abs=1e-10)
        assert (whole[-1], part[-1]) == pytest.approx((1, 1))
        if order == 1:
            r, share = np.trace(q) / q.sum(), np.array(sizes) / width
            others = (np.array(sizes) - 1) / max(width - 1, 1)
            np.testing.assert_allclose(whole, np.sqrt(share / (r + others * (1 - r))))
            np.testing.assert_allclose(part, whole**2)


@pytest.mark.parametrize("seed", range(4))
def test_law_is_the_mean_of_many_draws(seed):
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.normal(size=(300, 40)) @ rng.normal(size=(40, 256)) + rng.normal(size=(300, 256)), 0)
    q, sizes = cka.CKAStatistics(256).update(x).matrix(), [8, 32, 128]
    for k, whole, part in zip(sizes, *cka.subset_cka_law(q, sizes), strict=True):
        drawn = subsets.random_subsets(256, k / 256, range(400))
        among = cka.part_part(q, drawn, [(i, i + 1) for i in range(0, 400, 2)])
        assert whole == pytest.approx(cka.part_whole(q, drawn).mean(), abs=0.004)
        assert part == pytest.approx(among.mean(), abs=0.01)


def test_law_of_a_silent_layer_and_of_sizes_that_are_none():
    assert np.isnan(cka.subset_cka_law(np.zeros((4, 4)), [1, 2])).all()
    for sizes in ([0], [5], [-1, 2]):
        with pytest.raises(ValueError, match=r"sizes must lie in 1 \.\. 4"):
            cka.subset_cka_law(np.eye(4), sizes)


def test_bad_input_is_refused_in_one_line():
    x = np.random.default_rng(0).normal(size=(6, 3))
    bad = x.copy()
    bad[2, 0] = np.nan
    with pytest.raises(ValueError, match=r"unknown estimator 'unbiased'; known, nearest first: (de)?biased"):
        cka.linear_cka(x, x, estimator="unbiased")
    with pytest.raises(ValueError, match="same images, row by row; got 6 and 5 rows"):
        cka.linear_cka(x, x[:5])
    with pytest.raises(ValueError, match="y hold 1 NaN"):
        cka.linear_cka(x, bad)
    with pytest.raises(ValueError, match="debiased CKA needs at least 4 images; got 3"):
        cka.linear_cka(x[:3], x[:3], estimator="debiased")
    with pytest.raises(ValueError, match="biased CKA needs at least 2 images; got 1"):
        cka.linear_cka(x[:1], x[:1])
    with pytest.raises(ValueError, match=r"non-empty matrix \[n, D\]"):
        cka.linear_cka(x[:, 0], x)


def test_statistics_refuse_bad_input_and_stay_as_they_were():
    x = np.random.default_rng(0).normal(size=(6, 3))
    stats = statistics(x[:3])
    with pytest.raises(ValueError, match="must have 3 columns; got 2"):
        stats.update(x[:, :2])
    with pytest.raises(ValueError, match="batch hold 1 NaN"):
        stats.update([[0.0, np.nan, 0.0]])
    with pytest.raises(ValueError, match="debiased CKA needs at least 4 images; got 3"):
        stats.matrix("debiased")
    stats.update(x[3:])
    np.testing.assert_allclose(stats.matrix("debiased"), statistics(x, 3).matrix("debiased"), rtol=0, atol=0)
    with pytest.raises(ValueError, match="unknown estimator"):
        stats.matrix("other")
    with pytest.raises(ValueError, match="unknown estimator 'debiased'.* Name it when the statistics are made"):
        cka.CKAStatistics(3, estimators=["biased"]).matrix("debiased")
    for width in (0, 1.5):
        with pytest.raises(ValueError, match="width must be a positive integer"):
            cka.CKAStatistics(width)


@pytest.mark.parametrize("subset", [[], [0, 0], [-1], [3], [0.5], [True, False], [False, False, False]])
def test_bad_subsets_are_refused(subset):
    with pytest.raises(ValueError, match="subset"):
        cka.part_whole(np.eye(3), [[0, 1], subset])


@pytest.mark.gpu
@pytest.mark.parametrize("estimator", cka.ESTIMATORS)
def test_sums_on_cuda_equal_those_on_the_cpu(estimator):
    x, _ = draw(101, 64, 1, seed=5)
    stats = cka.CKAStatistics(64, device="cuda").update(x[:40]).update(torch.from_numpy(x[40:]).cuda())
    np.testing.assert_allclose(stats.matrix(estimator), statistics(x, 40).matrix(estimator), rtol=1e-7)
