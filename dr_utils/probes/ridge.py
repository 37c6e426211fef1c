"""A second solver for probes: ridge regression on one-hot labels, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from dr_utils.probes.result import ProbeResult, checked, evaluated


def fit_ridge(x_train, y_train, x_test, y_test, subsets: Sequence[np.ndarray], *, alpha: float = 1.0) -> ProbeResult:
    """Fit one ridge probe per subset of neurons.

    Minimises ``||Y - X W' - b||^2 + alpha ||W||^2`` in float64 with Y one-hot and b not penalised, which is
    scikit-learn's `Ridge(alpha)`; a sample is given the class of its largest output. No seed: the solution is unique.

    Parameters
    ----------
    x_train, x_test : float arrays of shape [n, D]
        Features.
    y_train, y_test : int arrays of shape [n]
        Class indices 0 .. C-1.
    subsets : sequence of P int arrays
        The neurons of each probe.
    alpha : float
        Penalty, in squared units of the features; above 0.

    Raises
    ------
    ValueError
        As for `fit_probes`, or alpha not above 0.

    Examples
    --------
    >>> x, y = np.array([[0.0, 1.0], [1.0, 1.0], [4.0, 1.0], [5.0, 0.0]]), np.array([0, 0, 1, 1])
    >>> fit_ridge(x, y, x, y, subsets=[[0, 1], [1]]).accuracy
    array([1.  , 0.75])
    """
    x_train, y_train, x_test, y_test, subsets, n_classes = checked(x_train, y_train, x_test, y_test, subsets)
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, so that the Gram matrix can be factorised; got {alpha}.")
    x, targets, mean, centre = _centred(x_train, y_train, n_classes, slice(None))
    cross = x.T @ targets
    weights: list[np.ndarray] = [np.empty(0)] * len(subsets)
    bias = np.empty((len(subsets), n_classes))
    columns, grams = np.empty(0), {}
    # In falling lexicographic order a subset is followed by its prefixes, and one factorisation serves all of them:
    # the factor of a leading block of a matrix is the leading block of its factor.
    for probe in sorted(range(len(subsets)), key=lambda p: subsets[p].tolist(), reverse=True):
        subset, k = subsets[probe], len(subsets[probe])
        if not np.array_equal(columns[:k], subset):
            columns = subset
            ordered, rank = np.unique(subset, return_inverse=True)
            # The permutations of different seeds run over the same neurons: one Gram matrix serves them all.
            if ordered.tobytes() not in grams:
                part = x[:, ordered]
                grams[ordered.tobytes()] = part.T @ part
            block = grams[ordered.tobytes()][np.ix_(rank, rank)]
            block.flat[:: k + 1] += alpha
            factor = cholesky(block, lower=True, overwrite_a=True, check_finite=False)
            half = solve_triangular(factor, cross[subset], lower=True, check_finite=False)
        weight = solve_triangular(factor[:k, :k], half[:k], lower=True, trans=1, check_finite=False).T
        weights[probe], bias[probe] = np.ascontiguousarray(weight), centre - weight @ mean[subset]
    return evaluated(weights, bias, subsets, x_test.astype(np.float64), y_test)


def choose_alpha(x_train, y_train, *, relative=(1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2), share=0.2, seed: int = 0) -> float:
    """Choose a ridge penalty from train features alone.

    A fixed penalty means something else for every network, and too small a one lets the whole layer overfit
    where there are about as many neurons as samples, so that parts of it look better than the whole.

    Candidates are `relative` times the mean diagonal of the centred Gram matrix X'X. A `share` of each class, drawn by
    `seed`, is held out, and the candidate under which the full layer is most accurate on it is returned, the largest of
    equals; for classes too small to hold any out, the mean diagonal itself. Refuses what `fit_ridge` does.

    >>> choose_alpha(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 1, 1]))
    5.0
    """
    x_train, y_train, *_, n_classes = checked(x_train, y_train, x_train[:1], y_train[:1], [[0]])
    order = np.random.default_rng(seed).permutation(len(y_train))
    held = np.concatenate(
        [own[: int(share * len(own))] for c in range(n_classes) for own in [order[y_train[order] == c]]]
    )
    fitted = np.setdiff1d(order, held)
    x, targets, _, centre = _centred(x_train, y_train, n_classes, fitted)
    gram, cross = x[fitted].T @ x[fitted], x[fitted].T @ targets[fitted]
    scale = float(gram.diagonal().mean())
    if not len(held):
        return scale
    scores = {}
    for candidate in sorted(relative):
        block = gram.copy()
        block.flat[:: len(gram) + 1] += candidate * scale
        weight = cho_solve((cholesky(block, lower=True, overwrite_a=True), True), cross)
        scores[candidate * scale] = ((x[held] @ weight + centre).argmax(axis=1) == y_train[held]).mean()
    return max(scores, key=lambda alpha: (scores[alpha], alpha))


def _centred(x, y, n_classes: int, rows):
    """Return features and one-hot labels in float64 less their means over `rows`, and the two means."""
    x, targets = x.astype(np.float64), np.eye(n_classes)[y]
    mean, centre = x[rows].mean(axis=0), targets[rows].mean(axis=0)
    return x - mean, targets - centre, mean, centre
