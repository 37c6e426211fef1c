"""What the sliders show is what the tables say, at every stop; draws against CKA from features and closed forms."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
from synthetic_tables import build, network, saturating, task

from dr_utils import explore
from dr_utils.cka import CKAStatistics, linear_cka
from dr_utils.explore import sliding
from dr_utils.explore.charts import strokes
from dr_utils.explore.explorer import FIRST_SEED
from dr_utils.explore.sliding import HEADLESS, or_table, per_cent, stops
from dr_utils.features import Features
from dr_utils.redundancy import RULES
from dr_utils.subsets import random_subsets

NARROW_GRID = (0.125, 0.25, 0.5, 1.0)
MODELS = {"wide": 0.1, "robust": 0.05, "mrl": 0.2}
ZOO = dict(family="resnet", kind="small", upstream="tinyimagenet202")


def text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


@pytest.fixture(scope="module")
def tables():
    """Three networks on one grid and a narrow one on another; two tasks."""
    networks = [
        network("wide", width=512, **ZOO),
        network("robust", width=512, training="adversarial", robust_of="wide", **ZOO),
        network("mrl", width=512, training="mrl", **ZOO),
    ]
    tasks = [task("cifar10"), task("digits", n_classes=20)]

    def accuracy(model, dataset, fraction, selection, eval_set):
        curve = saturating(MODELS.get(model, 0.9), full=0.9 if dataset == "cifar10" else 0.8)
        return curve(fraction) + (0.05 if selection in ("first", "pca") and fraction < 1 else 0)

    wide = build(networks, tasks, accuracy, cka=lambda m, d, f: 0.3 + 0.7 * f, first_sizes=(8, 32, 128),
                 selections=("random", "pca"))  # fmt: skip
    narrow = build([network("ff8", width=8, training="narrow", **ZOO)], tasks, accuracy, grid=NARROW_GRID,
                   cka=lambda m, d, f: f)  # fmt: skip
    joined = {name: pd.concat([wide[name], narrow[name]], ignore_index=True) for name in wide}
    return joined | {"tasks": wide["tasks"]}


def matrix(width=16, n=60, seed=0, estimator="biased"):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, width)) @ rng.normal(size=(width, width))
    return x, CKAStatistics(width, estimators=(estimator,)).update(x).matrix(estimator)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Choices of one test are not those of the next."""
    monkeypatch.setattr(sliding, "CHOSEN", {})
    monkeypatch.delenv(HEADLESS, raising=False)


# ---- the matrix of fresh draws


class FakeStudy:
    """As much of a study as a finished cell needs."""

    def __init__(self, images, known=True):
        self.profile = type("P", (), {"cka": type("C", (), {"images": images})})
        self.known = known

    def about(self, network, task):
        return {"features": {"train": "train", "corrupted": "other", "test": "right"}} if self.known else None

    def features(self, network, task, split, images):
        assert (network, task, split, images) == ("net", "task", "test", self.profile.cka.images)
        return Features(X[:images], np.zeros(images, dtype=np.int64), "", {})


X = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)


def test_matrix_is_of_the_stored_test_features(monkeypatch):
    asked = []

    def stored(key):
        asked.append(key)
        return Features(X, np.zeros(50, dtype=np.int64), key, {}) if key == "right" else None

    monkeypatch.setattr("dr_utils.explore.explorer.stored", stored)
    q = explore.cka_matrix(FakeStudy(40), "net", "task", False)
    np.testing.assert_allclose(q, CKAStatistics(12).update(X[:40]).matrix())
    assert asked == ["right"]
    unknown = FakeStudy(40, known=False)
    assert explore.cka_matrix(unknown, "net", "task", False) is None
    np.testing.assert_allclose(explore.cka_matrix(unknown, "net", "task", True), q)
    monkeypatch.setattr("dr_utils.explore.explorer.stored", lambda key: None)
    assert explore.cka_matrix(FakeStudy(30), "net", "task", False) is None


# ---- the explorer

LAYERS = {"wide": 512, "robust": 512, "mrl": 512, "ff8": 8}


