"""The numbered notebooks of a profile: found, executed two at a time, kept if nothing they depend on changed."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import yaml
from PIL import Image

from dr_utils import __version__
from dr_utils.checks import unknown
from dr_utils.device import cores, hardware_name
from dr_utils.profiles import CHECKOUT, Profile
from dr_utils.progress import clock
from dr_utils.report import DONE, FAILED
from dr_utils.store import atomic_path, key_of

NOTEBOOKS = CHECKOUT / "notebooks"
COMMON = ("profile", "out", "device")  # parameters of every notebook; each is an option of its own
AT_A_TIME = 2  # notebooks
HEARTBEAT = 15.0  # seconds after which the running cells are named
LIBRARIES = {name: version(name) for name in ("torch", "torchvision", "timm", "numpy")}  # those that compute
VERSIONS = {"python": platform.python_version(), **LIBRARIES, "dr_utils": __version__}
KERNEL = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
# How notebooks behave without a person in front of them.
ENVIRONMENT = {
    "DR_HEADLESS": "1",
    "DR_PROGRESS": "plain",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
}


@dataclass
class Run:
    """What the notebooks of one run share."""

    profile: Profile
    source: str  # name or path of the profile
    folder: Path  # of this profile's results
    device: str
    parameters: Mapping[Path, Mapping[str, object]] = field(default_factory=dict)
    tables: Mapping[str, str] = field(default_factory=dict)  # hashes of the study's tables, by name
    force: bool = False
    cluster: str = "local:1"  # where cells are computed


@dataclass(eq=False)
class Execution:
    """A notebook of a run: where it is, and how it went."""

    path: Path
    label: str  # begins its lines in the log
    status: str = ""  # then "done", "kept" (finished earlier, from the same inputs) or "failed"
    cell: str = "before its first cell"
    error: str = ""  # why it stopped, if it did
    started: float = 0.0
    seconds: float = 0.0
    notebook: dict = field(default_factory=dict)  # nbformat's, with its outputs, as far as it ran

    def say(self, text: str) -> None:
        """Print a line at once: the output may be a pipe."""
        print(f"{self.label} {self.path.stem}: {text}", flush=True)

    def run(self, parameters: Mapping[str, object], threads: str) -> None:
        """Execute all cells, or stop at the first error. In the main thread, nbclient would take over Ctrl-C."""
        # These imports take seconds, and a second run needs none.
        from jupyter_client.kernelspec import KernelSpec
        from jupyter_client.manager import AsyncKernelManager
        from nbclient.exceptions import DeadKernelError
        from papermill.engines import NBClientEngine
        from papermill.execute import raise_for_execution_errors
        from papermill.iorw import load_notebook_node
        from papermill.parameterize import parameterize_notebook

        logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # nbclient's own words on what is reported here
        # A "python3" kernel installed for the user may point anywhere. Jupyter names the notebook in the same way.
        environment = ENVIRONMENT | {"JPY_SESSION_NAME": self.path.name, "OMP_NUM_THREADS": threads}
        spec = KernelSpec(argv=KERNEL, env=environment, display_name="Python 3", language="python")
        self.started = time.time()
        self.say("running")
        self.notebook = load_notebook_node(str(self.path))
        try:
            self.notebook = parameterize_notebook(self.notebook, parameters, kernel_name="python3", language="python")
            # papermill.execute_notebook keeps nothing of a notebook whose kernel died.
            NBClientEngine.execute_notebook(
                self.notebook,
                "python3",
                progress_bar=False,
                start_timeout=300,  # seconds; a cold disk and two busy cores are slow
                stderr_file=self,
                kernel_manager_class=type("Kernel", (AsyncKernelManager,), {"kernel_spec": spec}),
                on_cell_start=self._on_cell_start,
                resources={"metadata": {"path": str(self.path.parent)}},
            )
            raise_for_execution_errors(self.notebook, None)
        except DeadKernelError:
            self.error = "the kernel died; most often the machine had too little memory"
        except Exception as error:  # noqa: BLE001 - one notebook must not stop the others
            # papermill's error tells that of the cell.
            name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
            self.error = " ".join(f"{name}: {text}".split())
        self.seconds = time.time() - self.started

    def _on_cell_start(self, cell: dict, cell_index: int) -> None:
        before = self.notebook.cells[: cell_index + 1]
        number = sum(other.cell_type == "code" for other in before)  # that of In [n]
        texts = "\n".join(other.source for other in before if other.cell_type == "markdown")
        headings = re.findall(r"^#+\s*(.+)$", texts, re.MULTILINE)
        self.cell = f"cell {number}" + (f" ({headings[-1].strip()})" if headings else "")

    # papermill takes this object for the file that stderr goes to.
    def write(self, text: str) -> None:
        """Pass on what a cell says on stderr."""
        for line in filter(str.strip, text.splitlines()):
            self.say(line)

    def flush(self) -> None:
        """Do nothing: lines are passed on at once."""


def find_notebooks(folder: Path = NOTEBOOKS, only: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks ``NN_name.ipynb`` of a folder in order: all, or those with these numbers or names."""
    found = sorted(path for path in Path(folder).glob("*.ipynb") if re.match(r"\d\d_", path.name))
    if not found:
        raise ValueError(f"no numbered notebooks (NN_name.ipynb) in {folder}.")
    chosen = {name.zfill(2) for name in only}
    names = {path: {path.name[:2], path.stem, path.name} for path in found}
    for name in sorted(chosen.difference(*names.values())):
        raise unknown("notebook", name, [path.stem for path in found])
    return [path for path in found if names[path] & chosen or not only]


