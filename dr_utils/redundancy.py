"""Diffused redundancy: how many neurons a task can do without (eq. 1), with an interval from the seeds."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations_with_replacement
from math import factorial

import numpy as np

from dr_utils.checks import check_delta, unknown

RULES = ("first", "nearest", "crossing")

# A ratio that equals delta on paper may miss it by rounding (0.36 / 0.4 against 0.9).
TOLERANCE = 1e-9

# Up to 6 seeds all 462 or fewer resamples are listed; beyond, this many are drawn.
MOST_SEEDS_LISTED, N_DRAWS = 6, 4000


def diffused_redundancy(fractions, performance, full, delta: float, *, rule: str = "first") -> float:
    """Return the diffused redundancy DR(g, T, delta) on a grid of fractions, 0 where the whole layer is needed.

    Parameters
    ----------
    fractions, performance : arrays of shape [F] and [F] or [F, seeds]
        Shares of the layer, distinct, in (0, 1], and accuracy of the subsets or CKA with the whole layer.
    full : float or array of shape [seeds]
        Performance of the whole layer, T(g); 1 for CKA. Both are averaged over seeds.
    delta : float
        Tolerance in (0, 1]: the share of T(g) that must be kept.
    rule : {"first", "nearest", "crossing"}
        DR is one minus a fraction. "first" is eq. 1: the smallest whose mean ratio reaches delta, or 1 where none
        does. "nearest" is the published code: the one whose mean ratio is nearest to delta, the smaller of equals.
        "crossing" does not depend on the grid's steps: where the curve, a line in the logarithm of the fraction from
        each grid point to the next, first reaches delta.

    Raises
    ------
    ValueError
        Values outside these ranges, shapes that do not match, NaN (first drop fractions at which CKA is undefined).

    Examples
    --------
    >>> diffused_redundancy([0.1, 0.2, 0.5], [0.5, 0.89, 0.92], 1.0, delta=0.9)
    0.5
    >>> diffused_redundancy([0.1, 0.2, 0.5], [0.5, 0.89, 0.92], 1.0, delta=0.9, rule="nearest")
    0.8
    >>> round(diffused_redundancy([0.1, 0.2, 0.5], [0.5, 0.89, 0.92], 1.0, delta=0.9, rule="crossing"), 3)
    0.729
    """
    return _redundancy(critical_fraction(fractions, performance, full, delta, rule=rule))


def critical_fraction(fractions, performance, full, delta: float, *, rule: str = "first") -> float:
    """Return the fraction f* at which performance reaches delta, 1 - DR; arguments as in `diffused_redundancy`."""
    fractions, performance, full, delta = _checked(fractions, performance, full, delta, rule)
    return float(critical_fractions(fractions, performance.mean(axis=1, keepdims=True) / full.mean(), delta, rule)[0])


def diffused_redundancy_interval(
    fractions, performance, full, delta: float, *, rule: str = "first"
) -> tuple[float, float, float]:
    """Return the diffused redundancy and the ends of its 95 % bootstrap interval over the seeds: dr, low, high.

    A seed drawn again brings its whole curve and, where `full` has one value per seed, its own full layer. The
    interval holds 95 % of the resamples, from percentile to percentile, and always the estimate. All resamples of up to
    6 seeds count with their probability; of more, 4,000 are drawn, the same ones each time. With one seed, low and high
    are NaN. Arguments and errors are those of `diffused_redundancy`.

    >>> diffused_redundancy_interval([0.1, 0.5, 1.0], [[0.7, 0.9], [0.9, 0.95], [1.0, 1.0]], 1.0, delta=0.9)
    (0.5, 0.5, 0.9)
    """
    dr = diffused_redundancy(fractions, performance, full, delta, rule=rule)
    fractions, performance, full, delta = _checked(fractions, performance, full, delta, rule)
    n_seeds = performance.shape[1]
    if n_seeds == 1:
        return dr, float("nan"), float("nan")
    weights, probability = _resamples(n_seeds)
    whole = weights @ np.broadcast_to(full, n_seeds)
    # Few test images can leave a seed without a right answer; resamples of such seeds alone have no ratio.
    weights, whole, probability = (given[whole > 0] for given in (weights, whole, probability))
    drawn = critical_fractions(fractions, performance @ weights.T / whole, delta, rule)
    order = np.argsort(-drawn, kind="stable")  # falling fraction is rising redundancy
    reached = np.cumsum(probability[order]) / probability.sum()
    # A cumulative sum may miss its level by rounding.
    low, high = (_redundancy(drawn[order[np.searchsorted(reached, level - TOLERANCE)]]) for level in (0.025, 0.975))
    return dr, min(low, dr), max(high, dr)


def _redundancy(fraction: float) -> float:
    return round(1.0 - float(fraction), 12)  # 1 - 0.8 is 0.19999999999999996


def critical_fractions(fractions: np.ndarray, ratio: np.ndarray, delta: float, rule: str) -> np.ndarray:
    """Return f* of each column of ratio [F, B]; fractions rise. Nothing is checked."""
    if rule != "nearest":
        enough = ratio >= delta - TOLERANCE
        at = enough.argmax(axis=0)
        if rule == "crossing":
            before, column = np.maximum(at - 1, 0), np.arange(ratio.shape[1])
            low, high = ratio[before, column], ratio[at, column]
            share = np.where(at > 0, (delta - low) / np.where(at > 0, high - low, 1.0), 1.0).clip(0, 1)
            found = fractions[before] * (fractions[at] / fractions[before]) ** share
        else:
            found = fractions[at]
        return np.where(enough.any(axis=0), found, 1.0)
    gap = np.abs(ratio - delta)
    return fractions[(gap <= gap.min(axis=0) + TOLERANCE).argmax(axis=0)]


@lru_cache(maxsize=16)
def _resamples(n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return weights [B, seeds] of bootstrap resamples and their probabilities [B]."""
    if n_seeds > MOST_SEEDS_LISTED:
        counts = np.random.default_rng(0).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=N_DRAWS)
        return counts / n_seeds, np.full(N_DRAWS, 1 / N_DRAWS)
    multisets = combinations_with_replacement(range(n_seeds), n_seeds)
    counts = np.array([np.bincount(chosen, minlength=n_seeds) for chosen in multisets])
    orders = np.array([factorial(n_seeds) / np.prod([float(factorial(c)) for c in row]) for row in counts])
    return counts / n_seeds, orders / n_seeds**n_seeds


