"""What notebooks 01 to 03 make of a run's tables: their code is executed here on tables whose answers are known."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from synthetic_tables import DELTAS, GRID, build, network, saturating, task
from test_notebook_figures import legend, lines, run

from dr_utils.reference import published

SMALL = dict(kind="small", family="resnet", upstream="tinyimagenet202")
NETWORKS = [
    network("keras_resnet50"), network("mobilenet_v2", 1280, "mobilenet_v2"), network("small", 512, **SMALL),
    network("small_adv", 512, training="adversarial", robust_of="small", **SMALL),
    network("small_mrl", 512, training="mrl", **SMALL),
    network("small_less", 512, **SMALL | {"upstream": "tinyimagenet50"}),
    network("small_drop", 512, training="dropout", **SMALL),
    network("small@3", 48, training="layer", **SMALL | {"family": "resnet layer"}),
]  # fmt: skip
PRINTED = "resnet50|nonrob|pretrain=imagenet|mode=random"


@pytest.fixture(scope="module")
def tables():
    def accuracy(model, dataset, fraction, selection, eval_set):
        return saturating({"small_adv": 0.2, "small_less": 0.5, "small_drop": 0.1}.get(model, 0.3), 0.8)(fraction)

    def similarity(model, dataset, fraction):
        return saturating(0.9 if model == "small_mrl" else 0.3, 1.0)(fraction)

    return build(NETWORKS, [task("cifar10"), task("digits")], accuracy, cka=similarity)


@pytest.fixture(scope="module")
def execute(tables):
    """Return what `run` returns for a notebook, which is run once."""
    return cache(lambda name: run(name, tables))


def panels(figure) -> dict:
    return {ax.get_title(): ax for ax in figure.axes}


def curve(ax, tables: dict, name: str, where: str, value: str, x: str = "fraction"):
    """Return the line of this panel that is the mean of these rows."""
    mean = tables[name].query(where).groupby(x)[value].mean()
    found = [line for line in lines(ax) if len(line.get_ydata()) == len(mean)]
    near = [line for line in found if np.allclose(line.get_ydata(), mean, atol=1e-9)]
    assert near, f"no line is the mean of {where}"
    return near[0]


def test_prevalence_has_a_row_for_the_resnet_and_for_the_pair(execute, tables):
    found = execute("01_prevalence")
    figure = found.figures["fig01_prevalence"]
    assert found.networks == ["keras resnet50", "small", "small adv"] and len(figure.axes) == 9
    accuracy, redundancy, similarity = figure.axes[:3]
    at = "model == 'keras_resnet50' and dataset == 'digits'"
    line = curve(accuracy, tables, "probes", at, "accuracy")
    np.testing.assert_allclose(line.get_xdata(), GRID)
    assert accuracy.get_xscale() == "log" and accuracy.get_ylim() == (0, 1)
    dotted = [line for line in accuracy.get_lines() if line.get_linestyle() == ":"]
    assert [line.get_ydata()[0] for line in dotted] == pytest.approx([0.72, 0.72], abs=0.01)
    at = f"{at} and rule == 'first'"
    line = curve(redundancy, tables, "redundancy", f"{at} and task == 'probe'", "dr", "delta")
    np.testing.assert_allclose(line.get_xdata(), DELTAS)
    cka = "model == 'keras_resnet50' and dataset == 'digits' and comparison == 'part_whole'"
    line = curve(similarity, tables, "cka", cka, "cka")
    assert line.get_ydata()[-1] == 1
    assert legend(figure) == ["cifar10", "digits", "paper: ResNet50 (timm), cifar10"]
    note = " ".join(figure.get_supxlabel().split())
    assert "mini profile: our networks" in note and "95 % intervals" in note


def test_the_printed_curve_is_beside_ours_on_its_own_task_only(execute):
    accuracy, redundancy, _ = execute("01_prevalence").figures["fig01_prevalence"].axes[:3]
    (printed,) = [line for line in accuracy.get_lines() if str(line.get_label()).startswith("paper: ")]
    numbers = published(model=PRINTED, dataset="cifar10", quantity="probe_test_accuracy_mean")
    np.testing.assert_allclose(printed.get_ydata()[:-1], numbers.sort_values("fraction")["number"])
    (printed,) = [line for line in redundancy.get_lines() if str(line.get_label()).startswith("paper: ")]
    assert dict(zip(printed.get_xdata(), printed.get_ydata(), strict=True))[0.9] == 0.8


def test_what_notebook_01_says_of_the_pair_is_in_the_tables(execute, tables):
    found = execute("01_prevalence")
    assert found.pairs == [("small_adv", "small")]
    at = "task == 'probe' and rule == 'crossing' and delta == 0.9"
    dr = tables["redundancy"].query(at).pivot(index="dataset", columns="model", values="dr")
    rows = found.differences.set_index("task")
    # The notebook counts in whole neurons, the table of these made-up tables in fractions.
    np.testing.assert_allclose(rows.difference, (dr.small_adv - dr.small)[rows.index], atol=0.01)
    assert (rows.low < rows.difference).all() and (rows.difference < rows.high).all()
    assert found.kept["small", "digits"] == pytest.approx(0.95, abs=0.05)


def test_two_random_parts_are_averaged_over_ten_pairs(execute, tables):
    found = execute("02_random_subset_cka")
    small = panels(found.figures["fig02_random_subset_cka_small"])
    assert list(small) == ["small", "small adv", "small mrl"], "without the middle layer and the less upstream data"
    at = "model == 'small_adv' and dataset == 'digits' and comparison == 'part_part'"
    assert len(tables["cka"].query(f"{at} and fraction == 0.1")) == 10
    curve(small["small adv"], tables, "cka", at, "cka")
    imagenet = panels(found.figures["fig02_random_subset_cka_imagenet"])
    (printed,) = [x for x in imagenet["keras resnet50"].get_lines() if str(x.get_label()).startswith("paper: ")]
    assert dict(zip(printed.get_xdata(), printed.get_ydata(), strict=True))[0.2] == pytest.approx(0.78234)
    assert not [x for x in imagenet["mobilenet v2"].get_lines() if str(x.get_label()).startswith("paper: ")]


def test_parts_and_the_whole_have_a_panel_per_task(execute, tables):
    figure = execute("02_random_subset_cka").figures["fig08_part_whole_cka_small"]
    assert list(panels(figure)) == ["cifar10", "digits"] and legend(figure) == ["small", "small adv", "small mrl"]
    at = "model == 'small_mrl' and dataset == 'digits' and comparison == 'part_whole'"
    curve(panels(figure)["digits"], tables, "cka", at, "cka")


def test_architectures_by_fraction_and_by_number_of_neurons(execute, tables):
    found = execute("03_architectures")
    at = "model == 'keras_resnet50' and dataset == 'digits'"
    by_fraction, by_number = (
        curve(panels(found.figures[name])["digits"], tables, "probes", at, "accuracy")
        for name in ("fig03_architectures_imagenet", "fig13_architectures_by_neurons_imagenet")
    )
    assert by_fraction.get_xdata()[-1] == 1 and by_number.get_xdata()[-1] == 2048
    assert by_fraction.get_color() == by_number.get_color()
    assert legend(found.figures["fig03_architectures_small"]) == ["small", "small adv"]


def test_redundancy_has_intervals_at_every_marker(execute, tables):
    ax = panels(execute("03_architectures").figures["fig10_architectures_redundancy_imagenet"])["cifar10"]
    at = "model == 'keras_resnet50' and dataset == 'cifar10' and task == 'probe' and rule == 'first'"
    curve(ax, tables, "redundancy", at, "dr", "delta")
    bars = next(part.get_segments() for part in ax.collections if len(part.get_paths()) == len(DELTAS))
    rows = tables["redundancy"].query(at).sort_values("delta")
    np.testing.assert_allclose([bar[:, 1] for bar in bars], rows[["low", "high"]])


def test_upstream_data_and_middle_layers_have_figures_of_their_own(execute):
    found = execute("03_architectures")
    assert legend(found.figures["fig04_upstream_data"]) == ["small", "small less"]
    assert legend(found.figures["fig11_upstream_data_redundancy"]) == ["small", "small less"]
    assert found.gain.DR.min() > 0 and set(found.gain["less data"]) == {"small less"}
    assert legend(found.figures["layers_accuracy"]) == ["small", "small@3"]
    assert legend(found.figures["layers_redundancy"]) == ["small", "small@3"]
    assert legend(found.figures["dropout_decov_redundancy"]) == ["small", "small drop"]
    assert len(found.low) == 2 and min(found.low) > 0, "dropout has clearly more to spare, on both tasks"


def test_table_1_has_ours_with_intervals_and_the_papers_below(execute, tables):
    table = execute("03_architectures").table1
    paper = table.loc[("paper", "ResNet50", 2048, "nearest")]
    assert [paper["CIFAR-10"], paper["CIFAR-100"], paper.Flowers, paper.Pets] == ["0.90", "0.50", "0.20", "0.90"]
    at = "model == 'mobilenet_v2' and dataset == 'digits' and task == 'probe' and rule == 'first' and delta == 0.9"
    (row,) = tables["redundancy"].query(at).itertuples()
    expected = f"{row.dr:.2f}" + (f" [{row.low:.2f}, {row.high:.2f}]" if row.low < row.high else "")
    assert table.loc[("ours", "mobilenet v2", 1280, "first"), "digits"] == expected
    assert len(table) == 2 * len(NETWORKS) + 6


def test_captions_name_their_tables_and_start_with_a_title(execute):
    for name in ("01_prevalence", "02_random_subset_cka", "03_architectures"):
        for words in execute(name).captions.values():
            assert "Tables: `" in words and 10 < words.index(".") < 90 and "{" not in words
