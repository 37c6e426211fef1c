"""Random subsets of one layer, drawn one after the other, and how similar each is to the whole layer."""

from __future__ import annotations

import numpy as np

from dr_utils.cka import part_whole
from dr_utils.subsets import random_subsets

FIRST_SEED = 1001  # apart from the seeds of profiles, so that a fresh draw is not one that the tables hold


class Draws:
    """Draws from one layer, each remembered under its number of neurons.

    Parameters
    ----------
    q : float64 array of shape [D, D]
        From `dr_utils.cka.CKAStatistics.matrix`.
    """

    def __init__(self, q: np.ndarray):
        self.q = q
        self.past: dict[int, list[float]] = {}
        self._total, self._trace = float(q.sum()), float(np.trace(q))

    @property
    def width(self) -> int:
        """Neurons in the layer, D."""
        return len(self.q)

    def draw(self, n_neurons: int, times: int = 1) -> list[float]:
        """Draw so many further subsets of `n_neurons` neurons; return the CKA of all drawn so far, the newest last.

        Draw i has seed ``FIRST_SEED + i``, so that a reader can draw the same one again. NaN where CKA is undefined.
        """
        past = self.past.setdefault(n_neurons, [])
        seeds = range(FIRST_SEED + len(past), FIRST_SEED + len(past) + times)
        past.extend(part_whole(self.q, random_subsets(self.width, n_neurons / self.width, seeds)).tolist())
        return past

    def expected(self, n_neurons: int) -> float:
        """CKA with the whole layer to be expected of a random subset, to first order.

        With a the subset's mask and 1 the whole layer's, CKA is a'Q1 / sqrt(a'Qa * 1'Q1). Over all subsets of k of D
        neurons a'Q1 is k/D of Q's sum on average, and a'Qa is k/D of its trace and k(k-1) / (D(D-1)) of the rest; these
        means are put in place of the two random numbers.

        Returns
        -------
        float
            Exact at k = D; elsewhere it leaves out what the spread of a'Qa adds.
        """
        k, d = n_neurons, self.width
        one, two = k / d, k * (k - 1) / (d * (d - 1)) if d > 1 else 1.0
        size = one * self._trace + two * (self._total - self._trace)
        return float(one * self._total / np.sqrt(size * self._total)) if size > 0 and self._total > 0 else float("nan")
