"""How DR against delta was drawn; goes with its last figure."""

from __future__ import annotations

import numpy as np

from dr_utils.plots import style

MARKED = 0.05
BESIDE = 0.003  # shift between the intervals of two curves, in units of delta


def draw_redundancy(ax, rows, look, label: str, *, place: int = 0) -> None:
    """DR against delta with its interval; `rows` has columns delta, dr, low, high.

    Intervals of curves with different `place` stand beside each other, not on top.
    """
    # A fine grid of deltas keeps its line, but markers and intervals only at multiples of MARKED.
    steps = rows["delta"] / MARKED
    marked = np.isclose(steps, steps.round())
    marked = marked if marked.any() else np.ones(len(rows), dtype=bool)
    style.line(ax, rows["delta"], rows["dr"], look, label, markevery=list(np.flatnonzero(marked)))
    at = rows["delta"] + BESIDE * place
    ax.vlines(at[marked], rows["low"][marked], rows["high"][marked], color=look.color, linewidth=1.2, alpha=0.6)
