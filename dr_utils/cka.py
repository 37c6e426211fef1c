"""Linear CKA of whole representations, and of any subsets of their neurons from D x D matrices.

The kernel of a set of neurons is the sum of its neurons' kernels, and HSIC is bilinear in the kernels. So
one matrix Q with ``Q[d, e] = HSIC(neuron d, neuron e)`` holds the CKA of every pair of subsets: with masks a
and b in {0, 1}^D it is ``a'Qb / sqrt(a'Qa * b'Qb)``. No pass over the images is needed per subset.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from dr_utils.checks import check_features, check_subset, check_width, unknown

ESTIMATORS = ("biased", "debiased")

# A self-HSIC this far below the size of its terms is their rounding error (float64 has 16 digits): zero.
NEGLIGIBLE = 1e-12


def linear_cka(x, y, *, estimator: str = "biased") -> float:
    """Return the linear centred kernel alignment of two representations of the same n images, `x` [n, D1], `y` [n, D2].

    "biased" is ``||Xc'Yc||^2 / (||Xc'Xc|| ||Yc'Yc||)`` with centred columns, in [0, 1] (Kornblith et al. 2019).
    "debiased" puts the unbiased HSIC_1 (Song et al. 2012, eq. 5) in place of each of the three terms, as Nguyen et al.
    2021 do, and lies in [-1, 1] up to rounding. Sums are in float64.

    NaN says that it is undefined: one representation is constant over the images or, for "debiased", its self-HSIC is
    not positive (a neuron that is active on one image only, for instance). An unknown estimator, different numbers of
    images, fewer than 2 images (4 for "debiased") and features with NaN raise ValueError.

    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 3.0]])
    >>> round(linear_cka(x, x[:, :1]), 3), round(linear_cka(x, 5 - 2 * x), 3)
    (0.878, 1.0)
    """
    x, y = _as_float64(x, "x"), _as_float64(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x and y must hold the same images, row by row; got {len(x)} and {len(y)} rows.")
    _check_estimator(estimator, len(x))
    x, y = _centred(x), _centred(y)
    d1, d2 = x.shape[1], y.shape[1]
    if len(x) * (d1 + d2) < d1 * d1 + d1 * d2 + d2 * d2:
        k, m = x @ x.T, y @ y.T
        cross, self_x, self_y = np.vdot(k, m), np.vdot(k, k), np.vdot(m, m)
    else:
        cross, self_x, self_y = (np.square(a.T @ b).sum() for a, b in ((x, y), (x, x), (y, y)))
    least_x, least_y = NEGLIGIBLE * self_x, NEGLIGIBLE * self_y
    if estimator == "debiased":
        kx, ky = np.square(x).sum(axis=1), np.square(y).sum(axis=1)
        cross, self_x, self_y = _debias(cross, kx, ky), _debias(self_x, kx, kx), _debias(self_y, ky, ky)
    if self_x <= least_x or self_y <= least_y:
        return float("nan")
    return float(cross / (np.sqrt(self_x) * np.sqrt(self_y)))


class CKAStatistics:
    """Sum over images, batch by batch, what the CKA of all subsets of a layer of `width` neurons follows from.

    `estimators` says which matrices will be asked for: "debiased" keeps three D x D float64 matrices, "biased" alone
    one. They are NumPy's on the "cpu", torch's on a `device` that offers float64, such as "cuda".

    >>> x = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 3.0]])
    >>> q = CKAStatistics(2).update(x[:3]).update(x[3:]).matrix("biased")
    >>> part_whole(q, [[0], [0, 1]]).round(3)
    array([0.878, 1.   ])
    """

    def __init__(self, width: int, *, estimators: Sequence[str] = ESTIMATORS, device="cpu"):
        self.width = check_width(width)
        self.estimators, self.device, self.n = tuple(estimators), str(device), 0
        self._shift: np.ndarray | None = None
        # Sums of x, x'x and, for "debiased", of x^2, x'x^2 and (x^2)'x^2.
        self._s, self._s2 = (self._placed(np.zeros(width)) for _ in range(2))
        n_matrices = 3 if "debiased" in self.estimators else 1
        self._xx, *self._higher = (self._placed(np.zeros((width, width))) for _ in range(n_matrices))

    def _placed(self, x: np.ndarray):
        if self.device == "cpu":
            return x
        import torch

        return torch.from_numpy(x).to(self.device)  # the sums below are written for arrays and tensors alike

    def update(self, batch) -> CKAStatistics:
        """Add features [b, D] of further images, an array or a tensor; ValueError leaves the sums as they were."""
        batch = _as_float64(batch, "batch")
        if batch.shape[1] != self.width:
            raise ValueError(f"the batch must have {self.width} columns; got {batch.shape[1]}.")
        if self._shift is None:
            # Both estimators ignore a shift of the features, but in float64 sums of large values would cancel. The
            # first batch's mean is near enough; relative to the first row, it leaves constant neurons at exactly zero.
            self._shift = batch[0] + (batch - batch[0]).mean(axis=0)
        x = self._placed(batch - self._shift)
        self.n += len(x)
        self._s += x.sum(0)
        self._xx += x.T @ x
        if self._higher:
            x2 = x * x
            self._s2 += x2.sum(0)
            self._higher[0] += x.T @ x2
            self._higher[1] += x2.T @ x2
        return self

    def matrix(self, estimator: str = "biased") -> np.ndarray:
        """Return the matrix Q [D, D] of the HSIC of every pair of neurons, up to a factor that CKA cancels.

        Rows and columns of neurons whose self-HSIC is zero are exactly zero. An estimator that was not named at
        construction, and fewer than 2 images (4 for "debiased"), raise ValueError.
        """
        if estimator not in self.estimators:
            raise unknown("estimator", estimator, self.estimators, hint="Name it when the statistics are made.")
        _check_estimator(estimator, self.n)
        s, n, xx = self._s, self.n, self._xx
        q = biased = (xx - s[:, None] * (s / n)) ** 2
        if estimator == "debiased":
            # HSIC_1 uses kernels without their diagonal. For neurons d and e their inner product is (X'X)^2 less
            # X2'X2 with X2 = X * X; a kernel's total is t_d = s_d^2 - sum_i X2_id; its row sums are
            # R[:, d] = X[:, d] s_d - X2[:, d], whose inner products R'R need only X'X, X'X2 and X2'X2.
            xx2, x2x2 = self._higher
            crossed = s[:, None] * xx2
            t = s * s - self._s2
            q = xx * xx - x2x2 + t[:, None] * (t / ((n - 1) * (n - 2)))
            q -= (s[:, None] * s * xx - crossed - crossed.T + x2x2) * (2 / (n - 2))
            # HSIC_1 of a kernel with itself is a squared length (Szekely & Rizzo 2014), so a neuron that has none
            # has no product with others either; what is left there is rounding.
            silent = q.diagonal() <= NEGLIGIBLE * biased.diagonal()
            q[silent, :] = 0.0
            q[:, silent] = 0.0
        return q if self.device == "cpu" else q.cpu().numpy()


def part_whole(q: np.ndarray, subsets: Sequence) -> np.ndarray:
    """Return the CKA [P] of each subset of a layer's neurons with the whole layer; NaN as in `linear_cka`.

    `q` [D, D] is that of `CKAStatistics.matrix`. Each of the P `subsets` is an int array of distinct neurons or a bool
    mask [D]; what is neither raises ValueError.

    >>> part_whole(np.diag([3.0, 1.0]), [[0], [0, 1]]).round(3)
    array([0.866, 1.   ])
    """
    _, products, norms = _products(q, [*subsets, np.arange(len(q))])
    return products[:-1].sum(axis=1) / (norms[:-1] * norms[-1])


def part_part(q: np.ndarray, subsets: Sequence, pairs: Iterable[tuple[int, int]] | None = None) -> np.ndarray:
    """Return the CKA [P, P] between subsets of a layer's neurons, or that of `pairs` of positions in `subsets`.

    Other arguments and errors are those of `part_whole`.

    >>> part_part(np.diag([3.0, 1.0]), [[0], [1], [0, 1]], pairs=[(0, 1), (0, 2)]).round(3)
    array([0.   , 0.866])
    """
    masks, products, norms = _products(q, subsets)
    if pairs is None:
        return products @ masks.T / np.outer(norms, norms)
    left, right = np.array(list(pairs), dtype=np.int64).reshape(-1, 2).T
    return (products[left] * masks[right]).sum(axis=1) / (norms[left] * norms[right])


def subset_cka_law(q: np.ndarray, sizes: Sequence[int], *, order: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return the CKA expected of random subsets of each of K sizes with the whole layer, and with each other: [K] each.

    `q` [D, D] is that of `CKAStatistics.matrix`. With S its sum, T its trace and r = T / S, a subset of k neurons has
    a mean a'Q1 of (k/D) S and a mean a'Qa of (k/D) (T + (k-1)/(D-1) (S - T)). `order` 1 puts these means into
    a'Q1 / sqrt(a'Qa S): sqrt((k/D) / (r + (k-1)/(D-1) (1 - r))), and its square for two subsets, so that the one number
    r gives both curves. `order` 2 adds what the variance of a'Qa and its covariance with the choice of a neuron add, in
    closed form over all subsets, at the sizes where the variance is below the squared mean; where it is not, because
    few neurons carry most of it, no such term helps. Both are exact at k = D. NaN for a silent layer; sizes outside
    1 .. D raise ValueError.

    >>> whole, part = subset_cka_law(np.eye(4), [1, 4], order=1)
    >>> whole, part
    (array([0.5, 1. ]), array([0.25, 1.  ]))
    """
    q = np.asarray(q, dtype=np.float64)
    k, d = np.asarray(sizes, dtype=np.float64)[:, None], len(q)
    if not ((k >= 1) & (k <= d)).all():
        raise ValueError(f"sizes must lie in 1 .. {d}, the neurons of the layer; got {list(sizes)}.")
    u, own = q.sum(axis=1), q.diagonal()
    total, trace = u.sum(), own.sum()
    if not (total > 0 and trace > 0):
        return (np.full(len(k), np.nan),) * 2
    # The chance that m given neurons are all chosen, for m from 1 to 4.
    p1, p2, p3, p4 = np.cumprod([np.clip(k - m, 0, None) / max(d - m, 1) for m in range(4)], axis=0)
    mean = p1 * trace + p2 * (total - trace)
    chosen = np.broadcast_to(p1, (len(k), d))
    if order == 2:
        a, b, f, g = own @ u, u @ u, np.square(q).sum(), own @ own
        # Sums of Q_ij Q_lm over all four indices, by how many of them differ: 1, 2, 3 and 4.
        two = 4 * (a - g) + (trace**2 - g) + 2 * (f - g)
        three = 2 * (trace * (total - trace) - 2 * (a - g)) + 4 * ((b - 2 * a + g) - (f - g))
        square = p1 * g + p2 * two + p3 * three + p4 * (total**2 - g - two - three)
        with_neuron = p1 * own + p2 * (trace + 2 * u - 3 * own) + p3 * (total - trace - 2 * u + 2 * own)
        # The mean of a / sqrt(a'Qa), to second order around the mean of a'Qa.
        variance = square / mean**2 - 1
        second = p1 * (1 + 3 / 8 * variance) - (with_neuron - p1 * mean) / (2 * mean)
        chosen = np.where(variance < 1, second, chosen)
    chosen = chosen / np.sqrt(mean)
    return chosen @ u / np.sqrt(total), np.einsum("kd,de,ke->k", chosen, q, chosen, optimize=True)


