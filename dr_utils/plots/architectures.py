"""Figures 3, 4, 10, 11, 13 and Table 1: networks side by side."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from dr_utils.claims.architectures import upstream_pairs
from dr_utils.claims.curves import close
from dr_utils.claims.view import View
from dr_utils.plots import style
from dr_utils.plots.prevalence import draw_redundancy
from dr_utils.plots.printed import published_curve, titled
from dr_utils.reference import published


def accuracy_by_network(
    tables: dict, models=None, *, x: str = "fraction", title: str = "Probe accuracy", note: str = ""
) -> Figure:
    """Accuracy of random subsets (Figs. 3, 4, 13), a panel per task, a line per network.

    Parameters
    ----------
    tables : dict of DataFrame
        probes, networks, tasks.
    models : sequence of str, optional
        Networks; all by default.
    x : {"fraction", "neurons"}
        Share of the layer (Fig. 3) or number of neurons (Fig. 13).
    title, note : str
        Above and below the panels.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        No probe curves of these networks, or unknown x.
    """
    if x not in ("fraction", "neurons"):
        raise ValueError(f'x must be "fraction" or "neurons"; got {x!r}.')

    def draw(ax, view: View, model: str, dataset: str, look: style.Look) -> None:
        curve = view.accuracy(model, dataset)
        at = curve.fractions if x == "fraction" else curve.n_neurons
        style.band(ax, at, curve.values, look, view.title(model), std=curve.std)
        found = published_curve(view.networks.loc[model], dataset, "accuracy")
        if found is not None:
            scale = 1 if x == "fraction" else view.networks.loc[model, "width"]
            style.paper_line(ax, found[0].index * scale, found[0].to_numpy(), look, found[1])
        style.fraction_axis(ax, at, "share of neurons kept" if x == "fraction" else "number of neurons kept")
        style.from_zero(ax, "test accuracy", 1.0)

    return _by_task(
        View(tables),
        models,
        lambda v, m, d: v.accuracy(m, d) is not None,
        draw,
        title,
        style.joined(style.BAND, note),
        "accuracy_by_network",
        "probe accuracies",
    )


def redundancy_by_network(tables: dict, models=None, *, title: str = "Diffused redundancy", note: str = "") -> Figure:
    """DR against delta (Figs. 10, 11), otherwise as `accuracy_by_network`."""
    view = View(tables)
    place = {model: i for i, model in enumerate(models or view.models())}

    def draw(ax, view: View, model: str, dataset: str, look: style.Look) -> None:
        draw_redundancy(ax, view.redundancy_curve(model, dataset), look, view.title(model), place=place[model])
        found = published_curve(view.networks.loc[model], dataset, "redundancy")
        if found is not None:
            style.paper_line(ax, found[0].index, found[0].to_numpy(), look, found[1])
        ax.set_xlabel("δ, share of the accuracy to keep")
        style.from_zero(ax, "DR, share of neurons to spare", 1.0)

    bars = "Bars are 95 % intervals over seeds." if view.has_intervals else ""
    text = style.joined('Rule "first" (eq. 1).', bars, note)
    return _by_task(
        view,
        models,
        lambda v, m, d: v.redundancy_curve(m, d) is not None,
        draw,
        title,
        text,
        "redundancy_by_network",
        "probe rows in redundancy.csv",
    )


KINDS = {"imagenet": "Networks trained on ImageNet", "small": "Small networks, 32 x 32 pixels"}


def networks_by_kind(tables: dict, training=("standard", "adversarial")) -> dict[str, list[str]]:
    """Networks with results, trained in these ways, by kind ("imagenet", "small"); titles of the kinds are in `KINDS`.

    Their accuracies cannot be compared, and more than ten lines cannot be told apart: each kind gets its own figure.
    Of networks that differ in upstream data only, the one with more is taken.
    """
    view = View(tables)
    rows = view.networks.loc[view.models(tuple(training))]
    rows = rows[~rows["model"].isin([less for _, less in upstream_pairs(view)])]
    return {kind: list(group["model"]) for kind, group in rows.groupby("kind", sort=False)}


def middle_layers(tables: dict) -> list[str]:
    """Middle layers with results, each network's in their order and its penultimate one after them; empty if none."""
    models = View(tables).models()
    bases = dict.fromkeys(model.partition("@")[0] for model in models if "@" in model)
    found = [[m for m in models if m.startswith(f"{base}@")] + [base] * (base in models) for base in bases]
    return [model for group in found for model in group]