def _checked(fractions, performance, full, delta: float, rule: str):
    """Return fractions [F] rising, performance [F, seeds], full [1] or [seeds], and delta."""
    if rule not in RULES:
        raise unknown("rule", rule, RULES)
    fractions, performance, full = (np.asarray(given, dtype=np.float64) for given in (fractions, performance, full))
    n, full = len(np.unique(fractions)), np.atleast_1d(full)
    if not n or fractions.shape != (n,) or not ((fractions > 0) & (fractions <= 1)).all():
        raise ValueError(f"fractions must be distinct shares of the layer in (0, 1], at least one; got {fractions}.")
    if performance.ndim not in (1, 2) or len(performance) != n or performance.size == 0:
        raise ValueError(f"performance must have shape [{n}] or [{n}, seeds]; got {performance.shape}.")
    performance = performance.reshape(n, -1)
    missing = ~np.isfinite(performance).all(axis=1)
    if missing.any():
        raise ValueError(f"performance is NaN or infinite at fraction {fractions[missing][0]}; drop it first.")
    n_seeds = performance.shape[1]
    if full.shape not in ((1,), (n_seeds,)) or not (full.min() >= 0 and 0 < full.sum() < np.inf):
        raise ValueError(f"full must be one number or one per seed ({n_seeds}), on average above 0; got {full}.")
    order = np.argsort(fractions)
    return fractions[order], performance[order], full, check_delta(delta)
