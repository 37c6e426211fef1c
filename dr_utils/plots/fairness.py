"""Figures 7 and 9: inequality over classes against accuracy."""

from __future__ import annotations

from matplotlib.figure import Figure

from dr_utils.checks import unknown
from dr_utils.claims.inequality import MEASURES, inequality_curve
from dr_utils.claims.view import View
from dr_utils.plots import style

LABELS = {"gini": "Gini index of class accuracies", "coefficient_of_variation": "coefficient of variation"}


def inequality(tables: dict, models=None, *, measure: str = "gini", even: bool = True, note: str = "") -> Figure:
    """Inequality of per-class accuracy against accuracy (Figs. 7, 9), a panel per task.

    Parameters
    ----------
    tables : dict of DataFrame
        fairness, networks, tasks; per_class and probes too for the even drop.
    models : sequence of str, optional
        Networks; all by default.
    measure : {"gini", "coefficient_of_variation"}
    even : bool
        Also draw, dashed, what the same accuracy would give if every class had lost the same points.
    note : str
        Printed below.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        Unknown measure, or no rows of these networks in fairness.csv.
    """
    if measure not in MEASURES:
        raise unknown("measure", measure, MEASURES)
    view = View(tables)
    curves = view.fairness_curves("random")
    models = [m for m in models or view.networks["model"] if any(key[0] == m for key in curves)]
    if not models:
        raise style.nothing_to_draw("inequality", "rows of fairness.csv")
    looks = style.network_looks(view, models)
    order = list(dict.fromkeys([*view.datasets(), *(d for _, d in curves)]))
    shown = [d for d in order if any((m, d) in curves for m in models)]
    rows, columns = style.grid(len(shown))
    with style.panels(rows, columns) as axes:
        for ax, dataset in zip(axes.flat, shown, strict=False):
            for model in models:
                if (model, dataset) in curves:
                    _draw(ax, view, curves, model, dataset, measure, even, looks[model])
            ax.set_title(view.task_title(dataset))
            ax.set_xlabel("test accuracy")
            ax.set_xlim(0, 1)
            style.from_zero(ax, LABELS[measure])
        style.hide_rest(axes, len(shown))
        text = "A marker per fraction, the whole layer at the right."
        if even:
            text += " Dashed: the same accuracy with every class losing the same number of points."
        return style.finish(axes, "Inequality over classes as neurons are dropped",
                            note=style.joined(text, note))  # fmt: skip


def _draw(ax, view: View, curves, model: str, dataset: str, measure: str, even: bool, look: style.Look) -> None:
    selections = [("", curves[model, dataset])]
    first = view.fairness_curves("first").get((model, dataset))
    if first is not None and view.networks.loc[model, "training"] == "mrl":
        selections.append((", first k", first))
    # Section 4 of the paper is about the Matryoshka network.
    weight = 2 if view.networks.loc[model, "training"] == "mrl" else 1
    for suffix, rows in selections:
        fill = look.color if not suffix else "white"
        ax.plot(rows["accuracy"], rows[measure], color=look.color, marker=look.marker, markerfacecolor=fill,
                linewidth=weight, label=view.title(model) + suffix)  # fmt: skip
    counterfactual = inequality_curve(view, model, dataset, measure) if even else None
    if counterfactual is not None:
        points = counterfactual.points
        ax.plot([p.accuracy for p in points], [p.even for p in points], color=look.color, linestyle="--",
                linewidth=0.9)  # fmt: skip
