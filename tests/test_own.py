"""One's own features: the size chosen without the test samples, every number of the answer found again elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split

from dr_utils import plots
from dr_utils.cka import linear_cka
from dr_utils.features import Features
from dr_utils.own import HELD_OUT, KEEP, answer, registry_images
from dr_utils.probes import choose_alpha
from dr_utils.redundancy import RULES
from dr_utils.subsets import random_subsets

CLASSES = tuple(f"digit {i}" for i in range(10))
GRID = (0.02, 0.1, 0.3, 0.6, 1.0)


def digits(width=128, n=700, shuffle=False):
    x, y = load_digits(return_X_y=True)
    x = np.maximum(x / 16 @ np.random.default_rng(0).normal(size=(64, width)), 0).astype(np.float32)
    y = y.astype(np.int64)
    y_test = np.random.default_rng(1).permutation(y[n:1200]) if shuffle else y[n:1200]
    return Features(x[:n], y[:n], "train", {}), Features(x[n:1200], y_test, "test", {})


@pytest.fixture(scope="module")
def found():
    train, test = digits()
    return answer(train, test, CLASSES, fractions=GRID, seeds=(1, 2, 3), solver="ridge"), train, test


def test_sizes_are_those_of_a_loop_over_ridge_on_the_held_out_part(found):
    own, train, _ = found
    rest, held = train_test_split(
        np.arange(len(train.y)), test_size=round(HELD_OUT * len(train.y)), stratify=train.y, random_state=0
    )
    targets = np.eye(10)[train.y]
    alpha = choose_alpha(train.x[rest], train.y[rest])
    accuracy = {}
    for fraction in GRID:
        for seed, columns in zip((1, 2, 3), random_subsets(128, fraction, (1, 2, 3)), strict=True):
            fitted = Ridge(alpha=alpha, solver="svd").fit(train.x[rest][:, columns], targets[rest])
            right = fitted.predict(train.x[held][:, columns]).argmax(1) == train.y[held]
            accuracy[len(columns), seed] = right.mean()
    rows = own.chosen.query("selection == 'random'").set_index(["n_neurons", "seed"]).accuracy
    assert {key: pytest.approx(value, abs=1e-9) for key, value in accuracy.items()} == rows.to_dict()
    sizes = sorted({k for k, _ in accuracy})
    mean = {k: np.mean([accuracy[k, s] / accuracy[128, s] for s in (1, 2, 3)]) for k in sizes}
    for keep in (0.5, 0.8, 0.9, 0.95, 1.0):
        assert own.size(keep) == next(k for k in sizes if mean[k] >= keep - 1e-12)


def test_test_samples_have_no_part_in_the_choice(found):
    own, *_ = found
    blind = answer(*digits(shuffle=True), CLASSES, fractions=GRID, seeds=(1, 2, 3), solver="ridge")
    assert [blind.size(keep) for keep in KEEP] == [own.size(keep) for keep in KEEP]
    assert blind.recommendation()["full"][0] < 0.2 < own.recommendation()["full"][0]


def test_recommendation_payers_and_pca_are_the_tables_numbers(found):
    own, _, test = found
    probes = own.tables["probes"].set_index(["selection", "n_neurons"]).sort_index()
    per_class = own.tables["per_class"].query("selection == 'random'")
    table = own.recommendation((0.5, 0.9, 1.0))
    for row in table.itertuples():
        values = probes.loc[("random", row.neurons), "accuracy"]
        assert row.accuracy == pytest.approx(values.mean()) and row.std == pytest.approx(values.std(ddof=1))
        assert row.full == pytest.approx(probes.loc[("random", 128), "accuracy"].mean())
        assert row.kept == pytest.approx(row.accuracy / row.full) and row.saved == pytest.approx(1 - row.neurons / 128)
        # 1,000 samples of k float32 numbers, and a probe with a bias for each of ten classes.
        assert (row.kilobytes, row.parameters) == (row.neurons * 4, row.neurons * 10 + 10)
        assert (row.kilobytes_full, row.parameters_full) == (512, 1290)
    assert table["neurons"].is_monotonic_increasing and table["neurons"].iloc[0] < 128
    keep = 0.5
    paid = own.payers(keep, n=10)
    mean = per_class.groupby(["n_neurons", "class_name"]).class_accuracy.mean()
    for name, row in paid.iterrows():
        assert row.part == pytest.approx(mean[own.size(keep), name]) and row.full == pytest.approx(mean[128, name])
    assert paid["lost"].is_monotonic_decreasing and set(paid.index) == set(CLASSES)
    lead = own.pca((keep,)).iloc[0]
    assert lead["pca"] == pytest.approx(probes.loc[("pca", lead["neurons"]), "accuracy"].mean())
    assert lead["lead"] == pytest.approx(lead["pca"] - lead["random"])
    part = own.tables["cka"].query(
        "comparison == 'part_whole' and estimator == 'debiased' and fraction == .3 and seed_a == 2"
    )
    (columns,) = random_subsets(128, 0.3, [2])
    assert part.cka.item() == pytest.approx(linear_cka(test.x[:, columns], test.x, estimator="debiased"), abs=1e-9)


def test_redundancy_has_every_rule_at_the_deltas_asked_for(found):
    table = found[0].redundancy()
    assert sorted(zip(table["rule"], table["delta"], strict=True)) == [
        (rule, delta) for rule in sorted(RULES) for delta in KEEP
    ]
    assert table.eval("low <= dr and dr <= high").all()


def test_figures_take_the_tables(found):
    own = found[0]
    rows = plots.titled(own.tables["probes"], own.tables)
    assert set(rows["network"]) == {"own features"} and len(rows) == len(own.tables["probes"])
    assert set(plots.look("task", rows, own.tables)["palette"]) == set(rows["task"])
    assert plots.published("accuracy", rows, own.tables).empty


def test_paper_probes_few_neurons_and_few_samples():
    train, test = digits(width=3, n=40)
    own = answer(train, test, CLASSES, fractions=(0.01, 0.4, 0.5), seeds=(1,), solver="sgd")
    assert sorted(set(own.tables["probes"].query("selection == 'random'").n_neurons)) == [1, 3]
    assert own.size(1.0) <= 3 and own.recommendation()["std"].isna().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda train, test: (Features(train.x[:600], train.y, "", {}), test),
            "train labels do not match the features",
        ),
        (
            lambda train, test: (Features(train.x[:12], np.r_[0:10, 0, 1], "", {}), test),
            "'digit 2' has fewer than 2 train",
        ),
    ],
)
def test_unusable_data_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        answer(*change(*digits()), CLASSES)


def test_more_labels_than_names_are_refused():
    with pytest.raises(ValueError, match="labels name 10 classes, but 9 class names are given"):
        answer(*digits(), CLASSES[:9])


def test_images_of_the_suite_serve_as_data():
    train, test = registry_images("digits", limit=60)
    assert (len(train), len(test)) == (60, 60) and train.classes == test.classes
    with pytest.raises(ValueError, match="unknown task 'digit'; known, nearest first: digits"):
        registry_images("digit")


def test_a_numbered_layer_may_be_given_as_a_number():
    from dr_utils.own import load

    shared = {"data": "digits", "limit": 60, "resolution": None, "device": "cpu"}
    by_number, by_name = load("small_vgg", layer=20, **shared), load("small_vgg", layer="20", **shared)
    np.testing.assert_array_equal(by_number.train.x, by_name.train.x)
    assert by_number.train.x.shape[1] != 512, "a layer before the penultimate one"
