"""Executing the numbered notebooks of a profile, each once for the same inputs."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from dr_utils import __version__
from dr_utils.checks import unknown
from dr_utils.parameters import names_files
from dr_utils.profiles import CHECKOUT, Profile
from dr_utils.progress import clock
from dr_utils.report.notebooks import DONE

NOTEBOOKS = CHECKOUT / "notebooks"
LIBRARIES = ("torch", "torchvision", "timm", "numpy")  # those that compute
# They start notebooks or read what these wrote: no result depends on them.
NO_INPUTS = ("report", "readme.py", "runner")


@dataclass
class Outcome:
    """How one notebook went."""

    notebook: Path
    status: str  # "done", "kept" (finished earlier, from the same inputs) or "failed"
    seconds: float = 0.0
    cell: str = ""
    error: str = ""
    output: Path | None = None


@dataclass(frozen=True)
class Run:
    """What every notebook of one run is given."""

    profile: Profile
    profile_source: str
    out: Path
    device: str
    notebooks: Path = NOTEBOOKS
    parameters: Mapping[Path, Mapping[str, object]] = field(default_factory=dict)
    say: Callable[[str], None] = field(default=print, repr=False)

    @property
    def folder(self) -> Path:
        """Folder of this profile's results, ``<out>/<profile>``."""
        return self.out / self.profile.name

    @property
    def executed(self) -> Path:
        """Folder of the executed notebooks."""
        return self.folder / "notebooks"


def find_notebooks(folder: Path = NOTEBOOKS, only: Sequence[str] | None = None) -> list[Path]:
    """Numbered notebooks of a folder in order.

    Parameters
    ----------
    folder : Path
        Where ``NN_name.ipynb`` are looked for.
    only : sequence of str, optional
        Numbers ("01", "3") or names ("03_architectures"); all by default.

    Raises
    ------
    ValueError
        A number or name that no notebook has, or no notebooks at all.
    """
    found = sorted(path for path in Path(folder).glob("*.ipynb") if re.match(r"\d\d_", path.name))
    if not found:
        raise ValueError(f"no numbered notebooks (NN_name.ipynb) in {folder}.")
    if not only:
        return found
    chosen = set()
    for asked in only:
        key = asked.removesuffix(".ipynb")
        matching = [path for path in found if path.stem == key or (key.isdigit() and int(path.name[:2]) == int(key))]
        if not matching:
            raise unknown("notebook", asked, [path.stem for path in found], hint="A number such as 01 will do.")
        chosen.update(matching)
    return [path for path in found if path in chosen]


def fingerprint(notebook: Path, run: Run) -> str:
    """SHA-256 of all that a notebook's result depends on.

    Its own cells (without outputs), the profile, its own parameters, the sources and data of ``dr_utils``, the device
    and the versions of the libraries that compute. Tables and figures follow from these.
    """
    content = json.loads(notebook.read_text(encoding="utf-8"))
    cells = [[cell["cell_type"], "".join(cell["source"])] for cell in content["cells"]]
    package = Path(__file__).parent.parent
    sources = sorted(
        path
        for path in package.rglob("*")
        if path.suffix in (".py", ".csv") and path.relative_to(package).parts[0] not in NO_INPUTS
    )
    inputs = {
        "cells": cells,
        "profile": run.profile.fingerprint(),
        "device": run.device,
        "parameters": dict(run.parameters.get(notebook, {})),
        "sources": {str(path.relative_to(package)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sources},
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def circumstances(run: Run) -> dict:
    """What the report says about how a notebook was run: profile, device, hardware, versions and day, fit for JSON."""
    import torch

    from dr_utils.zoo.training import hardware_name

    return {
        "profile": run.profile.model_dump(mode="json"),
        "device": run.device,
        "hardware": hardware_name(torch.device(run.device)),
        "versions": {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in LIBRARIES},
            "dr_utils": __version__,
        },
        "finished": datetime.now(UTC).date().isoformat(),
    }


def is_finished(notebook: Path, run: Run) -> bool:
    """Whether the executed notebook exists, was made from the same inputs, and all that it wrote is still there."""
    try:
        metadata = json.loads((run.executed / notebook.name).read_text(encoding="utf-8"))["metadata"][DONE]
        made = [run.folder / name for name in metadata["made"]]
        return metadata["inputs"] == fingerprint(notebook, run) and all(path.is_file() for path in made)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def run_notebook(notebook: Path, run: Run, label: str = "") -> Outcome:
    """Execute one notebook; an error inside it is part of the outcome, an interrupt is raised."""
    from dr_utils import notebook_process

    run.executed.mkdir(parents=True, exist_ok=True)
    target, failed = run.executed / notebook.name, run.executed / f"{notebook.stem}.failed.ipynb"
    # The finished notebook appears under its name at once or not at all; the process id keeps two runs apart.
    unfinished = run.executed / f".{notebook.stem}.{os.getpid()}.ipynb"
    inputs, start, before = fingerprint(notebook, run), time.monotonic(), _made_in(run.folder)
    parameters = {"profile": run.profile_source, "out": str(run.out), "device": run.device}
    parameters |= run.parameters.get(notebook, {})
    try:
        failure = notebook_process.execute(notebook, unfinished, parameters, lambda line: run.say(f"{label}{line}"))
        seconds = time.monotonic() - start
        made = sorted(name for name, stamp in _made_in(run.folder).items() if before.get(name) != stamp)
        about = {"made": made, "seconds": round(seconds, 1), **circumstances(run)}
        if failure:
            if unfinished.is_file():
                # What ended the notebook, such as a full disk, may have left half of the file.
                with contextlib.suppress(ValueError, OSError):
                    _describe(unfinished, {**about, "cell": failure.cell, "error": failure.error})
                os.replace(unfinished, failed)
            return Outcome(
                notebook, "failed", seconds, failure.cell, failure.error, failed if failed.is_file() else None
            )
        _describe(unfinished, {"inputs": inputs, **about})
        os.replace(unfinished, target)
        failed.unlink(missing_ok=True)
        return Outcome(notebook, "done", seconds, output=target)
    finally:
        unfinished.unlink(missing_ok=True)


def _describe(notebook: Path, about: dict) -> None:
    content = json.loads(notebook.read_text(encoding="utf-8"))
    content["metadata"][DONE] = about
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _made_in(folder: Path) -> dict[str, int]:
    return {
        path.relative_to(folder).as_posix(): path.stat().st_mtime_ns
        for kind in ("figures", "tables")
        for path in (folder / kind).rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


def run_notebooks(notebooks: Sequence[Path], run: Run, *, force: bool = False) -> list[Outcome]:
    """Run notebooks in order; one that fails does not stop the others.

    Parameters
    ----------
    notebooks : sequence of Path
        From `find_notebooks`.
    run : Run
        Profile, folder and device.
    force : bool
        Do again what is finished.

    Returns
    -------
    list of Outcome
        One per notebook.
    """
    outcomes = []
    for number, notebook in enumerate(notebooks, start=1):
        title = f"[{number}/{len(notebooks)}] {notebook.stem}"
        # Files of the user's may have changed since.
        again = force or names_files(run.parameters.get(notebook, {}))
        if not again and is_finished(notebook, run):
            run.say(f"{title}: finished earlier from the same inputs, kept (--force does it again)")
            outcomes.append(Outcome(notebook, "kept", output=run.executed / notebook.name))
            continue
        run.say(f"{title}: running")
        outcome = run_notebook(notebook, run, label=f"[{number}/{len(notebooks)}] ")
        run.say(f"{title}: {outcome.status} after {clock(outcome.seconds)}")
        outcomes.append(outcome)
    return outcomes
