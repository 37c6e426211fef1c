"""How unequally accuracy is spread over classes (Figs. 7 and 9)."""

from __future__ import annotations

import numpy as np


def gini(values) -> float | np.ndarray:
    """Return the Gini index of per-class accuracies [..., C]: their mean absolute difference over twice their mean.

    It is 0 when all are equal, all zero included, and (C - 1) / C when one class takes all. The paper averages each
    class's accuracy over seeds first. No classes, NaN, infinite and negative values raise ValueError.

    >>> print(gini([0.8, 0.8, 0.8]), gini([0.0, 0.0, 0.9, 0.9]))
    0.0 0.5
    """
    values = np.sort(_checked(values), axis=-1)
    n, total = values.shape[-1], values.sum(axis=-1)
    # Over sorted values the sum of absolute differences is linear: rank i (from 1) counts 2i - C - 1 times.
    found = np.where(values[..., 0] == values[..., -1], 0.0, values @ (2 * np.arange(1, n + 1) - n - 1.0))
    return found / np.where(total > 0, n * total, 1.0)


def coefficient_of_variation(values) -> float | np.ndarray:
    """Return the standard deviation of per-class accuracies [..., C] over their mean; refuses what `gini` does.

    It is that of the population: 0 when all are equal, all zero included, and sqrt(C - 1) when one class takes all.

    >>> print(coefficient_of_variation([0.2, 0.6]).round(6))
    0.5
    """
    values = _checked(values)
    spread = np.where(values.min(axis=-1) == values.max(axis=-1), 0.0, values.std(axis=-1))
    return spread / np.where(spread > 0, values.mean(axis=-1), 1.0)


def even_drop(full, mean) -> np.ndarray:
    """Return per-class accuracies [..., C] of mean `mean` [...], in [0, 1], after every class lost as many points.

    `full` [..., C] are those of the whole layer. A class that would fall below 0 stops there and the others carry its
    share; likewise at 1. (Were the same *share* lost in every class, Gini index and coefficient of variation would not
    change; with the same points lost both rise a little, as the same differences stand beside a smaller mean.)

    >>> even_drop([0.1, 0.5, 0.9], 0.4).round(6)
    array([0. , 0.4, 0.8])
    """
    full, mean = np.asarray(full, dtype=float), np.asarray(mean, dtype=float)[..., None]
    loss = full.mean(axis=-1, keepdims=True) - mean
    # Newton's steps end: a loss meets floors only, a gain ceilings only, and one more class at most with each step.
    for _ in range(full.shape[-1] + 1):
        left = full - loss
        moving = np.count_nonzero((left > 0) & (left < 1), axis=-1, keepdims=True)
        step = (np.clip(left, 0, 1).mean(axis=-1, keepdims=True) - mean) * full.shape[-1] / np.maximum(moving, 1)
        loss = loss + step
        if np.abs(step).max(initial=0) < 1e-15:
            break
    return np.clip(full - loss, 0, 1)


def _checked(values) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim == 0 or values.size == 0 or not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(f"values must be a non-empty list, finite and not negative, one per class; got {values}.")
    return values
