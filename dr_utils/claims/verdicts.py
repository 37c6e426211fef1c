"""From numbers to a verdict.

Many networks and tasks make one verdict as `aggregate` says: a claim that covers them all holds if it is
clear in more than half of the cells and clearly wrong in none. To be clearly wrong a single cell must be so
at the level 0.05 / number of cells, since among many cells one is wrong at 95 % by chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dr_utils.claims.registry import DIFFERS, HOLDS, NOT_TESTED, Outcome
from dr_utils.claims.stats import LEVEL

CLEAR_SHARE = 0.5  # most cells must be clear by themselves: one clear cell among many does not carry a claim
MOST_NAMED = 3
MOST_LISTED = 4  # a table cell stays readable up to about this many numbers


@dataclass(frozen=True)
class Cell:
    """One network and task (or pair, family, ...): its number, and whether that speaks for or against."""

    name: str
    text: str
    # "for", "against" (beyond the level of all cells together), "opposed" (beyond its own 95 % only), "noise"
    state: str
    value: float


def judge(name: str, estimate, threshold: float, n_cells: int, *, above: bool = True, text: str = "") -> Cell:
    """Is the estimate clearly above (or below) the threshold, clearly not, or neither."""
    low, high = estimate.interval()
    low_family, high_family = estimate.interval(LEVEL / max(n_cells, 1))
    if not above:
        low, high, low_family, high_family = -high, -low, -high_family, -low_family
        threshold = -threshold
    state = "against" if high_family < threshold else "opposed" if high < threshold else "noise"
    state = "for" if low > threshold else state
    return Cell(name, text or str(estimate), state, float(estimate.value))


def measured(cells: list[Cell], note: str = "") -> str:
    """The cells' numbers on one line; of more than four the median, the lowest and the highest."""
    shown, summary = list(cells), ""
    if len(cells) > MOST_LISTED:
        shown = [min(cells, key=lambda cell: cell.value), max(cells, key=lambda cell: cell.value)]
        summary = f"{len(cells)} cells, median {np.median([cell.value for cell in cells]):.3f}, lowest and highest "
    return summary + "; ".join(f"{cell.name}: {cell.text}" for cell in shown) + (f" ({note})" if note else "")


def aggregate(cells: list[Cell], *, note: str = "", why: str = "") -> Outcome:
    """One verdict from all cells.

    "differs" if a cell is against the claim at the level of all cells together, or more than half are at
    their own; "holds" if none is and more than half are clearly for; else "not_tested".
    """
    n, tail = len(cells), (f"; {why}" if why else "")
    found = {name: [c for c in cells if c.state == name] for name in ("for", "against", "opposed", "noise")}
    contrary = found["against"] + found["opposed"]
    count = f"clear on {len(found['for'])} of {n}"
    if found["noise"]:
        count += f", within noise on {len(found['noise'])} ({_names(found['noise'])})"
    against = f"against on {len(contrary)} of {n} ({_names(contrary)}), "
    if found["against"] or len(contrary) > CLEAR_SHARE * n:
        return Outcome(measured(cells, note), DIFFERS, against + count + tail)
    if contrary:
        count = "one by one " + against + "not so beyond what chance does among many cells; " + count
    if len(found["for"]) > CLEAR_SHARE * n:
        return Outcome(measured(cells, note), HOLDS, count + tail)
    return Outcome(measured(cells, note), NOT_TESTED, f"within noise: {count}" + tail)


def _names(cells: list[Cell]) -> str:
    names = [cell.name for cell in cells]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
