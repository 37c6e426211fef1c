"""Ours beside the paper's printed curves, point by point: the difference, and how many of our spreads it is."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from dr_utils.claims.estimates import Curve, close
from dr_utils.claims.paper_names import ACCURACY, PART_WHOLE, paper_network, paper_task
from dr_utils.claims.view import View
from dr_utils.reference import SOURCE as PUBLISHED
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
# Claims about numbers that were printed, all of ResNet50s: which points say how far ours are from them.
POINTS = {
    "P1": {"quantity": "accuracy", "dataset": "cifar10", "training": "standard", "at": (0.2, 1.0)},
    "P6": {"quantity": "part_whole"},
    "S1": {"quantity": "part_part", "at": (0.1, 0.2)},
    "M4": {"quantity": "part_whole", "training": "mrl"},
    "I1": {"quantity": "accuracy", "dataset": "imagenet1k", "training": "standard", "at": (0.1, 0.5, 0.9, 1.0)},
}
SHIFTED = "imagenetv2"  # the one shifted set with printed curves
_FEW = 4


def printed_curve(card: pd.Series, dataset: str, quantity: str) -> pd.Series | None:
    """Return the printed curve for a network like this one on this task.

    Parameters
    ----------
    card : Series
        The network's row of the table "networks".
    dataset : str
        Task; for accuracy also "imagenetv2".
    quantity : {"accuracy", "part_part", "part_whole", "redundancy"}

    Returns
    -------
    Series or None
        Values by rising fraction (delta for "redundancy"); None where nothing comparable was printed.
    """
    by_training, vit, names = QUANTITIES[quantity]
    architecture, name = paper_network(card), None
    if card.get("source") == PUBLISHED:
        return None  # its own numbers are the printed ones
    if architecture == "ResNet50":
        name = by_training.get(card["training"])
    elif architecture == "ViT S-16" and card["upstream"] == "imagenet21k" and card["training"] == "standard":
        name = vit
    if name is None:
        return None
    rows = published(model=name, dataset=paper_task(dataset), quantity=list(names))
    index = "delta" if quantity == "redundancy" else "fraction"
    rows = rows.dropna(subset=[index, "number"]).drop_duplicates(index)
    return None if rows.empty else rows.set_index(index)["number"].sort_index()


def against_paper(view: View) -> pd.DataFrame:
    """Return every printed point that this run has a counterpart of, in `COLUMNS`.

    `at` is a fraction, for "redundancy" delta (DR by probe, rule "first"); `std` is over our seeds or pairs of seeds,
    `spreads` the difference (measured - published) in units of it, NaN where it is 0 or unknown. Networks and images
    are often only like the paper's; then the difference is for orientation.
    """
    have = {"probes", "networks"} <= view.tables.keys()
    return pd.DataFrame(list(_points(view)) if have else [], columns=list(COLUMNS))


def _points(view: View) -> Iterator[tuple]:
    for m, d in view.cells():
        card = view.networks.loc[m]
        for quantity, task, find in (
            ("accuracy", d, view.accuracy), ("accuracy", SHIFTED, partial(view.accuracy, eval_set=SHIFTED)),
            ("part_part", d, view.pairs), ("part_whole", d, view.part_whole), ("redundancy", d, partial(_dr, view)),
        ):  # fmt: skip
            series = printed_curve(card, task, quantity)
            curve = None if series is None else find(m, d)
            for at, number in () if curve is None else series.items():
                place = np.flatnonzero(close(curve.fractions, at))
                if not place.size or (quantity.startswith("part") and at == 1.0):
                    continue
                mean, std = float(curve.mean[place[0]]), float(curve.std[place[0]])
                gap = mean - number
                eval_set = SHIFTED if task == SHIFTED else "test"
                yield m, d, eval_set, quantity, at, number, mean, std, gap, gap / std if std > 0 else np.nan


def _dr(view: View, model: str, dataset: str) -> Curve | None:
    rows = view.redundancy_curve(model, dataset)
    if rows is None:
        return None
    return Curve(rows["delta"].to_numpy(), np.full(len(rows), np.nan), rows[["dr"]].to_numpy(), (0,))


def difference_of(claim: str, against: pd.DataFrame, view: View) -> str:
    """Say how far ours are from the numbers that a claim was printed with, in units of our spread; "" without any."""
    if claim not in POINTS or against.empty:
        return ""
    chosen, rows = POINTS[claim], against[against["quantity"].eq(POINTS[claim]["quantity"])]
    resnets = [m for m in set(rows["model"]) if paper_network(view.networks.loc[m]) == "ResNet50"]
    rows = rows[rows["model"].isin(resnets)]
    if "dataset" in chosen:
        rows = rows[rows["dataset"].eq(chosen["dataset"]) & rows["eval_set"].ne(SHIFTED)]
    if "training" in chosen:
        rows = rows[rows["model"].map(view.networks["training"]).eq(chosen["training"])]
    if "at" in chosen:
        rows = rows[rows["at"].map(lambda at: bool(close(chosen["at"], at).any())).astype(bool)]
    if len(rows) > _FEW:
        spreads = rows["spreads"].dropna()
        within = f", {spreads.min():+.1f} to {spreads.max():+.1f} std, median {spreads.median():+.1f}"
        gaps = f"{len(rows)} printed points: {rows.difference.min():+.3f} to {rows.difference.max():+.3f}"
        return gaps + (within if len(spreads) else "")
    spreads = ["" if np.isnan(r.spreads) else f" ({r.spreads:+.1f} std)" for r in rows.itertuples()]
    return "; ".join(f"{r.model}/{r.dataset} at {r.at:g}: {r.difference:+.3f}{spread}"
                     for r, spread in zip(rows.itertuples(), spreads, strict=True))  # fmt: skip
