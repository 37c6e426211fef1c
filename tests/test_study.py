"""The whole study on a tiny task: same tables twice, nothing done twice, tables agree with their definitions."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch

import dr_utils.study as study_module
from dr_utils import store
from dr_utils.cka import CKAStatistics, linear_cka, part_part, part_whole, subset_cka_law
from dr_utils.fairness import coefficient_of_variation, gini
from dr_utils.features import Features
from dr_utils.models import Network, NetworkCard
from dr_utils.probes import fit_probes
from dr_utils.profiles import CKA, CellSpec, Probe, Profile
from dr_utils.redundancy import diffused_redundancy
from dr_utils.study import Study, read_tables
from dr_utils.study.cell import COLUMNS, compute_cell, image_noise, redundancy_table
from dr_utils.study.draws import draws_table
from dr_utils.subsets import fit_projection, random_subsets

FRACTIONS = [0.05, 0.2, 0.5, 1.0]


def tiny_network(name: str, **_) -> Network:
    """A small convolutional network with seeded weights: enough for features that tell digits apart."""
    torch.manual_seed(len(name))
    body = torch.nn.Sequential(
        torch.nn.Conv2d(3, 12, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(12, 40, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(),
    )  # fmt: skip
    card = NetworkCard(
        name=name, title=name, width=160, family="tiny", training="standard", upstream="none", kind="small",
        source="tests", licence="MIT", top1=None,
    )  # fmt: skip
    return Network(card, lambda: body)


@pytest.fixture
def profile():
    return Profile.model_validate(
        {
            "name": "digits_twice",
            "networks": ["tiny_a", "tiny_bb"],
            "tasks": {"digits": {"train": 150, "test": 120, "resolution": 16, "eval_sets": ["test"]}},
            "fractions": FRACTIONS,
            "seeds": [1, 2, 3],
            "deltas": [0.8, 0.9],
            "selections": [
                {"selection": "random"},
                {"selection": "pca"},
                {"selection": "first", "networks": ["tiny_a"], "fractions": [0.2]},
                {"selection": "projection_gaussian", "networks": ["tiny_a"]},
            ],
            "probe": {"solvers": ["sgd", "ridge"], "epochs": 6, "step_epochs": 2},
            "cka": {"images": 100},
        }
    )


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    monkeypatch.setattr(study_module, "load_model", tiny_network)
    monkeypatch.setattr(study_module, "check_network", lambda name: name)
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DR_PROGRESS", "off")
    return tmp_path


def test_two_runs_from_nothing_write_the_same_bytes(tiny, profile, monkeypatch):
    written = []
    for run in ("one", "two"):
        monkeypatch.setenv("DR_HOME", str(tiny / f"home-{run}"))
        study = Study(profile, out=tiny / run, device="cpu")
        study.run()
        written.append({p.name: p.read_bytes() for p in study.tables_folder.glob("*.[cp]*")})
    assert set(written[0]) == {f"{n}.parquet" for n in COLUMNS} | {"networks.csv", "tasks.csv"}
    assert written[0] == written[1]


def refuse(*args, **kwargs):
    raise AssertionError("done twice")


def test_a_second_run_computes_nothing(tiny, profile, monkeypatch):
    study = Study(profile, out=tiny, device="cpu")
    first = study.run()
    times = {path: path.stat().st_mtime_ns for path in study.tables_folder.iterdir()}
    monkeypatch.setattr(study_module, "compute_cell", refuse)
    monkeypatch.setattr(study_module, "load_dataset", refuse)
    again = Study(profile, out=tiny, device="cpu")
    for name, table in again.run().items():
        pd.testing.assert_frame_equal(first[name], table)
    assert again.notes == study.notes and not again.missing()
    assert times == {path: path.stat().st_mtime_ns for path in study.tables_folder.iterdir()}, "written again"
    pd.testing.assert_frame_equal(read_tables(study.tables_folder)["probes"], first["probes"])
    # Another folder of results needs the cells only, and a table that was changed by hand is written again.
    elsewhere = Study(profile, out=tiny / "elsewhere", device="cpu").run()
    (study.tables_folder / "cka.parquet").write_text("model\n")
    for tables in (elsewhere, Study(profile, out=tiny, device="cpu").run()):
        for name, table in first.items():
            pd.testing.assert_frame_equal(table, tables[name])


def test_a_damaged_cell_is_computed_again(tiny, profile, monkeypatch):
    study = Study(profile, out=tiny, device="cpu")
    first = study.run()
    path = next(iter((store.cache_dir() / "cells").glob("*.safetensors")))
    path.write_bytes(path.read_bytes()[:-100])
    again = Study(profile, out=tiny / "elsewhere", device="cpu").run()
    pd.testing.assert_frame_equal(first["probes"], again["probes"])


def test_interrupted_run_keeps_finished_cells(tiny, profile, monkeypatch):
    real = compute_cell

    def stop_at_second(model, *args, **kwargs):
        if model == "tiny_bb":
            raise KeyboardInterrupt
        return real(model, *args, **kwargs)

    monkeypatch.setattr(study_module, "compute_cell", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        Study(profile, out=tiny, device="cpu").run()
    computed = []
    monkeypatch.setattr(
        study_module, "compute_cell", lambda model, *a, **k: computed.append(model) or real(model, *a, **k)
    )
    Study(profile, out=tiny, device="cpu").run()
    assert computed == ["tiny_bb"]


def test_a_changed_profile_drops_old_cells(tiny, profile):
    Study(profile, out=tiny, device="cpu").run()
    changed = profile.model_copy(update={"seeds": [1, 2], "networks": ["tiny_a"]})
    tables = Study(changed, out=tiny, device="cpu").run()
    assert set(tables["probes"].model) == {"tiny_a"}
    assert set(tables["probes"].seed) == {1, 2}


def test_tables_hold_every_probe_once_with_the_columns_agreed(tiny, profile):
    tables = Study(profile, out=tiny, device="cpu").run()
    probes = tables["probes"]
    assert list(probes.columns) == [
        "model", "dataset", "eval_set", "selection", "fraction", "n_neurons", "seed", "accuracy", "solver", "features",
    ]  # fmt: skip
    assert not probes.duplicated(["model", "selection", "fraction", "seed", "solver"]).any()
    # Per solver: random and PCA at 4 fractions for both networks; first at 1, Gaussian at 4 for one; 3 seeds.
    assert len(probes) == 2 * 3 * (4 * 2 * 2 + 1 + 4)
    assert probes.accuracy.between(0, 1).all()
    assert tables["cka"].groupby(["model", "estimator", "comparison"]).size().eq(4 * 3).all()
    assert (tables["tasks"].n_train == 150).all() and (tables["tasks"].n_test == 120).all()
    curve = probes[(probes.selection == "random") & (probes.solver == "ridge")].groupby("fraction").accuracy.mean()
    assert curve.iloc[-1] > curve.iloc[0] + 0.2


def test_unknown_names_stop_before_work(tiny, profile):
    wrong = profile.model_dump() | {"tasks": {"cifar": {"resolution": 32}}}
    with pytest.raises(ValueError, match="unknown task 'cifar'; known, nearest first: cifar10"):
        Study(Profile.model_validate(wrong), out=tiny)


def test_no_tables_is_said(tmp_path):
    with pytest.raises(ValueError, match="no tables in"):
        read_tables(tmp_path)


@pytest.fixture
def cell():
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 30))

    def split(n, name):
        y = np.arange(n) % 3
        x = np.maximum(centres[y] + rng.normal(size=(n, 30)), 0).astype(np.float32)
        return Features(x, y, name, {})

    train, evals = split(24, "train"), {"test": split(60, "test"), "shifted": split(33, "shifted")}
    spec = CellSpec(
        seeds=[1, 2], deltas=[0.8, 0.95], probe=Probe(epochs=4), cka=CKA(images=50),
        selections={"random": FRACTIONS, "pca": FRACTIONS, "projection_uniform": [0.5]},
    )  # fmt: skip
    return train, evals, spec, *compute_cell("m", "d", train, evals, ["a", "b", "c"], spec)


def test_a_cell_agrees_with_probes_fitted_one_selection_at_a_time(cell):
    train, evals, spec, tables, _ = cell
    for eval_set in evals:
        for seed in spec.seeds:
            subsets = [random_subsets(30, f, [seed])[0] for f in FRACTIONS]
            alone = fit_probes(train.x, train.y, evals[eval_set].x, evals[eval_set].y, subsets, seed=seed, epochs=4)
            rows = tables["probes"].query("selection == 'random' and eval_set == @eval_set and seed == @seed")
            np.testing.assert_allclose(rows.sort_values("fraction").accuracy, alone.accuracy, atol=1e-9)
    projection = fit_projection("projection_uniform", train.x, seed=2)
    alone = fit_probes(
        projection.transform(train.x), train.y, projection.transform(evals["test"].x), evals["test"].y,
        [np.arange(15)], seed=2, epochs=4,
    )  # fmt: skip
    row = tables["probes"].query("selection == 'projection_uniform' and seed == 2 and eval_set == 'test'")
    assert row.accuracy.item() == pytest.approx(alone.accuracy[0])


def test_pca_beyond_the_samples_says_so(cell):
    *_, tables, notes = cell
    pca = tables["probes"].query("selection == 'pca' and fraction == 1.0")
    assert (pca.n_neurons == 23).all()
    assert any("24 train samples span 23 of 30 components" in note for note in notes)


def test_cka_rows_agree_with_one_call_per_subset(cell):
    _, evals, spec, tables, _ = cell
    x = evals["test"].x[:50].astype(np.float64)
    for row in tables["cka"].itertuples():
        a = x[:, random_subsets(30, row.fraction, [row.seed_a])[0]]
        b = x if row.seed_b == -1 else x[:, random_subsets(30, row.fraction, [row.seed_b])[0]]
        assert row.cka == pytest.approx(linear_cka(a, b, estimator=row.estimator), abs=1e-8)
    assert set(tables["cka"].query("comparison == 'part_part'").seed_a) == {1}


def test_draws_of_cka_are_those_of_their_seeds(cell):
    _, evals, spec, tables, _ = cell
    draws = tables["cka_draws"]
    assert len(draws) == 2 * 2 * len(FRACTIONS)
    for estimator in spec.cka.estimators:
        q = CKAStatistics(30).update(evals["test"].x[:50]).matrix(estimator)
        for fraction in FRACTIONS:
            some = random_subsets(30, fraction, range(10_001, 10_501))
            among = part_part(q, some, [(i, i + 1) for i in range(0, 500, 2)])
            k = len(some[0])
            law = subset_cka_law(q, [k])
            same = draws[(draws.estimator == estimator) & (draws.fraction == fraction)].set_index("comparison")
            for name, values, expected in (("part_whole", part_whole(q, some), law[0]), ("part_part", among, law[1])):
                row, values = same.loc[name], values[np.isfinite(values)]
                assert (row.n_neurons, row.draws) == (k, len(values))
                found = row[["mean", "std", "low", "high", "expected", "r"]].astype(float)
                spread = values.std(ddof=1), *np.quantile(values, [0.05, 0.95])
                wanted = [values.mean(), *spread, expected[0], np.trace(q) / q.sum()]
                np.testing.assert_allclose(found, wanted, atol=1e-9)


def test_redundancy_and_fairness_follow_from_the_other_tables(cell):
    *_, tables, _ = cell
    probes = tables["probes"].query("selection == 'random' and eval_set == 'test'")
    curve = probes.pivot(index="fraction", columns="seed", values="accuracy")
    row = tables["redundancy"].query("task == 'probe' and rule == 'first' and delta == 0.8").iloc[0]
    assert row.dr == diffused_redundancy(curve.index, curve.to_numpy(), curve.loc[1.0].to_numpy(), 0.8)
    assert row.low <= row.dr <= row.high
    part = tables["per_class"].query("selection == 'pca' and fraction == 0.2 and eval_set == 'test'")
    means = part.groupby("class_name").class_accuracy.mean()
    fair = tables["fairness"].query("selection == 'pca' and fraction == 0.2").iloc[0]
    assert fair.gini == pytest.approx(gini(means))
    assert fair.coefficient_of_variation == pytest.approx(coefficient_of_variation(means))
    assert fair.accuracy == pytest.approx(
        tables["probes"].query("selection == 'pca' and fraction == 0.2 and eval_set == 'test'").accuracy.mean()
    )


def test_standardised_features_are_fitted_on_train_and_recorded(cell):
    train, evals, spec, *_ = cell
    tables, _ = compute_cell(
        "m", "d", train, evals, ["a", "b", "c"],
        spec.model_copy(update={"probe": Probe(epochs=4, standardise=True), "selections": {"random": [1.0]}}),
    )  # fmt: skip
    assert set(tables["probes"].features) == {"standardised"}
    mean, std = train.x.mean(0), train.x.std(0)
    alone = fit_probes(
        (train.x - mean) / std, train.y, (evals["shifted"].x - mean) / std, evals["shifted"].y,
        [random_subsets(30, 1.0, [1])[0]], seed=1, epochs=4,
    )  # fmt: skip
    row = tables["probes"].query("eval_set == 'shifted' and seed == 1")
    assert row.accuracy.item() == pytest.approx(alone.accuracy[0])


def test_fractions_of_one_size_share_a_probe(cell, monkeypatch):
    train, evals, spec, *_ = cell
    # Of 30 neurons, 0.01 to 0.06 keep one; of the 23 components that 24 samples span, 0.8 and 1 keep all.
    fractions = [0.01, 0.05, 0.06, 0.8, 1.0]
    trained = []
    monkeypatch.setattr(
        "dr_utils.study.cell.fit_probes", lambda *given, **k: trained.append(given[4]) or fit_probes(*given, **k)
    )
    update = {"selections": {"random": fractions, "pca": fractions}}
    tables, _ = compute_cell("m", "d", train, evals, ["a", "b", "c"], spec.model_copy(update=update))
    assert len(trained[0]) == 2 * 3 + 2 * 2
    probes = tables["probes"].query("eval_set == 'test'")
    assert len(probes) == 2 * 2 * 5
    for _, rows in probes.groupby(["selection", "seed"]):
        one, *others = rows.set_index("fraction").accuracy[[0.01, 0.05, 0.06]]
        assert others == [one, one]
    cka = tables["cka"].query("estimator == 'biased'").set_index(["comparison", "seed_a", "seed_b", "fraction"]).cka
    assert cka.xs(0.01, level="fraction").equals(cka.xs(0.05, level="fraction"))
    x = evals["test"].x[:50].astype(np.float64)
    assert cka["part_whole", 2, -1, 0.8] == pytest.approx(linear_cka(x[:, random_subsets(30, 0.8, [2])[0]], x))


def test_cells_are_whole_or_absent(tiny, profile, monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", fail)
    with pytest.raises(OSError, match="disk full"):
        Study(profile, out=tiny, device="cpu").run()
    cells = store.cache_dir() / "cells"
    assert not list(cells.glob("*")), "half a cell was left behind"


def test_the_tables_say_which_cells_they_are_made_of(tiny, profile):
    study = Study(profile, out=tiny, device="cpu")
    study.run()
    noted = json.loads((study.tables_folder / "about.json").read_text())
    assert set(noted["cells"]) == {"tiny_a/digits", "tiny_bb/digits"}
    assert all(store.path_of("cells", key).is_file() for key in noted["cells"].values())
    about = study.about("tiny_a", "digits")
    assert (about["sizes"], about["n_classes"], about["spec"]["seeds"]) == ({"train": 150, "test": 120}, 10, [1, 2, 3])
    assert store.path_of("features", about["features"]["test"]).is_file()


def test_results_can_be_read_where_the_files_of_networks_are_gone(tiny, profile, monkeypatch):
    first = Study(profile, out=tiny, device="cpu").run()

    def gone(*args, **kwargs):
        raise store.AssetError("the weights are not here")

    monkeypatch.setattr(study_module, "features_identity", gone)
    study = Study(profile, out=tiny, device="cpu")
    assert not study.missing() and study.about("tiny_a", "digits")
    pd.testing.assert_frame_equal(study.run()["probes"], first["probes"])
    # Nobody knows whether they would still be the same cells for another profile.
    changed = Study(profile.model_copy(update={"seeds": [1, 2]}), out=tiny, device="cpu")
    assert len(changed.missing()) == 2 and changed.about("tiny_a", "digits") is None


def test_features_of_the_first_images_are_not_kept(profile, tiny):
    study = Study(profile, out=tiny)
    few = study.features("tiny_a", "digits", "test", images=7)
    whole = study.features("tiny_a", "digits", "test")
    np.testing.assert_allclose(few.x, whole.x[:7], rtol=1e-5, atol=1e-6)
    assert few.y.tolist() == whole.y[:7].tolist()
    assert study.features("tiny_a", "digits", "test", images=7).x.shape == whole.x.shape, "what is stored serves"


@pytest.mark.gpu
def test_a_study_on_cuda_agrees_with_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setenv("DR_HOME", str(tmp_path))
    given = {"networks": ["small_resnet", "small_vgg", "small_vit", "small_resnet@4"], "seeds": [1, 2, 3],
             "tasks": {"digits": {"train": 300, "test": 300, "resolution": 32}}}  # fmt: skip
    profile = Profile.model_validate({**given, "name": "both", "fractions": FRACTIONS, "probe": {"epochs": 20}})
    cpu, cuda = (Study(profile, out=tmp_path / device, device=device).run() for device in ("cpu", "cuda"))
    # Features in half precision move single predictions, and CKA in the third digit.
    keys = ["model", "selection", "fraction", "seed", "solver"]
    moved = (cpu["probes"].set_index(keys).accuracy - cuda["probes"].set_index(keys).accuracy).abs()
    assert len(moved) == len(cpu["probes"]) and moved.mean() < 0.01 and moved.max() < 0.05
    np.testing.assert_allclose(cpu["cka"].cka, cuda["cka"].cka, atol=0.01)


def test_a_layer_that_never_answers_right_has_no_redundancy_by_probe():
    rows = [("test", "random", f, seed, 0.0, "sgd", "raw") for f in (0.5, 1.0) for seed in (1, 2)]
    probes = pd.DataFrame(rows, columns=["eval_set", "selection", "fraction", "seed", "accuracy", "solver", "features"])
    probes = probes.assign(model="m", dataset="d")
    assert redundancy_table(probes, pd.DataFrame(columns=list(COLUMNS["cka"])), [0.9]).empty


# ---- fewer classes, every subset


def test_fewer_classes_are_the_same_images_measured_alone(profile, tiny):
    asked = {"tasks": {"digits": [2, 5]}, "networks": ["tiny_a"], "parts": 2}
    wanted = Profile.model_validate(profile.model_dump() | {"fewer_classes": asked})
    study = Study(wanted, out=tiny, device="cpu")
    found = study.run()["fewer_classes"]
    assert len(found) == 2 * 2 * 2 and set(found.model) == {"tiny_a"}
    assert found.classes.nunique() == 4 and (found.classes.str.count(", ") + 1 == found.n_classes).all()
    row = found.query("n_classes == 5 and part == 2 and delta == 0.9").iloc[0]
    chosen = [study.task("digits", "train").classes.index(name) for name in row.classes.split(", ")]
    splits = []
    for split in ("train", "test"):
        given = study.features("tiny_a", "digits", split)
        kept = np.isin(given.y, chosen)
        splits += [given.x[kept], np.array([chosen.index(label) for label in given.y[kept]])]
    subsets = [s for f in FRACTIONS for s in random_subsets(160, f, [1, 2, 3])]
    accuracy = fit_probes(*splits, subsets, seed=[1, 2, 3] * 4, epochs=6, step_epochs=2).accuracy.reshape(4, 3)
    expected = diffused_redundancy(FRACTIONS, accuracy, accuracy[-1], 0.9, rule="crossing")
    assert row.dr == pytest.approx(expected, abs=1e-6) and row.low <= row.dr <= row.high
    again = Study(wanted, out=tiny, device="cpu")
    again.features = None  # nothing is to be measured twice
    pd.testing.assert_frame_equal(again.run()["fewer_classes"], found)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"digit": [2]}, "unknown task 'digit'"),
        ({"groceries": [2]}, "unknown task of fewer_classes 'groceries'"),
        ({"digits": [10]}, "fewer than its 10 classes; got"),
    ],
)
def test_fewer_classes_that_cannot_be_are_refused(profile, tiny, tasks, message):
    wrong = Profile.model_validate(profile.model_dump() | {"fewer_classes": {"tasks": tasks}})
    with pytest.raises(ValueError, match=message):
        Study(wrong, out=tiny, device="cpu")


def test_every_subset_gives_equation_1_itself():
    """The mean over all subsets of a size, found here one by one, and its first size that keeps 90 %."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(3, 4))

    def split(n):
        y = np.arange(n) % 3
        return Features(np.maximum(centres[y] + rng.normal(size=(n, 4)), 0).astype(np.float32), y, "", {})

    train, test = split(150), split(300)
    spec = CellSpec(seeds=[4, 5], deltas=[0.9], probe=Probe(epochs=5, batch_size=32), cka=CKA(estimators=["biased"]),
                    selections={"random": [0.5, 1.0], "every": [1.0]})  # fmt: skip
    tables, _ = compute_cell("m", "d", train, {"test": test}, ["a", "b", "c"], spec)
    rows = tables["probes"].query("selection == 'every'")
    assert rows.groupby("n_neurons").size().to_dict() == {1: 4, 2: 6, 3: 4, 4: 1}
    every = [np.array(s) for k in range(1, 5) for s in combinations(range(4), k)]
    alone = fit_probes(train.x, train.y, test.x, test.y, every, seed=4, epochs=5, batch_size=32).accuracy
    np.testing.assert_allclose(rows.accuracy, alone, atol=1e-12)
    mean = pd.Series(alone).groupby([len(s) for s in every]).mean()
    first = next(k for k in range(1, 5) if mean[k] >= 0.9 * mean[4])
    exact = tables["redundancy"].query("rule == 'exact'")
    assert exact.dr.tolist() == [1 - first / 4] and (exact.low <= exact.dr).all() and (exact.dr <= exact.high).all()


