"""Executed notebooks: what the runner noted in them, and how they become HTML that fetches nothing."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dr_utils.store import atomic_path

DONE = "dr_utils"  # key of the executed notebook's metadata: what it was made from, and what it made
FAILED = ".failed"  # ends the name, before .ipynb, of a notebook that stopped in a cell
HERE = Path(__file__).parent
# Without widgets and scripts, which a page has to fetch code for: their plain text or picture stands in.
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]


@dataclass
class Notebook:
    """One notebook of a run, as far as it came.

    Attributes
    ----------
    name, title : str
        File name without suffix; first heading.
    status : str
        "done", "failed" or "not run".
    about : dict
        What the runner noted of the last attempt; empty if nothing.
    made : list of str
        Files that it wrote, as paths in the results folder.
    pages : dict of str to str
        The notebook as HTML, paths in the results folder, by what each shows.
    """

    name: str
    title: str
    status: str = "not run"
    about: dict = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)


def read_notebooks(folder: Path, expected: Sequence[str] = ()) -> list[Notebook]:
    """Read what became of the notebooks of a run and write those that are there as HTML.

    Parameters
    ----------
    folder : Path
        Results of a profile, such as outputs/mini.
    expected : sequence of str
        Names of notebooks that belong to the run, there or not.

    Returns
    -------
    list of Notebook
        By name.

    Raises
    ------
    ValueError
        A file that is no notebook.
    """
    executed = folder / "notebooks"
    files = {path.stem: path for path in executed.glob("*.ipynb") if not path.name.startswith(".")}
    for page in executed.glob(f"*{FAILED}.html"):
        if page.stem not in files:
            page.unlink()
    found = []
    for name in sorted({*expected, *(stem.removesuffix(FAILED) for stem in files)}):
        notebook = Notebook(name, name.replace("_", " "))
        # A success removes the failed file, so where both are there the failure came last.
        for stem, status in ((name, "done"), (name + FAILED, "failed")):
            if stem in files:
                _add(notebook, files[stem], status)
        found.append(notebook)
    return found


def _add(notebook: Notebook, path: Path, status: str) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        texts = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "markdown"]
        about = content["metadata"].get(DONE, {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no notebook ({error}); remove it, ./run_all.sh makes it anew.") from None
    headings = [line.lstrip("# ") for text in texts for line in text.splitlines() if line.startswith("# ")]
    notebook.title = headings[0] if headings else notebook.title
    notebook.status, notebook.about = status, about
    notebook.made = sorted({*notebook.made, *about.get("made", ())})
    what = "executed notebook" if status == "done" else "where it failed"
    notebook.pages[what] = f"notebooks/{to_html(path).name}"


def to_html(path: Path) -> Path:
    """Write a notebook as HTML beside it, unless the page there was made from the same notebook.

    Parameters
    ----------
    path : Path
        An executed notebook.

    Returns
    -------
    Path
        The page: without scripts, images embedded, nothing fetched from elsewhere.
    """
    from importlib.metadata import version

    template = (HERE / "notebook.html.j2").read_bytes()
    made_from = digest(path.read_bytes(), template, version("nbconvert").encode())
    page = path.with_suffix(".html")
    if is_made_from(page, made_from):
        return page
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        extra_template_paths=[str(HERE)], template_file="notebook.html.j2", embed_images=True, log=_Silent("nbconvert")
    )
    exporter.config.NbConvertBase.display_data_priority = SHOWN
    html, _ = exporter.from_filename(str(path), resources={"made_from": made_from})
    with atomic_path(page) as part:
        part.write_text(html, encoding="utf-8")
    return page


class _Silent(logging.Logger):
    # nbconvert warns of every figure without alternative text, which a notebook cannot give.
    def isEnabledFor(self, level: int) -> bool:  # noqa: N802 - logging's name
        return level >= logging.ERROR


def digest(*parts: bytes) -> str:
    """SHA-256 of what a page is made from."""
    sizes = b",".join(str(len(part)).encode() for part in parts)
    return hashlib.sha256(b"".join((sizes, *parts))).hexdigest()


def is_made_from(page: Path, made_from: str) -> bool:
    """Whether the page is there and its head names this digest."""
    try:
        with page.open("rb") as file:
            return made_from.encode() in file.read(4096)
    except FileNotFoundError:
        return False
