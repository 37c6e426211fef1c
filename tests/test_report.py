"""The page of a run: nothing of the results is lost or altered on it, its links lead somewhere, it fetches nothing."""

from __future__ import annotations

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from synthetic_tables import build, network, saturating, task

from dr_utils.claims import CLAIMS, evaluate
from dr_utils.report import DONE, to_html, write_report

ODD = 'Net <b>"& Co"</b>'
EXPECTED = ("01_prevalence", "02_random_subset_cka", "03_architectures")
ABOUT = {
    "seconds": 61.4,
    "device": "cpu",
    "hardware": "Abacus <9000>, 2 threads",
    "versions": {"python": "3.11.7", "torch": "2.13.0"},
    "finished": "2031-02-03",
    "profile": {"name": "tiny", "title": "Tests & only", "seeds": [1, 2, 3]},
}
CAPTIONS = ("How much of a layer a task needs. Bands ±1 <std>, of `probes`, not of `nothing`.", "Two random parts.")
FIGURES = ("fig01_prevalence", "fig02_random_subset_cka_small", "fig99_own & odd")


class Page(HTMLParser):
    """Tags with their attributes, ids, and the text of the claims table cell by cell."""

    def __init__(self, path: Path):
        super().__init__()
        self.folder, self.tags, self.text, self.claims = path.parent, [], "", []
        self._row: list[str] | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.ids = [value for _, attributes in self.tags if (value := attributes.get("id"))]

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.text += " "
        self.tags.append((tag, attributes))
        if tag == "tr" and attributes.get("id") in CLAIMS:
            self._row = []
            self.claims.append(self._row)
        elif tag in ("th", "td") and self._row is not None:
            self._row.append("")

    def handle_endtag(self, tag):
        if tag == "tr":
            self._row = None

    def handle_data(self, data):
        self.text += data
        if self._row:
            self._row[-1] += data

    def find(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


def words(text: str) -> str:
    return " ".join(text.split())


def write_notebook(path: Path, *outputs, title: str = "", **about) -> None:
    cells = [
        new_markdown_cell(f"# {title or path.stem}\n\n![a picture](dot.png)"),
        new_code_cell("1", outputs=list(outputs)),
    ]
    nbformat.write(new_notebook(cells=cells, metadata={DONE: about} if about else {}), path)


@pytest.fixture(scope="module")
def tables():
    """Tables of a network and a task with names that HTML must not take for its own."""
    made = build(
        [network("net", width=64) | {"title": ODD}],
        [task("digits") + task("a<b>&c")],
        lambda model, dataset, fraction, *_: saturating(0.1)(fraction),
        grid=(0.1, 0.5, 1.0),
    )
    return made | {"claims": evaluate(made)}


@pytest.fixture
def results(tmp_path, tables):
    """A run with one notebook done, one that failed, one never run, and a figure of nobody's."""
    folder = tmp_path / "tiny"
    for name in ("tables", "figures", "notebooks"):
        (folder / name).mkdir(parents=True)
    for name, table in tables.items():
        table.to_csv(folder / "tables" / f"{name}.csv", index=False)
    for i, name in enumerate(FIGURES):
        words = PngInfo()
        if i < 2:
            words.add_text("Description", CAPTIONS[i])
        Image.new("RGBA", (40 + i, 30), (0, 100, 200, 255)).save(folder / "figures" / f"{name}.png", pnginfo=words)
    (folder / "figures" / "fig01_prevalence.pdf").write_bytes(b"%PDF")
    Image.new("L", (1, 1)).save(folder / "notebooks" / "dot.png")
    dot = base64.b64encode((folder / "notebooks" / "dot.png").read_bytes()).decode()
    write_notebook(
        folder / "notebooks" / "01_prevalence.ipynb",
        new_output(
            "display_data",
            {"image/png": dot, "text/plain": "<Figure>"},
            metadata={"image/png": {"alt": 'What "needs" most', "width": 20}},
        ),  # fmt: skip
        new_output("display_data", {"application/javascript": "alert(1)", "text/plain": "in place of a script"}),
        new_output(
            "display_data",
            {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "in place of a slider"},
        ),
        title="01 How much <em>&</em> why",
        made=["figures/fig01_prevalence.png", "figures/fig01_prevalence.pdf"],
        **ABOUT,
    )
    write_notebook(
        folder / "notebooks" / "02_random_subset_cka.failed.ipynb",
        new_output("error", ename="ValueError", evalue="x < 1", traceback=["x < 1"]),
        made=["figures/fig02_random_subset_cka_small.png", "figures/gone.png"],
        cell="cell 4 (2 Part)",
        error="ValueError: x < 1",
        **ABOUT,
    )
    return folder


@pytest.fixture
def page(results):
    return Page(write_report(results, EXPECTED))


def files(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_every_link_leads_somewhere(page):
    links = [attributes["href"] for attributes in page.find("a")]
    assert len(page.ids) == len(set(page.ids))
    for link in links:
        if link.startswith("#"):
            assert unquote(link[1:]) in page.ids, link
        else:
            assert (page.folder / unquote(link)).is_file(), link
    for wanted in (
        "notebooks/01_prevalence.html", "notebooks/02_random_subset_cka.failed.html", "tables/probes.csv",
        "tables/claims.csv", "figures/fig01_prevalence.png", "figures/fig01_prevalence.pdf", "#P1", "#figures",
    ):  # fmt: skip
        assert wanted in links
    (back,) = (a["href"] for a in Page(page.folder / "notebooks/01_prevalence.html").find("a") if "html" in a["href"])
    assert (page.folder / "notebooks" / back).samefile(page.folder / "report.html")


def test_nothing_is_fetched_and_nothing_runs(page):
    pages = [page.folder / "report.html", *sorted((page.folder / "notebooks").glob("*.html"))]
    assert len(pages) == 3
    for path in pages:
        loaded = [
            attributes[name]
            for tag, attributes in Page(path).tags
            for name in ("src", "srcset", "data", "poster", *(["href"] if tag == "link" else []))
            if name in attributes
        ]
        assert loaded and all(source.startswith("data:") for source in loaded), path
        html = path.read_text(encoding="utf-8")
        assert not re.search(r"<(script|iframe|object|embed)\b", html)
        assert not re.search(r"""@import|url\((?!["']?data:)""", html)
        (policy,) = (a["content"] for a in Page(path).find("meta") if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'") and "http" not in policy and "script" not in policy


def test_notebooks_as_html_show_what_needs_no_script(page):
    notebook = Page(page.folder / "notebooks" / "01_prevalence.html")
    assert "in place of a script" in notebook.text and "in place of a slider" in notebook.text
    assert len(notebook.find("img")) == 2
    assert any(a.get("alt") == 'What "needs" most' and a.get("width") == "20" for a in notebook.find("img"))
    failed = Page(page.folder / "notebooks" / "02_random_subset_cka.failed.html")
    assert "x < 1" in failed.text


def test_every_figure_is_there_with_size_words_and_its_notebook(page):
    images = page.find("img")
    assert len(images) == len(FIGURES)
    for attributes in images:
        decoded = Image.open(io.BytesIO(base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))))
        assert decoded.size == (int(attributes["width"]), int(attributes["height"]))
        decoded.load()
    assert [attributes["alt"] for attributes in images] == [
        "Figure 1: How much of a layer a task needs",
        "Figure 2: Two random parts",
        "Figure 99: own & odd",
    ]
    html = (page.folder / "report.html").read_text(encoding="utf-8")
    assert 'Bands ±1 &lt;std&gt;, of <a href="tables/probes.csv">probes</a>, not of <code>nothing</code>.' in html
    order = [name for name in page.ids if name in FIGURES or name in EXPECTED or name == "other-figures"]
    assert order == ["01_prevalence", FIGURES[0], "02_random_subset_cka", FIGURES[1], "03_architectures",
                     "other-figures", FIGURES[2]]  # fmt: skip


def test_claims_are_those_of_the_table(page):
    with (page.folder / "tables" / "claims.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(page.claims) == len(CLAIMS)
    for row, cells in zip(rows, page.claims, strict=True):
        claim, statement, published, measured, verdict, why = map(words, cells)
        assert claim == f"{row['claim']} {words(row['paper_figure'])}"
        assert statement == CLAIMS[row["claim"]].statement and published == words(row["published"])
        assert verdict == row["verdict"].replace("_", " ")
        # Before what is folded stand its beginning and the word that folds it again.
        assert measured.endswith(words(row["measured"])) and why.endswith(words(row["why"]))
    assert any("…less" in cell for cells in page.claims for cell in cells)
    counts = re.findall(r"<strong>(\d+)</strong>", (page.folder / "report.html").read_text())
    assert sum(map(int, counts)) == len(CLAIMS)


def test_names_are_shown_as_they_are(page):
    assert ODD in page.text and "01 How much <em>&</em> why" in page.text and "a<b>&c" in page.text
    assert not page.find("b")


def test_what_was_run_what_failed_and_what_is_missing(page):
    text = words(page.text)
    assert "Every number on this page is that of the profile tiny (Tests & only)" in text
    for said in (
        "Hardware Abacus <9000>, 2 threads", "Device cpu", "Versions python 3.11.7, torch 2.13.0",
        "Day (UTC) 2031-02-03", "Wall time 2:03 for the notebooks", "seeds: - 1 - 2 - 3",
        "02_random_subset_cka: failed. cell 4 (2 Part): ValueError: x < 1",
        "03_architectures: not run.", "No longer in the folder: figures/gone.png", "CC BY 4.0",
        "not known to this version of the suite", "Vedant Nanda, Till Speicher",
    ):  # fmt: skip
        assert said in text, said


def test_notebooks_that_disagree_are_named_and_old_ones_recorded_nothing(results):
    other = ABOUT | {"device": "cuda", "profile": {**ABOUT["profile"], "title": "renamed", "seeds": [1]}}
    write_notebook(results / "notebooks" / "03_architectures.ipynb", made=[], **other)
    write_notebook(results / "notebooks" / "04_width_ablation.ipynb")
    text = words(Page(write_report(results)).text)
    assert "Device cpu; cuda Versions" in text
    assert "Not all notebooks were run with the same version of the profile" in text
    for path in (results / "notebooks").glob("*.ipynb"):
        write_notebook(path, made=[], **ABOUT | {"profile": {**ABOUT["profile"], "title": path.stem}})
    assert "Not all notebooks" not in Page(write_report(results)).text, "a title decides nothing"


def test_written_again_only_where_something_is_newer(results):
    write_report(results, EXPECTED)
    before = files(results)
    write_report(results, EXPECTED)
    assert files(results) == before

    Image.new("RGB", (40, 30), "red").save(results / "figures" / "fig01_prevalence.png")
    write_report(results, EXPECTED)
    changed = {path.name for path, content in files(results).items() if before[path] != content}
    assert changed == {"report.html", "fig01_prevalence.png"}

    (results / "notebooks" / "02_random_subset_cka.failed.ipynb").unlink()
    write_notebook(results / "notebooks" / "02_random_subset_cka.ipynb", made=[], **ABOUT)
    path = results / "notebooks" / "01_prevalence.ipynb"
    path.write_text(path.read_text().replace("How much", "How many"))
    write_report(results, EXPECTED)
    assert sorted(path.name for path in (results / "notebooks").glob("*.html")) == [
        "01_prevalence.html",
        "02_random_subset_cka.html",
    ]
    assert "How many" in to_html(path).read_text()
    assert not list(results.rglob(".*"))


def test_half_a_run_gives_a_page_too(results):
    for name in ("claims", "networks", "tasks"):
        (results / "tables" / f"{name}.csv").unlink()
    for path in (*results.glob("figures/*"), *results.glob("notebooks/*")):
        path.unlink()
    page = Page(write_report(results, EXPECTED))
    text = words(page.text)
    assert "This run has no claims table." in text and text.count("not run.") == 3
    assert "Wall time not recorded" in text and "Hardware not recorded" in text
    assert not page.find("img")
