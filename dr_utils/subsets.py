"""Which neurons of a layer are kept: random, first, principal components, random projections."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from dr_utils.checks import check_features, check_fraction, unknown

SELECTIONS = {
    "random": "the first k neurons of a seeded random permutation",
    "first": "the first k neurons in the layer's own order",
    "pca": "the k principal components of largest variance, fitted on train features",
    "pca_least": "the k principal components of smallest variance, fitted on train features",
    "projection_gaussian": "k random directions with Gaussian entries, of unit length",
    "projection_uniform": "k random directions with uniform entries in [0, 1), of unit length (published)",
}
PROJECTIONS = ("pca", "pca_least", "projection_gaussian", "projection_uniform")

# fraction * width is off by units in the last place: 0.29 * 100 = 28.999999999999996.
ROUNDING = 1e-12


def check_selection(name: str) -> str:
    """Return `name` if it is one of `SELECTIONS`, else raise ValueError listing them, nearest first."""
    if name not in SELECTIONS:
        raise unknown("selection", name, SELECTIONS)
    return name


def n_neurons(width: int, fraction: float) -> int:
    """Number of neurons that a fraction of a layer keeps.

    Parameters
    ----------
    width : int
        Neurons in the layer, at least 1.
    fraction : float
        Share kept, in (0, 1].

    Returns
    -------
    int
        ``max(1, floor(fraction * width))``, exact for fractions written in decimals and for k / width.

    Raises
    ------
    ValueError
        `width` is not a positive integer or `fraction` lies outside (0, 1].
    """
    width = _check_width(width)
    return max(1, math.floor(check_fraction(fraction) * width * (1 + ROUNDING)))


def random_subsets(width: int, fraction: float, seeds: Iterable[int]) -> list[np.ndarray]:
    """Random subsets of a layer's neurons, one per seed.

    The subset of a seed is the beginning of one permutation of all neurons, so the subsets of one seed at
    growing fractions are nested. They are those of the published code: ``torch.manual_seed(seed)``, then
    ``torch.randperm(width)[:k]`` on the CPU. Torch's global random state is left as it was.

    Parameters
    ----------
    width : int
        Neurons in the layer.
    fraction : float
        Share kept, in (0, 1].
    seeds : iterable of int
        One subset each; the paper uses 1 to 5.

    Returns
    -------
    list of int64 arrays of shape [k]
        Neuron indices in the permutation's order, k = `n_neurons(width, fraction)`.

    Raises
    ------
    ValueError
        As `n_neurons`, and for a seed that is not an integer.
    """
    k = n_neurons(width, fraction)
    return [torch.randperm(int(width), generator=_generator(seed))[:k].numpy() for seed in seeds]


def first_subset(width: int, fraction: float) -> np.ndarray:
    """The first k neurons in the layer's own order, int64 [k] (Matryoshka networks, Fig. 6).

    Raises
    ------
    ValueError
        As `n_neurons`.
    """
    return np.arange(n_neurons(width, fraction), dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Projection:
    """Linear map whose first k output columns are the k-dimensional projection.

    Attributes
    ----------
    kind : str
        One of `PROJECTIONS`.
    matrix : float64 array of shape [D, K]
        Directions in columns, each of unit length.
    mean : float64 array of shape [D]
        What is subtracted first: the train mean for PCA, zeros for random projections.
    variance : float64 array of shape [K] or None
        Variance of the train features along each component (PCA only).
    note : str
        Empty, or why fewer than D components exist.
    """

    kind: str
    matrix: np.ndarray
    mean: np.ndarray
    variance: np.ndarray | None = None
    note: str = ""

    @property
    def n_components(self) -> int:
        """Number of components K, at most D."""
        return self.matrix.shape[1]

    def transform(self, x, n_components: int | None = None) -> np.ndarray:
        """Project features.

        Parameters
        ----------
        x : array of shape [n, D]
            Features of any split.
        n_components : int, optional
            How many columns to return, at least 1; all K if more are asked for than exist.

        Returns
        -------
        float32 array of shape [n, K]

        Raises
        ------
        ValueError
            `x` is not [n, D] or not finite, or `n_components` is below 1.
        """
        x = np.asarray(x, dtype=np.float64)
        check_features(x, allow_constant=True)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"features must have {len(self.mean)} columns as in the fit; got {x.shape[1]}.")
        if n_components is not None and n_components < 1:
            raise ValueError(f"n_components must be at least 1; got {n_components}.")
        return ((x - self.mean) @ self.matrix[:, :n_components]).astype(np.float32)


def fit_projection(kind: str, x_train, *, seed: int = 0) -> Projection:
    """Fit a projection on train features.

    Parameters
    ----------
    kind : str
        "pca" (components by falling variance), "pca_least" (by rising variance), "projection_gaussian" or
        "projection_uniform" (random square matrices with columns of unit length; the uniform one is the
        published code's, whose positive columns are highly correlated).
    x_train : array of shape [n, D]
        Train features of the downstream task; random projections use only their width.
    seed : int
        Seed of the random projections; PCA has no randomness.

    Returns
    -------
    Projection
        With D components, or for PCA on n <= D samples n - 1, the most that centred samples span; `note`
        then says so.

    Raises
    ------
    ValueError
        Unknown kind, features with NaN, constant features or, for PCA, fewer than 2 samples.

    References
    ----------
    Appendix D and Fig. 14 of the paper.
    """
    if kind not in PROJECTIONS:
        raise unknown("projection", kind, PROJECTIONS)
    x_train = np.asarray(x_train, dtype=np.float64)
    check_features(x_train, name="train features")
    if kind.startswith("pca"):
        return _fit_pca(kind, x_train)
    width = x_train.shape[1]
    draw = torch.randn if kind == "projection_gaussian" else torch.rand
    matrix = draw(width, width, generator=_generator(seed), dtype=torch.float64)
    return Projection(kind, (matrix / matrix.norm(dim=0)).numpy(), np.zeros(width))


def project(kind: str, x_train, *others, n_components: int | None = None, seed: int = 0) -> list[np.ndarray]:
    """Fit on `x_train`, then transform it and the `others`: float32 arrays [n, K] in the order given.

    Raises
    ------
    ValueError
        As `fit_projection` and `Projection.transform`.
    """
    projection = fit_projection(kind, x_train, seed=seed)
    return [projection.transform(x, n_components) for x in (x_train, *others)]


def _fit_pca(kind: str, x: np.ndarray) -> Projection:
    n, width = x.shape
    if n < 2:
        raise ValueError("PCA needs at least 2 train samples; got 1.")
    mean = x.mean(axis=0)
    centred = torch.from_numpy(x - mean)
    if n > width:
        variance, directions = torch.linalg.eigh(centred.T @ centred)
    else:
        # With an orthonormal basis of the samples' span the eigenproblem is n x n, and the components stay
        # orthonormal even where the variance is zero; dividing X'u by small singular values would not.
        basis, coordinates = torch.linalg.qr(centred.T)
        variance, directions = torch.linalg.eigh(coordinates @ coordinates.T)
        directions = basis @ directions
    k = min(n - 1, width)
    variance, directions = variance.flip(0)[:k], directions.flip(1)[:, :k]
    # Eigenvectors have no sign of their own: make each one's largest entry positive.
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    directions = directions * torch.where(largest < 0, -1.0, 1.0)
    if kind == "pca_least":
        variance, directions = variance.flip(0), directions.flip(1)
    note = "" if k == width else f"{n} train samples span {k} of {width} components"
    variance = (variance / (n - 1)).clamp(min=0)
    return Projection(kind, np.ascontiguousarray(directions.numpy()), mean, variance.numpy(), note)


def _generator(seed: int) -> torch.Generator:
    try:
        return torch.Generator("cpu").manual_seed(operator.index(seed))
    except TypeError:
        raise ValueError(f"a seed must be an integer; got {seed!r}.") from None


def _check_width(width: int) -> int:
    try:
        number = operator.index(width)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"width must be a positive integer (neurons in the layer); got {width!r}.")
    return number
