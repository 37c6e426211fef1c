"""Figures 5, 6 and 12: narrow layers, and Matryoshka representations."""

from __future__ import annotations

from matplotlib.figure import Figure

from dr_utils.claims.view import View
from dr_utils.plots import style
from dr_utils.plots.prevalence import draw_redundancy


def width_ablation(tables: dict, *, note: str = "") -> Figure:
    """Accuracy, as a share of the whole layer's, against fraction for layers of many widths (Fig. 5).

    Parameters
    ----------
    tables : dict of DataFrame
        probes, networks (training "narrow", and the standard networks of their family), tasks.
    note : str
        Printed below.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        There are no networks with narrow layers.
    """
    view = View(tables)
    narrow = view.networks.loc[view.models("narrow")]
    rows = view.networks.loc[view.models(("narrow", "standard"))]
    rows = rows[rows["family"].isin(narrow["family"]) & rows["kind"].isin(narrow["kind"])].sort_values("width")
    if narrow.empty:
        raise style.nothing_to_draw("width_ablation", "networks of training 'narrow'")
    looks = style.looks(rows["model"])
    shown = [d for d in view.datasets() if any(view.accuracy(m, d) is not None for m in rows["model"])]
    n_rows, columns = style.grid(len(shown))
    with style.panels(n_rows, columns) as axes:
        for ax, dataset in zip(axes.flat, shown, strict=False):
            for model in rows["model"]:
                curve = view.accuracy(model, dataset)
                if curve is None or curve.at(1.0) is None:
                    continue
                share = curve.n_neurons / curve.n_neurons[-1]
                style.band(ax, share, curve.values / curve.mean[-1], looks[model], view.title(model))
            ax.axhline(0.9, color="0.4", linestyle=":", linewidth=0.9)
            ax.set_title(view.task_title(dataset))
            ax.set_xlabel("share of neurons kept")
            style.from_zero(ax, "accuracy over the whole layer's")
        style.hide_rest(axes, len(shown))
        text = style.joined("Shares are counted in whole neurons. Dotted: 0.9.", style.BAND, note)
        return style.finish(axes, "Layers of different widths", note=text)


def matryoshka(tables: dict, *, quantity: str = "accuracy", note: str = "") -> Figure:
    """First-k and random subsets of the Matryoshka network beside others of its family and width.

    Parameters
    ----------
    tables : dict of DataFrame
        probes (selection "first" and "random"), redundancy, networks (training "mrl"), tasks.
    quantity : {"accuracy", "redundancy"}
        Accuracy against number of neurons (Fig. 6), or DR against delta (Fig. 12, random subsets).
    note : str
        Printed below.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        There is no Matryoshka network, or an unknown quantity.
    """
    if quantity not in ("accuracy", "redundancy"):
        raise ValueError(f'quantity must be "accuracy" or "redundancy"; got {quantity!r}.')
    view = View(tables)
    mrl = view.models("mrl")
    if not mrl:
        raise style.nothing_to_draw("matryoshka", "a network of training 'mrl'")
    card = view.networks.loc[mrl[0]]
    alike = view.networks["family"].eq(card["family"]) & view.networks["width"].eq(card["width"])
    models = [m for m in view.models() if alike[m] and view.networks.loc[m, "training"] != "narrow"]
    looks = style.looks([*models, "first"])
    shown = view.datasets(mrl[0])
    rows, columns = style.grid(len(shown))
    with style.panels(rows, columns) as axes:
        for ax, dataset in zip(axes.flat, shown, strict=False):
            for place, model in enumerate(models):
                if quantity == "accuracy":
                    _neurons(ax, view.accuracy(model, dataset), looks[model], f"{view.title(model)}, random")
                elif (found := view.redundancy_curve(model, dataset)) is not None:
                    draw_redundancy(ax, found, looks[model], f"{view.title(model)}, random", place=place)
            if quantity == "accuracy":
                _neurons(ax, view.accuracy(mrl[0], dataset, "first"), looks["first"], f"{card['title']}, first k")
                style.from_zero(ax, "test accuracy", 1.0)
            else:
                ax.set_xlabel("δ, share of the accuracy to keep")
                style.from_zero(ax, "DR, share of neurons to spare", 1.0)
            ax.set_title(view.task_title(dataset))
        style.hide_rest(axes, len(shown))
        band = style.BAND if quantity == "accuracy" else "Bars are 95 % intervals over seeds."
        return style.finish(axes, "Matryoshka representation and others",
                            note=style.joined(band, note))  # fmt: skip


def _neurons(ax, curve, look: style.Look, label: str) -> None:
    if curve is not None:
        style.band(ax, curve.n_neurons, curve.values, look, label)
        style.fraction_axis(ax, curve.n_neurons, "number of neurons kept")
