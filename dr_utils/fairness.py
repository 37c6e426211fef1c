"""How unequally accuracy is spread over classes (Figs. 7 and 9)."""

from __future__ import annotations

import numpy as np


def gini(values) -> float:
    """Return the Gini index of per-class accuracies, population form.

    It is the mean absolute difference of all pairs over twice the mean: 0 when all are equal, all zero included, and
    (C - 1) / C when one class takes all.

    Parameters
    ----------
    values : array of shape [C]
        Non-negative values, one per class; the paper averages each class's accuracy over seeds first.

    Raises
    ------
    ValueError
        No values, not a flat list, NaN, infinite or negative values.

    Examples
    --------
    >>> gini([0.8, 0.8, 0.8]), gini([0.0, 0.0, 0.9, 0.9])
    (0.0, 0.5)
    """
    values = _check_values(values)
    if values.min() == values.max():
        return 0.0
    # Over sorted values the sum of absolute differences is linear: rank i (from 1) counts 2i - C - 1 times.
    ranks = np.arange(1, len(values) + 1)
    return float(np.dot(2 * ranks - len(values) - 1, np.sort(values)) / (len(values) * values.sum()))


def coefficient_of_variation(values) -> float:
    """Return the population standard deviation of per-class accuracies over their mean.

    `values` and errors are those of `gini`. It is 0 when all are equal, all zero included, and sqrt(C - 1) when one
    class takes all.

    Examples
    --------
    >>> round(coefficient_of_variation([0.2, 0.6]), 6)
    0.5
    """
    values = _check_values(values)
    if values.min() == values.max():
        return 0.0
    return float(values.std() / values.mean())


def _check_values(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or values.size == 0:
        raise ValueError(f"values must be a non-empty list, one number per class; got shape {values.shape}.")
    if not np.isfinite(values).all():
        raise ValueError(f"values must be finite; got {values[~np.isfinite(values)][0]} for a class.")
    if values.min() < 0:
        raise ValueError(f"values must not be negative (accuracies per class); got {values.min()}.")
    return values
