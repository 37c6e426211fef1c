"""The look, the printed curves beside ours, and what `finish` and `save_figure` make of a figure that seaborn drew."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from PIL import Image
from synthetic_tables import build, network, saturating, task

from dr_utils import plots
from dr_utils.plots import MARKERS
from dr_utils.reference import published

NETWORKS = [
    network("keras_resnet50"), network("robust50", training="adversarial", robust_of="keras_resnet50"),
    network("mobilenet_v2", 1280, "mobilenet_v2"), network("small", 512, "resnet", kind="small"),
    network("small_less", 512, "resnet", kind="small", upstream="tinyimagenet50"),
    network("small_ff8", 8, "resnet", training="narrow", kind="small"),
    network("small@3", 48, "resnet layer", training="layer", kind="small"),
]  # fmt: skip
NETWORKS[3]["upstream"] = "tinyimagenet202"
PRINTED = "resnet50|nonrob|pretrain=imagenet|mode=random"


@pytest.fixture(scope="module")
def tables():
    def accuracy(model, dataset, fraction, selection, eval_set):
        return saturating(0.3, 0.8)(fraction)

    return build(NETWORKS, [task("cifar10"), task("digits")], accuracy, cka=lambda m, d, f: saturating(0.3, 1.0)(f))


@pytest.fixture(scope="module")
def probes(tables):
    return plots.titled(tables["probes"], tables)


def drawn(rows, tables, **options):
    """A grid as the notebooks draw it, the paper's curves included."""
    plots.theme()
    look = plots.look("network", rows, tables)
    g = sns.relplot(rows, x="fraction", y="accuracy", col="task", kind="line", errorbar="sd", height=2.8, **look)
    printed = plots.published("accuracy", rows, tables)
    plots.draw_published(g, printed, x="fraction", y="accuracy", col="task", **look)
    plots.fraction_axis(g.axes)
    g.set_titles("{col_name}")
    return plots.finish(g, **options)


def test_titled_adds_titles_and_keeps_the_order_of_the_tables(tables, probes):
    assert list(probes["network"].unique())[:2] == ["keras resnet50", "robust50"]
    assert set(probes.loc[probes["model"].eq("small_ff8"), "training"]) == {"narrow"}
    shuffled = plots.titled(tables["probes"].sample(frac=1, random_state=0), tables)
    assert list(shuffled["model"].unique()) == [card["model"] for card in NETWORKS]
    assert len(shuffled) == len(tables["probes"])
    # In redundancy.csv "task" says what the redundancy is of; a figure's task is the data set.
    assert set(plots.titled(tables["redundancy"], tables)["task"]) == {"cifar10", "digits"}


def test_a_title_that_two_networks_share_gives_way_to_their_names(tables):
    networks = tables["networks"].assign(title=["same", "same", "", *tables["networks"]["title"][3:]])
    found = plots.titled(tables["probes"], tables | {"networks": networks})
    assert list(found["network"].unique())[:3] == ["keras_resnet50", "robust50", "mobilenet_v2"]


def test_a_networks_look_is_the_same_in_all_figures_of_its_kind(tables, probes):
    every = plots.look("network", probes.query("kind == 'small' and training == 'standard'"), tables)
    one = plots.look("network", probes.query("model == 'small'"), tables)
    assert every["palette"]["small"] == one["palette"]["small"] == plots.PALETTE[0]
    # Layers and narrow networks, which are shown beside the others, must differ from these.
    layers = plots.look("network", probes.query("model in ['small', 'small@3']"), tables)
    assert layers["palette"]["small"] != layers["palette"]["small@3"]
    narrow = plots.look("network", probes.query("model in ['small', 'small_ff8']"), tables)
    assert narrow["palette"]["small"] != narrow["palette"]["small ff8"]


def test_palette_is_seaborns():
    assert list(plots.PALETTE) == sns.color_palette("colorblind", 10).as_hex()


def test_looks_are_told_apart_by_more_than_colour():
    look = plots.looks(map(str, range(60)))
    assert len({(look["palette"][name], look["markers"][name]) for name in look["palette"]}) == 60
    assert len(set(plots.PALETTE)) == 10 and len(set(MARKERS)) == 10