def _check_estimator(estimator: str, n: int) -> None:
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)
    least = 4 if estimator == "debiased" else 2
    if n < least:
        raise ValueError(f"{estimator} CKA needs at least {least} images; got {n}.")


def _as_float64(x, name: str) -> np.ndarray:
    if hasattr(x, "detach"):  # a tensor, wherever it is
        x = x.detach().cpu().double().numpy()
    x = np.asarray(x, dtype=np.float64)
    check_features(x, name=name, allow_constant=True)
    return x


def _centred(x: np.ndarray) -> np.ndarray:
    # From the first row on, constant columns stay at exactly zero; unit scale keeps fourth powers finite.
    x = x - x[0]
    x -= x.mean(axis=0)
    return x / (np.abs(x).max() or 1.0)


def _debias(product: float, k: np.ndarray, m: np.ndarray) -> float:
    """Return n (n - 3) HSIC_1 from the inner product of two centred kernels and their diagonals k, m."""
    # Rows of a centred kernel sum to zero, so without the diagonal they sum to -k_i.
    n = len(k)
    return product - n / (n - 2) * np.dot(k, m) + k.sum() * m.sum() / ((n - 1) * (n - 2))


def _products(q, subsets: Sequence) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the subsets as masks a [P, D], the products a'Q [P, D], and sqrt(a'Qa) [P], NaN where it is zero."""
    q = np.asarray(q, dtype=np.float64)
    masks = np.zeros((len(subsets), len(q)))
    for row, subset in zip(masks, subsets, strict=True):
        row[check_subset(subset, len(q))] = 1.0
    products = masks @ q
    selves = (products * masks).sum(axis=1)
    # Cauchy-Schwarz: no a'Qa exceeds the squared sum of its neurons' own norms. Zero is what rounding leaves of that.
    bound = np.square(masks @ np.sqrt(np.clip(q.diagonal(), 0, None)))
    return masks, products, np.sqrt(np.where(selves > NEGLIGIBLE * bound, selves, np.nan))