@pytest.fixture
def make(tables):
    cache = {name: matrix(width=width, n=30) for name, width in LAYERS.items()}

    def make(key="here"):
        made = explore.Explorer(tables, lambda model, task, compute: cache[model][1], key=key, note="whose <numbers>")
        made.features = {model: x for model, (x, _) in cache.items()}
        return made

    return make


def test_every_stop_shows_the_tables_numbers(make, tables):
    widget, mine = make(), "model == 'wide' and dataset == 'cifar10'"
    accuracy = tables["probes"].query(f"{mine} and selection == 'random'").groupby("fraction").accuracy
    sizes = tables["probes"].query(mine).groupby("fraction").n_neurons.first()
    gini = tables["fairness"].query(f"{mine} and selection == 'random'").set_index("fraction").gini
    assert [value for _, value in widget.slider.options] == sorted(accuracy.groups)
    for _, fraction in widget.slider.options:
        widget.slider.value = fraction
        mean, std, full = accuracy.mean()[fraction], accuracy.std()[fraction], accuracy.mean()[1.0]
        said = text(widget.readout.value)
        assert f"{sizes[fraction]} of 512 {mean:.3f} ± {std:.3f} {full:.3f} {per_cent(round(mean / full, 3))}" in said
        assert f"Gini {gini[fraction]:.3f}, full layer {gini[1.0]:.3f}" in widget.classes.heading.value
        assert widget.chart._points.y == pytest.approx([mean])
        assert widget.chart._bars.y.ravel() == pytest.approx([mean - std, mean + std])
    redundancy = tables["redundancy"].query(f"{mine} and task == 'probe'").set_index(["rule", "delta"])
    assert [value for _, value in widget.delta.options] == sorted(set(tables["redundancy"].delta))
    for _, delta in widget.delta.options:
        widget.delta.value = delta
        rules = [redundancy.loc[(rule, delta), ["dr", "low", "high"]].to_list() for rule in RULES]
        # An interval without width comes from the grid: it would read as certainty.
        said = [f"{dr:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low < high else "") for dr, low, high in rules]
        assert text(widget.readout.value).endswith(" ".join(said))
        height = delta * accuracy.mean()[1.0]
        assert widget.chart._levels.y.ravel() == pytest.approx([height, height, 0])
        assert widget.chart._levels.x.ravel()[1:] == pytest.approx([1 - rules[0][0]] * 2)


def test_classes_are_the_tables(make, tables):
    widget = make()
    widget.menu.value = "digits"
    widget.slider.value = 0.05
    rows = tables["per_class"].query("model == 'wide' and dataset == 'digits' and selection == 'random'")
    mean = rows.groupby(["fraction", "class_name"]).class_accuracy.mean()
    lost, shown = mean[1.0] - mean[0.05], list(widget.classes._full.x)
    assert len(shown) == 16 and lost[shown].min() >= lost.drop(shown).max() - 1e-9
    assert "The 16 of 20 classes that lose most" in widget.classes.heading.value
    np.testing.assert_allclose(widget.classes._part.y, mean[0.05][shown])
    np.testing.assert_allclose(widget.classes._full.y, mean[1.0][shown])


def test_networks_of_several_grids_side_by_side(make):
    widget = make()
    widget.networks.value = ["wide", "ff8"]
    fractions = [value for _, value in widget.slider.options]
    assert {0.0005, 0.125, 1.0} <= set(fractions)
    widget.slider.value = 0.05
    assert "ff8 – of 8 not measured at this fraction" in text(widget.readout.value)
    assert np.isnan(widget.chart._points.y[1]) and np.isfinite(widget.chart._levels.y).all()
    widget.slider.value = 0.125
    assert "1 of 8 0." in text(widget.readout.value)
    assert list(widget.detail.options) == ["wide", "ff8"]
    widget.detail.value = "ff8"
    assert "ff8, 1 newly drawn neurons" in text(widget.similarity.heading.value)


@pytest.mark.parametrize("fraction", [0.01, 0.5, 1.0])
def test_draw_again_adds_draws_that_anybody_can_draw_again(make, fraction):
    widget = make()
    widget.slider.value = fraction
    assert "1 draw." in text(widget.similarity.heading.value)
    widget.again.click()
    heading = text(widget.similarity.heading.value)
    (neurons,) = random_subsets(512, fraction, [FIRST_SEED + 1])
    x = widget.features["wide"]
    assert float(re.search(r"newest draw ([\d.]+)", heading)[1]) == pytest.approx(
        linear_cka(x[:, neurons], x), abs=6e-4
    )
    widget.many.click()
    assert "52 draws, mean" in text(widget.similarity.heading.value)
    assert widget.similarity._bars.y.sum() == 52
    newest = float(re.search(r"newest draw ([\d.]+)", text(widget.similarity.heading.value))[1])
    assert widget.similarity._newest.x[0] == pytest.approx(newest, abs=6e-4)


def test_state_survives_running_the_cell_again(make):
    first = make("here")
    first.networks.value = ["robust", "mrl"]
    first.menu.value = "digits"
    first.slider.value, first.delta.value = 0.05, 0.75
    again, elsewhere = make("here"), make("elsewhere")
    assert (again.networks.value, again.menu.value) == (("robust", "mrl"), "digits")
    assert (again.slider.value, again.delta.value) == (0.05, 0.75)
    assert (elsewhere.networks.value, elsewhere.slider.value) == (("wide",), 0.2)


def test_other_choices_redraw_in_place(make):
    widget = make()
    figure = widget.chart.figure
    widget.networks.value = ["mrl", "wide"]
    assert widget.chart.figure is figure and len(widget.chart._points.y) == 2
    widget.networks.value = []
    assert widget.detail.value is None and text(widget.readout.value).startswith("network neurons")
    widget.slider.value, widget.delta.value = 1.0, 0.75
    widget.again.click()
    widget.networks.value = ["mrl"]
    assert "mrl 512 of 512" in text(widget.readout.value)


def test_names_are_escaped(tables):
    odd = tables | {"networks": tables["networks"].assign(title="<b>odd</b> & co")}
    widget = explore.Explorer(odd, lambda model, task, compute: None, note="<i>note</i>")
    assert "&lt;b&gt;odd" in widget.readout.value and "<b>odd" not in widget.readout.value


def test_without_features_the_tables_draws_are_shown_until_others_are_asked_for(tables):
    _, q = matrix(width=512, n=30)
    widget = explore.Explorer(tables, lambda model, task, compute: q if compute else None)
    rows = tables["cka"].query("model == 'wide' and dataset == 'cifar10' and comparison == 'part_whole'")
    rows = rows.query("estimator == 'biased' and fraction < 1")
    for fraction, own in rows.groupby("fraction"):
        widget.slider.value = fraction
        heading = text(widget.similarity.heading.value)
        assert f"{own.n_neurons.iloc[0]} neurons: the {len(own)} subsets of the tables" in heading
        assert widget.similarity._bars.y.sum() == len(own)
    widget.again.click()
    assert "newly drawn neurons" in text(widget.similarity.heading.value)


def test_what_hinders_new_draws_is_said(tables):
    def offline(model, task, compute):
        if compute:
            raise RuntimeError("cannot fetch <it>")

    widget = explore.Explorer(tables, offline)
    widget.again.click()
    assert "Error: cannot fetch &lt;it&gt;" in text(widget.similarity.heading.value)


def test_tables_without_probes_are_refused(tables):
    empty = tables | {"probes": tables["probes"].iloc[:0], "cka": tables["cka"].iloc[:0]}
    with pytest.raises(ValueError, match="hold no probes of random subsets; run ./run_all.sh"):
        explore.Explorer(empty, lambda model, task, compute: None)


# ---- the sliding curve


@pytest.fixture
def rows(tables):
    rows = tables["probes"].query("selection == 'random'").merge(tables["networks"][["model", "width"]])
    return rows.assign(share=rows.accuracy / 0.9, neurons=rows.n_neurons.astype(str) + " of " + rows.width.astype(str))


ACCURACY = {"x": "fraction", "y": "accuracy", "hue": "dataset", "menu": "model"}


def test_every_stop_of_every_choice_has_the_rows_mean_and_spread(rows):
    widget = explore.curve(rows, **ACCURACY, columns={"share": ".1%", "neurons": ""}, log=True,
                           labels={"accuracy": "test accuracy", "model": "network", "share": "kept"})  # fmt: skip
    assert [control.description for control in widget.controls] == ["network", "fraction"]
    expected = rows.groupby(["model", "dataset", "fraction"])
    mean, std = expected.accuracy.mean(), expected.accuracy.std()
    for _, model in widget.menu.options:
        widget.menu.value = model
        assert [x for _, x in widget.slider.options] == sorted(set(mean[model].index.get_level_values("fraction")))
        for _, x in widget.slider.options:
            widget.slider.value = x
            assert list(widget.values().index) == ["cifar10", "digits"]
            said = text(widget.readout.value)
            assert said.startswith("dataset test accuracy ± 1 std kept neurons")
            for dataset in widget.values().index:
                key = model, dataset, x
                size = expected.neurons.first()[key]
                assert f"{dataset} {mean[key]:.3f} ± {std[key]:.3f} {mean[key] / 0.9:.1%} {size}" in said
            assert widget.chart._cursor.x == pytest.approx([x, x])
            assert widget.chart._points.y == pytest.approx(mean[model].xs(x, level="fraction").to_numpy())


def test_a_curve_without_the_stop_says_so_and_has_no_point(rows):
    widget = explore.curve(rows, x="fraction", y="accuracy", hue="model", menu="dataset", start=0.05)
    assert "ff8 not measured here" in text(widget.readout.value) and "ff8" not in widget.values().index
    assert np.isnan(widget.chart._points.y[3]) and np.isfinite(widget.chart._points.y[:3]).all()


def test_intervals_columns_of_spread_and_none(tables):
    rows = tables["redundancy"].query("task == 'probe' and rule == 'first'")
    common = dict(x="delta", y="dr", hue="model", menu="dataset", start=0.9)
    widget = explore.curve(rows, **common, errorbar=("low", "high"), labels={"dr": "DR"})
    said = text(widget.readout.value)
    assert said.startswith("model DR [interval]")
    for row in rows.query("dataset == 'cifar10' and delta == .9").itertuples():
        interval = f" [{row.low:.3f}, {row.high:.3f}]" if row.low < row.high else ""
        assert f"{row.model} {row.dr:.3f}{interval}" in said
    row = rows.query("model == 'mrl' and dataset == 'cifar10' and delta == .9").iloc[0]
    assert widget.chart._bars.y[2] == pytest.approx([row.low, row.high])
    stated = explore.curve(rows.assign(std=0.012), **common, errorbar="std")
    assert f"mrl {row.dr:.3f} ± 0.012" in text(stated.readout.value)
    for bare in (explore.curve(rows, **common), explore.curve(rows, **common, errorbar=None)):
        assert text(bare.readout.value).startswith("model dr &#9632; wide") and "±" not in text(bare.readout.value)


def test_stops_axes_and_the_middle_to_start_from(rows):
    sizes = (8, 51, 128, 256, 512)
    wide = rows.query("model == 'wide'").assign(gini=lambda r: 3 * r.accuracy)
    widget = explore.curve(wide, x="n_neurons", y="gini", hue="dataset", at=sizes, ylim=None)
    assert [label for label, _ in widget.slider.options] == ["51", "256", "512"] and widget.slider.value == 256
    top = (wide.groupby(["dataset", "n_neurons"]).gini.agg(["mean", "std"])).sum(axis=1).max()
    assert widget.chart._cursor.y == pytest.approx([0, 1.05 * top])
    assert widget.controls == [widget.slider]


def test_curves_remember_and_say_what_is_missing(rows):
    first = explore.curve(rows, **ACCURACY)
    first.menu.value, first.slider.value = "mrl", 0.05
    again = explore.curve(rows, **ACCURACY)
    assert (again.menu.value, again.slider.value) == ("mrl", 0.05)
    assert explore.curve(rows, **ACCURACY, note="another").menu.value == "wide"
    without = explore.curve(rows[rows.model != "mrl"], **ACCURACY)
    assert without.menu.value == "wide" and without.slider.value == 0.05
    assert "no rows for this slider" in explore.curve(rows.iloc[:0], **ACCURACY).data
    with pytest.raises(KeyError, match="acuracy"):
        explore.curve(rows, **ACCURACY | {"y": "acuracy"})


def test_a_palette_is_kept_and_equal_colours_differ_in_style(rows):
    widget = explore.curve(rows, **ACCURACY, palette={"digits": (1.0, 0.0, 0.0)})
    assert widget.chart._points.colors[1] == "#ff0000"
    many = list(strokes([f"n{i}" for i in range(24)]).values())
    assert len({stroke[:2] for stroke in many}) == len({swatch for *_, swatch in many}) == 24


# ---- headless, and what is missing


def test_without_a_person_the_table_is_shown_in_place_of_the_slider(make, rows, monkeypatch):
    widget = make()
    assert or_table(widget) is widget
    monkeypatch.setenv(HEADLESS, "1")
    html = or_table(widget).data
    assert "run_all.sh --lab" in html and "fraction 20 %, delta 90 %" in html and widget.readout.value in html
    html = explore.curve(rows, **ACCURACY, start=0.2).data
    assert "model wide, fraction 20 %" in html and "dr-readout" in html


def test_stops_as_people_write_them():
    assert [per_cent(f) for f in (0.2, 0.0005, 1, 0.015625)] == ["20 %", "0.05 %", "100 %", "1.562 %"]
    assert stops([1.0, 0.5]) == [("50 %", 0.5), ("100 %", 1.0)] and stops([512.0, 8.0])[0] == ("8", 8.0)


class Half:
    """A study of which one cell of two is missing; computing it fails when told to."""

    class profile:
        name = "half"
        cells = staticmethod(lambda: [("a", "t"), ("a", "u")])
        cka = type("C", (), {"images": 40})

    folder, note, failure = "half", "", None
    about = staticmethod(lambda *_: None)

    def __init__(self, tables):
        self.tables = tables

    def missing(self):
        return [("a", "u")]

    def run(self):
        if self.failure:
            raise self.failure
        return self.tables


def test_the_button_computes_what_is_missing_and_shows_the_explorer(tables, monkeypatch):
    shown = []
    monkeypatch.setattr(sliding, "display", shown.append)
    study = Half(tables)
    heading, form = explore.start(study).children
    button, _ = form.children
    assert "1 of 2 cells" in text(heading.value) and "a: u" in text(heading.value) and not shown
    study.failure = ValueError("no <disk>")
    button.click()
    assert text(shown.pop().data) == "Error: no &lt;disk&gt;" and not button.disabled and heading.value
    study.failure = None
    button.click()
    assert isinstance(shown.pop(), explore.Explorer) and not shown and not heading.value


def test_a_form_calls_with_what_its_fields_hold(monkeypatch):
    shown = []
    monkeypatch.setattr(sliding, "display", shown.append)
    form = explore.form(lambda **given: given, "do", name=widgets.Text("x"), kept=widgets.fixed(3))
    field, button, _ = form.children
    field.value = "y"
    assert not shown, "nothing happens before the button is pressed"
    button.click()
    assert shown == [{"name": "y", "kept": 3}]


@pytest.mark.archives
def test_a_finished_study_is_explored_without_torch(tmp_path, monkeypatch):
    """Notebook 00 after a run: another process finds features and cells in the store."""
    monkeypatch.setenv(HEADLESS, "1")
    code = (
        "import sys; from dr_utils import Study, explore; "
        "print(explore.start(Study(sys.argv[1], out=sys.argv[2])).data, 'torch' in sys.modules)"
    )
    profile = Path(__file__).parent / "profiles" / "browser.yaml"
    said = [
        subprocess.run(
            [sys.executable, "-c", code, profile, tmp_path], check=True, capture_output=True, text=True
        ).stdout
        for _ in range(2)
    ]
    assert "dr-readout" in said[0] and said[1].endswith("False\n")
    assert said[1].removesuffix("False\n") == said[0].removesuffix("True\n").removesuffix("False\n")