def test_printed_curves_are_drawn_beside_ours(tables, probes):
    printed = plots.published("accuracy", probes, tables)
    assert set(zip(printed["model"], printed["dataset"], strict=True)) == {
        ("keras_resnet50", "cifar10"), ("robust50", "cifar10")
    }  # fmt: skip
    reference = published(model=PRINTED, dataset="cifar10", quantity="probe_test_accuracy_mean")
    ours = printed.query("model == 'keras_resnet50'")
    np.testing.assert_allclose(ours["accuracy"][:-1], reference.sort_values("fraction")["number"])
    np.testing.assert_allclose(ours["n_neurons"], 2048 * ours["fraction"])
    assert ours["accuracy"].iloc[-1] == pytest.approx(0.8914, abs=1e-4)
    redundancy = plots.published("redundancy", probes, tables).query("model == 'keras_resnet50'").set_index("delta")
    assert redundancy.loc[0.9, "dr"] == 0.8
    pairs = plots.published("part_part", probes, tables).query("model == 'keras_resnet50'").set_index("fraction")
    assert pairs.loc[0.2, "cka"] == pytest.approx(0.78234)
    assert plots.published("accuracy", probes.query("model == 'mobilenet_v2'"), tables).empty

    figure = drawn(probes.query("kind == 'imagenet'"), tables)
    cifar, digits = figure.axes
    (line,) = [line for line in cifar.get_lines() if line.get_label() == "paper: ResNet50 (timm)"]
    np.testing.assert_allclose(line.get_ydata(), ours["accuracy"])
    assert line.get_linestyle() == "--" and line.get_marker() == "o"
    assert not [line for line in digits.get_lines() if "paper" in str(line.get_label())]
    assert cifar.get_xscale() == "log" and cifar.get_xlabel() == "fraction of neurons kept"


def test_printed_curves_on_one_axes_name_their_task(tables, probes):
    rows = probes.query("model == 'keras_resnet50'")
    look = plots.look("task", rows, tables)
    _, ax = plt.subplots()
    plots.draw_published(ax, plots.published("accuracy", rows, tables), x="n_neurons", y="accuracy", **look)
    (line,) = ax.get_lines()
    assert line.get_label() == "paper: ResNet50 (timm), cifar10" and line.get_xdata()[-1] == 2048
    plt.close()


def test_bands_are_one_standard_deviation(tables, probes):
    figure = drawn(probes.query("model == 'mobilenet_v2'"), tables)
    spread = probes.query("model == 'mobilenet_v2' and dataset == 'cifar10'").groupby("fraction")["accuracy"]
    top = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx((spread.mean() + spread.std()).max())


def test_a_published_standard_deviation_becomes_a_band(tables):
    means = tables["probes"].query("seed == 1 and model == 'mobilenet_v2'")
    spread = means.query("fraction < 1")[["model", "dataset", "eval_set", "fraction"]].assign(std=0.03)
    rows = plots.with_spread(means, tables | {"spread": spread})
    found = rows.groupby(["dataset", "fraction"])["accuracy"].agg(["mean", "std"])
    np.testing.assert_allclose(found["mean"], means.groupby(["dataset", "fraction"])["accuracy"].mean())
    np.testing.assert_allclose(found.loc[("cifar10",), "std"].iloc[:-1], 0.03)
    assert np.isnan(found.loc[("cifar10", 1.0), "std"])
    assert plots.with_spread(means, tables) is means


def test_intervals_stand_side_by_side(tables):
    rows = plots.titled(tables["redundancy"].query("task == 'probe' and rule == 'first'"), tables)
    rows = rows.query("model in ['keras_resnet50', 'robust50'] and dataset == 'cifar10'")
    rows.loc[rows["delta"].eq(0.8), ["low", "high"]] = np.nan
    look = plots.look("network", rows, tables)
    g = sns.relplot(rows, x="delta", y="dr", col="task", kind="line", **look)
    plots.draw_intervals(g, rows, x="delta", col="task", **look)
    bars = [part.get_segments() for part in g.axes.flat[0].collections if len(part.get_paths()) > 1]
    ours = rows.query("model == 'keras_resnet50' and delta != 0.8").sort_values("delta")
    np.testing.assert_allclose([bar[:, 1] for bar in bars[0]], ours[["low", "high"]])
    np.testing.assert_allclose([b[0, 0] - a[0, 0] for a, b in zip(*bars, strict=True)], 0.003)
    plt.close()


