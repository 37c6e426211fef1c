"""Which neurons of a layer are kept: random, first, all there are, principal components, random projections."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from dr_utils.checks import check_features, check_fraction, check_width, unknown

PROJECTIONS = ("pca", "pca_least", "projection_gaussian", "projection_uniform")
SELECTIONS = ("random", "first", "every", *PROJECTIONS)
MOST_SUBSETS = 255  # all those of 8 neurons

# fraction * width is off by units in the last place: 0.29 * 100 = 28.999999999999996.
ROUNDING = 1e-12


def n_neurons(width: int, fraction: float) -> int:
    """Return how many of `width` neurons a fraction in (0, 1] keeps: ``max(1, floor(fraction * width))``, exactly.

    >>> n_neurons(2048, 0.1), n_neurons(100, 0.29), n_neurons(8, 0.001)
    (204, 29, 1)
    """
    width = check_width(width)
    return max(1, math.floor(check_fraction(fraction) * width * (1 + ROUNDING)))


def random_subsets(width: int, fraction: float, seeds: Iterable[int]) -> list[np.ndarray]:
    """Draw a random subset of a layer's `width` neurons for each seed: int64 arrays of the length `n_neurons` gives.

    The subset of a seed is the beginning of one permutation of all neurons, so its subsets at growing fractions are
    nested. They are those of the published code, which takes seeds 1 to 5: ``torch.manual_seed(seed)``, then
    ``torch.randperm(width)[:k]`` on the CPU. NumPy has the same generator, so torch is not imported.

    A width or seed that is not an integer, and a fraction outside (0, 1], raise ValueError.

    >>> random_subsets(10, 0.3, seeds=[1, 2])
    [array([5, 6, 1]), array([8, 7, 1])]
    """
    k = n_neurons(width, fraction)
    return [_randperm(width, k, seed) for seed in seeds]


def _randperm(width: int, k: int, seed: int) -> np.ndarray:
    """Return the first k of torch's permutation: position i is swapped with one from i on, by 32 bits of MT19937."""
    if not hasattr(seed, "__index__"):
        raise ValueError(f"a seed must be an integer; got {seed!r}.")
    bits = np.random.RandomState(seed % 2**32).randint(2**32, size=k, dtype=np.uint32)
    steps = (bits % np.arange(width, width - k, -1)).tolist()
    order = list(range(width))
    for i, step in enumerate(steps):
        order[i], order[i + step] = order[i + step], order[i]
    return np.array(order[:k], dtype=np.int64)


def first_subset(width: int, fraction: float) -> np.ndarray:
    """Return the first k neurons in the layer's own order, int64 [k], as Matryoshka networks are cut (Fig. 6).

    k and what is refused are those of `random_subsets`.

    >>> first_subset(2048, 4 / 2048)
    array([0, 1, 2, 3])
    """
    return np.arange(n_neurons(width, fraction), dtype=np.int64)


def every_subset(width: int) -> list[np.ndarray]:
    """Return all subsets of a layer of at most 8 neurons but the empty one, smaller ones first; int64 arrays.

    The mean over those of one size is what eq. 1 asks for, exactly. A wider layer raises ValueError.

    >>> every_subset(2)
    [array([0]), array([1]), array([0, 1])]
    """
    if 2 ** check_width(width) - 1 > MOST_SUBSETS:
        raise ValueError(f"a layer of {width} neurons has too many subsets to take every one; 8 neurons are the most.")
    return [np.array(found, dtype=np.int64) for k in range(1, width + 1) for found in combinations(range(width), k)]


@dataclass(frozen=True, eq=False)
class Projection:
    """A linear map onto K <= D directions of unit length, the columns of `matrix` [D, K], less `mean` [D].

    `note` is empty, or says why there are fewer than D.
    """

    matrix: np.ndarray
    mean: np.ndarray
    note: str = ""

    @property
    def n_components(self) -> int:
        """K, the number of components."""
        return self.matrix.shape[1]

    def transform(self, x, n_components: int | None = None) -> np.ndarray:
        """Project features [n, D] of any split to float32 [n, K], or to the first `n_components` of the K columns."""
        x = np.asarray(x, dtype=np.float64) - self.mean
        return (x @ self.matrix[:, :n_components]).astype(np.float32)


def fit_projection(kind: str, x_train, *, seed: int = 0) -> Projection:
    """Fit a projection on train features [n, D] of a task, as in Appendix D and Fig. 14 of the paper.

    `kind` is "pca" (components by falling variance), "pca_least" (by rising variance), "projection_gaussian" or
    "projection_uniform" (random square matrices with columns of unit length, which torch draws by `seed`; the uniform
    one is the published code's, whose positive columns are highly correlated). It has D components, or for PCA on
    n <= D samples n - 1, the most that centred samples span. The first k columns of what `transform` returns are the
    projection to k dimensions. Unknown kinds, NaN, constant features and PCA of one sample raise ValueError.

    >>> x = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0], [3.0, 3.0]])
    >>> fit_projection("pca", x).transform(x, 1).round(3).ravel()
    array([-2.121, -0.707,  0.707,  2.121], dtype=float32)
    """
    if kind not in PROJECTIONS:
        raise unknown("projection", kind, PROJECTIONS)
    x_train = np.asarray(x_train, dtype=np.float64)
    check_features(x_train, name="train features")
    n, width = x_train.shape
    if kind.startswith("pca"):
        if n < 2:
            raise ValueError("PCA needs at least 2 train samples; got 1.")
        from sklearn.decomposition import PCA

        k = min(n - 1, width)
        mean = x_train.mean(axis=0)  # taken off here: scikit-learn's covariance would cancel around one far from zero
        fitted = PCA(k, svd_solver="covariance_eigh" if n > width else "full").fit(x_train - mean)
        components = fitted.components_[:: -1 if kind == "pca_least" else 1]
        note = "" if k == width else f"{n} train samples span {k} of {width} components"
        return Projection(np.ascontiguousarray(components.T), mean, note)
    import torch

    draw = torch.randn if kind == "projection_gaussian" else torch.rand
    matrix = draw(width, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Projection((matrix / matrix.norm(dim=0)).numpy(), np.zeros(width))
