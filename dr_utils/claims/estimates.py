"""Numbers that know their noise, curves of them, and many of them against one threshold.

The noise of a number is how far it moves when test images and subsets are drawn again (`dr_utils.resampling`). Every
network sees the same resamples, so the noise of any difference or function of numbers is that of the same function of
their resamples. CKA, a mean over 500 subsets, has the noise of its images by a jackknife over groups of them. Intervals
are the number plus and minus Student's t, with one degree of freedom less than there are seeds or groups, times the
standard deviation over the resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy import special

from dr_utils.redundancy import critical_fractions
from dr_utils.resampling import DRAWS, GROUPS

HOLDS, DIFFERS, OPEN, NO_DATA = "holds", "differs", "open", "no data"
LEVEL = 0.05  # two-sided, the usual 95 %
FEWEST_SEEDS = 3  # below, a spread over seeds says next to nothing
CLEAR_SHARE = 0.5  # most cells must be clear by themselves: one clear cell among many does not carry a claim
MOST_NAMED, MOST_LISTED = 3, 4  # a table cell stays readable up to about this many names, or numbers


def close(fractions, wanted: float) -> np.ndarray:
    """Which fractions are `wanted`; fractions that were written and read again may miss it by rounding."""
    return np.abs(np.asarray(fractions, dtype=float) - wanted) <= 1e-6 * abs(wanted)


@dataclass(frozen=True)
class Estimate:
    """A number, by how much each resample departs from it [draws], and how many seeds it comes from."""

    value: float
    draws: np.ndarray
    n_seeds: float

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the ends of its interval, unbounded where too few seeds were measured."""
        if self.n_seeds < FEWEST_SEEDS:
            return -np.inf, np.inf
        half = float(special.stdtrit(self.n_seeds - 1, 1 - level / 2) * np.std(self.draws))
        return self.value - half, self.value + half

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(self.value + other.value, self.draws + other.draws, min(self.n_seeds, other.n_seeds))

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.draws * factor, self.n_seeds)

    def __sub__(self, other: Estimate) -> Estimate:
        return self + other * -1

    def __abs__(self) -> Estimate:
        return self * (-1 if self.value < 0 else 1)

    def __str__(self) -> str:
        low, high = self.interval()
        return f"{self.value:.3f} " + (f"[{low:.3f}, {high:.3f}]" if np.isfinite(low) else "[spread unknown]")


ABSENT = Estimate(np.nan, np.zeros(DRAWS), np.inf)  # what was not measured; so is whatever is computed from it


def apply(function: Callable[[np.ndarray], np.ndarray], parts: Sequence[Estimate]) -> Estimate:
    """Return a function [..., n] -> [...] of n numbers with its noise; absent if one of them is, or there are none."""
    if not parts or not np.isfinite([part.value for part in parts]).all():
        return ABSENT
    values, draws = np.array([part.value for part in parts]), np.stack([part.draws for part in parts], axis=-1)
    value = float(function(values))
    return Estimate(value, function(values + draws) - value, min(part.n_seeds for part in parts))


def mean(parts: Sequence[Estimate]) -> Estimate:
    """Return the mean of several numbers."""
    return apply(lambda values: values.mean(axis=-1), parts)


@dataclass(frozen=True)
class Ratio:
    """A sample variance over a known one, its chi-square interval by `df`, and what it is to be shown as."""

    value: float
    df: int
    shown: float | None = None

    def interval(self, level: float = LEVEL) -> tuple[float, float]:
        """Return the ends of its interval."""
        return tuple(self.df * self.value / special.chdtri(self.df, [level / 2, 1 - level / 2]))


@dataclass(frozen=True)
class Curve:
    """Performance over rising fractions [F], the whole layer (1) included where it was measured.

    `values` [F, S] has a column per seed. `draws` [F, draws] is by how much resamples depart from the mean, None where
    the tables have none. `stated` [F] is a standard deviation that was published with a mean, NaN where none was.
    """

    fractions: np.ndarray
    n_neurons: np.ndarray
    values: np.ndarray
    seeds: tuple[int, ...]
    draws: np.ndarray | None = None
    means: np.ndarray | None = None  # over more than the seeds
    stated: np.ndarray | None = None

    @cached_property
    def mean(self) -> np.ndarray:
        """Mean over the seeds [F], or over all draws of subsets where there were more."""
        return self.values.mean(axis=1) if self.means is None else self.means

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviation over the seeds [F]; with one seed the stated one, or NaN."""
        if len(self.seeds) > 1:
            return self.values.std(axis=1, ddof=1)
        return np.full(len(self.values), np.nan) if self.stated is None else self.stated

    def seeds_at(self, fraction: float) -> pd.Series | None:
        """Return performance per seed at one fraction; None where the grid lacks it."""
        hit = np.flatnonzero(close(self.fractions, fraction))
        return pd.Series(self.values[hit[0]], index=list(self.seeds)) if hit.size else None

    def at(self, fraction: float) -> Estimate:
        """Return the mean at one fraction; `ABSENT` where the grid lacks it."""
        hit = np.flatnonzero(close(self.fractions, fraction))
        return self.points[hit[0]] if hit.size else ABSENT

    @cached_property
    def points(self) -> list[Estimate]:
        """Mean at every fraction."""
        draws = np.zeros((len(self.mean), DRAWS)) if self.draws is None else self.draws
        # Means over all draws of subsets have the noise of their images, which are drawn in groups.
        n_seeds = 0 if self.draws is None else len(self.seeds) if self.means is None else GROUPS
        return [Estimate(float(m), d, n_seeds) for m, d in zip(self.mean, draws, strict=True)]

    def between(self, low: float, high: float = 1.0) -> list[float]:
        """Return the grid's fractions f with low <= f < high."""
        return [float(f) for f in self.fractions if (f > low or close([f], low)[0]) and f < high]

    def redundancy(self, delta: float) -> Estimate:
        """Return DR by rule "crossing", in shares of the neurons; absent without a whole layer that is ever right."""
        shares, first = np.unique(self.n_neurons / self.n_neurons[-1], return_index=True)
        if not close(self.fractions, 1.0).any() or not self.mean[-1] > 0:
            return ABSENT

        def crossing(values: np.ndarray) -> np.ndarray:
            ratio = np.atleast_2d(values / np.maximum(values[..., -1:], 1e-9)).T
            found = 1 - critical_fractions(shares, ratio, delta, "crossing")
            return found if values.ndim > 1 else found[0]

        return apply(crossing, [self.points[i] for i in first])


