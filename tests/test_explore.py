"""What the sliders show is what the tables say, at every stop; draws against CKA from features and closed forms."""

from __future__ import annotations

import inspect
import itertools
import re

import ipywidgets as widgets
import numpy as np
import pandas as pd
import pytest
import torch
from synthetic_tables import build, network, saturating, task

from dr_utils import explore
from dr_utils.cka import CKAStatistics, linear_cka
from dr_utils.explore import explorer as explorer_module
from dr_utils.explore import figures, sliders
from dr_utils.explore.draws import FIRST_SEED, Draws
from dr_utils.explore.own import own_form
from dr_utils.explore.shown import HEADLESS, per_cent, shown
from dr_utils.explore.start import Missing
from dr_utils.features import Features
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


@pytest.fixture
def readings(tables):
    return explore.Readings(tables)


def matrix(width=16, n=60, seed=0, estimator="biased"):
    x = np.random.default_rng(seed).normal(size=(n, width)) @ np.random.default_rng(seed + 1).normal(
        size=(width, width)
    )
    return x, CKAStatistics(width, estimators=(estimator,)).update(x).matrix(estimator)


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Choices of one test are not those of the next."""
    monkeypatch.setattr(explorer_module, "_CHOSEN", {})
    monkeypatch.setattr(sliders, "_CHOSEN", {})
    monkeypatch.delenv(HEADLESS, raising=False)


# ---- readings


def test_points_are_the_tables_own_numbers(tables, readings):
    redundancy = tables["redundancy"].query("task == 'probe'").set_index(["model", "dataset", "rule", "delta"])
    probes = tables["probes"].query("selection == 'random'").groupby(["model", "dataset", "fraction"]).accuracy
    for (model, dataset, fraction), values in probes:
        for delta in readings.deltas:
            point = readings.point(model, dataset, fraction, delta)
            assert point.accuracy == pytest.approx(values.mean()) and point.spread == pytest.approx(values.std(ddof=1))
            assert point.full == pytest.approx(probes.mean()[model, dataset, 1.0])
            assert point.kept == pytest.approx(values.mean() / point.full)
            for rule in ("first", "nearest"):
                expected = redundancy.loc[(model, dataset, rule, delta), ["dr", "low", "high"]]
                assert point.redundancy[rule] == pytest.approx(tuple(expected))


def test_a_fraction_that_was_not_measured_has_no_accuracy_but_the_rest(readings):
    point = readings.point("ff8", "cifar10", 0.05, 0.9)
    assert point.accuracy is None and point.n_neurons is None and point.kept is None
    assert point.width == 8 and point.redundancy["first"]
    assert readings.point("nobody", "cifar10", 0.05, 0.9) is None
    assert readings.classes("ff8", "cifar10", 0.05) is None and readings.gini("ff8", "cifar10", 0.05) is None


def test_classes_and_gini_are_the_tables(tables, readings):
    rows = tables["per_class"].query("model == 'wide' and dataset == 'digits' and selection == 'random'")
    mean = rows.groupby(["fraction", "class_name"]).class_accuracy.mean()
    classes = readings.classes("wide", "digits", 0.05)
    assert len(classes) == 20
    for name, row in classes.iterrows():
        assert row.part == pytest.approx(mean[0.05, name]) and row.full == pytest.approx(mean[1.0, name])
    stored = tables["fairness"].query(
        "model == 'wide' and dataset == 'digits' and fraction == .05 and selection == 'random'"
    )
    assert readings.gini("wide", "digits", 0.05) == stored.gini.item()


# ---- draws


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_a_draw_is_the_cka_of_that_seeds_neurons_with_the_layer(estimator):
    x, q = matrix(estimator=estimator)
    draws = Draws(q)
    for k in (1, 5, 16):
        values = list(draws.draw(k, 2))
        values = draws.draw(k, 1)
        assert len(values) == 3
        for i, value in enumerate(values):
            (neurons,) = random_subsets(16, k / 16, [FIRST_SEED + i])
            assert value == pytest.approx(linear_cka(x[:, neurons], x, estimator=estimator), abs=1e-9)


@pytest.mark.parametrize("width", [3, 6, 9])
def test_expectation_has_the_exact_means_of_all_subsets(width):
    _, q = matrix(width=width, seed=width)
    draws = Draws(q)
    for k in range(1, width + 1):
        masks = np.array([np.isin(np.arange(width), s) for s in itertools.combinations(range(width), k)], dtype=float)
        crossed, selves = (masks @ q).sum(axis=1).mean(), ((masks @ q) * masks).sum(axis=1).mean()
        assert draws.expected(k) == pytest.approx(crossed / np.sqrt(selves * q.sum()), rel=1e-12)
    assert draws.expected(width) == pytest.approx(1.0)


def test_draws_gather_around_the_expectation():
    rng = np.random.default_rng(5)
    x = rng.normal(size=(300, 20)) @ rng.normal(size=(20, 256)) + rng.normal(size=(300, 256))
    draws = Draws(CKAStatistics(256).update(x).matrix())
    for k in (16, 64, 128):
        values = np.array(draws.draw(k, 300))
        # What the first order leaves out is a small part of the spread of single draws.
        assert abs(values.mean() - draws.expected(k)) < 0.25 * values.std() + 4 * values.std() / np.sqrt(300)


def test_a_silent_layer_has_no_expectation():
    assert np.isnan(Draws(np.zeros((4, 4))).expected(2))


class FakeStudy:
    """As much of a study as a finished cell needs."""

    def __init__(self, images, known=True):
        self.profile = type("P", (), {"cka": type("C", (), {"images": images})})
        self.known = known

    def about(self, network, task):
        return (
            {"identity": {"features": ["train", "other", "right"], "eval_sets": ["corrupted", "test"]}}
            if self.known
            else None
        )


def test_matrix_is_made_once_from_the_stored_test_features(monkeypatch, tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 12)).astype(np.float32)
    asked = []

    def stored(key):
        asked.append(key)
        return Features(x, np.zeros(50, dtype=np.int64), key, {}) if key == "right" else None

    monkeypatch.setenv("DR_HOME", str(tmp_path))
    monkeypatch.setattr("dr_utils.explore.matrix.stored", stored)
    q = explore.cka_matrix(FakeStudy(40), "net", "task")
    np.testing.assert_allclose(q, CKAStatistics(12).update(x[:40]).matrix())
    np.testing.assert_array_equal(explore.cka_matrix(FakeStudy(40), "net", "task"), q)
    assert asked == ["right"]
    debiased = explore.cka_matrix(FakeStudy(40), "net", "task", "debiased")
    assert not np.allclose(debiased, q)
    assert explore.cka_matrix(FakeStudy(40, known=False), "net", "task") is None
    monkeypatch.setattr("dr_utils.explore.matrix.stored", lambda key: None)
    assert explore.cka_matrix(FakeStudy(30), "net", "task") is None


# ---- the explorer


@pytest.fixture
def make(readings):
    layers = {"wide": 512, "robust": 512, "mrl": 512, "ff8": 8}
    cache = {name: matrix(width=width, n=30)[1] for name, width in layers.items()}
    return lambda key="here": explore.Explorer(
        readings, lambda model, task: cache[model], key=key, note="whose <numbers>"
    )


def test_every_stop_shows_the_tables_numbers(make, readings):
    widget = make()
    for _, fraction in widget.fraction.options:
        widget.fraction.value = fraction
        point = readings.point("wide", "cifar10", fraction, widget.delta.value)
        shown_text = text(widget.readout.value)
        assert f"{point.n_neurons} of 512 {point.accuracy:.3f} ± {point.spread:.3f}" in shown_text
        assert "{:.3f} [{:.2f}, {:.2f}]".format(*point.redundancy["first"]) in shown_text
        assert f"Gini {readings.gini('wide', 'cifar10', fraction):.3f} against" in widget.classes.heading.value
    for _, delta in widget.delta.options:
        widget.delta.value = delta
        point = readings.point("wide", "cifar10", widget.fraction.value, delta)
        first, nearest = ("{:.3f} [{:.2f}, {:.2f}]".format(*point.redundancy[rule]) for rule in ("first", "nearest"))
        assert text(widget.readout.value).endswith(f"{first} {nearest}")
        level, fall = widget.accuracy._levels["wide"], widget.accuracy._falls["wide"]
        assert level.y == pytest.approx([delta * point.full] * 2)
        assert fall.x == pytest.approx([1 - point.redundancy["first"][0]] * 2)


def test_networks_of_several_grids_stand_side_by_side(make):
    widget = make()
    widget.networks.value = ["wide", "ff8"]
    fractions = [value for _, value in widget.fraction.options]
    assert {0.0005, 0.125, 1.0} <= set(fractions)
    widget.fraction.value = 0.05
    assert "ff8 – of 8 not measured at this fraction" in text(widget.readout.value)
    widget.fraction.value = 0.125
    assert "1 of 8 0." in text(widget.readout.value)
    assert [label for label, _ in widget.detail.options] == ["wide", "ff8"]
    widget.detail.value = "ff8"
    assert "ff8, 1 fresh neurons" in text(widget.similarity.heading.value)


def test_draw_again_adds_draws_that_the_histogram_holds(make):
    widget = make()
    widget.fraction.value = 0.5
    assert "1 draw." in text(widget.similarity.heading.value)
    widget.again.click()
    widget.many.click()
    assert "52 draws, mean" in text(widget.similarity.heading.value)
    assert widget.similarity._bars.y.sum() == 52
    newest = float(re.search(r"newest draw ([\d.]+)", text(widget.similarity.heading.value))[1])
    assert widget.similarity._newest.x[0] == pytest.approx(newest, abs=6e-4)


def test_state_survives_running_the_cell_again(make):
    first = make("here")
    first.networks.value = ["robust", "mrl"]
    first.task.value = "digits"
    first.fraction.value, first.delta.value = 0.05, 0.75
    again, elsewhere = make("here"), make("elsewhere")
    assert (again.networks.value, again.task.value) == (("robust", "mrl"), "digits")
    assert (again.fraction.value, again.delta.value) == (0.05, 0.75)
    assert (elsewhere.networks.value, elsewhere.fraction.value) == (("wide",), 0.2)


def test_other_choices_redraw_in_place(make):
    widget = make()
    figure, chart = widget.accuracy.figure, widget.classes
    widget.task.value = "digits"
    widget.networks.value = ["mrl"]
    assert widget.accuracy.figure is figure and len(chart._full.x) == 16
    assert "16 of 20 that lose most" in chart.heading.value
    widget.networks.value = []
    assert widget.detail.value is None and text(widget.readout.value).startswith("network neurons")


def test_names_are_escaped_and_without_features_cka_says_so(tables):
    odd = dict(tables)
    odd["networks"] = tables["networks"].assign(title="<b>odd</b> & co")
    widget = explore.Explorer(explore.Readings(odd), lambda model, task: None, note="<i>note</i>")
    assert "&lt;b&gt;odd" in widget.readout.value and "<b>odd" not in widget.readout.value
    assert "no features of this network and task are stored" in widget.similarity.heading.value


def test_tables_without_probes_are_refused(tables):
    empty = tables | {"probes": tables["probes"].iloc[:0], "cka": tables["cka"].iloc[:0]}
    with pytest.raises(ValueError, match="hold no probes of random subsets; run ./run_all.sh"):
        explore.Explorer(explore.Readings(empty), lambda model, task: None)


# ---- the sliders of the notebooks


class Folder:
    folder, note = "results", "note"

    @staticmethod
    def nearest_delta(wanted):
        return min((0.75, 0.8, 0.85, 0.9, 0.95, 1.0), key=lambda delta: abs(delta - wanted))


FUNCTIONS = [f for _, f in inspect.getmembers(figures, inspect.isfunction)
             if f.__module__ == figures.__name__ and not f.__name__.startswith("_")]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_every_stop_of_every_choice_has_numbers(function, tables):
    widget = function(Folder, tables)
    for _, choice in widget.choice.options:
        widget.choice.value = choice
        for _, x in widget.slider.options:
            widget.slider.value = x
            assert widget.rows(), (choice, x)
            assert "nan" not in text(widget.readout.value).lower()
            assert widget.chart._cursor.x == pytest.approx([x, x])


def number(widget, name):
    return float(re.match(r"-?[\d.]+", next(iter(widget.rows()[name].values())))[0])


def test_numbers_at_the_cursor_are_the_tables(tables):
    probes = tables["probes"].groupby(["model", "dataset", "selection", "n_neurons"]).accuracy.mean()
    widget = figures.prevalence(Folder, tables)
    widget.slider.value = 0.05
    assert number(widget, "cifar10") == pytest.approx(probes["wide", "cifar10", "random", 25], abs=6e-4)
    assert widget.rows()["cifar10"]["neurons"] == "25 of 512"

    widget = figures.random_subset_cka(Folder, tables)
    widget.slider.value = 0.1
    pairs = tables["cka"].query(
        "model == 'mrl' and dataset == 'cifar10' and comparison == 'part_part' and fraction == .1"
    )
    assert number(widget, "mrl") == pytest.approx(pairs.cka.mean(), abs=6e-4)
    assert "ff8" not in widget.rows()

    widget = figures.architectures(Folder, tables)
    widget.slider.value = 0.9
    row = (
        tables["redundancy"]
        .query("model == 'mrl' and dataset == 'cifar10' and task == 'probe' and rule == 'first' and delta == .9")
        .iloc[0]
    )
    assert widget.rows()["mrl"]["DR [95 %]"] == f"{row.dr:.3f} [{row.low:.2f}, {row.high:.2f}]"

    widget = figures.width(Folder, tables)
    assert widget.slider.value == 8 and [label for label, _ in widget.slider.options] == ["8", "512"]
    redundancy = tables["redundancy"].query(
        "model == 'ff8' and dataset == 'cifar10' and task == 'probe' and rule == 'first' and delta == .9"
    )
    assert number(widget, "delta 90 %") == pytest.approx(1 - redundancy.dr.item(), abs=6e-4)

    widget = figures.matryoshka(Folder, tables)
    widget.slider.value = 8
    assert number(widget, "mrl, first k") == pytest.approx(probes["mrl", "cifar10", "first", 8], abs=6e-4)
    assert number(widget, "ff, a layer of k") == pytest.approx(probes["ff8", "cifar10", "random", 8], abs=6e-4)

    widget = figures.fairness(Folder, tables)
    widget.slider.value = 0.1
    row = tables["fairness"].query(
        "model == 'mrl' and dataset == 'cifar10' and selection == 'random' and fraction == .1"
    )
    assert number(widget, "mrl") == pytest.approx(row.gini.item(), abs=6e-4)

    widget = figures.components(Folder, tables)
    widget.slider.value = 51
    at = probes["wide", "cifar10"].xs(51, level="n_neurons")
    assert number(widget, "PCA") == pytest.approx(at["pca"], abs=6e-4)
    assert widget.rows()["PCA"]["lead"] == f"{100 * (at['pca'] - at['random']):+.1f} points"


def test_sliders_remember_and_say_what_is_missing(tables):
    widget = figures.prevalence(Folder, tables)
    widget.choice.value, widget.slider.value = "mrl", 0.05
    again = figures.prevalence(Folder, tables)
    assert (again.choice.value, again.slider.value) == ("mrl", 0.05)
    alone = tables | {"networks": tables["networks"].query("training == 'standard'")}
    for function in (figures.width, figures.matryoshka):
        assert "nothing for this slider" in function(Folder, alone).data


# ---- headless, and what is missing


def test_without_a_person_the_table_is_shown_in_place_of_the_slider(make, tables, monkeypatch):
    widget = make()
    assert shown(widget) is widget
    monkeypatch.setenv(HEADLESS, "1")
    html = shown(widget).data
    assert "run_all.sh --lab" in html and "fraction 20 %, delta 90 %" in html and widget.readout.value in html
    assert "task cifar10, width 8" in figures.width(Folder, tables).data


def test_per_cent():
    assert [per_cent(f) for f in (0.2, 0.0005, 1, 0.015625)] == ["20 %", "0.05 %", "100 %", "1.562 %"]


class Half:
    """A study of which two cells of four are missing; computing one fails when told to."""

    class profile:
        name, networks, tasks = "half", ["a", "b"], ["t", "u"]
        cells = staticmethod(lambda: [(n, t) for n in "ab" for t in "tu"])

    def __init__(self, failure=None):
        self.left, self.failure, self.asked = [("a", "u"), ("b", "u")], failure, []

    def missing(self):
        return list(self.left)

    def run(self, networks, tasks):
        cell = (networks[0], tasks[0])
        self.asked.append(cell)
        if self.failure and len(self.asked) == 2:
            failure, self.failure = self.failure, None
            raise failure
        self.left.remove(cell)
        return {"cells": len(self.asked)}


def test_the_button_computes_what_is_missing_and_becomes_the_explorer():
    study = Half()
    widget = Missing(study, study.missing(), show=lambda study, tables: widgets.Label(str(tables["cells"])))
    assert "2 of 4 cells" in text(widget.text.value) and "a: u" in text(widget.text.value)
    widget.button.click()
    assert study.asked == [("a", "u"), ("b", "u")] and widget.bar.value == 2
    assert [child.value for child in widget.children] == ["2"]


@pytest.mark.parametrize(
    ("failure", "said"), [(ValueError("no disk"), "ValueError: no disk"), (KeyboardInterrupt(), "interrupted")]
)
def test_what_stops_it_is_shown_and_the_rest_is_offered_again(failure, said):
    study = Half(failure)
    widget = Missing(study, study.missing(), show=lambda study, tables: widgets.Label("done"))
    widget.button.click()
    assert said in text(widget.status.value) and not widget.button.disabled
    assert widget.button.description == "compute 1 cell"
    widget.button.click()
    assert study.asked == [("a", "u"), ("b", "u"), ("b", "u")] and widget.children[0].value == "done"


# ---- one's own network and data


@pytest.fixture
def own_files(tmp_path):
    """Features of two classes that differ in some neurons, and their labels."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 2
    np.save(tmp_path / "features.npy", (rng.normal(size=(120, 16)) + 2 * y[:, None]).astype(np.float32))
    np.save(tmp_path / "labels.npy", y)
    return {"features": str(tmp_path / "features.npy"), "labels": str(tmp_path / "labels.npy")}


