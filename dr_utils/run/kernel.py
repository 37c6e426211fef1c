"""Execute a notebook with papermill, in a kernel of this very interpreter."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.engines import NBClientEngine
from papermill.execute import raise_for_execution_errors
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

KERNEL_START = 300  # seconds; a cold disk and two busy cores are slow
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


class Kernel(AsyncKernelManager):
    """Kernel of `sys.executable`, whatever a "python3" kernel installed for the user points to."""

    execution: Execution

    @property
    def kernel_spec(self) -> KernelSpec:
        """The kernel's command line."""
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
        return KernelSpec(argv=command, display_name="Python 3", language="python")

    async def start_kernel(self, **kwargs) -> None:
        """Start the kernel; end it at once if the run was interrupted meanwhile."""
        # Jupyter gives a kernel its notebook's name in the same way.
        session = {"JPY_SESSION_NAME": self.execution.path.name}
        await super().start_kernel(**{**kwargs, "env": os.environ | ENVIRONMENT | session})
        self.execution.kernel = self
        if self.execution.ended:
            self.execution.end()


class Execution:
    """One execution of a notebook.

    `run` belongs in a thread: in the main thread, nbclient takes over Ctrl-C. `end` stops it from another thread.

    Attributes
    ----------
    notebook : NotebookNode or None
        The notebook with its outputs, as far as it ran.
    cell, error : str
        Where it stopped and why; `error` is empty if every cell ran.
    """

    def __init__(self, path: Path, parameters: Mapping[str, object], say: Callable[[str], None]):
        self.path, self.parameters, self.say = path, parameters, say
        self.notebook: NotebookNode | None = None
        self.kernel: Kernel | None = None
        self.cell, self.error, self._rest = "before its first cell", "", ""
        self.ended = False

    def run(self) -> None:
        """Execute all cells, or stop at the first error, which is kept and not raised."""
        logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # nbclient's own words on what is reported here
        try:
            self.notebook = load_notebook_node(str(self.path))
            self.notebook = parameterize_notebook(
                self.notebook, self.parameters, kernel_name="python3", language="python"
            )
            # Not papermill.execute_notebook: it changes the working folder of the process, and two run at a time.
            NBClientEngine.execute_notebook(
                self.notebook,
                "python3",
                progress_bar=False,
                start_timeout=KERNEL_START,
                stderr_file=self,
                kernel_manager_class=type("Kernel", (Kernel,), {"execution": self}),
                on_cell_start=self._on_cell_start,
                resources={"metadata": {"path": str(self.path.parent)}},
            )
            raise_for_execution_errors(self.notebook, None)
        except DeadKernelError:
            self.error = "the kernel died; most often the machine had too little memory"
        except Exception as error:  # noqa: BLE001 - one notebook must not stop the others
            # papermill's error tells that of the cell.
            name, text = getattr(error, "ename", type(error).__name__), getattr(error, "evalue", error)
            self.error = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", f"{name}: {text}").split())

    def _on_cell_start(self, cell: NotebookNode, cell_index: int) -> None:
        before = self.notebook.cells[: cell_index + 1]
        number = sum(other.cell_type == "code" for other in before)  # that of In [n]
        texts = "\n".join(other.source for other in before if other.cell_type == "markdown")
        headings = re.findall(r"^#+\s*(.+)$", texts, re.MULTILINE)
        self.cell = f"cell {number}" + (f" ({headings[-1].strip()})" if headings else "")

    def end(self) -> None:
        """Kill the kernel; one that is just starting ends as soon as it is there."""
        self.ended = True
        if self.kernel and self.kernel.provisioner:
            # The kernel leads a process group of its own, with its data workers in it.
            with contextlib.suppress(OSError):
                os.killpg(self.kernel.provisioner.pid, signal.SIGKILL)

    # papermill takes this object for the file that stderr goes to.
    def write(self, text: str) -> None:
        """Pass on whole lines; of a line that redraws itself, its last state."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if shown := line.rstrip("\r").rsplit("\r", 1)[-1].rstrip():
                self.say(f"  {shown}")

    def flush(self) -> None:
        """Do nothing: lines are passed on at once."""