def test_every_subset_of_a_wide_layer_is_refused_before_long_work(profile, tiny, monkeypatch):
    wide = Profile.model_validate(
        profile.model_dump() | {"selections": [{"selection": "random"}, {"selection": "every"}]}
    )
    monkeypatch.setattr(study_module, "extract", lambda *_, **__: pytest.fail("extracted"))
    with pytest.raises(ValueError, match="a layer of 160 neurons has too many subsets"):
        Study(wide, out=tiny, device="cpu").run()


def test_networks_see_the_same_resamples():
    """Two networks that are right on the same images differ by nothing in any draw."""
    y, rng = np.repeat([0, 1], 40), np.random.default_rng(0)
    correct = rng.random((6, 80)) < 0.7
    by_class = correct.reshape(6, 2, 40).mean(axis=2)
    rows = pd.DataFrame({"fraction": [0.5] * 3 + [1.0] * 3, "n_neurons": [1] * 3 + [2] * 3, "seed": [1, 2, 3] * 2})
    rows = rows.assign(selection="random", dataset="d", eval_set="test", solver="sgd", features="raw")
    a, b = (draws_table(rows.assign(model=name), correct, by_class, y) for name in "ab")
    np.testing.assert_array_equal(np.stack(a.draws), np.stack(b.draws))
    assert {"accuracy", "gini", "gini_excess"} <= set(a.quantity) and np.stack(a.draws).std() > 0


