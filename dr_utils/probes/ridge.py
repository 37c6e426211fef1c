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


def choose_alpha(x_train, y_train, *, relative=(1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2), share=0.2, seed: int = 0) -> float:
    """Choose a ridge penalty from train features alone.

    A fixed penalty means something else for every network, and too small a one lets the whole layer overfit
    where there are about as many neurons as samples, so that parts of it look better than the whole.

    Parameters
    ----------
    x_train : float array of shape [n, D]
        Train features.
    y_train : int array of shape [n]
        Class indices 0 .. C-1.
    relative : sequence of float
        Candidates, in units of the mean diagonal of the centred Gram matrix X'X.
    share : float
        Share of each class that is held out to compare them.
    seed : int
        Draws the held-out samples.

    Returns
    -------
    float
        The candidate under which the full layer is most accurate on the held-out samples, the largest of equals;
        for classes too small to hold any out, the mean diagonal itself.

    Raises
    ------
    ValueError
        As for `fit_ridge`.
    """
    x_train, _, y_train, _, n_classes = checked_data(x_train, y_train, x_train[:1], y_train[:1])
    order = np.random.default_rng(seed).permutation(len(y_train))
    held = np.concatenate(
        [own[: int(share * len(own))] for c in range(n_classes) for own in [order[y_train[order] == c]]]
    )
    fitted = np.setdiff1d(order, held)
    x = torch.as_tensor(x_train).double()
    mean = x[fitted].mean(dim=0)
    x -= mean
    targets = torch.nn.functional.one_hot(torch.as_tensor(y_train), n_classes).double()
    centre = targets[fitted].mean(dim=0)
    gram, cross = x[fitted].T @ x[fitted], x[fitted].T @ (targets[fitted] - centre)
    scale = float(gram.diagonal().mean())
    if not len(held):
        return scale
    scores = {}
    for candidate in sorted(relative):
        block = gram.clone()
        block.diagonal().add_(candidate * scale)
        weight = torch.cholesky_solve(cross, torch.linalg.cholesky(block))
        guess = (x[held] @ weight + centre).argmax(dim=1).numpy()
        scores[candidate * scale] = (guess == y_train[held]).mean()
    return max(scores, key=lambda alpha: (scores[alpha], alpha))
