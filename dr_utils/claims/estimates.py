"""Numbers that know their noise, curves of them, and many of them against one threshold.

The noise of a number is how far it moves when test images and subsets are drawn again (`dr_utils.resampling`). Every
network sees the same resamples, so the noise of a function of numbers is that of the same function of their resamples.
CKA, a mean over 500 subsets, has the noise of its images, by a jackknife over groups of them. An interval is Student's
t, with one degree of freedom less than there are seeds or groups, times the standard deviation over the resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from dr_utils.redundancy import critical_fractions
from dr_utils.resampling import DRAWS

HOLDS, DIFFERS, OPEN, NO_DATA = "holds", "differs", "open", "no data"
NOTHING = "nothing measured"
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

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.draws - other.draws, min(self.n_seeds, other.n_seeds))

    def __mul__(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.draws * factor, self.n_seeds)

    def __abs__(self) -> Estimate:
        return self * (-1 if self.value < 0 else 1)

    def __str__(self) -> str:
        low, high = self.interval(LEVEL)
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
    return apply(lambda values: values.mean(axis=-1), parts)


@dataclass(frozen=True)
class Known:
    """A number whose interval at a level is known without resamples."""

    value: float
    interval: Callable[[float], tuple[float, float]]
    __str__ = Estimate.__str__


def deviation(value: float, df: int) -> Known:
    """Return a standard deviation, or its ratio to a known one, with its interval by chi-square."""
    return Known(value, lambda level: tuple(value * np.sqrt(df / special.chdtri(df, [level / 2, 1 - level / 2]))))


def bounds(value: float, low: float, high: float) -> Known:
    """Return a number that was written with its interval."""
    return Known(value, lambda _: (low, high))


def slope(x, y) -> Known | Estimate:
    """Return the slope of a line through points, with its interval by Student's t; absent without three different x."""
    if len(np.unique(x)) < 3:
        return ABSENT
    (found, _), covariance = np.polyfit(x, y, 1, cov=True)
    error, df = covariance[0, 0] ** 0.5, len(x) - 2
    return Known(found, lambda level: tuple(found + error * special.stdtrit(df, [level / 2, 1 - level / 2])))


@dataclass(frozen=True)
class Curve:
    """Means over seeds, or over all draws of subsets where there were more, by rising fraction; `std` is over seeds."""

    fractions: np.ndarray
    n_neurons: np.ndarray
    mean: np.ndarray
    std: np.ndarray
    points: Sequence[Estimate]
    n_seeds: int

    def __bool__(self) -> bool:
        return len(self.points) > 0

    def at(self, fraction: float) -> Estimate:
        """Return the mean at one fraction; `ABSENT` where the grid lacks it."""
        hit = np.flatnonzero(close(self.fractions, fraction))
        return self.points[hit[0]] if hit.size else ABSENT

    def parts(self, least: float = 0.0) -> np.ndarray:
        """Return the fractions from this one on that are below the whole layer."""
        return self.fractions[(self.fractions >= least * (1 - 1e-6)) & (self.fractions < 1.0)]

    def redundancy(self, delta: float) -> Estimate:
        """Return DR by rule "crossing", in shares of the neurons; absent without a whole layer that is ever right."""
        if not self.at(1.0).value > 0:
            return ABSENT
        shares, first = np.unique(self.n_neurons / self.n_neurons[-1], return_index=True)

        def crossing(values: np.ndarray) -> np.ndarray:
            ratio = (values / np.maximum(values[..., -1:], 1e-9)).reshape(-1, len(shares)).T
            return 1 - critical_fractions(shares, ratio, delta, "crossing").reshape(values.shape[:-1])

        return apply(crossing, [self.points[i] for i in first])


@dataclass(frozen=True)
class Outcome:
    measured: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Cell:
    """The number of one network and task (or pair, family, ...), and whether it speaks for a claim or against."""

    name: str
    text: str
    state: str  # "for", "against" (beyond the level of all cells together), "opposed" (beyond its own 95 %), "noise"
    value: float
    effect: float = np.nan  # how far from the threshold it would have had to be to be clear


