"""One page with all results of a run, ``outputs/<profile>/report.html``: ``python -m dr_utils report [FOLDER]``."""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from dr_utils.claims import CLAIMS
from dr_utils.claims.registry import NOTHING, PUBLISHED
from dr_utils.datasets import available
from dr_utils.profiles import CHECKOUT, REFERENCE_NOTEBOOKS
from dr_utils.progress import clock
from dr_utils.store import atomic_path

__all__ = ["DONE", "FAILED", "write_report"]

DONE = "dr_utils"  # key of a notebook's metadata: what the runner noted in it
FAILED = ".failed"  # ends the name, before .ipynb, of a notebook that stopped in a cell
HERE = Path(__file__).parent
SHORT = 110  # characters of a claim's measurement and reason that are seen before unfolding
NOT_OURS = "Published numbers of the paper's authors: nothing in this figure was measured by this suite."
# What a notebook's page shows of an output: widgets and scripts have to fetch code, so their text or picture comes.
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]


def write_report(folder: str | Path, notebooks: Sequence[str] = ()) -> Path:
    """Write the page of a run from the files in its folder, and the notebooks as HTML.

    Parameters
    ----------
    folder : str or Path
        Results of a profile, such as outputs/mini: notebooks, figures and tables, whichever are there.
    notebooks : sequence of str
        Names of the notebooks that belong to the run; the page says which of them are missing.

    Returns
    -------
    Path
        ``report.html`` in the folder. Pages that are younger than all files they show are left as they are.

    Raises
    ------
    ValueError
        The folder has no tables, or a file that is not a notebook.
    """
    folder = Path(folder)
    if not any((folder / "tables").glob("*.csv")):
        raise ValueError(f"no tables in {folder / 'tables'}; run ./run_all.sh first, with the --profile of that name.")
    page = folder / "report.html"
    files = [path for kind in ("tables/*", "figures/*", "notebooks/*.ipynb") for path in folder.glob(kind)]
    if _older(page, *files):
        content = _content(folder, notebooks)
        with atomic_path(page) as part:
            part.write_text(_rendered(folder, content), encoding="utf-8")
    return page


def _older(page: Path, *files: Path) -> bool:
    """Return whether a page is missing, or older than a file that it shows or than what writes it."""
    if not page.is_file():
        return True
    return any(path.stat().st_mtime > page.stat().st_mtime for path in (*files, *HERE.glob("*.*")))


def _content(folder: Path, expected: Sequence[str]) -> dict:
    """Return all that the page shows but the pictures."""
    claims, networks, tasks = (_rows(folder / "tables" / f"{name}.csv") for name in ("claims", "networks", "tasks"))
    from_paper = bool(networks) and all(row.get("source") == PUBLISHED for row in networks)
    figures = [_figure(path, from_paper) for path in sorted((folder / "figures").glob("*.png"))]
    stems = {path.stem.removesuffix(FAILED) for path in (folder / "notebooks").glob("[!.]*.ipynb")}
    stems.update(name for name in expected if not from_paper or name[:2] in REFERENCE_NOTEBOOKS)
    notebooks = [_notebook(folder, name, figures) for name in sorted(stems)]
    drawn = {figure["stem"] for notebook in notebooks for figure in notebook["figures"]}
    profiles = [notebook["about"]["profile"] for notebook in notebooks if "profile" in notebook["about"]]
    return {
        "name": profiles[0]["name"] if profiles else folder.resolve().name,
        "title": profiles[0]["title"] if profiles else "",
        "from_paper": from_paper,
        "notebooks": notebooks,
        "profiles": list(dict.fromkeys(map(_without_title, profiles))),
        "claims": claims,
        "statements": {name: claim.statement for name, claim in CLAIMS.items()},
        "networks": networks,
        "tasks": tasks,
        "cards": {} if from_paper else available(),
        "other_figures": [figure for figure in figures if figure["stem"] not in drawn],
        "tables": sorted(path.stem for path in (folder / "tables").glob("*.csv")),
        "citation": yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")),
    }


