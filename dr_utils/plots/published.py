"""Published curves that ours can be drawn beside."""

from __future__ import annotations

import pandas as pd

from dr_utils.claims.paper_names import ACCURACY, PART_WHOLE, paper_network, paper_task
from dr_utils.claims.registry import PUBLISHED
from dr_utils.claims.view import View
from dr_utils.plots.style import PAPER
from dr_utils.reference import published

LABELS = {
    "standard": f"{PAPER}ResNet50 (timm)",
    "adversarial": f"{PAPER}ResNet50 (l2, eps 3)",
    "mrl": f"{PAPER}ResNet50 (Matryoshka)",
}
QUANTITIES = {
    "accuracy": (ACCURACY, "probe_test_accuracy_mean"),
    "part_part": (ACCURACY, "CKA_between_random_subsets_mean"),
    "part_whole": (PART_WHOLE, "CKA_part_vs_whole_mean"),
    "redundancy": (ACCURACY, "DR_strict(paper Eq.1)"),
}


def published_curve(card: pd.Series, dataset: str, kind: str) -> tuple[pd.Series, str] | None:
    """The published curve for a network like this one on this task.

    Parameters
    ----------
    card : Series
        The network's row of networks.csv; only ResNet50s have published curves.
    dataset : str
        Task; for kind "accuracy" also "imagenet" and "imagenetv2".
    kind : {"accuracy", "part_part", "part_whole", "redundancy"}

    Returns
    -------
    (Series, str) or None
        Values indexed by rising fraction (delta for "redundancy"), and the label for the legend. None where
        nothing comparable was published, or where the network's own numbers are the published ones already.
    """
    names, quantity = QUANTITIES[kind]
    name = names.get(card["training"])
    if name is None or paper_network(card) != "ResNet50" or card.get("source") == PUBLISHED:
        return None
    quantities = [quantity, "probe_test_accuracy"] if kind == "accuracy" else [quantity]
    rows = published(model=name, dataset=paper_task(dataset), quantity=quantities)
    index = "delta" if kind == "redundancy" else "fraction"
    rows = rows.dropna(subset=[index, "number"]).drop_duplicates(index)
    if rows.empty:
        return None
    return rows.set_index(index)["number"].sort_index(), LABELS[card["training"]]


def titled(view: View, title: str = "") -> str:
    """The title of a figure; one of published numbers says so, whatever its note says."""
    if not view.from_paper:
        return title
    return "\n".join(filter(None, ("Published numbers, not measured by this suite", title)))
