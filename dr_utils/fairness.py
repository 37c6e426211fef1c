"""How unequally accuracy is spread over classes (Figs. 7 and 9)."""

from __future__ import annotations

import numpy as np


def gini(values) -> float:
    """Return the Gini index of per-class accuracies [C]: their mean absolute difference over twice their mean.

    It is 0 when all are equal, all zero included, and (C - 1) / C when one class takes all. The paper averages each
    class's accuracy over seeds first. An empty or nested list, NaN, infinite and negative values raise ValueError.

    >>> gini([0.8, 0.8, 0.8]), gini([0.0, 0.0, 0.9, 0.9])
    (0.0, 0.5)
    """
    values = _checked(values)
    if values.min() == values.max():
        return 0.0
    # Over sorted values the sum of absolute differences is linear: rank i (from 1) counts 2i - C - 1 times.
    ranks = np.arange(1, len(values) + 1)
    return float(np.dot(2 * ranks - len(values) - 1, np.sort(values)) / (len(values) * values.sum()))


def coefficient_of_variation(values) -> float:
    """Return the population standard deviation of per-class accuracies [C] over their mean; refuses what `gini` does.

    It is 0 when all are equal, all zero included, and sqrt(C - 1) when one class takes all.

    >>> round(coefficient_of_variation([0.2, 0.6]), 6)
    0.5
    """
    values = _checked(values)
    return 0.0 if values.min() == values.max() else float(values.std() / values.mean())


def _checked(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0 or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"values must be a non-empty list, finite and not negative, one per class; got {values}.")
    return values
