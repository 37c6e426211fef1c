"""Published numbers in place of measured ones: nothing made up, nothing loaded, and nobody can take them for ours."""

from __future__ import annotations

import csv
import re
from importlib import resources

import nbformat
import numpy as np
import pandas as pd
import pytest
from PIL import Image

import dr_utils.study as study_module
from dr_utils import plots
from dr_utils import run as runner
from dr_utils.claims import COLUMNS, NOT_OURS, evaluate, judge
from dr_utils.claims.view import SCHEMA, View
from dr_utils.profiles import load_profile
from dr_utils.study import Study, read_tables

# How the file calls our names; written down a second time, so that a slip in the suite's own table is seen.
MODELS = {
    "resnet50_standard": ("resnet50|nonrob|pretrain=imagenet|mode=random", "resnet50|nonrob|random"),
    "resnet50_l2_eps3": ("resnet50|robustl2eps3|pretrain=imagenet|mode=random", "resnet50|robustl2eps3|random"),
    "vit_s16_imagenet21k": ("vit_small_patch16_224|nonrob|pretrain=imagenet21k|mode=random", "-"),
}
DATASETS = {
    ("cifar10", "test"): "cifar10", ("cifar100", "test"): "cifar100", ("flowers", "test"): "flowers",
    ("pets", "test"): "oxford-iiit-pets", ("imagenet1k", "test"): "imagenet",
    ("imagenet1k", "imagenetv2"): "imagenetv2",
}  # fmt: skip
TABLE1 = {"cifar10": (0.9, 0.8), "pets": (0.9, 0.8), "cifar100": (0.5, 0.5), "flowers": (0.2, 0.2)}  # nearest, first
FIGURES = ("fig01_prevalence", "adversarial_redundancy", *(f"fig{name}_imagenet" for name in (
    "03_architectures", "10_architectures_redundancy", "13_architectures_by_neurons")))  # fmt: skip


def the_file(*quantities: str) -> dict[tuple[str, str, float], float]:
    """Numbers of the file by its own names of network and data set, and fraction or delta."""
    with resources.files("dr_utils.data").joinpath("reference_values.csv").open(encoding="utf-8") as file:
        return {
            (row["model"], row["dataset"], float(row["delta_or_fraction"].partition("=")[2])): float(row["value"])
            for row in csv.DictReader(file)
            if row["quantity"] in quantities
        }


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Study:
    return Study("reference", out=tmp_path_factory.mktemp("out"), device="cpu")


@pytest.fixture(scope="module")
def tables(study) -> dict[str, pd.DataFrame]:
    return study.run()


def changed(**update) -> object:
    return load_profile("reference").model_copy(update=update)


def test_accuracies_are_those_of_the_file_none_made_up_none_lost(tables):
    numbers = the_file("probe_test_accuracy_mean", "probe_test_accuracy")
    ours = {
        (MODELS[row.model][0], DATASETS[row.dataset, row.eval_set], row.fraction): row.accuracy
        for row in tables["probes"].itertuples()
    }
    names = {accuracy for accuracy, _ in MODELS.values()}
    assert ours == {key: v for key, v in numbers.items() if key[0] in names and key[1] in DATASETS.values()}
    assert len(ours) == len(tables["probes"]) == 181


def test_similarities_and_spreads_are_those_of_the_file(tables):
    numbers = the_file("CKA_part_vs_whole_mean") | the_file("CKA_between_random_subsets_mean")
    ours = {
        (MODELS[row.model][row.comparison == "part_whole"], DATASETS[row.dataset, "test"], row.fraction): row.cka
        for row in tables["cka"].itertuples()
    }
    names = {name for pair in MODELS.values() for name in pair}
    assert ours == {key: value for key, value in numbers.items() if key[0] in names}
    assert len(ours) == len(tables["cka"]) == 2 * 4 * (8 + 16)

    spread = tables["spread"].set_index(["model", "dataset", "eval_set", "fraction"])["std"]
    assert spread.loc["resnet50_standard", "imagenet1k", "imagenetv2", 0.1] == 0.01607  # quoted beside the mean
    numbers = the_file("probe_test_accuracy_std")
    kept = {(MODELS[m][0], DATASETS[d, e], f): std for (m, d, e, f), std in spread.items() if d != "imagenet1k"}
    assert kept == {key: value for key, value in numbers.items() if key[0] in names}
    assert (spread.index.get_level_values("fraction") < 1).all(), "the whole layer is one run"
    curve = View(tables).accuracy("resnet50_l2_eps3", "flowers")
    assert np.isnan(curve.std[-1]) and curve.std[8] == numbers[MODELS["resnet50_l2_eps3"][0], "flowers", 0.1]


