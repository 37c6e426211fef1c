"""Figures 2 and 8: CKA between random parts, and of parts with the whole."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from dr_utils.claims.view import View
from dr_utils.plots import style
from dr_utils.plots.printed import published_curve, titled


def random_subset_cka(tables: dict, models=None, *, note: str = "") -> Figure:
    """CKA between two random subsets of the same size against that size (Fig. 2), a panel per network.

    Parameters
    ----------
    tables : dict of DataFrame
        cka (comparison part_part), networks, tasks.
    models : sequence of str, optional
        Networks; all by default.
    note : str
        Printed below.

    Returns
    -------
    Figure
        Means and ±1 standard deviation over the pairs of seeds.

    Raises
    ------
    ValueError
        There is no part-part CKA of these networks.
    """
    view = View(tables)
    curves = {
        (m, d): c for m in models or view.models() for d in view.datasets(m) if (c := view.pairs(m, d)) is not None
    }
    shown = list(dict.fromkeys(m for m, _ in curves))
    if not shown:
        raise style.nothing_to_draw("random_subset_cka", "part-part CKA in cka.csv")
    looks = style.looks(view.datasets())
    n_pairs = max(c.values.shape[1] for c in curves.values())
    rows, columns = style.grid(len(shown))
    with style.panels(rows, columns) as axes:
        for ax, model in zip(axes.flat, shown, strict=False):
            for dataset in [d for m, d in curves if m == model]:
                curve = curves[model, dataset]
                style.band(ax, curve.fractions, curve.values, looks[dataset], view.task_title(dataset))
                style.fraction_axis(ax, curve.fractions)
                found = published_curve(view.networks.loc[model], dataset, "part_part")
                if found is not None:
                    series, label = found
                    style.paper_line(ax, series.index, series, looks[dataset], f"{label}, {view.task_title(dataset)}")
            ax.set_title(view.title(model))
            style.from_zero(ax, view.cka_label, 1.02)
        style.hide_rest(axes, len(shown))
        pairs = "the authors' pairs" if view.from_paper else f"{n_pairs} pairs"
        text = style.joined(f"Means over {pairs} of random subsets, bands ±1 standard deviation.", note)
        return style.finish(axes, titled(view, "Similarity of two random subsets"), note=text)


def part_whole_cka(tables: dict, models=None, *, note: str = "") -> Figure:
    """CKA of random parts with the whole layer (Fig. 8), a panel per task, a line per network.

    A Matryoshka network's first-k subsets are not in cka.csv and so not drawn. Parameters, result and errors
    as `random_subset_cka`, with comparison part_whole.
    """
    view = View(tables)
    models = list(models or view.models())
    curves = {(m, d): c for m in models for d in view.datasets(m) if (c := view.part_whole(m, d)) is not None}
    if not curves:
        raise style.nothing_to_draw("part_whole_cka", "part-whole CKA in cka.csv")
    looks = style.network_looks(view, models)
    shown = [d for d in view.datasets() if any(key[1] == d for key in curves)]
    rows, columns = style.grid(len(shown))
    with style.panels(rows, columns) as axes:
        for ax, dataset in zip(axes.flat, shown, strict=False):
            for model in [m for m, d in curves if d == dataset]:
                curve = curves[model, dataset]
                style.band(ax, curve.fractions, curve.values, looks[model], view.title(model))
                style.fraction_axis(ax, curve.fractions)
                found = published_curve(view.networks.loc[model], dataset, "part_whole")
                if found is not None:
                    style.paper_line(ax, found[0].index, np.asarray(found[0]), looks[model], found[1])
            ax.set_title(view.task_title(dataset))
            style.from_zero(ax, view.cka_label, 1.02)
        style.hide_rest(axes, len(shown))
        return style.finish(axes, titled(view, "CKA of random parts with the whole layer"),
                            note=style.joined(style.BAND, note))  # fmt: skip
