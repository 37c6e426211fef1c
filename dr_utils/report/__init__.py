"""One page with all results of a run, ``outputs/<profile>/report.html``."""

from __future__ import annotations

import base64
import json
import logging
import re
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from dr_utils.claims import CLAIMS
from dr_utils.datasets import available
from dr_utils.profiles import CHECKOUT, REFERENCE_NOTEBOOKS, SHIPPED
from dr_utils.progress import clock
from dr_utils.reference import SOURCE as PUBLISHED
from dr_utils.store import atomic_path

DONE = "dr_utils"  # key of a notebook's metadata: what the runner noted in it
FAILED = ".failed"  # ends the name, before .ipynb, of a notebook that stopped in a cell
HERE = Path(__file__).parent
NOT_OURS = "Published numbers of the paper's authors: nothing in this figure was measured by this suite."
# What a notebook's page shows of an output: widgets and scripts have to fetch code, so their text or picture comes.
SHOWN = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/latex", "text/plain"]


def write_report(folder: Path, notebooks: Sequence[str] = ()) -> Path:
    """Write ``report.html`` for a folder such as outputs/mini, and its notebooks as HTML; name missing `notebooks`."""
    shown = [*folder.glob("tables/*.*"), *folder.glob("figures/*"), *folder.glob("notebooks/*.ipynb")]
    return _renewed(folder / "report.html", shown, lambda: _rendered(_content(folder, notebooks)))


def _renewed(page: Path, files: Sequence[Path], html: Callable[[], str]) -> Path:
    """Write a page where it is missing, or older than a file that it shows or than what writes it."""
    newest = max(path.stat().st_mtime for path in (*files, *HERE.glob("*.*")))
    if not page.is_file() or page.stat().st_mtime < newest:
        with atomic_path(page) as part:
            part.write_text(html(), encoding="utf-8")
    return page


def _content(folder: Path, expected: Sequence[str]) -> dict:
    """Return all that the page shows."""
    claims, networks, tasks = (_rows(folder / "tables" / f"{name}.csv") for name in ("claims", "networks", "tasks"))
    from_paper = bool(networks) and all(row.get("source") == PUBLISHED for row in networks)
    figures = [_figure(path, from_paper) for path in sorted((folder / "figures").glob("*.png"))]
    stems = {path.stem.removesuffix(FAILED) for path in (folder / "notebooks").glob("[!.]*.ipynb")}
    stems.update(name for name in expected if not from_paper or name[:2] in REFERENCE_NOTEBOOKS)
    notebooks = [_notebook(folder, name, figures) for name in sorted(stems)]
    drawn = {figure["stem"] for notebook in notebooks for figure in notebook["figures"]}
    profiles = [notebook["about"]["profile"] for notebook in notebooks if "profile" in notebook["about"]]
    decisive = [{key: value for key, value in profile.items() if key != "title"} for profile in profiles]
    return {
        "name": profiles[0]["name"] if profiles else folder.resolve().name,
        "title": profiles[0]["title"] if profiles else "",
        "from_paper": from_paper,
        "notebooks": notebooks,
        "profiles": list(dict.fromkeys(yaml.safe_dump(part, sort_keys=False, width=100) for part in decisive)),
        "claims": claims,
        "statements": {name: claim.statement for name, claim in CLAIMS.items()},
        "networks": networks,
        "tasks": tasks,
        "cards": {} if from_paper else available(),
        "other_figures": [figure for figure in figures if figure["stem"] not in drawn],
        "tables": {path.stem: path.name for path in sorted((folder / "tables").glob("*.[cp]*"))},
        "citation": yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")),
    }


def _rows(path: Path) -> list[dict[str, str]]:
    return pd.read_csv(path, dtype=str, keep_default_na=False).to_dict("records") if path.is_file() else []


def _figure(path: Path, from_paper: bool) -> dict:
    """Return what the page says of a figure: its caption is in the PNG, or else made from its name."""
    with Image.open(path) as image:
        (width, height), caption = image.size, image.info.get("Description", "")
    number, words = re.fullmatch(r"(?:fig0*(\d+)_)?(.*)", path.stem).groups()
    title, _, text = caption.partition(". ")
    title = title.rstrip(".") or words.replace("_", " ")
    if from_paper:
        title, text = f"{title} (published numbers)", f"{NOT_OURS} {text}".strip()
    return {"stem": path.stem, "width": width, "height": height, "number": f"Figure {number}" if number else "",
            "title": title, "text": text, "pdf": path.with_suffix(".pdf").is_file(),
            "pixels": base64.b64encode(path.read_bytes()).decode()}  # fmt: skip


def _notebook(folder: Path, name: str, figures: list[dict]) -> dict:
    """Return what became of a notebook, written as HTML beside it."""
    found = {"name": name, "title": name.replace("_", " "), "status": "not run", "about": {}, "pages": {}}
    made: set[str] = set()
    # A success removes the failed file, so where both are there the failure came last.
    for suffix, status, words in (("", "done", "executed notebook"), (FAILED, "failed", "where it failed")):
        path = folder / "notebooks" / f"{name}{suffix}.ipynb"
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            texts = ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "markdown"]
            # In one that failed, papermill's message comes first.
            titles = [text.splitlines()[0].lstrip("# ") for text in texts if text.startswith("# ")]
            about = content["metadata"].get(DONE, {})
            found |= {"status": status, "about": about, "title": titles[0] if titles else found["title"]}
            if folder.resolve() != SHIPPED:
                found["pages"][words] = f"notebooks/{to_html(path).name}"
            made.update(about.get("made", ()))
        elif suffix:
            path.with_suffix(".html").unlink(missing_ok=True)
    return found | {
        "versions": ", ".join(f"{name} {version}" for name, version in found["about"].get("versions", {}).items()),
        "figures": [figure for figure in figures if f"figures/{figure['stem']}.png" in made],
        "absent": sorted(name for name in made if not (folder / name).is_file()),
    }


def to_html(path: Path) -> Path:
    """Write an executed notebook beside it as HTML that has no scripts and fetches nothing, unless that is younger."""

    def html() -> str:
        from nbconvert import HTMLExporter  # heavy, and a second run needs none

        # Its log warns of every figure without alternative text, which a notebook cannot give.
        log = logging.getLogger("nbconvert")
        log.setLevel(logging.ERROR)
        template = {"extra_template_paths": [str(HERE)], "template_file": "notebook.html.j2"}
        exporter = HTMLExporter(embed_images=True, log=log, **template)
        exporter.config.NbConvertBase.display_data_priority = SHOWN
        return exporter.from_filename(str(path))[0]

    return _renewed(path.with_suffix(".html"), [path], html)


def _rendered(content: dict) -> str:
    def linked(text: str) -> str:
        # Tables named in backquotes become links.
        text = re.sub(r"`(\w+)`", r"<code>\1</code>", str(text))  # not as Markup, which would escape it
        named, link = f"<code>({'|'.join(content['tables'])})</code>", '<a href="tables/{}">{}</a>'
        return re.sub(named, lambda found: link.format(content["tables"][found[1]], found[1]), text)

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"clock": clock, "linked": linked, "shorten": textwrap.shorten}
    return environment.get_template("page.html.j2").render(content)