def test_redundancy_of_the_published_means_is_table_1(tables):
    dr = tables["redundancy"].set_index(["model", "dataset", "task", "rule", "delta"])["dr"]
    for dataset, (nearest, first) in TABLE1.items():
        at = dr.loc["resnet50_standard", dataset, "probe", :, 0.9]
        assert (at["nearest"], at["first"]) == (nearest, first)
    # Another hand's arithmetic on the same curves stands in the file, at four deltas for eleven cells.
    checked = 0
    for rule, quantity in (("first", "DR_strict(paper Eq.1)"), ("nearest", "DR_nearest_delta(official code)")):
        for (name, dataset, delta), value in the_file(quantity).items():
            (model,) = [m for m, (accuracy, _) in MODELS.items() if accuracy == name]
            (task,) = [d for (d, e), called in DATASETS.items() if called == dataset and e == "test"]
            assert dr.loc[model, task, "probe", rule, delta] == pytest.approx(value, abs=1e-9)
            checked += 1
    assert checked == 2 * 4 * 11
    # CKA with the whole layer is 1 at the whole layer, which was not printed: no other fraction would reach delta 1.
    assert dr.loc["resnet50_standard", "cifar10", "cka", "first", 1.0] == 0.0
    assert dr.loc["resnet50_standard", "cifar10", "cka", "first", 0.9] == 0.75


def test_no_seed_and_no_interval_is_invented(tables):
    assert set(tables["probes"].seed) == set(tables["cka"].seed_a) == {0}
    assert tables["redundancy"][["low", "high"]].isna().all(axis=None)
    assert tables["per_class"].empty and tables["fairness"].empty
    for name, columns in SCHEMA.items():
        assert name == "fewer_classes" or set(columns) <= set(tables[name]), name
    for name in ("probes", "cka", "redundancy"):
        assert list(tables[name]) == list(SCHEMA[name]), "no column more than a measured table has"
    assert not tables["probes"].eval("model == 'vit_s16_imagenet21k' and dataset == 'pets'").any()


def test_sizes_of_the_data_sets_fit_the_printed_accuracies(tables):
    sizes = tables["tasks"].set_index(["dataset", "eval_set"])["n_test"]
    whole = tables["probes"].query("fraction == 1 and model != 'vit_s16_imagenet21k'")  # the ViT's have four digits
    correct = whole.accuracy * [sizes[key] for key in zip(whole.dataset, whole.eval_set, strict=True)]
    assert len(correct) == 12 and np.abs(correct - correct.round()).max() < 2e-3, "images are counted in whole numbers"


def test_nothing_is_loaded_and_the_names_need_not_be_registered(monkeypatch, tmp_path, tables):
    def refuse(*args, **kwargs):
        raise AssertionError("loaded")

    for name in ("load_model", "load_dataset", "check_network", "available_tasks"):
        monkeypatch.setattr(study_module, name, refuse)
    (tmp_path / "file").touch()
    monkeypatch.setenv("DR_HOME", str(tmp_path / "file"))  # no folder: the cache cannot be used
    study = Study("reference", out=tmp_path, device="cpu")
    assert not study.missing()
    for name, table in study.run().items():
        pd.testing.assert_frame_equal(table, tables[name])
    read = read_tables(study.tables_folder)
    assert set(read) == set(tables) == set(SCHEMA) - {"fewer_classes"}
    pd.testing.assert_frame_equal(read["redundancy"], tables["redundancy"])