def test_rows_are_split_by_kind_without_the_networks_of_less_upstream_data(tables, probes):
    kinds = {kind: (title, set(rows["model"])) for kind, title, rows in plots.by_kind(probes, tables)}
    assert kinds["imagenet"] == (
        "Networks trained on ImageNet", {"keras_resnet50", "robust50", "mobilenet_v2"}
    )  # fmt: skip
    assert kinds["small"][1] == {"small", "small_ff8", "small@3"}


def test_an_axis_is_logarithmic_where_the_data_span_decades():
    _, (wide, narrow, empty) = plt.subplots(1, 3)
    wide.plot([0.001, 1], [0, 1])
    narrow.plot([0.2, 1], [0, 1])
    plots.fraction_axis([wide, narrow, empty], "neurons")
    assert wide.get_xscale() == "log" and narrow.get_xscale() == empty.get_xscale() == "linear"
    assert narrow.get_xlim()[0] == 0 and empty.get_xlabel() == "neurons"
    plt.close()


def test_legend_and_note_leave_the_panels_free(tables, probes):
    figure = drawn(probes.query("kind == 'imagenet'"), tables, title="Networks", note="mini profile: our networks")
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in figure.axes]
    (legend,) = figure.legends
    others = [legend.get_window_extent(), figure._supxlabel.get_window_extent()]
    assert not any(box.overlaps(other) for box in boxes for other in others)
    assert others[0].x0 >= 0 and others[0].x1 <= figure.bbox.x1
    texts = [text.get_text() for text in legend.get_texts()]
    assert texts[:3] == ["keras resnet50", "robust50", "mobilenet v2"] and texts[-1].startswith("paper: ")
    assert legend.get_title().get_text() == "Networks"
    assert plt.get_fignums() == []


def test_legends_of_single_axes_become_one():
    figure, axes = plt.subplots(1, 2)
    for ax in axes:
        rows = pd.DataFrame({"x": [0, 1, 0, 1], "y": [0, 1, 1, 2], "hue": ["a", "a", "b", "b"]})
        sns.lineplot(rows, x="x", y="y", hue="hue", ax=ax)
    figure = plots.finish(figure)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert not any(ax.get_legend() for ax in figure.axes)


def test_save_figure_writes_the_same_bytes_twice(tables, probes, tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "/somewhere/03_architectures.ipynb")
    rows = probes.query("model == 'mobilenet_v2'")
    shown = [
        plots.save_figure(drawn(rows, tables), tmp_path / folder, "fig03", caption="Accuracy.\n    From `probes`.")
        for folder in "ab"
    ]
    first, again = ([tmp_path / folder / f"fig03.{suffix}" for suffix in ("png", "pdf")] for folder in "ab")
    for a, b in zip(first, again, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert b"CreationDate" not in first[1].read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fig03.pdf", "fig03.png"]
    height, width = plt.imread(first[0]).shape[:2]
    assert width >= 800 and height >= 400
    # A cell shows the very file, with words for those who cannot see it.
    assert shown[0].data == first[0].read_bytes() and shown[0].width == width // 2
    assert shown[0].alt == "Accuracy"
    with Image.open(first[0]) as image:
        assert image.text == {"Description": "Accuracy. From `probes`.", "Source": "03_architectures.ipynb"}
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_fewer_colours_change_no_figure_visibly(tables, probes, tmp_path):
    figure = drawn(probes, tables)
    plots.save_figure(figure, tmp_path, "few")
    path = tmp_path / "few.png"
    with plt.rc_context(plots.RC):
        figure.savefig(tmp_path / "all.png", dpi=150)
    before, after = (np.asarray(Image.open(p).convert("RGB"), int) for p in (tmp_path / "all.png", path))
    assert np.abs(before - after).max() < 24 and (after[0, 0] == 255).all()
    assert path.stat().st_size < 0.6 * (tmp_path / "all.png").stat().st_size
