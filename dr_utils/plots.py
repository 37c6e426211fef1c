"""What the figures of the notebooks share: the look, the paper's curves beside ours, one legend, and saving."""

from __future__ import annotations

import io
import os
import textwrap
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dr_utils.claims.against import printed_curve
from dr_utils.claims.view import View
from dr_utils.palette import PALETTE
from dr_utils.reference import paper_network
from dr_utils.store import atomic_path

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
DASHES = ("", (6, 1.5), (4, 1.5, 1, 1.5), (2, 1), (6, 1, 1, 1, 1, 1))
PAPER = "paper: "  # how labels of published curves begin
_RESNETS = {"standard": " (timm)", "adversarial": ", adversarial (L2, ε = 3)", "mrl": " (Matryoshka)"}
RC = {
    "axes.grid": True, "grid.color": "0.9", "axes.spines.top": False, "axes.spines.right": False,
    "legend.fontsize": 8.5, "lines.linewidth": 1.5, "lines.markersize": 6, "pdf.fonttype": 42,
}  # fmt: skip


def theme() -> None:
    """Set the look of every figure drawn from now on; call it once, before the first one."""
    sns.set_theme("paper", "ticks", PALETTE, rc=RC)


def looks(names) -> dict[str, dict]:
    """Give each name a look of its own, in the order given: palette, markers and dashes, as seaborn takes them."""
    places = {name: i for i, name in enumerate(names)}
    return {
        "palette": {name: PALETTE[i % 10] for name, i in places.items()},
        # The marker moves on by one with every round of colours: no two of the first hundred look alike.
        "markers": {name: MARKERS[(i + i // 10) % 10] for name, i in places.items()},
        "dashes": {name: DASHES[i % len(DASHES)] for name, i in places.items()},
    }


def look(column: str, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> dict:
    """Return hue, style, palette, markers and dashes for the "network" or "task" of rows from `titled`.

    Pass them on: `sns.relplot(rows, ..., **look)`. A network looks the same in all figures of its kind; beside layers
    or narrow networks it may look different.
    """
    if column == "task":
        return {"hue": column, "style": column, **looks(_titles(tables["tasks"], "dataset"))}
    cards = tables["networks"].assign(network=_titles(tables["networks"], "model").array)
    shown = cards[cards["network"].isin(set(rows["network"]))]
    special = ["narrow", "layer"]
    if not shown["training"].isin(special).any():
        shown = cards[cards["kind"].isin(shown["kind"]) & ~cards["training"].isin(special)]
    return {"hue": column, "style": column, **looks(shown["network"])}


def _titles(table: pd.DataFrame, key: str) -> pd.Series:
    """Return titles by name, in the table's order; an empty title, or one that two share, gives way to the name."""
    title = table.drop_duplicates(key).set_index(key)["title"].fillna("").astype(str)
    return title.where(title.ne("") & ~title.duplicated(keep=False), title.index.to_series())


def titled(rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Add titles (network, task) and each network's kind, training, upstream and width; order as the tables are."""
    networks, tasks = _titles(tables["networks"], "model"), _titles(tables["tasks"], "dataset")
    cards = tables["networks"].drop_duplicates("model")[["model", "kind", "training", "upstream", "width"]]
    place = {name: i for names in (networks, tasks) for i, name in enumerate(names.index)}
    rows = rows.merge(cards, on="model", how="left")
    rows["network"] = rows["model"].map(networks)
    rows["task"] = rows["dataset"].map(tasks).fillna(rows["dataset"])
    return rows.sort_values(["model", "dataset"], key=lambda names: names.map(place), ignore_index=True)


def published(quantity: str, rows: pd.DataFrame, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the curves that the paper printed for networks and tasks like those of these rows, one row per point.

    `quantity` is "accuracy", "redundancy", "part_whole" or "part_part". Columns: fraction and accuracy or cka, or delta
    and dr; n_neurons; those of `titled`; and label, for the legend. Empty where nothing comparable was printed.
    """
    x, y = {"accuracy": ("fraction", "accuracy"), "redundancy": ("delta", "dr")}.get(quantity, ("fraction", "cka"))
    cards, found = tables["networks"].set_index("model", drop=False), []
    for model, dataset in rows[["model", "dataset"]].drop_duplicates().itertuples(index=False):
        card = cards.loc[model]
        curve = printed_curve(card, dataset, quantity)
        if curve is not None:
            resnet = paper_network(card) == "ResNet50"
            name = f"ResNet50{_RESNETS[card['training']]}" if resnet else "ViT S-16 (ImageNet-21k)"
            found += [(model, dataset, at, value, PAPER + name) for at, value in curve.items()]
    table = pd.DataFrame(found, columns=["model", "dataset", x, y, "label"]).astype({x: float, y: float})
    table = titled(table, tables)
    return table.assign(n_neurons=table["width"] * table[x]) if x == "fraction" else table


def draw_published(axes, rows: pd.DataFrame, *, x: str, y: str, hue: str, palette, markers, col=None, **_) -> None:
    """Draw rows of `published` on a FacetGrid or an Axes: grey and dashed, with our marker, hollow and in our colour.

    All else is as in the call of `sns.relplot` or `sns.lineplot` that drew ours, with col where it had one.
    """
    for ax, name, curve in _curves(axes, rows, hue, col):
        label = curve["label"].iloc[0] + (f", {name}" if hue == "task" else "")
        ax.plot(curve[x], curve[y], color="0.45", linestyle="--", linewidth=0.9, marker=markers[name], markersize=4,
                markerfacecolor="white", markeredgecolor=palette[name], label=label)  # fmt: skip


def draw_intervals(axes, rows: pd.DataFrame, *, x: str, hue: str, palette, col=None, **_) -> None:
    """Draw the columns low and high as bars, those of different curves 0.003 of x beside each other."""
    place = {name: i for i, name in enumerate(rows[hue].unique())}
    for ax, name, curve in _curves(axes, rows.dropna(subset=["low", "high"]), hue, col):
        at = curve[x] + 0.003 * place[name]
        ax.vlines(at, curve["low"], curve["high"], color=palette[name], linewidth=1.2, alpha=0.6)


def _curves(axes, rows: pd.DataFrame, hue: str, col: str | None) -> Iterator[tuple[Axes, str, pd.DataFrame]]:
    """Yield the axes, the name and the rows of each curve, in the panel of its `col` where there is one."""
    for (name, *panel), curve in rows.groupby([hue, col] if col else [hue], sort=False):
        yield axes.axes_dict[panel[0]] if col else axes, name, curve


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
    less = {less for _, less in View(tables).upstream_pairs()}
    for kind, group in rows[~rows["model"].isin(less)].groupby("kind", sort=False):
        yield kind, titles.get(kind, kind), group


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
    """Move all legends of a FacetGrid or Figure into one above the panels, under the title, and put the note below.

    Nothing covers the data. The figure is closed for pyplot: a notebook shows it once, where you name it.
    """
    figure, entries = figure.figure, []
    for legend in figure.legends:
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
    room = figure.get_figwidth()
    if labels:
        # A letter takes about 0.07 inch at this size, the line before a label and the gap after it 0.7.
        widths = [0.7 + 0.07 * len(label) for label in labels]
        lines = 1 if sum(widths) <= room else -(-len(labels) // max(1, int(room / max(widths))))
        legend = figure.legend([handles[label] for label in labels], labels, loc="outside upper center",
                               ncols=-(-len(labels) // lines), frameon=False, title=title or None)  # fmt: skip
        legend.get_title().set(fontsize=11, multialignment="center")
    else:
        figure.suptitle(title, fontsize=11)
    # About 16 characters an inch at this size.
    figure.supxlabel(textwrap.fill(" ".join(note.split()), int(room * 16)), fontsize=7.5, color="0.35")
    plt.close(figure)
    return figure


def save_figure(figure: Figure, folder: str | Path, name: str, *, caption: str = "") -> display.Image:
    """Write a figure as PNG, of 128 colours, and PDF; return the PNG for a cell to show. Same figure, same bytes.

    `name` is led by the paper's number: "fig01_prevalence". The report shows `caption`: a title that ends with a full
    stop, then what to look at; a table's name in backquotes, such as `probes`, becomes a link.
    """
    noted, caption = PngInfo(), " ".join(caption.split())
    noted.add_itxt("Description", caption)
    # Jupyter and the runner put the notebook's name there, so that the report knows which notebook drew the figure.
    noted.add_itxt("Source", Path(os.environ.get("JPY_SESSION_NAME", "")).name)
    png, pdf = (Path(folder) / f"{name}.{suffix}" for suffix in ("png", "pdf"))
    png.parent.mkdir(parents=True, exist_ok=True)
    pixels = io.BytesIO()
    with plt.rc_context(RC), atomic_path(pdf) as part:
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # done once: each file would do it again, which takes longer than drawing
        figure.savefig(pixels, format="png", dpi=150)
        # No dates and versions: they would change the bytes.
        figure.savefig(part, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    with Image.open(pixels) as image, atomic_path(png) as part:
        # None changes visibly, at a third of the size.
        few = image.convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE)
        few.save(part, "PNG", optimize=True, pnginfo=noted, dpi=(150, 150))
    return display.Image(png.read_bytes(), retina=True, alt=caption.partition(". ")[0].rstrip(".") or name)
