"""The numbered notebooks of a profile: found, executed two at a time, kept if nothing they depend on changed."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import nbformat
from PIL import Image

from dr_utils import __version__
from dr_utils.checks import unknown
from dr_utils.device import hardware_name
from dr_utils.profiles import CHECKOUT, Profile
from dr_utils.progress import clock
from dr_utils.report import DONE, FAILED
from dr_utils.run.kernel import Execution
from dr_utils.run.parameters import names_files
from dr_utils.store import atomic_path, key_of

NOTEBOOKS = CHECKOUT / "notebooks"
LIBRARIES = ("torch", "torchvision", "timm", "numpy")  # those that compute
AT_A_TIME = 2  # notebooks that only read tables
HEARTBEAT = 15.0  # seconds after which the running cells are named


@dataclass
class Outcome:
    """How one notebook went."""

    notebook: Path
    status: str  # "done", "kept" (finished earlier, from the same inputs) or "failed"
    seconds: float = 0.0
    cell: str = ""
    error: str = ""
    output: Path | None = None


@dataclass
class Run:
    """What the notebooks of one run share."""

    profile: Profile
    source: str  # name or path of the profile
    out: Path
    device: str
    parameters: Mapping[Path, Mapping[str, object]] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)  # hashes of the study's tables, by name
    force: bool = False
    say: Callable[[str], None] = partial(print, flush=True)  # at once: the output may be a pipe

    @property
    def folder(self) -> Path:
        """Folder of this profile's results, ``<out>/<profile>``."""
        return self.out / self.profile.name

    @property
    def executed(self) -> Path:
        """Folder of the executed notebooks."""
        return self.folder / "notebooks"


def find_notebooks(folder: Path = NOTEBOOKS, only: Sequence[str] | None = None) -> list[Path]:
    """Return the notebooks ``NN_name.ipynb`` of a folder in order: all, or those with these numbers or names.

    Raises
    ------
    ValueError
        A number or name that no notebook has, or no notebooks at all.
    """
    found = sorted(path for path in Path(folder).glob("*.ipynb") if re.match(r"\d\d_", path.name))
    if not found:
        raise ValueError(f"no numbered notebooks (NN_name.ipynb) in {folder}.")
    chosen = set()
    for name in only or ():
        key = name.removesuffix(".ipynb")
        matching = [path for path in found if path.stem == key or (key.isdigit() and int(path.name[:2]) == int(key))]
        if not matching:
            raise unknown("notebook", name, [path.stem for path in found], hint="You can also use a number such as 01.")
        chosen.update(matching)
    return [path for path in found if path in chosen or not only]


def computes(notebook: Path) -> bool:
    """Return whether a notebook computes its own results, as its metadata says, instead of reading the study's."""
    return bool(json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get(DONE, {}).get("computes"))


def versions() -> dict[str, str]:
    """Return the versions of Python, this package and the libraries that compute."""
    libraries = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"python": platform.python_version(), **libraries, "dr_utils": __version__}


