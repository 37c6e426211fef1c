"""Ours beside the paper's printed curves, point by point: the difference, and how many of our spreads it is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from dr_utils.claims.curves import Curve, close
from dr_utils.claims.paper_names import ACCURACY, PART_WHOLE, paper_network, paper_task
from dr_utils.claims.registry import PUBLISHED
from dr_utils.claims.view import View
from dr_utils.reference import published

COLUMNS = ("model", "dataset", "eval_set", "quantity", "at", "published", "measured", "std", "difference", "spreads")
VIT = "vit_small_patch16_224|nonrob|pretrain=imagenet21k|mode=random"
# Quantity -> how printed curves of ResNet50s are named by training, that of the ViT, and what the file calls it.
QUANTITIES = {
    "accuracy": (ACCURACY, VIT, ("probe_test_accuracy_mean", "probe_test_accuracy")),
    "part_part": (ACCURACY, None, ("CKA_between_random_subsets_mean",)),
    "part_whole": (PART_WHOLE, None, ("CKA_part_vs_whole_mean",)),
    "redundancy": (ACCURACY, VIT, ("DR_strict(paper Eq.1)",)),
}
# Claims about numbers that were printed: which points say how far ours are from them (None: all there are).
POINTS = {
    "P1": {"quantity": "accuracy", "dataset": "cifar10", "training": "standard", "at": (0.2, 1.0)},
    "P6": {"quantity": "part_whole", "dataset": None, "training": None, "at": None},
    "S1": {"quantity": "part_part", "dataset": None, "training": None, "at": (0.1, 0.2)},
    "M4": {"quantity": "part_whole", "dataset": None, "training": "mrl", "at": None},
    "I1": {"quantity": "accuracy", "dataset": "imagenet1k", "training": "standard", "at": (0.1, 0.5, 0.9, 1.0)},
}
SHIFTED = "imagenetv2"  # the one shifted set with printed curves
_FEW = 4


def printed_name(card: pd.Series, quantity: str) -> str | None:
    """What the printed curve for a network like this one is called; None where there is none.

    Parameters
    ----------
    card : Series
        The network's row of networks.csv.
    quantity : str
        One of `QUANTITIES`.
    """
    if card.get("source") == PUBLISHED:
        return None  # its own numbers are the printed ones
    by_training, vit, _ = QUANTITIES[quantity]
    architecture = paper_network(card)
    if architecture == "ResNet50":
        return by_training.get(card["training"])
    if architecture == "ViT S-16" and card["upstream"] == "imagenet21k" and card["training"] == "standard":
        return vit
    return None


def printed_curve(card: pd.Series, dataset: str, quantity: str) -> pd.Series | None:
    """The printed curve for a network like this one on this task.

    Parameters
    ----------
    card : Series
        The network's row of networks.csv.
    dataset : str
        Task; for accuracy also "imagenetv2".
    quantity : {"accuracy", "part_part", "part_whole", "redundancy"}

    Returns
    -------
    Series or None
        Values by rising fraction (delta for "redundancy"); None where nothing comparable was printed.
    """
    name = printed_name(card, quantity)
    if name is None:
        return None
    rows = published(model=name, dataset=paper_task(dataset), quantity=list(QUANTITIES[quantity][2]))
    index = "delta" if quantity == "redundancy" else "fraction"
    rows = rows.dropna(subset=[index, "number"]).drop_duplicates(index)
    return None if rows.empty else rows.set_index(index)["number"].sort_index()


def against_paper(view: View) -> pd.DataFrame:
    """Every printed point that this run has a counterpart of.

    Networks and images are often only like the paper's, which the tables of networks and tasks say; then the
    difference is for orientation.

    Returns
    -------
    DataFrame
        `COLUMNS`: `at` is a fraction, for "redundancy" delta (DR by probe, rule "first"); `std` is over our seeds or
        pairs of seeds, `spreads` the difference (measured - published) in units of it, NaN where it is 0 or unknown.
    """
    have = {"probes", "networks"} <= view.tables.keys()
    rows = [row for found in _points(view) for row in found] if have else []
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _points(view: View) -> Iterator[list[dict]]:
    for model, dataset in view.cells():
        card, main = view.networks.loc[model], view.main_set(dataset)
        for eval_set, task in ((main, dataset), (SHIFTED, SHIFTED)):
            yield _rows(card, dataset, eval_set, task, "accuracy", view.accuracy(model, dataset, eval_set=eval_set))
        yield _rows(card, dataset, main, dataset, "part_part", view.pairs(model, dataset))
        yield _rows(card, dataset, main, dataset, "part_whole", view.part_whole(model, dataset))
        found = view.redundancy_curve(model, dataset)
        if found is not None:
            unknown = np.full((len(found), 1), np.nan)
            curve = Curve(found["delta"].to_numpy(), found[["dr"]].to_numpy(), (0,), unknown[:, 0])
            yield _rows(card, dataset, main, dataset, "redundancy", curve)


def _rows(card, dataset: str, eval_set: str, task: str, quantity: str, curve: Curve | None) -> list[dict]:
    series = None if curve is None else printed_curve(card, task, quantity)
    rows = []
    for at, number in () if series is None else series.items():
        place = np.flatnonzero(close(curve.fractions, at))
        if not place.size or (quantity.startswith("part") and at == 1.0):
            continue
        mean, std = float(curve.mean[place[0]]), float(curve.std[place[0]])
        difference = mean - number
        spreads = difference / std if std > 0 else np.nan
        values = (card.name, dataset, eval_set, quantity, at, number, mean, std, difference, spreads)
        rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def difference_of(claim: str, against: pd.DataFrame, view: View) -> str:
    """How far ours are from the numbers that a claim was printed with, in units of our spread; "" where none were."""
    if claim not in POINTS or against.empty:
        return ""
    chosen = POINTS[claim]
    # All of these are about ResNet50s.
    ours = [m for m in dict.fromkeys(against["model"]) if paper_network(view.networks.loc[m]) == "ResNet50"]
    rows = against[against["quantity"].eq(chosen["quantity"]) & against["model"].isin(ours)]
    if chosen["dataset"]:
        rows = rows[rows["dataset"].eq(chosen["dataset"]) & rows["eval_set"].ne(SHIFTED)]
    if chosen["training"]:
        rows = rows[rows["model"].map(view.networks["training"]).eq(chosen["training"])]
    if chosen["at"]:
        rows = rows[[bool(close(chosen["at"], at).any()) for at in rows["at"]]]
    if rows.empty:
        return ""
    if len(rows) <= _FEW:
        return "; ".join(
            f"{r.model}/{r.dataset} at {r.at:g}: {r.difference:+.3f}"
            + ("" if np.isnan(r.spreads) else f" ({r.spreads:+.1f} std)")
            for r in rows.itertuples()
        )
    spreads = rows["spreads"].dropna()
    within = (
        "" if spreads.empty else f", {spreads.min():+.1f} to {spreads.max():+.1f} std, median {spreads.median():+.1f}"
    )
    return f"{len(rows)} printed points: {rows.difference.min():+.3f} to {rows.difference.max():+.3f}{within}"