def compared(tables: dict) -> list[str]:
    """A ResNet, and an adversarially trained one with its standard counterpart: the rows of Fig. 1."""
    return View(tables).resnets_compared()


def upstream_networks(tables: dict) -> list[str]:
    """Networks that differ from another only in their upstream data (Figs. 4, 11); empty where none do."""
    return list(dict.fromkeys(model for pair in upstream_pairs(View(tables)) for model in pair))


def _by_task(view: View, models, has, draw, title: str, note: str, figure: str, needs: str) -> Figure:
    models = list(models or view.models())
    shown = [d for d in view.datasets() if any(has(view, m, d) for m in models)]
    if not shown:
        raise style.nothing_to_draw(figure, f"{needs} of {', '.join(models) or 'some network'}")
    looks = style.network_looks(view, models)
    rows, columns = style.grid(len(shown))
    with style.panels(rows, columns) as axes:
        for ax, dataset in zip(axes.flat, shown, strict=False):
            for model in models:
                if has(view, model, dataset):
                    draw(ax, view, model, dataset, looks[model])
            ax.set_title(view.task_title(dataset))
        style.hide_rest(axes, len(shown))
        return style.finish(axes, titled(view, title), note=note)


def table1(tables: dict, *, delta: float = 0.9) -> pd.DataFrame:
    """DR of every network on every task by both rules, with the paper's Table 1 below.

    Parameters
    ----------
    tables : dict of DataFrame
        redundancy, networks, tasks.
    delta : float
        Tolerance; the published rows are for 0.9 and left out otherwise.

    Returns
    -------
    DataFrame
        Rows (source, network, width, rule), a column per task, cells such as "0.80 [0.70, 0.80]": DR and its
        95 % interval over seeds. Published cells have no interval. Source is "ours", "paper", or "published
        accuracies" where the tables hold these instead of measured ones.

    Raises
    ------
    ValueError
        redundancy.csv has no probe rows at this delta.
    """
    view = View(tables)
    tasks = list(dict.fromkeys(view.tables["redundancy"]["dataset"])) if "redundancy" in view.tables else []
    rows: dict[tuple, dict[str, str]] = {}
    source = "published accuracies" if view.from_paper else "ours"
    for model in view.networks["model"]:
        for rule in ("first", "nearest"):
            for dataset in tasks:
                found = view.redundancy(model, dataset, delta, rule=rule)
                if found is not None:
                    key = (source, view.title(model), int(view.networks.loc[model, "width"]), rule)
                    rows.setdefault(key, {})[view.task_title(dataset)] = with_interval(*found)
    if not rows:
        raise style.nothing_to_draw("table1", f"probe rows at delta {delta:g} in redundancy.csv")
    if close([delta], 0.9)[0]:
        paper = published(source="ICLR23 seed text", figure_or_table="Table 1")
        widths = paper[paper["quantity"].eq("feature_length")].set_index("model")["number"]
        for entry in paper[paper["quantity"].eq("diffused_redundancy_DR")].itertuples():
            key = ("paper", entry.model, int(widths[entry.model]), "nearest")
            rows.setdefault(key, {})[view.task_title(entry.dataset)] = f"{entry.number:.2f}"
    index = pd.MultiIndex.from_tuples(rows, names=["source", "network", "width", "rule"])
    return pd.DataFrame(list(rows.values()), index=index).fillna("")


def with_interval(dr: float, low: float, high: float) -> str:
    """DR and its interval as text, "0.80 [0.70, 0.80]"; DR alone where one seed or a published mean gave none."""
    return f"{dr:.2f}" if pd.isna(low) or pd.isna(high) else f"{dr:.2f} [{low:.2f}, {high:.2f}]"