def notebook_key(notebook: Path, run: Run) -> str:
    """Return the key of all that a notebook's result depends on: its cells, what it is given, and versions."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return key_of({
        "cells": [[cell["cell_type"], "".join(cell["source"])] for cell in cells],
        "profile": run.profile.model_dump(mode="json"),
        "device": run.device,
        "parameters": run.parameters.get(notebook, {}),
        "tables": {} if computes(notebook) else run.tables,
        "versions": versions(),
    })  # fmt: skip


def is_finished(notebook: Path, run: Run) -> bool:
    """Return whether a notebook was executed from the same inputs, and all that it wrote is still there."""
    try:
        noted = json.loads((run.executed / notebook.name).read_text(encoding="utf-8"))["metadata"][DONE]
        return noted["key"] == notebook_key(notebook, run) and all((run.folder / n).is_file() for n in noted["made"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_notebooks(notebooks: Sequence[Path], run: Run) -> list[Outcome]:
    """Execute notebooks, or keep them, and return how each went; one that fails does not stop the others.

    Those that only read the study's tables run two at a time. Those that compute follow, alone.

    Raises
    ------
    KeyboardInterrupt
        Passed on when all kernels are ended.
    """
    labels = {notebook: f"[{i}/{len(notebooks)}] " for i, notebook in enumerate(notebooks, start=1)}
    outcomes: dict[Path, Outcome] = {}
    for notebook, label in labels.items():
        # The user's own files may have changed since.
        again = run.force or names_files(run.parameters.get(notebook, {}).values())
        if not again and is_finished(notebook, run):
            run.say(f"{label}{notebook.stem}: finished earlier from the same inputs, kept (--force does it again)")
            outcomes[notebook] = Outcome(notebook, "kept", output=run.executed / notebook.name)
    waiting = {notebook: label for notebook, label in labels.items() if notebook not in outcomes}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # papermill's
        for workers, alone in ((AT_A_TIME, False), (1, True)):
            group = {notebook: label for notebook, label in waiting.items() if computes(notebook) == alone}
            outcomes |= {outcome.notebook: outcome for outcome in _run_group(group, workers, run)}
    return [outcomes[notebook] for notebook in notebooks]


def _run_group(group: Mapping[Path, str], workers: int, run: Run) -> list[Outcome]:
    given = {"profile": run.source, "out": str(run.out), "device": run.device}
    executions = [
        Execution(notebook, given | run.parameters.get(notebook, {}), lambda line, label=label: run.say(label + line))
        for notebook, label in group.items()
    ]
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(_run_one, execution, run): execution for execution in executions}
        try:
            while left := wait(futures, timeout=HEARTBEAT).not_done:
                for future in filter(lambda future: future.running(), left):
                    futures[future].say(f"  {futures[future].cell}")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for execution in executions:
                execution.end()
            raise
    return [future.result() for future in futures]


def _run_one(execution: Execution, run: Run) -> Outcome:
    notebook, started, key = execution.path, time.time(), notebook_key(execution.path, run)
    target, failed = run.executed / notebook.name, run.executed / f"{notebook.stem}{FAILED}.ipynb"
    execution.say(f"{notebook.stem}: running")
    execution.run()
    seconds, error = time.time() - started, execution.error
    if execution.ended:
        return Outcome(notebook, "failed")
    # What failed has no key: it must not pass for finished.
    noted = {"cell": execution.cell, "error": error} if error else {"key": key}
    noted |= {"made": _made(notebook, run, started), "seconds": round(seconds, 1), "device": run.device}
    noted |= {"profile": run.profile.model_dump(mode="json"), "hardware": hardware_name(run.device)}
    noted |= {"versions": versions(), "finished": datetime.now(UTC).date().isoformat()}
    output = failed if error else target
    try:
        execution.notebook.metadata[DONE] = {**execution.notebook.metadata.get(DONE, {}), **noted}
        with atomic_path(output) as part:
            nbformat.write(execution.notebook, part)
        if not error:
            failed.unlink(missing_ok=True)
    except (OSError, RuntimeError, AttributeError) as problem:  # such as a full disk, or a file that is no notebook
        output, error = None, error or str(problem)
    outcome = Outcome(notebook, "failed" if error else "done", seconds, execution.cell, error, output)
    execution.say(f"{notebook.stem}: {outcome.status} after {clock(seconds)}")
    return outcome


def _made(notebook: Path, run: Run, started: float) -> list[str]:
    """Return what a notebook wrote; where two run at a time, the figures that carry its name."""
    files = [path for kind in ("figures", "tables") for path in (run.folder / kind).glob("[!.]*")]
    new = [path for path in files if path.stat().st_mtime >= started]
    if not computes(notebook):
        new = [path for path in new if _drawn_by(path.with_suffix(".png")) == notebook.name]
    return sorted(path.relative_to(run.folder).as_posix() for path in new)


def _drawn_by(figure: Path) -> str:
    """Return the name of the notebook that saved a figure, which is noted in the PNG."""
    if not figure.is_file():
        return ""
    with Image.open(figure) as image:
        return image.info.get("Source", "")
