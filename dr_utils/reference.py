"""The numbers that the paper and its public code published, as a table, and what they call networks and tasks."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import yaml

DATA = Path(__file__).parent / "data"

# The source in networks.csv where the tables hold the paper's own numbers (profile key reference).
SOURCE = "published numbers (reference_values.csv)"
NAMES = yaml.safe_load((DATA / "paper_names.yaml").read_text(encoding="utf-8"))


def published(**filters) -> pd.DataFrame:
    """Return published numbers, one a row, where each column named has the value, or one of the list, that is given.

    Beside the file's columns there are `fraction` and `delta`, read from delta_or_fraction, and `number`, the value as
    a float; each is NaN where there is none.

    >>> published(model="resnet50|nonrob|pretrain=imagenet|mode=random", dataset="cifar10",
    ...           quantity="probe_test_accuracy_mean", fraction=[0.1, 0.2])["number"].round(3).tolist()
    [0.779, 0.832]
    """
    table = _table()
    for name, wanted in filters.items():
        table = table[table[name].isin(list(wanted) if pd.api.types.is_list_like(wanted) else [wanted])]
    return table.reset_index(drop=True)


def paper_network(card: Mapping) -> str | None:
    """Name in Table 1 of a network, a row of networks.csv, however it was trained; None where the paper has no such."""
    for text in (card["model"], card["family"]) if card["kind"] == "imagenet" else ():
        plain = re.sub(r"[^a-z0-9]+", "_", str(text).lower())
        for pattern, name, width in NAMES["architectures"]:
            if re.search(pattern, plain):
                return name if card["width"] == width else None
    return None


def paper_task(dataset: str) -> str:
    """Name of a task in the tables of published numbers; unknown ones keep theirs."""
    return NAMES["tasks"].get(dataset, dataset)


def read(name: str) -> pd.DataFrame:
    """Read a table of the folder "data" as it is, an empty field as an empty name."""
    return pd.read_csv(DATA / name, keep_default_na=False, na_values={"side": [""], "top1": [""]})


@cache
def _table() -> pd.DataFrame:
    table = pd.read_csv(DATA / "reference_values.csv", dtype=object)  # Arrow's strings are slow to filter
    for name in ("fraction", "delta"):
        table[name] = table["delta_or_fraction"].str.extract(rf"^{name}=([0-9.eE+-]+)$", expand=False).astype(float)
    return table.assign(number=pd.to_numeric(table["value"], errors="coerce"))
