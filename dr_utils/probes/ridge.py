"""A second solver for probes: ridge regression on one-hot labels, in closed form.

For a chain of nested subsets one Cholesky factorisation serves every subset: the factor of a leading
block of the Gram matrix is the leading block of its factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

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
    x = torch.as_tensor(x_train).double()
    mean = x.mean(dim=0)
    x -= mean
    targets = torch.nn.functional.one_hot(torch.as_tensor(y_train), n_classes).double()
    centre = targets.mean(dim=0)
    cross = x.T @ (targets - centre)
    weights: list[np.ndarray] = [None] * len(subsets)
    bias = np.zeros((len(subsets), n_classes))
    grams: dict[bytes, torch.Tensor] = {}
    for chain in find_chains(subsets, checked_seeds(0, len(subsets))):
        columns = torch.as_tensor(chain.columns)
        # The permutations of different seeds run over the same neurons: one Gram matrix serves them all.
        ordered, places = columns.sort()
        key = ordered.numpy().tobytes()
        if key not in grams:
            part = x[:, ordered]
            grams[key] = part.T @ part
        rank = places.argsort()
        block = grams[key][rank][:, rank]
        block.diagonal().add_(alpha)
        factor = torch.linalg.cholesky(block)
        half = torch.linalg.solve_triangular(factor, cross[columns], upper=False)
        for k, probes in zip(chain.lengths, chain.places, strict=True):
            weight = torch.linalg.solve_triangular(factor[:k, :k].T, half[:k], upper=True).T
            intercept = centre - weight @ mean[columns[:k]]
            for probe in probes:
                weights[probe], bias[probe] = weight.contiguous().numpy(), intercept.numpy()
    return evaluated(weights, bias, subsets, x_test.astype(np.float64), y_test, None)
