"""Figures 5, 6 and 12: narrow layers, and Matryoshka representations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dr_utils.claims.view import View
from dr_utils.claims.width_mrl import first_against_random
from dr_utils.plots import style
from dr_utils.plots.prevalence import draw_redundancy
from dr_utils.redundancy import critical_fraction


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
    rows = view.networks.loc[width_networks(tables)]
    if rows.empty:
        raise style.nothing_to_draw("width_ablation", "networks of training 'narrow'")
    looks = style.looks(rows["model"])
    narrow = rows.loc[rows["training"].eq("narrow"), "model"]
    # A wide network alone, on a task that the narrow ones were not tried on, compares nothing.
    shown = [d for d in view.datasets() if any(view.accuracy(m, d) is not None for m in narrow)]
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


def width_networks(tables: dict) -> list[str]:
    """Networks that differ in the width of their layer only, from narrow to wide; empty where there are none."""
    view = View(tables)
    narrow = view.models("narrow")
    rows = view.networks.loc[view.alike(narrow[0]) if narrow else []]
    return list(rows[rows["training"].isin(["narrow", "standard"])].sort_values("width")["model"])


def needed_share(tables: dict, models: Sequence[str], deltas: Sequence[float]) -> pd.Series:
    """Smallest share of a layer, in whole neurons, that keeps a share delta of its accuracy (eq. 1), mean over seeds.

    Parameters
    ----------
    tables : dict of DataFrame
        probes, networks, tasks.
    models : sequence of str
    deltas : sequence of float
        In (0, 1].

    Returns
    -------
    Series
        Index (model, delta, dataset); shares in (0, 1] out of those that the tables have.
    """
    view, found = View(tables), {}
    for model, dataset in view.cells(list(models)):
        curve = view.accuracy(model, dataset)
        if curve.at(1.0) is None:
            continue
        # Fractions of a narrow layer share a number of neurons; so they do their subsets.
        n_neurons, first = np.unique(curve.n_neurons, return_index=True)
        for delta in deltas:
            share = critical_fraction(n_neurons / n_neurons[-1], curve.values[first], curve.values[-1], delta)
            found[model, delta, dataset] = share
    index = pd.MultiIndex.from_arrays(
        list(zip(*found, strict=True)) or [[], [], []], names=["model", "delta", "dataset"]
    )
    return pd.Series(list(found.values()), index=index, dtype=float)


def matryoshka_networks(tables: dict) -> list[str]:
    """A Matryoshka network and those of its family, width and upstream data; empty where there is none."""
    view = View(tables)
    mrl = view.models("mrl")[:1]
    rows = view.networks.loc[view.alike(mrl[0]) if mrl else []]
    return list(rows.loc[rows["width"].isin(rows.loc[mrl, "width"]) & rows["training"].ne("narrow"), "model"])


def matryoshka_lead(tables: dict) -> pd.DataFrame:
    """Accuracy of a Matryoshka network's first k neurons minus that of random k neurons, mean over seeds.

    Returns
    -------
    DataFrame
        Columns model, rival (whose random neurons: its own or another network's), dataset, k, lead (share of images).
    """
    rows = [
        (mrl, rival, dataset, k, step.value)
        for (mrl, rival, dataset), steps in first_against_random(View(tables)).items()
        for k, step in steps.items()
    ]
    return pd.DataFrame(rows, columns=["model", "rival", "dataset", "k", "lead"])


def matryoshka(tables: dict, *, quantity: str = "accuracy", note: str = "") -> Figure:
    """First-k and random subsets of the Matryoshka network beside others of its family and width.

    Parameters
    ----------
    tables : dict of DataFrame
        probes (selection "first" and "random"), redundancy, networks (training "mrl"), tasks.
    quantity : {"accuracy", "redundancy"}
        Accuracy against number of neurons (Fig. 6), with the whole layers of networks trained narrow; or DR against
        delta (Fig. 12, random subsets).
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
    card, alike = view.networks.loc[mrl[0]], view.networks.loc[view.alike(mrl[0])]
    models = matryoshka_networks(tables)
    narrow = alike.loc[alike["training"].eq("narrow")].sort_values("width")
    looks = style.looks([*models, "first", "narrow"])
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
                _whole_layers(ax, view, narrow, dataset, looks["narrow"])
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


def _whole_layers(ax, view: View, narrow, dataset: str, look: style.Look) -> None:
    """Whole narrow layers, one network per point: what training with k neurons gives, beside choosing k afterwards."""
    curves = {m: c for m in narrow["model"] if (c := view.accuracy(m, dataset)) is not None and c.at(1.0) is not None}
    if curves:
        values = np.stack([curve.at(1.0).to_numpy() for curve in curves.values()])
        style.band(ax, narrow.loc[list(curves), "width"], values, look, "trained with k neurons (ff)")