@pytest.mark.parametrize("estimator", ["biased", "debiased"])
def test_noise_of_cka_is_that_of_other_images(estimator):
    """Many fresh sets of images: the mean CKA of the same subsets spreads as far as the jackknife of one set says."""
    rng = np.random.default_rng(0)
    mix, centres = rng.normal(size=(6, 24)), rng.normal(size=(5, 6))

    def images(n=300):
        hidden = centres[rng.integers(5, size=n)] + 0.7 * rng.standard_t(5, size=(n, 6))
        return np.maximum(hidden @ mix, 0).astype(np.float32)

    subsets = random_subsets(24, 0.25, range(60))
    compared = [(i, i + 1) for i in range(0, 60, 2)]

    def means(x):
        q = CKAStatistics(24, estimators=(estimator,)).update(x).matrix(estimator)
        return part_part(q, subsets, compared).mean(), part_whole(q, subsets).mean()

    fresh = np.std([means(images()) for _ in range(150)], axis=0)
    said = np.mean([image_noise(images(), [6], estimator).std(axis=-1)[:, 0] for _ in range(12)], axis=0)
    np.testing.assert_allclose(said, fresh, rtol=0.3)


def test_tables_suffice_where_the_store_is_empty(profile, tiny, monkeypatch):
    """So come results with the suite: no cell of theirs is on this machine."""
    first = Study(profile, out=tiny, device="cpu").run()
    monkeypatch.setenv("DR_HOME", str(tiny / "fresh"))
    monkeypatch.setattr(study_module, "compute_cell", refuse)
    monkeypatch.setattr(study_module, "load_dataset", refuse)
    again = Study(profile, out=tiny, device="cpu")
    assert not again.missing()
    for name, table in again.run().items():
        pd.testing.assert_frame_equal(table, first[name])
    made = json.loads((again.tables_folder / "about.json").read_text())["made"]
    assert set(made) == {"date", "hardware", "versions"} and "torch" in made["versions"]
    # Another version of the cells, and the tables are no longer theirs.
    monkeypatch.setattr(study_module, "VERSION", -1)
    assert len(Study(profile, out=tiny, device="cpu").missing()) == 2
