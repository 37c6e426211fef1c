"""Inequality over classes with its noise, against a drop of accuracy that is spread evenly.

A drop can be even in two ways. If every class keeps the same share of its accuracy, Gini index and
coefficient of variation do not change at all. If every class loses the same number of points, both rise a
little, because the same differences stand beside a smaller mean. The second, harder comparison is the one
made here.

Few test images per class add binomial noise that itself looks like inequality, and more so near accuracy 1/2.
The even drop is therefore given the same extra noise before it is compared.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from dr_utils.claims.stats import Estimate, combine
from dr_utils.claims.view import View

N_DRAWS = 400  # of a standard deviation, known to 1 / sqrt(2 * 400) = 3.5 %


def gini_rows(values: np.ndarray) -> np.ndarray:
    """Gini index of each row [..., C], as `fairness.gini`; all zero counts as equal."""
    values = np.sort(values, axis=-1)
    n, total = values.shape[-1], values.sum(axis=-1)
    raw = values @ (2 * np.arange(1, n + 1) - n - 1)
    return np.divide(raw, n * total, out=np.zeros_like(total), where=total > 0)


def variation_rows(values: np.ndarray) -> np.ndarray:
    """Coefficient of variation of each row [..., C], as `fairness.coefficient_of_variation`."""
    mean, std = values.mean(axis=-1), values.std(axis=-1)
    return np.divide(std, mean, out=np.zeros_like(mean), where=mean > 0)


MEASURES = {"gini": gini_rows, "coefficient_of_variation": variation_rows}


def even_drop(full: np.ndarray, mean) -> np.ndarray:
    """Per-class accuracies whose mean is `mean` after every class lost the same number of points.

    Parameters
    ----------
    full : array of shape [..., C]
        Per-class accuracies of the whole layer.
    mean : array of shape [...]
        Accuracy after the drop, in [0, 1].

    Returns
    -------
    array of shape [..., C]
        A class that would fall below 0 stops there and the others carry its share; likewise at 1.
    """
    mean = np.asarray(mean, dtype=float)[..., None]
    low = full.min(axis=-1, keepdims=True) - 1.0  # a loss at which every class is at its ceiling ...
    high = full.max(axis=-1, keepdims=True)  # ... and one at which every class is at its floor
    for _ in range(50):  # bisection to 2e-15: the mean falls as the loss grows
        loss = (low + high) / 2
        too_little = np.clip(full - loss, 0, 1).mean(axis=-1, keepdims=True) > mean
        low, high = np.where(too_little, loss, low), np.where(too_little, high, loss)
    return np.clip(full - (low + high) / 2, 0, 1)


@dataclass(frozen=True)
class Point:
    """One fraction of one curve: accuracy and inequality, the latter with the even drop beside it."""

    fraction: float
    accuracy: float
    inequality: float
    even: float
    excess: Estimate  # inequality minus that of the even drop


@dataclass(frozen=True)
class InequalityCurve:
    """Inequality over rising fractions, the whole layer last; `left_out` [S, F] is without one seed each."""

    points: list[Point]
    left_out: np.ndarray
    left_out_accuracy: np.ndarray
    image_error: np.ndarray


def inequality_curve(view: View, model: str, dataset: str, measure: str, selection: str = "random"):
    """Inequality of per-class accuracy averaged over seeds, for every fraction.

    Returns
    -------
    InequalityCurve or None
        None where the table has no per-class accuracies, no whole layer, or fewer than two seeds.
    """
    curve, n_test, n_classes = (
        view.accuracy(model, dataset, selection),
        view.n_test(dataset),
        view.n_classes(dataset),
    )
    if curve is None or not n_test or not n_classes:
        return None
    tables = {float(f): view.per_class(model, dataset, f, selection) for f in curve.fractions if f < 1}
    tables[1.0] = view.per_class(model, dataset, 1.0)  # the whole layer is filed under "random"
    tables = {f: t for f, t in tables.items() if t is not None and len(t)}
    if 1.0 not in tables or len(tables) < 2:
        return None
    # First-k subsets have one seed; they then follow the seeds of the whole layer.
    seeds = tables[1.0].index
    classes = sorted(set.intersection(*(set(t.columns) for t in tables.values())))
    stack = [_by_seed(tables[f][classes], seeds) for f in sorted(tables)]
    if len(seeds) < 2 or any(block is None for block in stack):
        return None
    values = np.stack(stack)  # [F, S, C]
    rows = MEASURES[measure]
    per_class = values.mean(axis=1)
    n_class = max(n_test / n_classes, 1.0)
    rng = np.random.default_rng(zlib.crc32(f"{model}|{dataset}|{measure}".encode()))
    # Inequality drawn anew from the observed accuracies: how far do the test images move it.
    drawn = rng.binomial(int(round(n_class)), per_class, size=(N_DRAWS, *per_class.shape)) / round(n_class)
    image = rows(drawn).std(axis=0)
    rest = (values.sum(axis=1, keepdims=True) - values) / (len(seeds) - 1)  # [F, S, C], one seed left out
    left_out = rows(rest).T
    observed = rows(per_class)
    even, even_left_out = _even(rows, per_class, rest, n_class, rng)
    points = []
    for i, f in enumerate(sorted(tables)):
        jackknife = jackknife_error(left_out[:, i] - even_left_out[:, i])
        image_part = float(np.hypot(image[i], image[-1])) if f < 1 else 0.0
        excess = combine(float(observed[i] - even[i]), (jackknife, len(seeds) - 1), (image_part, np.inf))
        points.append(Point(f, float(per_class[i].mean()), float(observed[i]), float(even[i]), excess))
    return InequalityCurve(points, left_out, rest.mean(axis=2).T, image)


def jackknife_error(left_out: np.ndarray) -> float:
    """Standard error of a number from its values with one seed left out each."""
    n = len(left_out)
    return float(np.sqrt((n - 1) / n * np.sum((left_out - left_out.mean()) ** 2)))


def _by_seed(table, seeds) -> np.ndarray | None:
    if len(table) == 1:
        return np.repeat(table.to_numpy(), len(seeds), axis=0)
    return table.loc[seeds].to_numpy() if set(seeds) <= set(table.index) else None


def _even(rows, per_class, rest, n_class: float, rng) -> tuple[np.ndarray, np.ndarray]:
    """Expected inequality of the even drops [F], and with each seed left out [S, F].

    per_class has shape [F, C], rest [F, S, C]; the whole layer comes last.
    """
    full = np.broadcast_to(per_class[-1], per_class.shape)
    even = even_drop(full, per_class.mean(axis=-1))
    # The whole layer already carries its own binomial noise; only what lower accuracies add is put on top.
    extra = np.sqrt(np.maximum(even * (1 - even) - full * (1 - full), 0) / n_class)
    noise = rng.standard_normal((N_DRAWS, *even.shape)) * extra
    expected = rows(np.clip(even + noise, 0, 1)).mean(axis=0)
    each = rows(even_drop(np.broadcast_to(rest[-1], rest.shape), rest.mean(axis=-1)))
    return expected, each.T + (expected - rows(even))
