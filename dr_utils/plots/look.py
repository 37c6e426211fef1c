"""The look of all figures: a colour, a marker and dashes for each network and task, axes, one legend, and saving."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dr_utils.store import atomic_path

PALETTE = sns.color_palette("colorblind", 10)  # told apart with any kind of colour vision
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("", (6, 1.5), (4, 1.5, 1, 1.5), (2, 1), (6, 1, 1, 1, 1, 1))
PAPER = "paper: "  # how labels of published curves begin
RC = {
    "font.size": 9, "axes.titlesize": 10, "axes.labelsize": 9, "legend.fontsize": 8.5, "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5, "axes.grid": True, "grid.color": "0.9", "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.5, "lines.markersize": 6,
    "axes.linewidth": 0.8, "axes.edgecolor": "0.2", "xtick.major.width": 0.8, "ytick.major.width": 0.8,
    "xtick.major.size": 3.5, "ytick.major.size": 3.5, "figure.dpi": 100, "pdf.fonttype": 42,
}  # fmt: skip


def theme() -> None:
    """Set the look of every figure drawn from now on; call it once, before the first one."""
    sns.set_theme(style="ticks", palette=PALETTE, rc=RC)


def looks(names) -> dict[str, dict]:
    """Give each name a look of its own, in the order given: palette, markers and dashes, as seaborn takes them.

    Examples
    --------
    >>> looks(["random", "first"])["markers"]
    {'random': 'o', 'first': 's'}
    """
    places = {name: i for i, name in enumerate(names)}
    return {
        "palette": {name: PALETTE[i % 10] for name, i in places.items()},
        # The marker moves on by one with every round of colours: no two of the first hundred look alike.
        "markers": {name: MARKERS[(i + i // 10) % 10] for name, i in places.items()},
        "dashes": {name: DASHES[i % len(DASHES)] for name, i in places.items()},
    }


def look(column: str, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict:
    """Tell the networks or tasks of these rows, from `titled`, apart in the same way in every figure.

    Parameters
    ----------
    column : {"network", "task"}
    rows : DataFrame
        What is drawn. A network has one look in all figures of its kind, and may have another where kinds are mixed.
    tables : dict of DataFrame

    Returns
    -------
    dict
        hue, style, palette, markers and dashes, for `sns.relplot(rows, ..., **look)` or `sns.lineplot`.
    """
    if column == "task":
        return {"hue": column, "style": column, **looks(_titles(tables["tasks"], "dataset"))}
    cards = tables["networks"].assign(network=_titles(tables["networks"], "model").array)
    cards = cards[cards["model"].isin(set(tables["probes"]["model"]))]
    shown = cards[cards["network"].isin(set(rows["network"]))]
    if shown["training"].eq("layer").any():
        cards = shown
    elif shown["kind"].nunique() == 1 and shown["training"].ne("narrow").all():
        cards = cards[cards["kind"].isin(shown["kind"]) & ~cards["training"].isin(["narrow", "layer"])]
    else:
        cards = cards[cards["training"].ne("layer")]
    return {"hue": column, "style": column, **looks(cards["network"])}


def _titles(table: pd.DataFrame, key: str) -> pd.Series:
    """Return titles by name, in the table's order; an empty title, or one that two share, gives way to the name."""
    title = table.drop_duplicates(key).set_index(key)["title"].fillna("").astype(str)
    return title.where(title.ne("") & ~title.duplicated(keep=False), title.index.to_series())


