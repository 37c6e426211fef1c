"""Which cells of a results folder are done: an index beside the tables, and what makes an entry valid."""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path

from dr_utils.models import PAPER, listing, split_layer
from dr_utils.store import atomic_path

# The rooms whose code decides the numbers of a cell: when one changes, cells are computed anew.
NUMERIC_SOURCES = (
    "probes/*.py",
    "subsets.py",
    "cka.py",
    "redundancy.py",
    "fairness.py",
    "study/cell.py",
    "study/grid.py",
)
# The rooms that pin what a network or a task is.
CONTENT_SOURCES = (
    "models/*.py",
    "datasets/*.py",
    "datasets/*.yaml",
    "features.py",
    "augmentation.py",
    "zoo/*.py",
    "models/weights/*.json",
)


def read(folder: Path) -> dict[str, dict]:
    """Entries (key, request, file) by "network/task" from the folder of the tables; none where there is no index."""
    try:
        return json.loads((folder / "cells.json").read_text())
    except (OSError, ValueError):
        return {}


def write(folder: Path, entries: dict[str, dict]) -> None:
    """Write the index, all of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / "cells.json") as part:
        part.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")


def file_of(network: str) -> list | None:
    """Name, size and time of a weight file that a person has placed; None where there is none."""
    network, *_ = split_layer(network)
    found = listing.local_file(PAPER[network]) if network in PAPER else None
    return found and [found.name, found.stat().st_size, found.stat().st_mtime_ns]


def is_pinned(network: str, file: list | None, registry: Container[str]) -> bool:
    """Whether the weights are sure to be those that were used, without loading them.

    The registry's are, by their hash. The paper's are as long as the file is the one that was used; one that has
    been taken away since is not asked for again. Others are loaded, and looked up by their hash.
    """
    network, *_ = split_layer(network)
    return network in registry or (network in PAPER and file_of(network) in (None, file))
