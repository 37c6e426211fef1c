"""Where a study's results lie: whole cells in the cache, tables as CSV in the results folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pandas as pd
from filelock import FileLock

import dr_utils
from dr_utils import store


@cache
def source_hash(*patterns: str) -> str:
    """Hash sources of the package, once per process: what runs is what was imported."""
    root = Path(dr_utils.__file__).parent
    digest = hashlib.sha256()
    for pattern in patterns:
        for source in sorted(root.glob(pattern)):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def store_cell(folder: Path, tables: dict[str, pd.DataFrame], about: dict) -> None:
    """Write a cell's tables so that they are there as a whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        for name, table in tables.items():
            table.to_csv(part / f"{name}.csv", index=False, lineterminator="\n")
        (part / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
        (part / "done").touch()
        # Two notebooks may share a cache: the address is that of the content, so the quicker one's cell serves both.
        with FileLock(folder.parent / ".lock"):
            if not (folder / "done").exists():
                shutil.rmtree(folder, ignore_errors=True)
                part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def read_table(path: Path) -> pd.DataFrame:
    """Read one table as it was written."""
    # Empty strings are names here (a CKA row has no solver), but not in the columns of numbers.
    numbers = ("cka", "low", "high", "top1", "side")
    return pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in numbers})


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically, floats to their last digit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with store.atomic_path(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def read_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the tables that a study wrote; ValueError if there are none.

    Parameters
    ----------
    folder : str or Path
        The folder of the CSV files, such as outputs/mini/tables.
    """
    paths = sorted(Path(folder).glob("*.csv"))
    if not paths:
        raise ValueError(f"no tables in {folder}; run ./run_all.sh (or Study(...).run()) first.")
    return {path.stem: read_table(path) for path in paths}