def _without_title(profile: dict) -> str:
    """Return a profile as YAML; its title decides nothing."""
    return yaml.safe_dump({k: v for k, v in profile.items() if k != "title"}, sort_keys=False, width=100)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _figure(path: Path, from_paper: bool) -> dict:
    """Return what the page says of a figure: its caption is in the PNG, or else made from its name."""
    with Image.open(path) as image:
        (width, height), caption = image.size, image.info.get("Description", "")
    number, words = re.fullmatch(r"(?:fig0*(\d+)_)?(.*)", path.stem, re.DOTALL).groups()
    title, _, text = caption.partition(". ")
    title = title.rstrip(".") or words.replace("_", " ").strip() or path.stem
    if from_paper:
        title, text = f"{title} (published numbers)", f"{NOT_OURS} {text}".strip()
    return {"stem": path.stem, "width": width, "height": height, "number": f"Figure {number}" if number else "",
            "title": title, "text": text, "pdf": path.with_suffix(".pdf").is_file()}  # fmt: skip


def _notebook(folder: Path, name: str, figures: list[dict]) -> dict:
    """Return what became of a notebook, written as HTML beside it."""
    found = {"name": name, "title": name.replace("_", " "), "status": "not run", "about": {}, "pages": {}}
    made: set[str] = set()
    # A success removes the failed file, so where both are there the failure came last.
    for suffix, status, words in (("", "done", "executed notebook"), (FAILED, "failed", "where it failed")):
        path = folder / "notebooks" / f"{name}{suffix}.ipynb"
        if path.is_file():
            headings, about = _read(path)
            found |= {"status": status, "about": about, "title": headings[0] if headings else found["title"]}
            found["pages"][words] = f"notebooks/{to_html(path).name}"
            made.update(about.get("made", ()))
        elif suffix:
            path.with_suffix(".html").unlink(missing_ok=True)
    about = found["about"]
    return found | {
        "versions": ", ".join(f"{name} {version}" for name, version in about.get("versions", {}).items()),
        "stopped": f"{about['cell']}: {about['error']}" if "error" in about else "",
        "figures": [figure for figure in figures if f"figures/{figure['stem']}.png" in made],
        "absent": sorted(name for name in made if not (folder / name).is_file()),
    }


def _read(path: Path) -> tuple[list[str], dict]:
    """Return a notebook's headings and what the runner noted in it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        texts = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "markdown"]
        about = content["metadata"].get(DONE, {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a notebook ({error}); remove it, ./run_all.sh makes it anew.") from None
    return [line.lstrip("# ") for text in texts for line in text.splitlines() if line.startswith("# ")], about


def to_html(path: Path) -> Path:
    """Write an executed notebook as HTML beside it, unless the page there is younger.

    The page has no scripts, its images are embedded, and it fetches nothing.
    """
    page = path.with_suffix(".html")
    if _older(page, path):
        from nbconvert import HTMLExporter  # heavy, and a second run needs none

        # Its log warns of every figure without alternative text, which a notebook cannot give.
        log = logging.getLogger("nbconvert")
        log.setLevel(logging.ERROR)
        exporter = HTMLExporter(
            extra_template_paths=[str(HERE)], template_file="notebook.html.j2", embed_images=True, log=log
        )
        exporter.config.NbConvertBase.display_data_priority = SHOWN
        html, _ = exporter.from_filename(str(path))
        with atomic_path(page) as part:
            part.write_text(html, encoding="utf-8")
    return page


def _rendered(folder: Path, content: dict) -> str:
    def linked(text: str) -> str:
        # Tables named in backquotes become links.
        def link(match: re.Match) -> str:
            name = match[1]
            return f'<a href="tables/{name}.csv">{name}</a>' if name in content["tables"] else f"<code>{name}</code>"

        return re.sub(r"`(\w+)`", link, text)

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"short": lambda text: textwrap.shorten(text, SHORT, placeholder=" …"), "linked": linked}
    environment.filters["clock"] = clock
    environment.tests["long"] = lambda text: len(text) > SHORT
    environment.globals["picture"] = lambda stem: _data_uri(folder / "figures" / f"{stem}.png")
    return environment.get_template("page.html.j2").render(content, nothing=NOTHING)


def _data_uri(path: Path) -> str:
    """Return a figure as PNG of 256 colours: none changes visibly, at a third of the size."""
    buffer = io.BytesIO()
    with Image.open(path) as image:
        few = image.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