@dataclass(frozen=True)
class Outcome:
    """What came of one claim: the numbers with their spread, the verdict, and why it is what it is."""

    measured: str
    verdict: str
    why: str


NOTHING = "nothing measured"


def no_data(needed: str, measured: str = NOTHING) -> Outcome:
    """Return the outcome of a claim for which numbers are lacking, with what would give them."""
    return Outcome(measured, NO_DATA, needed)


@dataclass(frozen=True)
class Cell:
    """One network and task (or pair, family, ...): its number, and whether that speaks for or against.

    `state` is "for", "against" (beyond the level of all cells together), "opposed" (beyond its own 95 % only) or
    "noise"; `effect` is how far from the threshold it would have had to be to be clear.
    """

    name: str
    text: str
    state: str
    value: float
    effect: float = np.nan


def compared(estimates: Mapping[str, Estimate | Ratio], threshold: float, *, above: bool = True, texts=None,
             n: int | None = None, picked: bool = False) -> list[Cell]:  # fmt: skip
    """Return a cell for every number there is: clearly above (or below) the threshold, clearly not, or neither.

    `n` is the number of comparisons in all, by default these. With `picked` these are the worst of them, so that one
    that is wrong at its own 95 % says nothing.
    """
    found = {name: estimate for name, estimate in estimates.items() if np.isfinite(estimate.value)}
    sign, cells = 1 if above else -1, []
    for name, estimate in found.items():
        (low, high), wide = (sorted(sign * end for end in estimate.interval(level))
                             for level in (LEVEL, LEVEL / (n or len(found))))  # fmt: skip
        state = "for" if low > sign * threshold else "against" if wide[1] < sign * threshold else "noise"
        state = "opposed" if state == "noise" and high < sign * threshold and not picked else state
        text = (texts or {}).get(name) or str(estimate)
        shown = getattr(estimate, "shown", None) or estimate.value
        cells.append(Cell(name, text, state, float(shown), sign * estimate.value - low))
    return cells


def reached(bounds: Mapping[str, tuple[float, float, float]], least: float) -> list[Cell]:
    """Return a cell for every (value, low, high): whether it is at least `least`, the whole interval counted."""
    cells = []
    for name, (value, low, high) in bounds.items():
        state = "for" if low >= least - 1e-9 else "against" if high < least - 1e-9 else "noise"
        cells.append(Cell(name, f"{value:.3f} [{low:.3f}, {high:.3f}]", state, value, value - low))
    return cells


def listed(cells: Sequence[Cell], note: str = "") -> str:
    """Return the cells' numbers on one line; of more than four the median, the lowest and the highest."""
    shown, summary = list(cells), ""
    if len(cells) > MOST_LISTED:
        shown = [min(cells, key=lambda cell: cell.value), max(cells, key=lambda cell: cell.value)]
        summary = f"{len(cells)} cells, median {np.median([cell.value for cell in cells]):.3f}, lowest and highest "
    return summary + "; ".join(f"{cell.name}: {cell.text}" for cell in shown) + (f" ({note})" if note else "")


def decided(cells: Sequence[Cell], lacking: str, *, note: str = "", why: str = "") -> Outcome:
    """Return one verdict from all cells; without any, there are no data but for what is `lacking`.

    "differs" if a cell is against the claim at the level of all cells together, or more than half are at their own;
    "holds" if none is and more than half are clearly for; else "open", with the smallest effect that was to be seen.
    """
    if not cells:
        return no_data(lacking)
    n, tail, numbers = len(cells), (f"; {why}" if why else ""), listed(cells, note)
    found = {state: [c for c in cells if c.state == state] for state in ("for", "against", "opposed", "noise")}
    contrary = found["against"] + found["opposed"]
    count = f"clear on {len(found['for'])} of {n}"
    if found["noise"]:
        count += f", within noise on {len(found['noise'])} ({_names(found['noise'])})"
    against = f"against on {len(contrary)} of {n} ({_names(contrary)}), "
    if found["against"] or len(contrary) > CLEAR_SHARE * n:
        return Outcome(numbers, DIFFERS, against + count + tail)
    if contrary:
        count = f"one by one {against}not so beyond what chance does among many cells; {count}"
    if len(found["for"]) > CLEAR_SHARE * n:
        return Outcome(numbers, HOLDS, count + tail)
    effects = [cell.effect for cell in cells if np.isfinite(cell.effect)]
    seen = f"; a distance of {np.median(effects):.3f} would have been clear" if effects else ""
    return Outcome(numbers, OPEN, f"{count}{seen}{tail}")


def half_missing(outcome: Outcome, lacking: str) -> Outcome:
    """Return the outcome of a claim of which a half was not measured: it can differ, but not hold."""
    if outcome.verdict in (DIFFERS, NO_DATA):
        return outcome
    return no_data(f"{lacking}; the other half: {outcome.why}", outcome.measured)


def _names(cells: Iterable[Cell]) -> str:
    names = [cell.name for cell in cells]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
