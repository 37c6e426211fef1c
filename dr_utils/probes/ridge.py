"""A second solver for probes: ridge regression on one-hot labels, in closed form.

For a chain of nested subsets one Cholesky factorisation serves every subset: the factor of a leading
block of the Gram matrix is the leading block of its factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from dr_utils.probes.chains import find_chains
from dr_utils.probes.result import ProbeResult, checked_data, checked_seeds, checked_subsets, evaluated


def fit_ridge(x_train, y_train, x_test, y_test, subsets: Sequence[np.ndarray], *, alpha: float = 1.0) -> ProbeResult:
    """Fit one ridge probe per subset of neurons.

    Minimises ``||Y - X W' - b||^2 + alpha ||W||^2`` with Y one-hot and b not penalised, which is
    scikit-learn's `Ridge(alpha)`; a sample is given the class of its largest output.

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

    Returns
    -------
    ProbeResult
        In float64. It has no seed: the solution is unique.

    Raises
    ------
    ValueError
        As for `fit_probes`, or alpha not above 0.
    """
    x_train, x_test, y_train, y_test, n_classes = checked_data(x_train, y_train, x_test, y_test)
    subsets = checked_subsets(subsets, x_train.shape[1])
    if not alpha > 0:
        raise ValueError(f"alpha must be above 0, so that the Gram matrix can be factorised; got {alpha}.")
    x = x_train.astype(np.float64)
    mean = x.mean(axis=0)
    x -= mean
    targets = np.eye(n_classes)[y_train]
    centre = targets.mean(axis=0)
    gram, cross = x.T @ x, x.T @ (targets - centre)
    weights: list[np.ndarray] = [None] * len(subsets)
    bias = np.zeros((len(subsets), n_classes))
    for chain in find_chains(subsets, checked_seeds(0, len(subsets))):
        columns = chain.columns
        block = gram[np.ix_(columns, columns)]
        block[np.diag_indices_from(block)] += alpha
        factor = cholesky(block, lower=True, overwrite_a=True, check_finite=False)
        half = solve_triangular(factor, cross[columns], lower=True, check_finite=False)
        for k, places in zip(chain.lengths, chain.places, strict=True):
            weight = solve_triangular(factor[:k, :k], half[:k], lower=True, trans="T", check_finite=False).T
            for place in places:
                weights[place], bias[place] = weight, centre - weight @ mean[columns[:k]]
    return evaluated(weights, bias, subsets, x_test.astype(np.float64), y_test, None)
