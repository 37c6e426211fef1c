"""Ours beside the paper's printed curves, point by point: the difference, and how many of our spreads it is."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd

from dr_utils.claims.view import View
from dr_utils.reference import NAMES, paper_network, paper_task, published
from dr_utils.reference import SOURCE as PUBLISHED

COLUMNS = ("model", "dataset", "eval_set", "quantity", "at", "published", "measured", "std", "difference", "spreads")
SHIFTED = "imagenetv2"  # the one shifted set with printed curves


def printed_curve(card: pd.Series, dataset: str, quantity: str) -> pd.Series | None:
    """Return what was printed for a network like this row of "networks", by fraction or delta; None where nothing was.

    `dataset` may also be "imagenetv2", `quantity` is "accuracy", "part_part", "part_whole" or "redundancy".
    """
    names = NAMES["curves"].get(f"{paper_network(card)} {card['training']} {card['upstream']}")
    if names is None or card.get("source") == PUBLISHED:
        return None
    at = "delta" if quantity == "redundancy" else "fraction"
    rows = published(model=names, dataset=paper_task(dataset), quantity=NAMES["quantities"][quantity])
    rows = rows.dropna(subset=[at, "number"]).drop_duplicates(at)
    return None if rows.empty else rows.set_index(at)["number"].sort_index()


def against_paper(view: View) -> pd.DataFrame:
    """Return every printed point that this run has a counterpart of, in `COLUMNS`.

    `at` is a fraction, for "redundancy" delta (DR by probe, rule "first"). `spreads` is the difference (measured less
    published) in units of `std`, over our seeds or pairs of seeds. Networks and images are often only like the paper's.
    """
    found = [pd.DataFrame(columns=list(COLUMNS))]
    tests = [("accuracy", "test"), ("accuracy", SHIFTED), *((name, "test") for name in list(NAMES["quantities"])[1:])]
    for (m, d), (quantity, eval_set) in product(view.cells(), tests):
        printed = printed_curve(view.networks.loc[m], d if eval_set == "test" else eval_set, quantity)
        if printed is not None:
            # Fractions that were written and read again may miss each other by rounding.
            both = pd.DataFrame({"at": printed.index, "published": printed.array}, printed.index.round(9))
            both = both.join(_ours(view, m, d, quantity, eval_set), how="inner")
            found.append(both.assign(model=m, dataset=d, eval_set=eval_set, quantity=quantity))
    table = pd.concat(found[1:] or found)
    by_definition = table["at"].eq(1.0) & table["quantity"].isin(["part_part", "part_whole"])
    table = table[~by_definition].reset_index(drop=True)
    gap = table["measured"] - table["published"]
    return table.assign(difference=gap, spreads=gap / table["std"].where(table["std"] > 0))[list(COLUMNS)]


def _ours(view: View, model: str, dataset: str, quantity: str, eval_set: str) -> pd.DataFrame:
    """Columns measured and std by rounded fraction or delta."""
    if quantity == "redundancy":
        rows = view.rows("redundancy", model, dataset, "probe", "first")
        return pd.DataFrame({"measured": rows["dr"].array, "std": np.nan}, rows["delta"].round(9))
    probes = quantity == "accuracy"
    curve = view.accuracy(model, dataset, eval_set=eval_set) if probes else view.cka(model, dataset, quantity)
    return pd.DataFrame({"measured": curve.mean, "std": curve.std}, curve.fractions.round(9))


def difference_of(printed: str, against: pd.DataFrame, networks: pd.DataFrame) -> str:
    """Say how far ours are from the printed points that a query chooses, all of ResNet50s and their own test sets."""
    if not printed or against.empty:
        return ""
    resnets = [model for model, card in networks.iterrows() if paper_network(card) == "ResNet50"]
    rows = against.assign(training=against["model"].map(networks["training"]))
    rows = rows[rows["model"].isin(resnets) & rows["eval_set"].eq("test")].query(printed)
    if rows.empty:
        return ""
    gaps, spreads = rows["difference"], rows["spreads"].dropna()
    text = f"{len(rows)} printed points: {gaps.min():+.3f} to {gaps.max():+.3f}"
    return text + (f", {spreads.min():+.1f} to {spreads.max():+.1f} std" if len(spreads) else "")
