"""One look for all figures: colours, markers, axes, published curves, and how a figure is saved."""

from __future__ import annotations

import textwrap
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dr_utils.plots.look import MARKERS, PALETTE, PAPER, RC

LINES = ("-", (0, (6, 1.5)), (0, (4, 1.5, 1, 1.5)), (0, (2, 1)), (0, (6, 1, 1, 1, 1, 1)))
PAPER_GREY = "0.45"
BAND = "Lines are means over seeds, bands ±1 standard deviation."


@dataclass(frozen=True)
class Look:
    """Colour, marker and dashes of one network or task, the same in every panel."""

    color: tuple
    marker: str
    linestyle: object


def looks(names) -> dict[str, Look]:
    """A look for each name, in the order given."""
    return {
        # The marker moves on by one with every round of colours: no two of the first hundred look alike.
        name: Look(PALETTE[i % len(PALETTE)], MARKERS[(i + i // len(PALETTE)) % len(MARKERS)], LINES[i % len(LINES)])
        for i, name in enumerate(names)
    }


def network_looks(view, shown) -> dict[str, Look]:
    """A look for each network that is the same in every figure of its kind; `view` is a `dr_utils.claims.view.View`.

    Where networks of several kinds are shown together, or narrow ones, looks go by their place among all; where middle
    layers are, by their place among what is shown.
    """
    cards = view.networks.loc[view.models()]
    chosen = cards.loc[[m for m in cards["model"] if m in set(shown)]]
    if chosen["training"].eq("layer").any():
        return looks(chosen["model"])
    cards = cards[cards["training"].ne("layer")]
    if chosen["kind"].nunique() == 1 and chosen["training"].ne("narrow").all():
        cards = cards[cards["kind"].isin(chosen["kind"]) & cards["training"].ne("narrow")]
    return looks(cards["model"])


@contextmanager
def panels(rows: int, columns: int, *, width: float = 3.3, height: float = 2.8):
    """Axes [rows, columns] of a new figure, drawn in the house's look; `axes[0, 0].figure` is the figure.

    The figure is taken from pyplot's list of open ones, so that a notebook shows it once, where it is named.
    """
    with plt.rc_context(RC):
        # One narrow panel leaves no room for a legend or a note below it.
        size = (max(width * columns, 6.0), height * rows + 0.9)
        figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
        try:
            yield axes
        finally:
            plt.close(figure)


def line(ax: Axes, x, y, look: Look, label: str, **options):
    """A line in a network's or task's look; returns it."""
    (drawn,) = ax.plot(x, y, color=look.color, marker=look.marker, linestyle=look.linestyle, label=label, **options)
    return drawn


def band(ax: Axes, x, values: np.ndarray, look: Look, label: str, *, std: np.ndarray | None = None):
    """Mean line with a band of ±1 standard deviation over the seeds of values [F, S]; returns the line.

    With one seed, `std` [F] is the standard deviation where it is known from elsewhere, NaN where it is not.
    """
    mean = values.mean(axis=1)
    drawn = line(ax, x, mean, look, label)
    if values.shape[1] > 1:
        std = values.std(axis=1, ddof=1)
    if std is not None:
        ax.fill_between(x, mean - std, mean + std, color=look.color, alpha=0.2, linewidth=0)
    return drawn


def paper_line(ax: Axes, x, y, look: Look, label: str):
    """A published curve: thin, grey, dashed, with the marker of ours that it stands beside, hollow in its colour."""
    (line,) = ax.plot(
        x,
        y,
        color=PAPER_GREY,
        linestyle="--",
        linewidth=0.9,
        marker=look.marker,
        markersize=3.5,
        markerfacecolor="white",
        markeredgecolor=look.color,
        label=label,
    )
    return line


def fraction_axis(ax: Axes, fractions, label: str = "share of neurons kept") -> None:
    """Logarithmic where the grid spans more than a decade and a half, else linear from 0."""
    fractions = np.asarray(fractions, dtype=float)
    ax.set_xlabel(label)
    if fractions.max() / fractions.min() > 30:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
        ax.xaxis.set_minor_locator(NullLocator())
    elif ax.get_xscale() == "linear":  # a wider grid on the same axes may have made it logarithmic
        ax.set_xlim(left=0)


def from_zero(ax: Axes, label: str, top: float | None = None) -> None:
    """A vertical axis that starts at 0, so that heights can be compared."""
    ax.set_ylabel(label)
    ax.set_ylim(0, top)


def finish(axes: np.ndarray, title: str = "", *, note: str = "") -> Figure:
    """One legend under the title above all panels and the note below them, so that nothing covers the data.

    Labels that a panel shares with its left neighbour are left out; published curves come last in the legend.
    """
    figure = axes[0, 0].figure
    handles: dict[str, object] = {}
    for ax in axes.flat:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    labels = sorted(handles, key=lambda label: label.startswith(PAPER))
    if labels:
        legend = figure.legend(
            [handles[label] for label in labels],
            labels,
            loc="outside upper center",
            ncols=_legend_columns(labels, figure.get_figwidth()),
            frameon=False,
            title=title or None,
        )
        legend.get_title().set(fontsize=11, multialignment="center")
    for row in axes:
        for left, right in zip(row[-2::-1], row[:0:-1], strict=True):
            if left.get_ylabel() == right.get_ylabel():
                right.set_ylabel("")
    if note:
        # About 16 characters an inch at this size.
        text = "\n".join(textwrap.wrap(note, int(figure.get_figwidth() * 16)))
        figure.supxlabel(text, fontsize=7.5, color="0.35")
    return figure


def _legend_columns(labels: list[str], width: float) -> int:
    """As many columns as fit into `width` inches, the rows evenly filled."""
    for columns in range(len(labels), 1, -1):
        rows = -(-len(labels) // columns)
        filled = [labels[start : start + rows] for start in range(0, len(labels), rows)]
        # A letter takes about 0.07 inch at this size, the line before the label and the gap after it 0.7.
        if sum(0.07 * max(map(len, column)) + 0.7 for column in filled) <= width:
            return len(filled)
    return 1


def grid(n: int) -> tuple[int, int]:
    """Rows and columns for n panels: up to three in a row, four as two by two."""
    columns = 2 if n in (2, 4) else min(n, 3)
    return -(-n // columns), columns


def hide_rest(axes: np.ndarray, n: int) -> None:
    """Take the panels beyond the n-th out of sight."""
    for ax in axes.flat[n:]:
        ax.set_visible(False)


def joined(*notes: str | None) -> str:
    """Notes as one line."""
    return " ".join(note for note in notes if note)


def nothing_to_draw(figure: str, needs: str) -> ValueError:
    """The error of a figure whose tables are not there."""
    return ValueError(f"{figure}: nothing to draw; it needs {needs}. Run the study for these first.")
