"""The tables of a run from its finished cells: what was measured, on what, and what it says of the claims."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping

import pandas as pd

from dr_utils import claims, store
from dr_utils.datasets import available as available_tasks
from dr_utils.models import NetworkCard
from dr_utils.profiles import Profile
from dr_utils.study.files import read_table, source_hash, write_table

CELL_TABLES = ("probes", "per_class", "cka", "redundancy", "fairness")


def measured_tables(
    profile: Profile, keys: Mapping[tuple[str, str], str], card_of: Callable[[str], NetworkCard]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Put the tables of finished cells together.

    Parameters
    ----------
    profile : Profile
    keys : mapping of (network, task) to str
        Where each cell's results are in the cache, in the order of the tables.
    card_of : callable
        Gives a network's card.

    Returns
    -------
    tables : dict of str to DataFrame
        `CELL_TABLES`, "networks" and "tasks".
    notes : list of str
        What the reader should know of single cells.
    """
    folders = {cell: store.cache_dir() / "cells" / key for cell, key in keys.items()}
    tables = {
        name: _joined([read_table(folder / f"{name}.csv") for folder in folders.values()]) for name in CELL_TABLES
    }
    facts = {cell: json.loads((folder / "about.json").read_text()) for cell, folder in folders.items()}
    notes = [f"{n} on {t}: {note}" for (n, t), about in facts.items() for note in about["notes"]]
    tables["networks"] = pd.DataFrame([_network_row(card_of(c[0]), facts[c]) for c in _first_of_each(keys, 0)])
    # In the profile's order: its first network may have been left out of a task.
    tasks = sorted(_first_of_each(keys, 1), key=lambda cell: list(profile.tasks).index(cell[1]))
    tables["tasks"] = pd.DataFrame([row for c in tasks for row in _task_rows(profile, c[1], facts[c])])
    return tables, notes


def _joined(parts: list[pd.DataFrame]) -> pd.DataFrame:
    # A table without rows, such as the similarity of a task that has none, knows no types and would spoil the others'.
    return pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)


def judged(tables: dict[str, pd.DataFrame], cell_keys: list[str]) -> pd.DataFrame:
    """Judge the claims by these cells, or find the judgement in the cache: each notebook asks for it."""
    cards = tables["networks"].to_csv() + tables["tasks"].to_csv()
    asked = json.dumps([cell_keys, cards, source_hash("claims/*.py", "data/*", "reference.py")])
    path = store.cache_dir() / "claims" / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.csv"
    if not path.exists():
        write_table(claims.evaluate(tables), path)
    return read_table(path)


def _network_row(card: NetworkCard, about: dict) -> dict:
    columns = ("title", "width", "family", "training", "upstream", "kind", "side", "source", "licence", "top1")
    row = {"model": card.name, **{column: getattr(card, column) for column in columns}}
    return {**row, "weight_hash": about["weight_hash"], "robust_of": card.robust_of}


def _task_rows(profile: Profile, name: str, about: dict) -> list[dict]:
    card, spec = available_tasks()[name], profile.tasks[name]
    shared = {"n_classes": about["n_classes"], "n_train": about["sizes"]["train"]}
    return [
        {"dataset": name, "title": card.title, "eval_set": eval_set, **shared,
         "n_test": about["sizes"][eval_set], "resolution": spec.resolution, "source": card.source}
        for eval_set in spec.eval_sets
    ]  # fmt: skip


def _first_of_each(cells: Iterable[tuple[str, str]], place: int) -> list[tuple[str, str]]:
    first: dict[str, tuple[str, str]] = {}
    for cell in cells:
        first.setdefault(cell[place], cell)
    return list(first.values())