@pytest.mark.parametrize(
    "update, message",
    [
        ({"networks": ["resnet50_standart"]}, "unknown published network 'resnet50_standart'.*resnet50_standard"),
        ({"tasks": {"digits": load_profile("reference").tasks["pets"]}}, "unknown task 'digits'"),
        (
            {"tasks": {"pets": load_profile("reference").tasks["imagenet1k"]}},
            "unknown evaluation set of pets",
        ),
    ],
)
def test_what_was_not_published_is_told_before_anything_is_written(update, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        Study(changed(**update), out=tmp_path)
    assert not list(tmp_path.iterdir()) and not load_profile("mini").reference


def test_fractions_of_the_profile_choose_the_points(tmp_path):
    found = Study(changed(fractions=[0.1, 0.5, 1.0]), out=tmp_path).run()
    assert set(found["probes"].fraction) == {0.1, 0.5, 1.0}
    assert set(found["cka"].fraction) == {0.1, 0.5, 1.0}
    dr = found["redundancy"].query("dataset == 'cifar10' and task == 'probe' and rule == 'first' and delta == 0.9").dr
    assert dr.tolist() == [0.5, 0.9, 0.5]


def test_no_claim_is_judged_by_the_numbers_that_make_it(tables):
    for claims in (judge(tables), evaluate(tables, ["A5", "P5"])):
        assert tuple(claims.columns) == COLUMNS and len(claims) in (34, 2)
        assert set(claims.verdict) == {"no data"} and set(claims.why) == {NOT_OURS}
        assert set(claims.measured) == {"nothing measured"}
    # The rule looks at where the tables come from, not at the profile: the same numbers as measured ones are judged.
    measured = tables | {"networks": tables["networks"].assign(source="a measurement")}
    assert set(evaluate(measured, ["A5", "P8"]).why) != {NOT_OURS}


def test_figures_say_whose_numbers_they_show_and_draw_them_once(study, tables):
    assert "Published numbers" in study.note and "nothing here was measured by this suite" in study.note
    assert (
        study.notes[0].startswith("Published numbers") and "vit_s16_imagenet21k on pets: not published." in study.notes
    )
    rows = plots.titled(tables["probes"], tables)
    assert plots.published("accuracy", rows, tables).empty, "the curve itself is the printed one"
    measured = tables | {"networks": tables["networks"].assign(source="timm")}
    assert set(plots.published("accuracy", rows, measured)["model"]) == set(MODELS)
    # A published standard deviation is drawn as the band of the mean it belongs to.
    at = "model == 'resnet50_l2_eps3' and dataset == 'flowers' and fraction == 0.1"
    band = plots.with_spread(rows, tables).query(at)["accuracy"]
    assert band.mean() == pytest.approx(rows.query(at)["accuracy"].item())
    assert band.std() == pytest.approx(tables["spread"].query(at)["std"].item())


def test_the_option_names_the_profile(capsys):
    for arguments in (["--from-reference", "--profile", "paper"], ["--profile", "paper", "--from-reference"]):
        with pytest.raises(SystemExit) as stopped:
            runner.parse(arguments)
        said = capsys.readouterr().err
        assert stopped.value.code == 2 and "not allowed with argument" in said and said.count("\n") == 1
    assert runner.parse([]).profile == "mini" and runner.parse(["--from-reference"]).profile == "reference"


def test_the_option_is_the_profile_and_its_notebooks(tmp_path):
    for arguments in (["--from-reference"], ["--profile", "reference"]):
        notebooks, run = runner.prepare(runner.parse([*arguments, "--out", str(tmp_path)]))
        assert [path.stem for path in notebooks] == ["01_prevalence", "03_architectures"]
        assert run.profile.reference and run.source == "reference" and run.folder == tmp_path / "reference"


# Not marked "archives" as other tests that execute notebooks are: this one needs no archive, so it runs everywhere.
def test_notebooks_redraw_the_papers_curves(tmp_path, capsys):
    assert runner.main(["--from-reference", "--out", str(tmp_path), "--device", "cpu"]) == 0, capsys.readouterr().out
    shown = capsys.readouterr().out
    assert "34 claims of the paper and its later version, 0 hold, 0 differ," in shown
    results = tmp_path / "reference"
    assert sorted(path.stem for path in (results / "figures").glob("*.png")) == sorted(FIGURES)
    for name in FIGURES:
        pixels = np.asarray(Image.open(results / "figures" / f"{name}.png").convert("RGB"), dtype=int)
        coloured = (pixels.max(axis=2) - pixels.min(axis=2)) > 40
        assert min(pixels.shape[:2]) > 300 and coloured.mean() > 0.001
        assert coloured.any(axis=0).mean() > 0.2, "the lines do not run across the figure"
    for path in (results / "notebooks").glob("*.ipynb"):
        outputs = [
            output for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for output in cell.outputs
        ]
        said = [place for place, output in enumerate(outputs) if "nothing here was measured" in output.get("text", "")]
        tables = [place for place, output in enumerate(outputs) if "published ResNet50" in str(output.get("data", ""))]
        assert said and said[0] < tables[0], "said before any published number"
        assert not any(re.search(r"nan, nan|± nan|± 0\.000", str(output)) for output in outputs)

    page = (results / "report.html").read_text(encoding="utf-8")
    captions = re.findall(r"<figcaption>.*?</figcaption>", page, re.DOTALL)
    assert len(captions) == len(FIGURES)
    assert all("nothing in this figure was measured by this suite" in text for text in captions)
    assert all("95 % " not in text and "Grey and dashed" not in text for text in captions)
    assert "<strong>Nothing on this page was measured by this suite</strong>" in page
    assert "not run." not in page and "Every number on this page is that of the profile" not in page
