"""Noise: when is a number clearly above another, and what do many such answers say together.

Two sources of noise enter wherever accuracies are compared, added in quadrature:

seeds
    The standard error over the seeds' subsets, paired by seed where both sides have the seeds.
images
    The test set is finite. For a weighted sum of accuracies there are two upper bounds of this error, the
    smaller of which is used: binomial errors taken as independent (too large, since the same images serve all
    probes), and the spread over classes of the per-class sums divided by sqrt(classes) (too large where
    classes truly differ).

Intervals are two-sided at 95 %, Student's t with Welch-Satterthwaite degrees of freedom (S - 1 for the
seeds). DR is a step function of the curve, so its noise is found by drawing: seeds with replacement, and the
performance ratio moved by its error from the images. Both sides of a difference draw the same seeds.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import scipy

from dr_utils.claims.curves import Curve, close
from dr_utils.claims.view import View
from dr_utils.redundancy import TOLERANCE

LEVEL = 0.05  # two-sided, the usual 95 %
FEWEST_SEEDS = 3  # below, a spread over seeds says next to nothing
N_DRAWS = 4000  # the quantile that 60 cells ask for (0.0004) still has a draw or two beyond it


@dataclass(frozen=True)
class Estimate:
    """A number with a standard error and its degrees of freedom."""

    value: float
    error: float
    df: float = np.inf

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        if not np.isfinite(self.error):
            return -np.inf, np.inf
        half = scipy.stats.t.ppf(1 - level / 2, self.df) * self.error if self.error else 0.0
        return self.value - half, self.value + half

    def __str__(self) -> str:
        return _with_interval(self.value, self.interval())


@dataclass(frozen=True)
class Draws:
    """A number with draws of what it might have been; too few seeds make it unbounded."""

    value: float
    draws: np.ndarray
    n_seeds: int

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        if self.n_seeds < FEWEST_SEEDS or not len(self.draws) or not np.isfinite(self.draws).all():
            return -np.inf, np.inf
        low, high = np.quantile(self.draws, [level / 2, 1 - level / 2], method="inverted_cdf")
        return float(min(low, self.value)), float(max(high, self.value))

    def __sub__(self, other: Draws) -> Draws:
        return Draws(self.value - other.value, self.draws - other.draws, min(self.n_seeds, other.n_seeds))

    def __str__(self) -> str:
        return _with_interval(self.value, self.interval())


def mean_of(draws: list[Draws]) -> Draws:
    """Mean of several numbers drawn together."""
    return Draws(
        float(np.mean([d.value for d in draws])),
        np.mean([d.draws for d in draws], axis=0),
        min(d.n_seeds for d in draws),
    )


def _with_interval(value: float, interval: tuple[float, float]) -> str:
    low, high = interval
    spread = f"[{low:.3f}, {high:.3f}]" if np.isfinite([low, high]).all() else "[spread unknown]"
    return f"{value:.3f} {spread}"


def mean_std(values) -> str:
    """Mean ± standard deviation over seeds."""
    values = np.asarray(values, dtype=float)
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}" if len(values) > 1 else f"{values.mean():.3f}"


# ---- accuracies


def over_seeds(values) -> Estimate:
    """Mean over seeds with its standard error."""
    values = np.asarray(values, dtype=float)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.inf
    return Estimate(float(values.mean()), float(error), max(len(values) - 1, 1))


def combine(value: float, *parts: tuple[float, float]) -> Estimate:
    """Add (standard error, degrees of freedom) in quadrature, Welch-Satterthwaite."""
    variance = sum(error**2 for error, _ in parts)
    if not np.isfinite(variance) or variance == 0:
        return Estimate(value, float(np.sqrt(variance)), 1)
    # A part without a bound on its degrees of freedom contributes nothing to the denominator.
    denominator = sum(error**4 / df for error, df in parts)
    return Estimate(value, float(np.sqrt(variance)), variance**2 / denominator if denominator else np.inf)


@dataclass(frozen=True)
class Term:
    """One accuracy in a weighted sum."""

    weight: float
    model: str
    dataset: str
    fraction: float
    selection: str = "random"
    eval_set: str | None = None


def contrast(view: View, terms: list[Term]) -> Estimate | None:
    """Weighted sum of mean accuracies with its noise from seeds and images; None where one is missing.

    A selection that does not depend on the seed (one row) adds no noise of seeds.
    """
    series = []
    for term in terms:
        curve = view.accuracy(term.model, term.dataset, term.selection, term.eval_set)
        found = None if curve is None else curve.at(term.fraction)
        if found is None:
            return None
        series.append(found)
    value = float(sum(t.weight * s.mean() for t, s in zip(terms, series, strict=True)))
    many = [(t.weight, s) for t, s in zip(terms, series, strict=True) if len(s) > 1]
    if not many:
        return Estimate(value, np.inf, 1)
    common = sorted(set.intersection(*(set(s.index) for _, s in many)))
    if len(common) > 1:
        seeds = over_seeds(sum(w * s[common].to_numpy() for w, s in many))
    else:
        seeds = Estimate(
            value,
            float(np.sqrt(sum(w**2 * s.var() / len(s) for w, s in many))),
            min(len(s) for _, s in many) - 1,
        )
    return combine(value, (seeds.error, seeds.df), image_error(view, terms, [s.mean() for s in series]))


def image_error(view: View, terms: list[Term], accuracies: list[float]) -> tuple[float, float]:
    """(standard error, degrees of freedom) that the finite test sets leave in a weighted sum of accuracies.

    Returns (inf, 1) where the tasks table does not say how many images there are.
    """
    counts = [view.n_test(t.dataset, t.eval_set) for t in terms]
    if any(not n for n in counts):
        return np.inf, 1
    variance = sum(t.weight**2 * p * (1 - p) / n for t, p, n in zip(terms, accuracies, counts, strict=True))
    binomial = (float(np.sqrt(max(variance, 0.0))), np.inf)
    tables = [view.per_class(t.model, t.dataset, t.fraction, t.selection, t.eval_set) for t in terms]
    if len({t.dataset for t in terms}) > 1 or any(table is None or table.empty for table in tables):
        return binomial
    per_class = sum(t.weight * table.mean() for t, table in zip(terms, tables, strict=True)).dropna()
    if len(per_class) < 8:  # with fewer classes their spread is itself too uncertain to be a bound
        return binomial
    by_class = (float(per_class.std() / np.sqrt(len(per_class))), len(per_class) - 1)
    return min(binomial, by_class)


# ---- diffused redundancy


def redundancy_draws(
    view: View,
    model: str,
    dataset: str,
    delta: float,
    *,
    task: str = "probe",
    seeds=None,
    by_neurons: bool = False,
) -> Draws | None:
    """DR by eq. 1 (rule "first") with its noise; None where there is no curve with a whole layer.

    Parameters
    ----------
    task : {"probe", "cka"}
        CKA has no noise from images in the tables, only that of the seeds.
    seeds : sequence of int, optional
        The seeds to draw from, so that two curves can be paired; all seeds of the curve by default.
    by_neurons : bool
        Count shares in whole neurons, as eq. 1 does: for layers so narrow that floor(f * width) / width is
        far from f.
    """
    curve = view.accuracy(model, dataset) if task == "probe" else view.part_whole(model, dataset)
    if curve is None or curve.at(1.0) is None:
        return None
    if seeds is not None:
        curve = curve.keep(seeds)
    shares = curve.n_neurons / curve.n_neurons[-1] if by_neurons else curve.fractions
    shift = np.zeros(N_DRAWS)
    if task == "probe":
        ratio = curve.mean / curve.mean[-1]
        crossing = float(curve.fractions[np.abs(ratio - delta).argmin()])
        terms = [Term(1.0, model, dataset, crossing), Term(-delta, model, dataset, 1.0)]
        error, _ = image_error(view, terms, [float(curve.at(t.fraction).mean()) for t in terms])
        error = 0.0 if crossing == 1.0 else error / curve.mean[-1]
        key = zlib.crc32(f"{model}|{dataset}".encode())  # each cell has its own images, every delta the same ones
        shift = np.random.default_rng(key).standard_normal(N_DRAWS) * error
    n_seeds = len(curve.seeds)
    weights = np.random.default_rng(0).multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=N_DRAWS)
    drawn = weights @ curve.values.T
    value = _first(shares, (curve.mean / curve.mean[-1])[None], delta)[0]
    return Draws(float(value), _first(shares, drawn / drawn[:, -1:], delta - shift), n_seeds)


def _first(shares: np.ndarray, ratio: np.ndarray, delta) -> np.ndarray:
    """Rule "first" for each row of ratio [N, F]; the last column is the whole layer."""
    enough = ratio >= np.reshape(delta, (-1, 1)) - TOLERANCE
    enough[:, -1] = True
    return np.round(1 - shares[enough.argmax(axis=1)], 12)


def redundancy_difference(view, a: tuple, b: tuple, delta: float) -> Draws | None:
    """DR of a minus DR of b, each (model, dataset, task), over the seeds that both have."""
    curves = [view.accuracy(m, d) if task == "probe" else view.part_whole(m, d) for m, d, task in (a, b)]
    if any(curve is None for curve in curves):
        return None
    seeds = sorted(set(curves[0].seeds) & set(curves[1].seeds))
    if not seeds:
        return None
    sides = [redundancy_draws(view, m, d, delta, task=task, seeds=seeds) for m, d, task in (a, b)]
    return None if None in sides else sides[0] - sides[1]


def protocol_note(view: View, dataset: str | None = None, n_seeds: int | None = None) -> str:
    """Which probes the numbers come from: "sgd probes on raw features, 5 seeds, n_test 1000"."""
    parts = ["{} probes on {} features".format(*view.protocol)]
    if n_seeds:
        parts.append(f"{n_seeds} seeds")
    if dataset and view.n_test(dataset):
        parts.append(f"n_test {view.n_test(dataset)}")
    return ", ".join(parts)


def fractions_between(curve: Curve, low: float, high: float) -> list[float]:
    """Grid fractions f with low <= f < high; CSV rounding does not push the lower end out."""
    return [float(f) for f in curve.fractions if (f > low or close([f], low)[0]) and f < high]