def compared(numbers: Mapping[str, Estimate | Known], threshold: float, *, above=True, n: int = 0, picked=False):
    """Return a cell for every number there is: clearly above (or below) the threshold, clearly not, or neither.

    They are `n` comparisons in all, or were `picked` as the worst of so many: then their own 95 % say nothing.
    """
    found = {name: number for name, number in numbers.items() if np.isfinite(number.value)}
    sign, cells = 1 if above else -1, []
    for name, number in found.items():
        low, high = sorted(sign * end for end in number.interval(LEVEL))
        highest = max(sign * end for end in number.interval(LEVEL / (n or len(found))))
        state = "for" if low > sign * threshold else "against" if highest < sign * threshold else "noise"
        state = "opposed" if state == "noise" and high < sign * threshold and not picked else state
        cells.append(Cell(name, str(number), state, number.value, sign * number.value - low))
    return cells


def within(numbers: Mapping[str, Estimate], margin: float, n: int = 0) -> list[Cell]:
    """Return a cell for every number there is, which is to lie nearer to 0 than the margin, on either side."""
    cells = compared({name: abs(number) for name, number in numbers.items()}, margin, above=False, n=n)
    return [replace(cell, text=str(numbers[cell.name])) for cell in cells]


def worst(found: Mapping[str, Mapping[str, Estimate]], threshold: float) -> list[Cell]:
    """Return a cell for each name's largest number, which is to lie below the threshold."""
    found = {name: {at: x for at, x in own.items() if np.isfinite(x.value)} for name, own in found.items()}
    largest = {name: max(own, key=lambda at: own[at].value) for name, own in found.items() if own}
    numbers = {f"{name} ({at})": found[name][at] for name, at in largest.items()}
    return compared(numbers, threshold, above=False, n=sum(map(len, found.values())), picked=True)


def listed(cells: Sequence[Cell], note: str = "") -> str:
    """Return the cells' numbers on one line; of more than four the median, the lowest and the highest."""
    shown, summary = list(cells), ""
    if len(cells) > MOST_LISTED:
        shown = [min(cells, key=lambda cell: cell.value), max(cells, key=lambda cell: cell.value)]
        median = f"{np.median([cell.value for cell in cells]):.3f}".removesuffix(".000")  # of k a whole number
        summary = f"{len(cells)} cells, median {median}, lowest and highest "
    return summary + "; ".join(f"{cell.name}: {cell.text}" for cell in shown) + (f" ({note})" if note else "")


def decided(cells: Sequence[Cell], needs: str, *, note: str = "", why: str = "", half: str = "") -> Outcome:
    """Return one verdict from all cells; without any there are no data, and `needs` says what would give them.

    "differs" if a cell is against the claim at the level of all cells together, or more than half are at their own;
    "holds" if none is and more than half are clearly for; else "open". With a `half` not measured it cannot hold.
    """
    if not cells:
        return Outcome(NOTHING, NO_DATA, f"needs {needs}")
    clear, against, opposed, noise = (
        [cell for cell in cells if cell.state == state] for state in ("for", "against", "opposed", "noise")
    )
    contrary, most = against + opposed, CLEAR_SHARE * len(cells)
    said = f"clear on {len(clear)} of {len(cells)}"
    said += f", within noise on {len(noise)} ({_names(noise)})" if noise else ""
    wrong = f"against on {len(contrary)} of {len(cells)} ({_names(contrary)}), "
    verdict = HOLDS if len(clear) > most else OPEN
    if against or len(contrary) > most:
        verdict, said = DIFFERS, wrong + said
    elif contrary:
        said = f"one by one {wrong}not so beyond what chance does among many cells; {said}"
    effects = [cell.effect for cell in cells if np.isfinite(cell.effect)]
    if verdict == OPEN and effects:
        said += f"; a distance of {np.median(effects):.3f} would have been clear"
    said += f"; {why}" if why else ""
    if half and verdict != DIFFERS:
        verdict, said = NO_DATA, f"needs {half}; without: {said}"
    return Outcome(listed(cells, note), verdict, said)


def _names(cells: Sequence[Cell]) -> str:
    names = [cell.name for cell in cells]
    return ", ".join(names[:MOST_NAMED]) + (f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else "")
