"""One page for all that a run gave, ``outputs/<profile>/report.html``: ``python -m dr_utils.report [outputs/mini]``."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from dr_utils.profiles import CHECKOUT, REFERENCE_NOTEBOOKS
from dr_utils.progress import clock
from dr_utils.report.captions import caption, of_published
from dr_utils.report.notebooks import HERE, Notebook, digest, is_made_from, read_notebooks
from dr_utils.store import atomic_path

__all__ = ["write_report"]

PAGE = "report.html"
SHORT = 110  # characters of a claim's measurement and reason that are seen before unfolding
COLOURS = 256
NOT_RECORDED = "not recorded"


def write_report(folder: str | Path, notebooks: Sequence[str] = ()) -> Path:
    """Write the page of a run from what lies in its folder, and the notebooks as HTML.

    Parameters
    ----------
    folder : str or Path
        Results of a profile, such as outputs/mini: notebooks, figures and tables, whichever are there.
    notebooks : sequence of str
        Names of the notebooks that belong to the run; the page says which of them are missing.

    Returns
    -------
    Path
        ``report.html`` in the folder. Pages are left as they are where nothing that they show has changed.

    Raises
    ------
    ValueError
        The folder has no tables, or a file that is no notebook.
    """
    folder = Path(folder)
    if not any((folder / "tables").glob("*.csv")):
        raise ValueError(f"no tables in {folder / 'tables'}; run ./run_all.sh first, with the --profile of that name.")
    if _from_paper(folder):
        notebooks = [name for name in notebooks if name[:2] in REFERENCE_NOTEBOOKS]
    content = _content(folder, read_notebooks(folder, notebooks))
    page = folder / PAGE
    sources = [path.read_bytes() for path in sorted(HERE.glob("page.*"))]
    made_from = digest(json.dumps(content, sort_keys=True).encode(), Path(__file__).read_bytes(), *sources)
    if not is_made_from(page, made_from):
        html = _rendered(folder, content, made_from)
        with atomic_path(page) as part:
            part.write_text(html, encoding="utf-8")
    return page


def _content(folder: Path, notebooks: list[Notebook]) -> dict:
    """All that the page shows, fit for JSON; figures by their hash."""
    import yaml

    tables = {name: _rows(folder / "tables" / f"{name}.csv") for name in ("claims", "networks", "tasks")}
    profiles = [about["profile"] for about in (n.about for n in notebooks) if "profile" in about]
    from_paper = _from_paper(folder)
    figures = [_figure(folder, path, from_paper) for path in sorted((folder / "figures").glob("*.png"))]
    shown = [_notebook(folder, notebook, figures) for notebook in notebooks]
    drawn = {figure["stem"] for notebook in shown for figure in notebook["figures"]}
    return {
        "name": profiles[0]["name"] if profiles else folder.resolve().name,
        "title": profiles[0]["title"] if profiles else "",
        "from_paper": from_paper,
        "notebooks": shown,
        "seconds": _spent(notebooks),
        "facts": {
            "device": _stated(notebooks, "device", str),
            "hardware": _stated(notebooks, "hardware", str),
            "versions": _stated(notebooks, "versions", lambda v: ", ".join(f"{k} {v[k]}" for k in v)),
            "finished": _stated(notebooks, "finished", str),
        },
        "profiles": _stated(notebooks, "profile", _decisive),
        "claims": _claims(tables["claims"]),
        "counts": _counts(tables["claims"]),
        "networks": tables["networks"],
        "tasks": tables["tasks"],
        "task_sources": [] if from_paper else _task_sources(tables["tasks"]),
        "other_figures": [figure for figure in figures if figure["stem"] not in drawn],
        "tables": sorted(path.name for path in (folder / "tables").glob("*.csv")),
        "citation": yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8")),
    }


def _decisive(profile: dict) -> str:
    """The profile as YAML without its title: with another one, what is finished is kept."""
    import yaml

    return yaml.safe_dump({k: v for k, v in profile.items() if k != "title"}, sort_keys=False, width=100)


def _rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _from_paper(folder: Path) -> bool:
    """Whether the tables hold the paper's published numbers."""
    from dr_utils.claims.registry import PUBLISHED

    rows = _rows(folder / "tables" / "networks.csv")
    return bool(rows) and all(row.get("source") == PUBLISHED for row in rows)


