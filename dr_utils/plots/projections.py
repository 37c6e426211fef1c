"""Figures 14 and 15: projections against random neurons, and a shifted test set."""

from __future__ import annotations

from itertools import product

import numpy as np
from matplotlib.figure import Figure

from dr_utils.claims.curves import close
from dr_utils.claims.projections_shift import IMAGENET_V2, STAND_IN, shifted
from dr_utils.claims.view import View
from dr_utils.plots import style
from dr_utils.plots.printed import published_curve, titled

SELECTION_LABELS = {
    "random": "random neurons", "pca": "PCA, top components", "pca_least": "PCA, least components",
    "projection_gaussian": "random projection, Gaussian", "projection_uniform": "random projection, uniform",
    "first": "first neurons",
}  # fmt: skip


def projections(tables: dict, models=None, *, selections=None, note: str = "") -> Figure:
    """Accuracy of projections against random neurons of the same number (Fig. 14).

    Parameters
    ----------
    tables : dict of DataFrame
        probes, networks, tasks.
    models : sequence of str, optional
        Networks, a row of panels each; by default those of `prevalence`.
    selections : sequence of str, optional
        What to draw; all but "first" by default.
    note : str
        Printed below.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        No network has any selection besides "random".
    """
    view = View(tables)
    have = view.selections()
    order = [s for s in SELECTION_LABELS if s != "first"] if selections is None else ["random", *selections]
    order = [s for s in dict.fromkeys(order) if any(s in found for found in have.values())]
    compared = [key for key, found in have.items() if len(found & set(order)) > 1]
    if models is None:
        models = view.resnets_compared()
        models = [m for m in models if any(m == model for model, _ in compared)]
        models = models or [model for model, _ in compared][:1]
    models = [m for m in models if any(m == model for model, _ in compared)]
    if not models or len(order) < 2:
        raise style.nothing_to_draw("projections", "a selection besides random, such as pca, in probes.csv")
    shown = [d for d in view.datasets() if any((m, d) in compared for m in models)]
    looks = style.looks(order)
    rows, columns = (len(models), len(shown)) if len(models) > 1 else style.grid(len(shown))
    with style.panels(rows, columns, width=3.0) as axes:
        for ax, (model, dataset) in zip(axes.flat, product(models, shown), strict=False):
            for selection in order:
                curve = view.accuracy(model, dataset, selection)
                if curve is not None:
                    label = SELECTION_LABELS.get(selection, selection)
                    style.band(ax, curve.fractions, curve.values, looks[selection], label)
                    style.fraction_axis(ax, curve.fractions, "share of neurons or components")
            # A row of panels has its titles on two lines if one of them would run into the next.
            longest = max(len(view.task_title(d)) for d in shown) + len(view.title(model))
            ax.set_title(("\n" if longest > 33 else ", ").join((view.title(model), view.task_title(dataset))))
            style.from_zero(ax, "test accuracy", 1.0)
        style.hide_rest(axes, len(models) * len(shown))
        return style.finish(axes, note=style.joined(style.BAND, note))


def shift(tables: dict, models=None, *, note: str = "") -> Figure:
    """Accuracy on the task's own and on shifted images, and the gap between them (Fig. 15).

    ImageNet-1k with ImageNetV2 where the tables have them, else CIFAR-10 with its corruptions, and the note
    says so. Parameters, result and errors as `projections`; needs probes on both evaluation sets.
    """
    view = View(tables)
    found = [(m, d, e) for m, d, e in shifted(view) if models is None or m in models]
    if not found:
        raise style.nothing_to_draw("shift", "probes on a shifted test set (imagenetv2, or corrupted for CIFAR-10)")
    _, dataset, eval_set = found[0]
    looks = style.network_looks(view, [m for m, _, _ in found])
    task = view.task_title(dataset)
    own, other = (task, "ImageNetV2") if eval_set == IMAGENET_V2 else (f"{task}: own test images", "corrupted images")
    with style.panels(1, 3, width=3.5, height=3.1) as axes:
        left, middle, right = axes[0]
        for model, _, _ in found:
            a, b = view.accuracy(model, dataset), view.accuracy(model, dataset, eval_set=eval_set)
            grid = [f for f in a.fractions if close(b.fractions, f).any()]
            seeds = [s for s in a.seeds if s in b.seeds]
            gap = np.array([(a.at(f) - b.at(f))[seeds].to_numpy() for f in grid])
            style.band(left, a.fractions, a.values, looks[model], view.title(model))
            style.band(middle, b.fractions, b.values, looks[model], view.title(model))
            style.band(right, grid, gap, looks[model], view.title(model))
        stand_in = "" if eval_set == IMAGENET_V2 else f"S{STAND_IN[1:]}, in place of ImageNet-1k and ImageNetV2."
        published = [_published_shift(axes[0], view, m, looks[m]) for m, _, _ in found]
        heads = (
            "The paper's curves are on ImageNet; their last point is the network's own head." if any(published) else ""
        )
        for ax, title in ((left, own), (middle, other), (right, "gap")):
            ax.set_title(title)
            style.fraction_axis(ax, grid)
        for ax in (left, middle):
            style.from_zero(ax, "accuracy", 1.0)
        right.set_ylabel("accuracy lost under shift")
        right.axhline(0, color="0.6", linewidth=0.8)
        right.set_ylim(bottom=min(0.0, right.get_ylim()[0]))
        return style.finish(axes, titled(view), note=style.joined(style.BAND, stand_in, heads, note))


def _published_shift(axes, view: View, model: str, look: style.Look) -> bool:
    """Draw the published curves; whether there are any for this network."""
    curves = [published_curve(view.networks.loc[model], d, "accuracy") for d in ("imagenet", "imagenetv2")]
    if None in curves:
        return False
    (a, label), (b, _) = curves
    for ax, series in zip(axes, (a, b, (a - b).dropna()), strict=True):
        style.paper_line(ax, series.index, series.to_numpy(), look, f"{label}, ImageNet-1k / V2")
    return True
