"""Execute a notebook with papermill, in a kernel of this very interpreter."""

from __future__ import annotations

import logging
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from nbformat.v4 import new_notebook
from papermill.engines import NBClientEngine
from papermill.execute import raise_for_execution_errors
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

COMMAND = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=CRITICAL"]
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
    notebook: NotebookNode = field(default_factory=new_notebook)  # with its outputs, as far as it ran

    def say(self, text: str) -> None:
        """Print a line at once: the output may be a pipe."""
        print(f"{self.label} {self.path.stem}: {text}", flush=True)

    def run(self, parameters: Mapping[str, object]) -> None:
        """Execute all cells, or stop at the first error. In the main thread, nbclient would take over Ctrl-C."""
        logging.getLogger("traitlets").setLevel(logging.CRITICAL)  # nbclient's own words on what is reported here
        # A "python3" kernel installed for the user may point anywhere. Jupyter names the notebook in the same way.
        environment = ENVIRONMENT | {"JPY_SESSION_NAME": self.path.name}
        spec = KernelSpec(argv=COMMAND, env=environment, display_name="Python 3", language="python")
        self.started = time.time()
        self.say("running")
        try:
            source = load_notebook_node(str(self.path))
            self.notebook = parameterize_notebook(source, parameters, kernel_name="python3", language="python")
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

    def _on_cell_start(self, cell: NotebookNode, cell_index: int) -> None:
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