def _figure(folder: Path, path: Path, from_paper: bool) -> dict:
    from PIL import Image

    with Image.open(path) as image:
        width, height = image.size
    words = of_published(caption(path.stem)) if from_paper else caption(path.stem)
    tables = [name for name in words.tables if (folder / "tables" / f"{name}.csv").is_file()]
    return {
        "stem": path.stem, "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "width": width, "height": height,
        "number": words.number, "title": words.title, "text": words.text, "tables": tables,
        "pdf": path.with_suffix(".pdf").is_file(),
    }  # fmt: skip


def _notebook(folder: Path, notebook: Notebook, figures: list[dict]) -> dict:
    about = notebook.about
    return {
        "name": notebook.name,
        "title": notebook.title,
        "status": notebook.status,
        "stopped": f"{about['cell']}: {about['error']}" if "error" in about else "",
        "time": clock(about["seconds"]) if "seconds" in about else NOT_RECORDED,
        "pages": notebook.pages,
        "figures": [figure for figure in figures if f"figures/{figure['stem']}.png" in notebook.made],
        "absent": [name for name in notebook.made if not (folder / name).is_file()],
    }


def _spent(notebooks: list[Notebook]) -> str:
    seconds = [notebook.about["seconds"] for notebook in notebooks if "seconds" in notebook.about]
    return clock(sum(seconds)) if seconds else NOT_RECORDED


def _stated(notebooks: Iterable[Notebook], key: str, written) -> dict[str, list[str]]:
    """What the notebooks say about one fact: each answer, and which of those that ran gave it."""
    answers: dict[str, list[str]] = {}
    for notebook in notebooks:
        if notebook.status != "not run":
            answer = written(notebook.about[key]) if key in notebook.about else NOT_RECORDED
            answers.setdefault(answer, []).append(notebook.name)
    return answers


def _claims(rows: list[dict[str, str]]) -> list[dict]:
    from dr_utils.claims import CLAIMS

    statements = {name: claim.statement for name, claim in CLAIMS.items()}
    return [
        {**row, "statement": statements.get(row["claim"], ""), "word": row["verdict"].replace("_", " ")} for row in rows
    ]


def _counts(rows: list[dict[str, str]]) -> dict[str, list[str]]:
    """Claims by how they came out, in words."""
    from dr_utils.claims.registry import DIFFERS, HOLDS, NOT_TESTED, NOTHING

    groups = {
        HOLDS: [row for row in rows if row["verdict"] == HOLDS],
        DIFFERS: [row for row in rows if row["verdict"] == DIFFERS],
        "measured, but open": [row for row in rows if row["verdict"] == NOT_TESTED and row["measured"] != NOTHING],
        NOTHING: [row for row in rows if row["verdict"] == NOT_TESTED and row["measured"] == NOTHING],
    }
    return {words: [row["claim"] for row in group] for words, group in groups.items()}


def _task_sources(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """Source, licence and note of every task; the table has no licence, the registry's card has."""
    from dr_utils.datasets import available

    cards = available()
    sources = []
    for row in {row["dataset"]: row for row in rows}.values():
        card = cards.get(row["dataset"])
        licence, note = (card.licence, card.note) if card else ("not known to this version of the suite", "")
        sources.append({"title": row["title"], "source": row.get("source", ""), "licence": licence, "note": note})
    return sources


def _rendered(folder: Path, content: dict, made_from: str) -> str:
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = lambda text: textwrap.shorten(text, SHORT, placeholder=" …")
    environment.tests["long"] = lambda text: len(text) > SHORT
    environment.globals["picture"] = lambda stem: _data_uri(folder / "figures" / f"{stem}.png")
    return environment.get_template("page.html.j2").render(**content, made_from=made_from)


def _data_uri(path: Path) -> str:
    """A figure as PNG with a palette: no colour of a plot is off by more than is seen, at a third of the size."""
    from PIL import Image

    with Image.open(path) as image:
        white = Image.new("RGBA", image.size, "white")
        flat = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    buffer = io.BytesIO()
    flat.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(
        buffer, "PNG", optimize=True
    )
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
