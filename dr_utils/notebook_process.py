"""Execute one notebook in a kernel of this very interpreter, with its progress shown live."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from dr_utils.progress import clock

HEARTBEAT = 15.0  # seconds without a line after which the running cell is named again
KERNEL_START = 300  # seconds; a cold disk and two busy cores are slow

# What decides how notebooks behave without a person in front of them.
ENVIRONMENT = {
    "DR_HEADLESS": "1",
    "DR_PROGRESS": "plain",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "PYTHONHASHSEED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
}


@dataclass(frozen=True)
class Failure:
    """The cell in which a notebook stopped, and its error in one line."""

    cell: str
    error: str


class ThisInterpreter(AsyncKernelManager):
    """Kernel of `sys.executable`, whatever a "python3" kernel installed for the user points to."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel's command line."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"],
            display_name="Python 3",
            language="python",
        )


class _Watch:
    """Where the execution stands: hears of cells and of stderr from one thread, is asked from another."""

    def __init__(self, notebook: dict, say: Callable[[str], None]):
        self.say, self.heard = say, time.monotonic()
        # papermill adds one cell, with the parameters; counting it keeps the numbers those of In [n].
        self.n_cells = 1 + sum(cell["cell_type"] == "code" for cell in notebook["cells"])
        self.number, self.section, self.started = 0, "", time.monotonic()
        self.pid: int | None = None
        self.interrupted = False
        self._rest, self._lock = "", threading.Lock()

    def line(self, text: str) -> None:
        with self._lock:
            self.heard = time.monotonic()
            self.say(f"  {text}")

    def where(self) -> str:
        section = f" ({self.section})" if self.section else ""
        return f"cell {self.number} of {self.n_cells}{section}"

    def on_cell_start(self, cell, cell_index) -> None:
        if cell["cell_type"] != "code":
            heading = re.search(r"^#+\s*(.+)$", cell["source"], re.MULTILINE)
            self.section = heading.group(1).strip() if heading else self.section
            return
        self.number += 1
        self.started = time.monotonic()

    def beat(self) -> None:
        if time.monotonic() - self.heard >= HEARTBEAT:
            self.line(f"{self.where()}: {clock(time.monotonic() - self.started)} in this cell")

    # papermill treats this object as the file that stderr goes to.
    def write(self, text: str) -> None:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            shown = line.rstrip("\r").rsplit("\r", 1)[-1].rstrip()
            if shown:
                self.line(shown)

    def flush(self) -> None:
        pass


def execute(source: Path, target: Path, parameters: dict, say: Callable[[str], None]) -> Failure | None:
    """Execute a notebook with parameters.

    Parameters
    ----------
    source, target : Path
        Notebook to read, and where to write it with its outputs (also when a cell fails, as far as it came).
    parameters : dict
        Values for the cell tagged ``parameters``.
    say : callable
        Given one line of progress at a time: what the notebook prints to stderr, and every quarter of a minute of
        silence the cell that is running.

    Returns
    -------
    Failure or None
        None if every cell ran.

    Raises
    ------
    KeyboardInterrupt
        Passed on, after the kernel is ended.
    """
    import nbformat

    notebook = nbformat.read(source, as_version=4)
    watch = _Watch(notebook, say)
    # In a thread, because nbclient takes over the signals of the main thread and turns Ctrl-C into a dead kernel.
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(_papermill, source, target, parameters, watch)
        try:
            while not future.done():
                time.sleep(0.2)
                watch.beat()
        except KeyboardInterrupt:
            watch.interrupted = True
            _end_kernel(watch)
            raise
        return future.result()


def _papermill(source: Path, target: Path, parameters: dict, watch: _Watch) -> Failure | None:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    class Kernel(ThisInterpreter):
        async def start_kernel(self, **kwargs) -> None:
            await super().start_kernel(**{**kwargs, "env": os.environ | ENVIRONMENT})
            watch.pid = getattr(self.provisioner, "pid", None)
            if watch.interrupted:
                _end_kernel(watch)

    logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # nbclient's own words on what is reported below
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            papermill.execute_notebook(
                source,
                target,
                parameters=parameters,
                kernel_name="python3",
                language="python",
                cwd=source.parent,
                progress_bar=False,
                start_timeout=KERNEL_START,
                stderr_file=watch,
                kernel_manager_class=Kernel,
                on_cell_start=watch.on_cell_start,
            )
    except PapermillExecutionError as error:
        return Failure(
            f"cell {error.exec_count}" + (f" ({watch.section})" if watch.section else ""),
            _one_line(f"{error.ename}: {error.evalue}"),
        )
    except DeadKernelError:
        return Failure(watch.where(), "the kernel died; most often the machine had too little memory")
    except Exception as error:  # noqa: BLE001 - whatever stops one notebook must not stop the others
        return Failure(watch.where(), _one_line(f"{type(error).__name__}: {error}"))
    return None


def _one_line(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split())


def _end_kernel(watch: _Watch) -> None:
    if watch.pid:
        # The kernel leads a process group of its own, with its data workers in it.
        for kill in (lambda: os.killpg(watch.pid, signal.SIGKILL), lambda: os.kill(watch.pid, signal.SIGKILL)):
            try:
                kill()
                return
            except OSError:
                continue
