"""Calls in several processes: joblib starts them here, Dask on the machines of a cluster."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from dr_utils.device import cores
from dr_utils.store import CacheError

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


def processes_here(where: str, calls: int, device: str) -> int:
    """Return how many processes compute here: as told, else one a core as far as memory reaches; with a GPU one."""
    if where != "auto":
        return min(calls, int(where.removeprefix("local:")))
    return min(calls, cores(), max(1, int(psutil.virtual_memory().available / MEMORY))) if device == "cpu" else 1


Cell = tuple[str, str]  # network, task


def each(cells: Sequence[Cell], where: str, device: str, *, here: Callable, there: Callable) -> Iterator[Cell]:
    """Call a function with each cell where `check_cluster` says, and yield the cell when it is done.

    `here` is called in this process, where that is enough; `there`, which must be picklable, in others. If calls fail
    the others have their turn; then a RuntimeError names the cells. Only a full disk stops at once.
    """
    failed = []
    for cell, error in _outcomes(cells, where, device, here, there):
        if isinstance(error, OSError | CacheError):  # the next would fail as well
            raise error
        if error is None:
            yield cell
        else:
            failed.append((f"{' on '.join(cell)}: {type(error).__name__}: {error}", error))
    if failed:
        what = f"{len(failed)} of {len(cells)} cells failed; the others are stored"
        raise RuntimeError("\n  ".join([what, *(line for line, _ in failed)])) from failed[0][1]


def _outcomes(cells, where, device, here, there) -> Iterator[tuple[Cell, Exception | None]]:
    local = where == "auto" or where.startswith("local:")
    n = processes_here(where, len(cells), device) if local else -1
    if n in (0, 1):
        yield from (_attempt(here, cell) for cell in cells)
        return
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky import get_reusable_executor

    if local:
        # One thread each where there are as many processes as cores: threads of one product wait for each other.
        chosen = {"backend": "loky", "inner_max_num_threads": max(1, cores() // n)}
    else:
        chosen = {"backend": "dask", "client": _client(where)}
    try:
        with parallel_config(n_jobs=n, **chosen), warnings.catch_warnings():
            # It says so where it replaces a process that has grown, as those do that keep networks open.
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            run = Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="all")
            yield from run(delayed(_attempt)(there, cell) for cell in cells)
    finally:
        if local:  # else these processes, and their memory, stay for the next call
            get_reusable_executor().shutdown(kill_workers=True)
        else:
            chosen["client"].close()


def _client(where: str):
    try:
        from distributed import Client
    except ImportError:
        raise ValueError("a cluster needs Dask: pip install distributed.") from None
    try:
        return Client(**({"scheduler_file": where} if Path(where).is_file() else {"address": where}), timeout=PATIENCE)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {where}: {error}") from None


def _attempt(function: Callable, cell: Cell) -> tuple[Cell, Exception | None]:
    try:
        function(cell)
    except Exception as error:  # noqa: BLE001 - see `each`
        return cell, error
    return cell, None
