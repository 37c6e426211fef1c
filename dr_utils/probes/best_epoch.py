"""The epoch at which each probe did best on held-out train samples, as the published code chooses it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from dr_utils.probes.result import evaluated

# One split for every probe and grid, so that probes are compared on the same samples.
_SPLIT_SEED = 0


class BestEpoch:
    """Holds out a share of train, and remembers each probe's weights at its best epoch there.

    Parameters
    ----------
    x, y : arrays of shape [n, D] and [n]
        The train samples.
    share : float
        In (0, 1); stratified.
    subsets : sequence of P int arrays
    device : torch.device

    Attributes
    ----------
    kept : int array
        Those that are still trained on, ascending.
    accuracy : float array of shape [P]
        On the held-out samples, at the best epoch.

    Raises
    ------
    ValueError
        Too few samples of a class to be split.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, share: float, subsets: Sequence[np.ndarray], device: torch.device):
        from sklearn.model_selection import train_test_split

        n = len(x)
        try:
            kept, out = train_test_split(np.arange(n), test_size=share, random_state=_SPLIT_SEED, stratify=y)
        except ValueError as error:
            raise ValueError(
                f"held_out={share} of {n} train samples in {len(np.unique(y))} classes cannot be stratified "
                f"({error}); hold out more or less, or take held_out=0."
            ) from error
        self.kept = np.sort(kept)
        self._x, self._y, self._subsets, self._device = x[out], y[out], list(subsets), device
        self.accuracy = np.full(len(self._subsets), -1.0)
        self.weights: list[np.ndarray] = []
        self.bias = np.empty((0, 0))

    def look(self, weights: list[np.ndarray], bias: np.ndarray) -> None:
        """Compare the probes as they are after an epoch, weights P x [C, k] and bias [P, C], with their best so far."""
        # A probe that diverged scores nothing, and what it was before is kept.
        finite = np.array([np.isfinite(w).all() and np.isfinite(b).all() for w, b in zip(weights, bias, strict=True)])
        safe = [w if ok else np.zeros_like(w) for w, ok in zip(weights, finite, strict=True)]
        intercepts = np.where(finite[:, None], bias, 0.0).astype(bias.dtype)
        result = evaluated(safe, intercepts, self._subsets, self._x, self._y, self._device)
        better = (np.where(finite, result.accuracy, -0.5) > self.accuracy).nonzero()[0]
        if not len(self.weights):
            self.weights, self.bias = list(weights), bias.copy()
        for p in better:
            self.weights[p], self.bias[p], self.accuracy[p] = weights[p], bias[p], result.accuracy[p]
