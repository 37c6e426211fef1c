"""Cells in several processes: joblib starts them here, Dask on the machines of a cluster."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from dr_utils.profiles import Profile

MEMORY = 3e9  # bytes for a process: torch, a network and its features
PATIENCE = 60  # seconds to wait for a scheduler


def check_cluster(where: str) -> str:
    """Return where cells are to run, "auto", "local:N", a scheduler's address or file; ValueError if it is none."""
    if re.fullmatch(r"auto|local:[1-9]\d{0,3}|\w+://\S+", where) or Path(where).is_file():
        return where
    raise ValueError(
        f"cluster is {where!r}; expected local:N (N processes here), a Dask scheduler's address such as "
        "tcp://10.0.0.1:8786, or the file that it writes (dask scheduler --scheduler-file FILE)."
    )


def processes_here(where: str, cells: int, device: str) -> int:
    """Return how many processes compute here: as told, else one a core as far as memory reaches; with a GPU one."""
    if where != "auto":
        return min(cells, int(where.removeprefix("local:")))
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cells, cores, int(psutil.virtual_memory().available / MEMORY)))


def compute_cells(study, cells: Sequence[tuple[str, str]], where: str) -> Iterator[tuple[tuple, Exception | None]]:
    """Compute and store cells of a study where `check_cluster` says; yield each with its error or None, as it ends.

    Only names travel: what a worker computes it writes to the cache folder, which all of them share.
    """
    if here := where == "auto" or where.startswith("local:"):
        n = processes_here(where, len(cells), study.device)
        if n <= 1:
            yield from (_compute(study, cell) for cell in cells)
            return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    given = study.profile.model_dump_json(), study.device
    if here:
        # One thread each where there are as many processes as cores: threads of one product wait for each other.
        chosen = {"backend": "loky", "inner_max_num_threads": max(1, (os.cpu_count() or 1) // n), "n_jobs": n}
    else:
        chosen = {"backend": "dask", "client": _client(where), "n_jobs": -1}
    try:
        with parallel_config(**chosen):
            run = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="all")
            yield from run(delayed(_compute_named)(*given, cell) for cell in cells)
    finally:
        if here:  # else these processes, and their memory, stay for the next call
            get_reusable_executor().shutdown(kill_workers=True)
        else:
            chosen["client"].close()


def _client(where: str):
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("a cluster needs Dask: pip install 'diffused-redundancy[cluster]'.") from None
    try:
        return Client(**({"scheduler_file": where} if Path(where).is_file() else {"address": where}), timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {where}: {error}") from None


def _compute(study, cell) -> tuple[tuple, Exception | None]:
    try:
        study.compute(*cell)
    except Exception as error:  # noqa: BLE001 - the other cells are computed all the same
        return cell, error
    return cell, None


@functools.lru_cache(1)
def _study(profile: str, device: str):
    from dr_utils.study import Study  # that module imports this one

    os.environ["DR_PROGRESS"] = "off"  # the bars of several processes would overwrite each other
    return Study(Profile.model_validate_json(profile), device=device)


def _compute_named(profile: str, device: str, cell: tuple[str, str]) -> tuple[tuple, Exception | None]:
    return _compute(_study(profile, device), cell)
