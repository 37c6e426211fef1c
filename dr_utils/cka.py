"""Linear CKA of whole representations, and of any subsets of their neurons from D x D matrices.

The kernel of a set of neurons is the sum of its neurons' kernels, and HSIC is bilinear in the kernels. So
one matrix Q with ``Q[d, e] = HSIC(neuron d, neuron e)`` holds the CKA of every pair of subsets: with masks a
and b in {0, 1}^D it is ``a'Qb / sqrt(a'Qa * b'Qb)``. No pass over the images is needed per subset.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from dr_utils.checks import check_features, unknown

ESTIMATORS = ("biased", "debiased")

# A self-HSIC this far below the size of its terms is their rounding error (float64 has 16 digits): zero.
NEGLIGIBLE = 1e-12


def linear_cka(x, y, *, estimator: str = "biased") -> float:
    """Linear centred kernel alignment of two representations of the same images.

    Parameters
    ----------
    x, y : arrays of shape [n, D1], [n, D2]
        Features of the same n images, one row each. Computed in float64.
    estimator : {"biased", "debiased"}
        "biased" is ``||Xc'Yc||^2 / (||Xc'Xc|| ||Yc'Yc||)`` with centred columns; "debiased" puts the unbiased
        HSIC_1 in place of each of the three terms.

    Returns
    -------
    float
        In [0, 1] for "biased", in [-1, 1] for "debiased" up to rounding. NaN where it is undefined: one
        representation is constant over the images or, for "debiased", its self-HSIC is not positive (a neuron
        that is active on one image only, for instance).

    Raises
    ------
    ValueError
        Unknown estimator, different numbers of images, fewer than 2 images (4 for "debiased"), NaN.

    References
    ----------
    Biased: Kornblith et al. 2019. HSIC_1: Song et al. 2012, eq. 5; in CKA: Nguyen et al. 2021.
    """
    _check_estimator(estimator)
    x, y = _as_float64(x, "x"), _as_float64(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x and y must hold the same images, row by row; got {len(x)} and {len(y)} rows.")
    _check_count(len(x), estimator)
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
    """Sums over images from which the CKA of all subsets of a layer follows; fed batch by batch.

    Memory is a few D x D float64 matrices (three for "debiased", one for "biased" alone), whatever the number
    of images.

    Parameters
    ----------
    width : int
        Neurons in the layer, D.
    estimators : sequence of {"biased", "debiased"}
        Which matrices will be asked for; "biased" alone costs a third.
    device : str or torch.device
        Where the sums are kept; it must offer float64 (CPU or CUDA).

    Attributes
    ----------
    n : int
        Images seen so far.

    Raises
    ------
    ValueError
        `width` is not a positive integer or an estimator is unknown.
    """

    def __init__(self, width: int, *, estimators: Sequence[str] = ESTIMATORS, device="cpu"):
        try:
            self.width = operator.index(width)
        except TypeError:
            self.width = 0
        if self.width < 1:
            raise ValueError(f"width must be a positive integer (neurons in the layer); got {width!r}.")
        self.estimators = (estimators,) if isinstance(estimators, str) else tuple(estimators)
        for estimator in self.estimators:
            _check_estimator(estimator)
        self.device = torch.device(device)
        self.n = 0
        self._shift: np.ndarray | None = None
        empty = torch.zeros(self.width, self.width, dtype=torch.float64, device=self.device)
        self._xx, self._sum = empty, empty[0].clone()
        if "debiased" in self.estimators:
            self._xx2, self._x2x2, self._sum2 = empty.clone(), empty.clone(), empty[0].clone()

    def update(self, batch) -> CKAStatistics:
        """Add images.

        Parameters
        ----------
        batch : array or tensor of shape [b, D]
            Features of further images.

        Returns
        -------
        CKAStatistics
            Itself.

        Raises
        ------
        ValueError
            Not [b, D], or NaN or infinite values; the sums are then as before.
        """
        batch = _as_float64(batch, "batch")
        if batch.shape[1] != self.width:
            raise ValueError(f"the batch must have {self.width} columns; got {batch.shape[1]}.")
        if self._shift is None:
            # Both estimators ignore a shift of the features, but float64 does not: sums of large raw values
            # would cancel in matrix(). The first batch's mean is near enough to the mean of all. Taken
            # relative to the first row, it leaves a constant neuron at exactly zero.
            self._shift = batch[0] + (batch - batch[0]).mean(axis=0)
        x = torch.from_numpy(batch - self._shift).to(self.device)
        self.n += len(x)
        self._sum += x.sum(dim=0)
        self._xx.addmm_(x.T, x)
        if "debiased" in self.estimators:
            x2 = x.square()
            self._xx2.addmm_(x.T, x2)
            self._x2x2.addmm_(x2.T, x2)
            self._sum2 += x2.sum(dim=0)
        return self

    def matrix(self, estimator: str = "biased") -> np.ndarray:
        """Matrix Q of the HSIC of every pair of neurons, up to a factor that CKA cancels.

        Parameters
        ----------
        estimator : {"biased", "debiased"}
            One of those given at construction.

        Returns
        -------
        float64 array of shape [D, D]
            Symmetric, with ``CKA(a, b) = a'Qb / sqrt(a'Qa * b'Qb)`` for masks a, b in {0, 1}^D. Rows and
            columns of neurons whose self-HSIC is zero are exactly zero.

        Raises
        ------
        ValueError
            The estimator is unknown or was not asked for at construction; fewer than 2 images were seen
            (4 for "debiased").
        """
        _check_estimator(estimator)
        if estimator not in self.estimators:
            raise ValueError(
                f"these statistics were made without {estimator!r}; make them with estimators={ESTIMATORS}."
            )
        _check_count(self.n, estimator)
        s, n = self._sum, self.n
        biased = (self._xx - torch.outer(s, s) / n).square_()
        if estimator == "biased":
            return biased.cpu().numpy()
        # HSIC_1 uses kernels without their diagonal. For neurons d and e their inner product is (X'X)^2 less
        # X2'X2 with X2 = X * X; a kernel's total is t_d = s_d^2 - sum_i X2_id; its row sums are
        # R[:, d] = X[:, d] s_d - X2[:, d], whose inner products R'R need only X'X, X'X2 and X2'X2.
        crossed = s[:, None] * self._xx2
        row_products = torch.outer(s, s) * self._xx - crossed - crossed.T + self._x2x2
        t = s.square() - self._sum2
        q = self._xx.square() - self._x2x2
        q += torch.outer(t, t / ((n - 1) * (n - 2)))
        q -= row_products.mul_(2 / (n - 2))
        # HSIC_1 of a kernel with itself is a squared length (Szekely & Rizzo 2014), so a neuron that has none
        # has no product with others either; what is left there is rounding.
        silent = q.diagonal() <= NEGLIGIBLE * biased.diagonal()
        q[silent, :] = 0.0
        q[:, silent] = 0.0
        return q.cpu().numpy()


def part_whole(q: np.ndarray, subsets: Sequence) -> np.ndarray:
    """CKA of each subset of a layer's neurons with the whole layer, all at once.

    Parameters
    ----------
    q : array of shape [D, D]
        From `CKAStatistics.matrix`.
    subsets : sequence of P subsets
        Each an int array of neuron indices without repeats, or a bool mask of shape [D].

    Returns
    -------
    float64 array of shape [P]
        NaN where CKA is undefined, as in `linear_cka`.

    Raises
    ------
    ValueError
        `q` is not a finite square matrix, or a subset is empty, repeats an index or points outside the layer.
    """
    q = _check_matrix(q)
    masks = np.vstack([_masks(subsets, len(q)), np.ones(len(q))])
    products = masks @ q
    norms = _norms(q, masks, products)
    return products[:-1].sum(axis=1) / (norms[:-1] * norms[-1])


def part_part(q: np.ndarray, subsets: Sequence, pairs: Iterable[tuple[int, int]] | None = None) -> np.ndarray:
    """CKA between subsets of a layer's neurons, all at once.

    Parameters
    ----------
    q : array of shape [D, D]
        From `CKAStatistics.matrix`.
    subsets : sequence of P subsets
        As in `part_whole`.
    pairs : iterable of (int, int), optional
        Positions in `subsets` to compare, for instance `seed_pairs(5)`.

    Returns
    -------
    float64 array of shape [P, P], or [number of pairs] if pairs are given
        NaN where CKA is undefined.

    Raises
    ------
    ValueError
        As in `part_whole`; or a pair points outside `subsets`.
    """
    q = _check_matrix(q)
    masks = _masks(subsets, len(q))
    products = masks @ q
    norms = _norms(q, masks, products)
    if pairs is None:
        return products @ masks.T / np.outer(norms, norms)
    pairs = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    if pairs.size and not (pairs.min() >= 0 and pairs.max() < len(masks)):
        raise ValueError(f"pairs must be positions 0 .. {len(masks) - 1} in the list of subsets.")
    left, right = pairs.T
    return (products[left] * masks[right]).sum(axis=1) / (norms[left] * norms[right])


def seed_pairs(n_seeds: int) -> list[tuple[int, int]]:
    """All pairs (i, j), i < j, of `n_seeds` subsets: the 10 pairs of 5 seeds in Fig. 2."""
    return list(itertools.combinations(range(n_seeds), 2))


def _check_estimator(estimator: str) -> None:
    if estimator not in ESTIMATORS:
        raise unknown("estimator", estimator, ESTIMATORS)


def _check_count(n: int, estimator: str) -> None:
    least = 4 if estimator == "debiased" else 2
    if n < least:
        raise ValueError(f"{estimator} CKA needs at least {least} images; got {n}.")


def _as_float64(x, name: str) -> np.ndarray:
    if isinstance(x, torch.Tensor):
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
    """n (n - 3) HSIC_1 from the inner product of two centred kernels and their diagonals k, m.

    Rows of a centred kernel sum to zero, so without the diagonal they sum to -k_i, and the three terms of
    HSIC_1 need nothing but the diagonals.
    """
    n = len(k)
    return product - n / (n - 2) * np.dot(k, m) + k.sum() * m.sum() / ((n - 1) * (n - 2))


def _check_matrix(q) -> np.ndarray:
    q = np.asarray(q, dtype=np.float64)
    if q.ndim != 2 or q.shape[0] != q.shape[1] or q.size == 0 or not np.isfinite(q).all():
        raise ValueError(f"Q must be a finite square matrix [D, D] from CKAStatistics.matrix; got {q.shape}.")
    return q


def _masks(subsets: Sequence, width: int) -> np.ndarray:
    masks = np.zeros((len(subsets), width))
    for row, subset in zip(masks, subsets, strict=True):
        subset = np.asarray(subset)
        if subset.dtype == bool and subset.shape == (width,) and subset.any():
            row[subset] = 1.0
            continue
        if subset.ndim != 1 or subset.size == 0 or not np.issubdtype(subset.dtype, np.integer):
            raise ValueError(
                f"a subset must be a non-empty list of neuron indices or a mask of {width}; "
                f"got {subset.dtype} of shape {subset.shape}."
            )
        if subset.min() < 0 or subset.max() >= width or len(np.unique(subset)) < len(subset):
            raise ValueError(f"a subset's indices must be distinct and lie in 0 .. {width - 1}.")
        row[subset] = 1.0
    return masks


def _norms(q: np.ndarray, masks: np.ndarray, products: np.ndarray) -> np.ndarray:
    """Square roots of a'Qa; NaN where it is zero up to rounding."""
    selves = (products * masks).sum(axis=1)
    # Cauchy-Schwarz: no a'Qa exceeds the squared sum of its neurons' own norms.
    bound = np.square(masks @ np.sqrt(np.clip(q.diagonal(), 0, None)))
    return np.sqrt(np.where(selves > NEGLIGIBLE * bound, selves, np.nan))
