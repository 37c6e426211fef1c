"""The notebooks and the report as people meet them: in JupyterLab, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from browser_parts import browser, chromium, lab, open_notebook, picture, place_notebook, run_all, server
from PIL import Image

from dr_utils import run
from dr_utils.study import read_tables

pytestmark = [
    pytest.mark.browser,
    pytest.mark.archives,
    pytest.mark.skipif(chromium() is None, reason="needs Chromium (Debian: apt-get install chromium)"),
]
PROFILE = Path(__file__).parent / "profiles" / "browser.yaml"
WIDE = {"width": 1400, "height": 1300}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """The results folder of a run of notebook 05, on two small networks and a few digits."""
    out = tmp_path_factory.mktemp("outputs")
    assert run.main(["--profile", str(PROFILE), "--out", str(out), "--device", "cpu", "--only", "05"]) == 0
    return out / PROFILE.stem


@pytest.fixture
def parameters(results):
    return {"profile": str(PROFILE), "out": str(results.parent), "device": "cpu"}


def told(tables, model: str, task: str, fraction: float) -> str:
    """What the explorer's table says of a network: neurons of all, mean accuracy and its spread."""
    rows = tables["probes"].query("selection == 'random' and solver == 'sgd' and eval_set == 'test'")
    rows = rows.query("model == @model and dataset == @task")
    part = rows[np.isclose(rows.fraction, fraction)]
    accuracy = f"{part.accuracy.mean():.3f} ± {part.accuracy.std():.3f}"
    return f"{part.n_neurons.iloc[0]} of {rows.n_neurons.max()} {accuracy}"


def grid(tables, model: str, task: str) -> tuple[list[float], list[float]]:
    """Fractions and deltas that the explorer's sliders stop at."""
    rows = tables["probes"].query("selection == 'random' and model == @model and dataset == @task")
    return sorted(set(rows.fraction.round(9))), sorted(set(tables["redundancy"].delta))


def readout(page, place: int = 0) -> str:
    return " ".join(page.locator(".dr-readout").nth(place).inner_text().split())


def moved(page, place: int, key: str) -> None:
    """Press a key on the handle of a slider and wait for the readout to change."""
    before = page.locator(".dr-readout").first.inner_html()
    page.locator(".noUi-handle").nth(place).press(key)
    page.wait_for_function("before => document.querySelector('.dr-readout').innerHTML !== before", arg=before)


def test_explorer_shows_the_tables_numbers_wherever_its_sliders_are(results, parameters, tmp_path):
    place_notebook("00_start_here", tmp_path, **parameters)
    tables = read_tables(results / "tables")
    model, task = tables["networks"].model[0], tables["tasks"].dataset[0]
    fractions, deltas = grid(tables, model, task)

    def shown(fraction, delta) -> bool:
        rows = tables["redundancy"].query("task == 'probe' and solver == 'sgd' and delta == @delta")
        rows = rows.query("model == @model and dataset == @task")
        rules = [f"{row.dr:.3f}" + (f" [{row.low:.3f}, {row.high:.3f}]" if row.low < row.high else "")
                 for row in rows.itertuples()]  # fmt: skip
        found = readout(page)
        return told(tables, model, task, fraction) in found and len(rules) == 3 and all(rule in found for rule in rules)

    with lab(tmp_path, "dark") as address, browser(viewport=WIDE) as page:
        errors = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        open_notebook(page, address.format("00_start_here.ipynb"))
        page.wait_for_selector(".dr-readout")
        f, d = fractions.index(0.2), deltas.index(0.9)
        assert shown(fractions[f], deltas[d])
        for key, step in (("ArrowLeft", -1), ("ArrowRight", 1), ("ArrowRight", 1)):
            moved(page, 0, key)
            f += step
            assert shown(fractions[f], deltas[d]), (fractions[f], deltas[d], readout(page))
        for key, step in (("ArrowRight", 1), ("ArrowLeft", -1), ("ArrowLeft", -1)):
            moved(page, 1, key)
            d += step
            assert shown(fractions[f], deltas[d]), (fractions[f], deltas[d], readout(page))
        page.get_by_role("button", name="draw 50").click()
        page.wait_for_function("() => /5\\d draws, mean/.test(document.body.innerText)")
        page.locator(".dr-readout").first.scroll_into_view_if_needed()
        # Marks are drawn: three charts, points, bars of the histogram and of the classes.
        for marks, least in (("svg.svg-figure", 3), ("path.dot", 2), ("svg.svg-figure rect", 21)):
            page.locator(f".bqplot {marks}").nth(least - 1).wait_for(state="attached")
        assert page.locator(".bqplot svg.svg-figure").count() == 3
        picture(page, "00_start_here_dark")
        assert not errors


def test_what_is_missing_is_computed_by_the_button(results, parameters, tmp_path, monkeypatch):
    """Notebook 00 without a run behind it, and with an empty cache."""
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    random = {"networks": ["small_resnet"], "selections": [{"selection": "random"}]}
    small = yaml.safe_load(PROFILE.read_text()) | random
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(small))
    own = {"profile": str(tmp_path / "small.yaml"), "out": str(tmp_path / "out")}
    place_notebook("00_start_here", tmp_path, **parameters | own)
    with lab(tmp_path) as address, browser(viewport=WIDE) as page:
        open_notebook(page, address.format("00_start_here.ipynb"))
        page.wait_for_selector(".dr-readout, :text('compute 1 cell')")
        button = page.get_by_role("button", name="compute 1 cell")
        assert "small_resnet: digits" in page.locator(".jp-Notebook").inner_text()
        assert page.locator(".dr-readout").count() == 0 and not (tmp_path / "out" / "small" / "tables").exists()
        button.scroll_into_view_if_needed()
        picture(page, "00_start_here_missing")
        button.click()
        page.wait_for_selector(".dr-readout, :text('Error:')")
        tables = read_tables(tmp_path / "out" / "small" / "tables")
        assert told(tables, "small_resnet", "digits", 0.2) in readout(page)


