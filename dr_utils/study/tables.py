"""The tables of a run: put together from its cells, written, and read again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from dr_utils import store
from dr_utils.device import hardware_name
from dr_utils.models import NetworkCard
from dr_utils.profiles import Profile
from dr_utils.study.cell import COLUMNS

_CARD = ("title", "width", "family", "training", "upstream", "kind", "side", "source", "licence", "top1")
_NUMBERS = {name: [""] for name in ("top1", "side")}  # where an empty field of a CSV is no number, not an empty name


def table_path(folder: str | Path, name: str) -> Path:
    """Return where a table is: what is measured, row by row, as parquet; what is read by eye as CSV."""
    return Path(folder) / f"{name}.{'parquet' if name in (*COLUMNS, 'fewer_classes') else 'csv'}"


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV or parquet, atomically; one that is the same keeps its time."""
    if path.suffix == ".parquet":
        # Numbers that hardly repeat pack better byte by byte than as a dictionary: tables are a tenth smaller.
        split = [name for name, column in table.select_dtypes("number").items() if column.nunique() > len(column) / 2]
        lists = [name for name in table if len(table) and np.ndim(table[name].iloc[0])]
        rest = [name for name in table if name not in (*split, *lists)]
        split += [f"{name}.list.element" for name in lists]
        content = table.to_parquet(index=False, compression="zstd", compression_level=19, use_dictionary=rest,
                                   use_byte_stream_split=split or False)  # fmt: skip
    else:
        content = table.to_csv(index=False, lineterminator="\n").encode()
    if not path.is_file() or path.read_bytes() != content:
        with store.atomic_path(path) as part:
            part.write_bytes(content)


def read_tables(folder: str | Path, names: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
    """Read the tables in a folder such as outputs/mini/tables, by default all; ValueError if there are none."""
    found = [path.stem for path in sorted(Path(folder).glob("*.*")) if path.suffix in (".csv", ".parquet")]
    if not found:
        raise ValueError(f"no tables in {folder}; run ./run_all.sh (or Study(...).run()) first.")
    paths = [table_path(folder, name) for name in (found if names is None else names)]
    return {path.stem: pd.read_parquet(path) if path.suffix == ".parquet" else
            pd.read_csv(path, keep_default_na=False, na_values=_NUMBERS) for path in paths}  # fmt: skip


def write_tables(
    folder: Path, tables: Mapping[str, pd.DataFrame], *, device: str = "cpu", **about
) -> dict[str, pd.DataFrame]:
    """Write tables, and to about.json what they are made of, when and where; return them as anybody reads them."""
    for name, table in tables.items():
        write_table(table, table_path(folder, name))
    versions = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")}
    made = {"date": str(date.today()), "hardware": hardware_name(device), "versions": versions}
    with store.atomic_path(folder / "about.json") as part:
        noted = {**about, "files": _hashes(folder, tables), "made": made}
        part.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n")
    return read_tables(folder, tables)


def read_again(folder: Path, about: dict) -> tuple[dict[str, pd.DataFrame], list[str]] | None:
    """Return the tables in a folder and their notes, if they are made of this and nobody has changed them since."""
    noted = noted_in(folder)
    files, notes, _ = noted.pop("files", {}), noted.pop("notes", []), noted.pop("made", None)
    same = noted == about and files == _hashes(folder, files)
    return (read_tables(folder, files), notes) if same else None


def noted_in(folder: Path) -> dict:
    """Return what about.json says of the tables in a folder."""
    try:
        return json.loads((folder / "about.json").read_text())
    except (OSError, ValueError):
        return {}


def _hashes(folder: Path, names: Iterable[str]) -> dict[str, str]:
    paths = [table_path(folder, name) for name in names]
    return {path.stem: store.sha256_of(path) for path in paths if path.is_file()}


def tables_of(
    profile: Profile, found: Mapping[tuple[str, str], store.Stored], cards: Mapping[str, NetworkCard], tasks: Mapping
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Put the tables of finished cells together: those of `COLUMNS`, "networks" and "tasks"; and the cells' notes."""
    tables = {}
    for name in COLUMNS:
        parts = [stored.tables[name] for stored in found.values()]
        # A table without rows, such as the similarity of a task that has none, would spoil the types of the others.
        tables[name] = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    by_network = {network: stored.about for (network, _), stored in found.items()}
    by_task = {task: stored.about for (_, task), stored in found.items()}
    networks = [asdict(cards[n]) | {"model": n, "weight_hash": a["weight_hash"]} for n, a in by_network.items()]
    tables["networks"] = pd.DataFrame(networks)[["model", *_CARD, "weight_hash", "robust_of"]]
    tables["tasks"] = pd.DataFrame(
        [
            {"dataset": name, "title": tasks[name].title, "eval_set": eval_set, "n_classes": by_task[name]["n_classes"],
             "n_train": by_task[name]["sizes"]["train"], "n_test": by_task[name]["sizes"][eval_set],
             "resolution": spec.resolution, "source": tasks[name].source}
            for name, spec in profile.tasks.items() if name in by_task for eval_set in spec.eval_sets
        ]
    )  # fmt: skip
    return tables, [f"{n} on {t}: {note}" for (n, t), stored in found.items() for note in stored.about["notes"]]
