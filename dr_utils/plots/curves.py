"""What seaborn does not draw by itself: the paper's printed curves beside ours, and intervals that are given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from dr_utils.claims.against import printed_curve
from dr_utils.claims.architectures import upstream_pairs
from dr_utils.claims.paper_names import paper_network
from dr_utils.claims.view import View
from dr_utils.plots.look import PAPER, titled

_LABELS = {"standard": "ResNet50 (timm)", "adversarial": "ResNet50 (l2, eps 3)", "mrl": "ResNet50 (Matryoshka)"}
_COLUMNS = {"accuracy": ("fraction", "accuracy"), "redundancy": ("delta", "dr"), "part_whole": ("fraction", "cka"),
            "part_part": ("fraction", "cka")}  # fmt: skip


def published(quantity: str, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the curves that the paper printed for networks and tasks like those of these rows.

    Parameters
    ----------
    quantity : {"accuracy", "redundancy", "part_whole", "part_part"}
    rows : DataFrame
        What is drawn, with columns model and dataset.
    tables : dict of DataFrame

    Returns
    -------
    DataFrame
        A row per printed point: fraction and accuracy or cka, or delta and dr; n_neurons; the columns of `titled`; and
        label, for the legend. Empty where nothing comparable was printed.
    """
    (x, y), cards, found = _COLUMNS[quantity], tables["networks"].set_index("model", drop=False), []
    for model, dataset in rows[["model", "dataset"]].drop_duplicates().itertuples(index=False):
        curve = printed_curve(cards.loc[model], dataset, quantity)
        if curve is not None:
            resnet = paper_network(cards.loc[model]) == "ResNet50"
            name = _LABELS[cards.loc[model, "training"]] if resnet else "ViT S-16 (ImageNet-21k)"
            found += [(model, dataset, at, value, PAPER + name) for at, value in curve.items()]
    table = pd.DataFrame(found, columns=["model", "dataset", x, y, "label"]).astype({x: float, y: float})
    table = titled(table, tables)
    return table.assign(n_neurons=table["width"] * table[x]) if x == "fraction" else table


def draw_published(axes, rows: pd.DataFrame, *, x: str, y: str, hue: str, palette, markers, **facets) -> None:
    """Draw rows of `published` on a FacetGrid or an Axes: grey and dashed, with our marker, hollow and in our colour.

    All else is as in the call of `sns.relplot` or `sns.lineplot` that drew ours, with row and col where it had these.
    """
    for ax, part in _panels(axes, rows, facets):
        for name, curve in part.groupby(hue, sort=False):
            label = curve["label"].iloc[0] + (f", {name}" if hue == "task" else "")
            ax.plot(curve[x], curve[y], color="0.45", linestyle="--", linewidth=0.9, marker=markers[name], markersize=4,
                    markerfacecolor="white", markeredgecolor=palette[name], label=label)  # fmt: skip


def draw_intervals(axes, rows: pd.DataFrame, *, x: str, hue: str, palette, beside: float = 0.003, **facets) -> None:
    """Draw the columns low and high as bars on a FacetGrid or an Axes; rows without an interval are left out.

    The bars of different curves stand `beside` each other, in units of x. All else as in `draw_published`.
    """
    place = {name: i for i, name in enumerate(rows[hue].unique())}
    for ax, part in _panels(axes, rows.dropna(subset=["low", "high"]), facets):
        for name, curve in part.groupby(hue, sort=False):
            at = curve[x] + beside * place[name]
            ax.vlines(at, curve["low"], curve["high"], color=palette[name], linewidth=1.2, alpha=0.6)


def with_spread(rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Let `errorbar="sd"` show the standard deviations that the paper gives with its means.

    Only the profile "reference" has them, as table "spread": such a mean becomes two rows with this mean and deviation.
    """
    if "spread" not in tables:
        return rows
    std = rows.merge(tables["spread"], how="left")["std"].fillna(0).array
    low, high = (rows.assign(accuracy=rows["accuracy"] + sign * std / np.sqrt(2)) for sign in (-1, 1))
    return pd.concat([low, high[std > 0]], ignore_index=True)


def by_kind(rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield each kind of network, its title and its rows; accuracies of different kinds cannot be compared.

    Of networks that differ in upstream data only, the one with more is kept.
    """
    titles = {"imagenet": "Networks trained on ImageNet", "small": "Small networks, 32 x 32 pixels"}
    less = {less for _, less in upstream_pairs(View(tables))}
    for kind, group in rows[~rows["model"].isin(less)].groupby("kind", sort=False):
        yield kind, titles.get(kind, kind), group


def _panels(axes, rows: pd.DataFrame, facets: dict) -> Iterator[tuple[Axes, pd.DataFrame]]:
    """Yield each panel with its rows; of an axes alone, with all of them."""
    names = [facets[name] for name in ("row", "col") if facets.get(name)]
    if isinstance(axes, Axes):
        yield axes, rows
        return
    for key, ax in axes.axes_dict.items():
        wanted = key if len(names) > 1 else [key]
        yield ax, rows[np.logical_and.reduce([rows[name].eq(value) for name, value in zip(names, wanted, strict=True)])]