def test_form_measures_shows_and_keeps_the_answer_when_a_slip_is_made(own_files):
    form, shown_widget = own_form(own_files, {"device": "cpu"}, solver="ridge", seeds=[1, 2])
    assert shown_widget is form and "84 train and 36 test samples" in text(form.status.value)
    table, panel = form.result.children
    row = form.answer.recommendation().iloc[0]
    assert f"{row.neurons:.0f} of 16" in text(table.value) and f"{row.accuracy:.3f}" in text(table.value)
    assert isinstance(panel, explore.Explorer) and "fresh neurons" in panel.similarity.heading.value
    before = form.answer
    form.fields["features"].value = "nothing.npy"
    form.button.click()
    assert "This did not work" in form.status.value and form.answer is before and not form.button.disabled


def test_form_without_a_person_gives_the_table_or_the_error(own_files, monkeypatch):
    monkeypatch.setenv(HEADLESS, "1")
    _, html = own_form(own_files, {"device": "cpu"}, solver="ridge", seeds=[1])
    assert "dr-recommendation" in html.data
    with pytest.raises(ValueError, match="unknown network 'smal_resnet'.*nearest first: small_resnet"):
        own_form({"model": "smal_resnet", "data": "digits"}, {"device": "cpu"})
    with pytest.raises(ValueError, match="no data given: name a task"):
        own_form({"model": "small_resnet"}, {"device": "cpu"})


def test_form_keeps_an_object_until_its_field_is_changed(monkeypatch):
    given, module = [], torch.nn.Linear(2, 2)

    def load(**arguments):
        given.append(arguments["model"])
        raise ValueError("seen")

    monkeypatch.setattr("dr_utils.explore.own.load", load)
    form, _ = own_form({"model": module, "data": "digits"}, {})
    form.fields["model"].value = "small_resnet"
    form.button.click()
    assert given[0] is module and given[1] == "small_resnet"
