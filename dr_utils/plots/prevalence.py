"""Figure 1: accuracy, diffused redundancy and part-whole CKA of one network per row."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dr_utils.claims.view import View
from dr_utils.plots import style
from dr_utils.plots.printed import published_curve, titled

MARKED = 0.05
BESIDE = 0.003  # shift between the intervals of two curves, in units of delta


def prevalence(tables: dict, models=None, *, datasets=None, delta: float = 0.9, note: str = "") -> Figure:
    """Accuracy against fraction, DR against delta, part-whole CKA against fraction (Fig. 1).

    Parameters
    ----------
    tables : dict of DataFrame
        probes, redundancy, cka, networks, tasks; panels whose table is missing stay out.
    models : sequence of str, optional
        Networks, one row each; by default a ResNet, and an adversarially trained one with its
        standard counterpart.
    datasets : sequence of str, optional
        Tasks, one line each; all by default.
    delta : float
        Dotted lines mark this share of the whole layer's accuracy.
    note : str
        Printed below, for instance which networks and images the profile uses.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        None of the networks has a curve.
    """
    view = View(tables)
    if models is None:
        models = view.resnets_compared() or view.models()[:1]
    models = [m for m in models if any(view.accuracy(m, d) is not None for d in view.datasets(m))]
    if not models:
        raise style.nothing_to_draw("prevalence", "probes of the networks asked for")
    looks = style.looks(view.datasets())
    kinds = ["accuracy"] + [kind for kind in ("redundancy", "cka") if kind in view.tables]
    draw = {"accuracy": _accuracy, "redundancy": _redundancy, "cka": _part_whole}
    with style.panels(len(models), len(kinds), width=3.5) as axes:
        for row, model in zip(axes, models, strict=True):
            chosen = [d for d in view.datasets(model) if datasets is None or d in datasets]
            for ax, kind in zip(row, kinds, strict=True):
                draw[kind](ax, view, model, chosen, looks, delta)
            row[0].set_title(f"{view.title(model)}: accuracy")
        notes = style.joined(
            f"Dotted: {delta:g} of the whole layer's accuracy.",
            style.BAND,
            "DR: bars are 95 % intervals over seeds." if view.has_intervals else "",
            note,
        )
        return style.finish(axes, titled(view), note=notes)


def _accuracy(ax, view: View, model: str, datasets, looks, delta) -> None:
    for dataset in datasets:
        curve = view.accuracy(model, dataset)
        if curve is None:
            continue
        style.band(ax, curve.fractions, curve.values, looks[dataset], view.task_title(dataset), std=curve.std)
        if curve.at(1.0) is not None:
            ax.axhline(delta * curve.mean[-1], color=looks[dataset].color, linestyle=":", linewidth=0.9)
        _published(ax, view, model, dataset, "accuracy", looks)
        style.fraction_axis(ax, curve.fractions)
    style.from_zero(ax, "test accuracy", 1.0)


def _redundancy(ax, view: View, model: str, datasets, looks, delta) -> None:
    for place, dataset in enumerate(datasets):
        rows = view.redundancy_curve(model, dataset)
        if rows is None:
            continue
        draw_redundancy(ax, rows, looks[dataset], view.task_title(dataset), place=place)
        _published(ax, view, model, dataset, "redundancy", looks)
    ax.set_title("diffused redundancy")
    ax.set_xlabel("δ, share of the accuracy to keep")
    style.from_zero(ax, "DR, share of neurons to spare", 1.0)


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


def _part_whole(ax, view: View, model: str, datasets, looks, delta) -> None:
    for dataset in datasets:
        curve = view.part_whole(model, dataset)
        if curve is None:
            continue
        style.band(ax, curve.fractions, curve.values, looks[dataset], view.task_title(dataset))
        _published(ax, view, model, dataset, "part_whole", looks)
        style.fraction_axis(ax, curve.fractions)
    ax.set_title("CKA of part and whole")
    style.from_zero(ax, view.cka_label, 1.02)


def _published(ax, view: View, model: str, dataset: str, kind: str, looks) -> None:
    found = published_curve(view.networks.loc[model], dataset, kind)
    if found is not None:
        series, label = found
        style.paper_line(ax, series.index, series.to_numpy(), looks[dataset], f"{label}, {view.task_title(dataset)}")
