"""The tables of a run: put together from its cells, written as CSV, and read again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from dr_utils import store
from dr_utils.models import NetworkCard
from dr_utils.profiles import Profile
from dr_utils.study.cell import COLUMNS

_CARD = ("title", "width", "family", "training", "upstream", "kind", "side", "source", "licence", "top1")
# Where an empty field is a missing number; elsewhere it is an empty name: a CKA row has no solver.
_NUMBERS = {name: [""] for name in ("cka", "low", "high", "top1", "side")}


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically, floats to their last digit."""
    with store.atomic_path(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def read_tables(folder: str | Path, names: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Read the tables that a study wrote to its folder, such as outputs/mini/tables; all of them by default.

    Raises
    ------
    ValueError
        There are none.
    """
    paths = sorted(Path(folder).glob("*.csv")) if names is None else [Path(folder) / f"{name}.csv" for name in names]
    if not paths:
        raise ValueError(f"no tables in {folder}; run ./run_all.sh (or Study(...).run()) first.")
    return {path.stem: pd.read_csv(path, keep_default_na=False, na_values=_NUMBERS) for path in paths}


def tables_of(
    profile: Profile, found: Mapping[tuple[str, str], store.Stored], networks: Mapping[str, NetworkCard], tasks: Mapping
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Put the tables of finished cells together.

    Parameters
    ----------
    profile : Profile
    found : mapping of (network, task) to Stored
        In the order of the tables.
    networks, tasks : mapping of str to card

    Returns
    -------
    tables : dict of str to DataFrame
        Those of `COLUMNS`, "networks" and "tasks".
    notes : list of str
        What to know about single cells.
    """
    # A table without rows, such as the similarity of a task that has none, knows no types and would spoil the others'.
    parts = {name: [stored.tables[name] for stored in found.values()] for name in COLUMNS}
    tables = {
        name: pd.concat([t for t in cells if len(t)] or cells[:1], ignore_index=True) for name, cells in parts.items()
    }
    # A network is described by its first cell, and a task by its own: the profile may leave networks out of tasks.
    by_network, by_task = ({cell[i]: found[cell].about for cell in reversed(found)} for i in (0, 1))
    tables["networks"] = pd.DataFrame(
        [
            {"model": name, **{key: getattr(networks[name], key) for key in _CARD},
             "weight_hash": by_network[name]["weight_hash"], "robust_of": networks[name].robust_of}
            for name in profile.networks if name in by_network
        ]
    )  # fmt: skip
    tables["tasks"] = pd.DataFrame(
        [
            {"dataset": name, "title": tasks[name].title, "eval_set": eval_set, "n_classes": by_task[name]["n_classes"],
             "n_train": by_task[name]["sizes"]["train"], "n_test": by_task[name]["sizes"][eval_set],
             "resolution": spec.resolution, "source": tasks[name].source}
            for name, spec in profile.tasks.items() if name in by_task for eval_set in spec.eval_sets
        ]
    )  # fmt: skip
    notes = [f"{n} on {t}: {note}" for (n, t), stored in found.items() for note in stored.about["notes"]]
    return tables, notes