def titled(rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Add what figures call each network and task, and order the rows as the tables of networks and tasks are.

    Parameters
    ----------
    rows : DataFrame
        Any table with columns model and dataset, or a query of one.
    tables : dict of DataFrame
        networks and tasks.

    Returns
    -------
    DataFrame
        The rows with network and task (titles), and each network's kind, training, upstream and width.
    """
    networks, tasks = _titles(tables["networks"], "model"), _titles(tables["tasks"], "dataset")
    cards = tables["networks"].drop_duplicates("model")[["model", "kind", "training", "upstream", "width"]]
    place = {name: i for names in (networks, tasks) for i, name in enumerate(names.index)}
    rows = rows.merge(cards, on="model", how="left")
    rows["network"] = rows["model"].map(networks)
    rows["task"] = rows["dataset"].map(tasks).fillna(rows["dataset"])
    return rows.sort_values(["model", "dataset"], key=lambda names: names.map(place), ignore_index=True)


def fraction_axis(axes, label: str = "fraction of neurons kept") -> None:
    """Name the x axes, such as `g.axes`; make those logarithmic whose data span more than a decade and a half."""
    for ax in np.ravel(axes):
        ax.set_xlabel(label)
        if ax.dataLim.x1 > 30 * ax.dataLim.minposx:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
            ax.xaxis.set_minor_locator(NullLocator())
        elif ax.get_xscale() == "linear":
            ax.set_xlim(left=0)


def finish(figure, title: str = "", note: str = "") -> Figure:
    """Move all legends into one above the panels, under the title, and put the note below: nothing covers the data.

    Parameters
    ----------
    figure : FacetGrid or Figure
        From seaborn's figure functions, or from `plt.subplots`.
    title, note : str

    Returns
    -------
    Figure
        Closed for pyplot, so that a notebook shows it once: where you name it.
    """
    grid, figure = figure, getattr(figure, "figure", figure)
    entries = []
    if legend := getattr(grid, "legend", None) if grid is not figure else None:
        # seaborn has widened the figure for this legend.
        figure.set_figwidth(figure.get_figwidth() - legend.get_window_extent().width / figure.dpi)
        entries += zip(legend.legend_handles, [text.get_text() for text in legend.get_texts()], strict=True)
        legend.remove()
    for ax in figure.axes:
        entries += zip(*ax.get_legend_handles_labels(), strict=True)
        if ax.get_legend():
            ax.get_legend().remove()
    handles: dict = {}
    for handle, label in entries:
        if handle.get_visible():
            handles.setdefault(label, handle)
    labels = sorted(handles, key=lambda label: label.startswith(PAPER))
    figure.set_layout_engine("constrained")
    figure.set_size_inches(max(figure.get_figwidth(), 6), figure.get_figheight() + 0.9)
    if labels:
        # A letter takes about 0.07 inch at this size, the line before a label and the gap after it 0.7.
        widths, room = [0.7 + 0.07 * len(label) for label in labels], figure.get_figwidth()
        lines = 1 if sum(widths) <= room else -(-len(labels) // max(1, int(room / max(widths))))
        columns = -(-len(labels) // lines)
        legend = figure.legend([handles[label] for label in labels], labels, loc="outside upper center", ncols=columns,
                               frameon=False, title=title or None)  # fmt: skip
        legend.get_title().set(fontsize=11, multialignment="center")
    else:
        figure.suptitle(title, fontsize=11)
    # About 16 characters an inch at this size.
    lines = textwrap.wrap(" ".join(note.split()), int(figure.get_figwidth() * 16))
    figure.supxlabel("\n".join(lines), fontsize=7.5, color="0.35")
    plt.close(figure)
    return figure


def save_figure(figure: Figure, folder: str | Path, name: str, *, caption: str = "", dpi: int = 150) -> list[Path]:
    """Write a figure as PNG and PDF; the same figure gives the same bytes, and files are replaced only when complete.

    Parameters
    ----------
    figure : Figure
    folder : path
        Created where needed.
    name : str
        File name without suffix, led by the paper's number: "fig01_prevalence".
    caption : str
        A title that ends with a full stop, then what to look at; the report shows it. A table's name in backquotes,
        such as `probes`, becomes a link.
    dpi : int
        Resolution of the PNG.

    Returns
    -------
    list of Path
        The PNG and the PDF.
    """
    words = {"Description": " ".join(caption.split())} if caption else {}
    # Jupyter and the runner put the notebook's name there, so that the report knows which notebook drew the figure.
    if "JPY_SESSION_NAME" in os.environ:
        words["Source"] = Path(os.environ["JPY_SESSION_NAME"]).name
    # No dates and versions: they would change the bytes.
    metadata = {"png": {"Software": None, **words}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    paths = [Path(folder) / f"{name}.{suffix}" for suffix in metadata]
    paths[0].parent.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(RC):
        for path, (suffix, about) in zip(paths, metadata.items(), strict=True):
            with atomic_path(path) as temporary:
                figure.savefig(temporary, format=suffix, dpi=dpi, metadata=about)
    return paths