def test_explorer_alone_is_a_page_with_the_tables_numbers(results, parameters, tmp_path):
    pytest.importorskip("voila", reason="needs the extra voila")
    notebook = place_notebook("00_start_here", tmp_path, **parameters)
    tables = read_tables(results / "tables")
    model, task = tables["networks"].model[0], tables["tasks"].dataset[0]
    fractions, _ = grid(tables, model, task)
    command = ["voila", "--no-browser", notebook.name]
    with server(command, tmp_path) as port, browser(viewport=WIDE) as page:
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector(".bqplot")
        assert "from dr_utils import" not in page.locator("body").inner_text(), "code is shown"
        moved(page, 0, "ArrowRight")
        assert told(tables, model, task, fractions[fractions.index(0.2) + 1]) in readout(page)
        picture(page, "explorer_voila")


def test_state_survives_running_the_cells_again(results, parameters, tmp_path):
    place_notebook("05_mrl", tmp_path, figures=False, **parameters)
    with lab(tmp_path) as address, browser(viewport=WIDE) as page:
        open_notebook(page, address.format("05_mrl.ipynb"))
        page.wait_for_selector(".dr-readout")
        before = readout(page)
        moved(page, 0, "ArrowRight")
        after = readout(page)
        assert after != before
        page.locator(".dr-readout").first.scroll_into_view_if_needed()
        picture(page, "05_mrl_slider")
        page.evaluate("() => document.querySelector('.dr-readout').setAttribute('data-before', '')")
        run_all(page)
        page.wait_for_selector(".dr-readout:not([data-before])")
        assert readout(page) == after


def test_report_has_every_picture_and_no_dead_link(results):
    for name, size, theme in (("wide", WIDE, "light"), ("phone", {"width": 390, "height": 844}, "dark")):
        with browser(viewport=size, color_scheme=theme) as page:
            requests = []
            page.on("request", lambda request, seen=requests: seen.append(request.url))
            page.goto((results / "report.html").as_uri())
            pictures = page.evaluate("() => [...document.images].map(i => [i.complete && i.naturalWidth > 300, i.alt])")
            assert len(pictures) == len(list((results / "figures").glob("*.png")))
            assert all(loaded and alt for loaded, alt in pictures)
            links = page.evaluate("() => [...document.querySelectorAll('a[href]')].map(a => a.getAttribute('href'))")
            local = [link for link in links if not re.match(r"https?:|mailto:", link)]
            assert len(local) > 20
            for link in local:
                path, _, anchor = link.partition("#")
                assert not path or (results / path).is_file(), link
                assert path or page.locator(f"[id='{anchor}']").count() == 1, link
            outside = [url for url in requests if not url.startswith(("file:", "data:"))]
            assert not outside, "the page asks for something from elsewhere"
            wide = page.evaluate("() => document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, "the page scrolls sideways"
            picture(page, f"report_{name}_{theme}")


def test_own_pictures_get_a_recommendation(results, parameters, tmp_path):
    """A folder of plain coloured squares, with noise: two classes that any network tells apart."""
    rng = np.random.default_rng(0)
    for split, n in (("train", 24), ("test", 12)):
        for name, colour in (("red", (220, 40, 30)), ("blue", (30, 60, 220)), ("green", (40, 200, 60))):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                pixels = np.clip(np.array(colour) + rng.normal(0, 40, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
    (tmp_path / "pictures" / "train" / "red" / "notes.txt").write_text("no picture")
    own = {"model": "small_resnet", "data": str(tmp_path / "pictures"), "resolution": None, "seeds": [1, 2]}
    place_notebook("08_your_own_model", tmp_path, **parameters | {"out": str(tmp_path / "out")} | own)
    with lab(tmp_path) as address, browser(viewport=WIDE) as page:
        open_notebook(page, address.format("08_your_own_model.ipynb"))
        page.wait_for_selector(".dr-recommendation, :text('Error:')")
        rows = page.locator(".dr-recommendation tr").all_inner_texts()
        assert len(rows) == 4
        expected = pd.read_csv(tmp_path / "out" / PROFILE.stem / "tables" / "own_recommendation.csv")
        for row, answer in zip(rows[1:], expected.itertuples(), strict=True):
            assert f"{answer.neurons} of 512" in row and f"{answer.full:.3f}" in row
        assert expected["full"].iloc[0] > 0.9
        assert "1 of 73 files cannot be read as pictures" in page.locator(".jp-Notebook").inner_text()
        page.locator(".dr-recommendation").scroll_into_view_if_needed()
        picture(page, "08_your_own_model")
        # A slip in the field is told where it was made.
        page.get_by_role("textbox", name="model").fill("smal_resnet")
        page.get_by_role("button", name="measure").click()
        page.wait_for_function("() => document.body.innerText.includes('nearest first: small_resnet')")
        assert page.locator(".dr-recommendation").count() == 0