def names_in(notebook: Path) -> list[str]:
    """Return the names of a notebook's parameters, without those that all notebooks share."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", ()))
    return [name for name in re.findall(r"^(\w+)\s*[:=]", source, re.MULTILINE) if name not in COMMON]


def read_parameters(pairs: Sequence[Sequence[str]], notebooks: Sequence[Path]) -> dict[Path, dict[str, object]]:
    """Turn pairs of name and value, such as ("data", "photos/"), into what each notebook is given."""
    values = {name: _value(text) for name, text in pairs}
    known = {notebook: names_in(notebook) for notebook in notebooks} if values else {}
    for name in values:
        if not any(name in names for names in known.values()):
            hint = f"{', '.join(COMMON)} have options of their own, such as --device."
            raise unknown("parameter of these notebooks", name, set().union(*known.values()), hint=hint)
    return {notebook: {n: v for n, v in values.items() if n in names} for notebook, names in known.items()}


def _value(text: str) -> object:
    """Read a value as YAML; a file or folder becomes its full path, because notebooks run in their own folder."""
    path = Path(text).expanduser()
    if path.exists():
        return str(path.resolve())
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def computes(notebook: Path) -> bool:
    """Return whether a notebook computes its own results, as its metadata says, instead of reading the study's."""
    return bool(json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get(DONE, {}).get("computes"))


def notebook_key(notebook: Path, run: Run) -> str:
    """Return the key of all that a notebook's result depends on: its cells, what it is given, and versions."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return key_of({
        "cells": [[cell["cell_type"], "".join(cell["source"])] for cell in cells],
        "profile": run.profile.model_dump(mode="json"),
        "device": run.device,
        "parameters": run.parameters.get(notebook, {}),
        "tables": {} if computes(notebook) else run.tables,
        "versions": VERSIONS,
    })  # fmt: skip


def is_finished(notebook: Path, run: Run) -> bool:
    """Return whether a notebook was executed from the same inputs, and all that it drew is still there."""
    if any(os.path.isabs(str(value)) for value in run.parameters.get(notebook, {}).values()):
        return False  # the user's own files may have changed
    try:
        noted = json.loads((run.folder / "notebooks" / notebook.name).read_text(encoding="utf-8"))["metadata"][DONE]
        return noted["key"] == notebook_key(notebook, run) and all((run.folder / n).is_file() for n in noted["made"])
    except (OSError, ValueError, KeyError):
        return False


def run_notebooks(executions: Sequence[Execution], run: Run) -> None:
    """Execute what is not finished, two at a time: first notebooks that compute, which take longest."""
    for execution in executions:
        if not run.force and is_finished(execution.path, run):
            execution.status = "kept"
            execution.say("finished earlier from the same inputs, kept (--force does it again)")
    executions = [execution for execution in executions if not execution.status]
    executions.sort(key=lambda execution: not computes(execution.path))
    given = {"profile": run.source, "out": str(run.folder.parent), "device": run.device}
    keys = {execution: notebook_key(execution.path, run) for execution in executions}
    # Threads of two kernels on the same cores wait for each other.
    workers = max(1, min(AT_A_TIME, len(executions)))
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // workers))
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(e.run, given | run.parameters.get(e.path, {}), threads): e for e in executions}
        left = set(futures)
        try:
            while left:
                done, left = wait(left, HEARTBEAT, FIRST_COMPLETED)
                for execution in map(futures.get, done):
                    _write(execution, keys[execution], run)
                for future in left if not done else ():
                    if future.running():
                        futures[future].say(futures[future].cell)
        except BaseException:  # Ctrl-C, or a full disk
            pool.shutdown(wait=False, cancel_futures=True)
            while any(future.running() for future in futures):  # a kernel may just be starting
                for process in psutil.Process().children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        process.kill()
                time.sleep(0.1)
            raise


def _write(execution: Execution, key: str, run: Run) -> None:
    """Write an executed notebook, with what is noted of it; one that failed has another name, and no key."""
    import nbformat

    path, error, made = execution.path, execution.error, []
    for picture in sorted(run.folder.glob("figures/[!.]*.png")):  # each notes who drew it
        with Image.open(picture) as image:
            if image.info.get("Source") == path.name and picture.stat().st_mtime >= execution.started:
                made += [f"figures/{picture.stem}.pdf", f"figures/{picture.name}"]
    target, failed = (run.folder / "notebooks" / f"{path.stem}{suffix}.ipynb" for suffix in ("", FAILED))
    execution.notebook.metadata.setdefault(DONE, {}).update(
        {"cell": execution.cell, "error": error} if error else {"key": key},
        made=made,
        seconds=round(execution.seconds, 1),
        device=run.device,
        hardware=hardware_name(run.device),
        profile=run.profile.model_dump(mode="json"),
        versions=VERSIONS,
        finished=datetime.now(UTC).date().isoformat(),
    )
    with atomic_path(failed if error else target) as part:
        nbformat.write(execution.notebook, part)
    execution.status = "failed" if error else "done"
    if not error:
        failed.unlink(missing_ok=True)
    execution.say(f"{execution.status} after {clock(execution.seconds)}, {failed if error else target}")
