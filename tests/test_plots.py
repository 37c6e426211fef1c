"""The figures hold the data they should: lines, points, labels; and files are the same when written twice."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image
from synthetic_tables import GRID, build, network, saturating, task

from dr_utils import plots
from dr_utils.fairness import gini
from dr_utils.plots import style
from dr_utils.reference import published

NETWORKS = [
    network("keras_resnet50", family="resnet"), network("robust50", training="adversarial", robust_of="keras_resnet50"),
    network("mobilenet_v2", 1280, "mobilenet_v2"),
]  # fmt: skip
PAPER = "resnet50|nonrob|pretrain=imagenet|mode=random"


@pytest.fixture(scope="module")
def tables():
    def accuracy(model, dataset, fraction, selection, eval_set):
        lead = {"pca": 0.03, "pca_least": -0.05}.get(selection, 0.0)
        return saturating(0.3, 0.8)(fraction) + lead * (fraction < 1) - 0.05 * (eval_set == "corrupted")

    tasks = [task("cifar10", eval_sets=("test", "corrupted")), task("digits")]
    return build(
        NETWORKS,
        tasks,
        accuracy,
        cka=lambda m, d, f: saturating(0.3, 1.0)(f),
        selections=("random", "pca", "pca_least"),
    )


def lines(ax, label):
    return [line for line in ax.get_lines() if line.get_label() == label]


def visible(figure):
    return [ax for ax in figure.axes if ax.get_visible()]


def test_prevalence_draws_means_deltas_and_published_curves(tables):
    figure = plots.prevalence(tables, delta=0.9, note="mini profile: our networks")
    axes = visible(figure)
    assert len(axes) == 6  # standard and adversarial network, three panels each
    (ours,) = lines(axes[0], "cifar10")
    rows = tables["probes"].query("model == 'keras_resnet50' and dataset == 'cifar10' and eval_set == 'test'")
    expected = rows[rows["selection"].eq("random")].groupby("fraction")["accuracy"].mean()
    np.testing.assert_allclose(ours.get_xdata(), GRID)
    np.testing.assert_allclose(ours.get_ydata(), expected)
    dotted = [line for line in axes[0].get_lines() if line.get_linestyle() == ":"]
    assert sorted(line.get_ydata()[0] for line in dotted)[0] == pytest.approx(0.9 * 0.8, abs=0.01)
    assert len(dotted) == 2
    (paper,) = lines(axes[0], "paper: ResNet50 (timm), cifar10")
    reference = published(model=PAPER, dataset="cifar10", quantity="probe_test_accuracy_mean")
    np.testing.assert_allclose(paper.get_ydata()[:-1], reference.sort_values("fraction")["number"])
    assert paper.get_ydata()[-1] == pytest.approx(0.8914, abs=1e-4)
    assert paper.get_marker() == ours.get_marker() and paper.get_linestyle() == "--"
    assert not [line for line in axes[0].get_lines() if "digits" in line.get_label() and "paper" in line.get_label()]
    assert axes[0].get_xscale() == "log" and axes[0].get_ylim() == (0.0, 1.0)
    (dr,) = lines(axes[1], "digits")
    table = tables["redundancy"].query("model == 'keras_resnet50' and dataset == 'digits' and task == 'probe'")
    np.testing.assert_allclose(dr.get_ydata(), table[table["rule"].eq("first")].sort_values("delta")["dr"])
    (cka,) = lines(axes[2], "cifar10")
    assert cka.get_ydata()[-1] == 1.0
    assert lines(axes[3], "paper: ResNet50 (l2, eps 3), cifar10")
    assert "mini profile: our networks" in figure.get_supxlabel()


def test_bands_are_one_standard_deviation(tables):
    ax = visible(plots.prevalence(tables, ["mobilenet_v2"]))[0]
    rows = tables["probes"].query("model == 'mobilenet_v2' and dataset == 'cifar10' and eval_set == 'test'")
    rows = rows[rows["selection"].eq("random")].groupby("fraction")["accuracy"]
    top = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx((rows.mean() + rows.std()).max())


def test_prevalence_without_cka_leaves_that_panel_out(tables):
    figure = plots.prevalence({k: v for k, v in tables.items() if k != "cka"}, ["mobilenet_v2"])
    assert len(visible(figure)) == 2


def test_random_subset_cka_is_the_mean_over_ten_pairs(tables):
    figure = plots.random_subset_cka(tables)
    axes = visible(figure)
    assert [ax.get_title() for ax in axes] == ["keras resnet50", "robust50", "mobilenet v2"]
    rows = tables["cka"].query("model == 'robust50' and dataset == 'digits' and comparison == 'part_part'")
    (line,) = lines(axes[1], "digits")
    np.testing.assert_allclose(line.get_ydata(), rows.groupby("fraction")["cka"].mean())
    (paper,) = lines(axes[0], "paper: ResNet50 (timm), cifar10")
    assert dict(zip(paper.get_xdata(), paper.get_ydata(), strict=True))[0.2] == pytest.approx(0.78234)
    assert not [line for line in axes[2].get_lines() if "paper" in line.get_label()]
    assert "10 pairs" in figure.get_supxlabel()


def test_part_whole_cka_has_a_panel_per_task_and_a_line_per_network(tables):
    axes = visible(plots.part_whole_cka(tables))
    assert [ax.get_title() for ax in axes] == ["cifar10", "digits"]
    assert {"keras resnet50", "robust50", "mobilenet v2"} <= {line.get_label() for line in axes[1].get_lines()}


def test_accuracy_by_fraction_and_by_number_of_neurons(tables):
    share = visible(plots.accuracy_by_network(tables))[1]
    neurons = visible(plots.accuracy_by_network(tables, x="neurons"))[1]
    (a,), (b,) = lines(share, "mobilenet v2"), lines(neurons, "mobilenet v2")
    np.testing.assert_allclose(a.get_ydata(), b.get_ydata())
    assert a.get_xdata()[-1] == 1.0 and b.get_xdata()[-1] == 1280
    with pytest.raises(ValueError, match='x must be "fraction" or "neurons"; got \'width\''):
        plots.accuracy_by_network(tables, x="width")


def test_colour_marker_and_dashes_tell_networks_apart_and_stay_theirs(tables):
    every = visible(plots.accuracy_by_network(tables))[0]
    some = visible(plots.accuracy_by_network(tables, ["mobilenet_v2"]))[0]
    looks = [
        (n.get_color(), n.get_marker(), str(n.get_linestyle()))
        for n in every.get_lines()
        if "paper" not in n.get_label()
    ]
    assert len(set(looks)) == 3 and len({m for _, m, _ in looks}) == 3
    assert lines(every, "mobilenet v2")[0].get_color() == lines(some, "mobilenet v2")[0].get_color()


def test_redundancy_by_network(tables):
    ax = visible(plots.redundancy_by_network(tables))[0]
    (paper,) = lines(ax, "paper: ResNet50 (timm)")
    assert dict(zip(paper.get_xdata(), paper.get_ydata(), strict=True))[0.9] == 0.8
    bars = ax.collections[0].get_segments()  # the first network's intervals
    rows = tables["redundancy"].query("model == 'keras_resnet50' and dataset == 'cifar10' and task == 'probe'")
    rows = rows[rows["rule"].eq("first")].sort_values("delta")
    np.testing.assert_allclose([bar[:, 1] for bar in bars], rows[["low", "high"]])


def test_upstream_networks():
    nets = [network("vit_21k", 384, "vit", upstream="imagenet21k"), network("vit_1k", 384, "vit"), NETWORKS[2]]
    found = build(nets, [task("digits")], lambda m, d, f, s, e: saturating(0.3)(f), grid=(0.1, 1.0))
    assert set(plots.upstream_networks(found)) == {"vit_21k", "vit_1k"}
    assert len(lines(visible(plots.accuracy_by_network(found, plots.upstream_networks(found)))[0], "vit 1k")) == 1


def test_no_upstream_pairs_in_the_mini_profile(tables):
    assert plots.upstream_networks(tables) == []


def test_table1_beside_the_papers(tables):
    table = plots.table1(tables)
    assert table.loc[("paper", "ResNet50", 2048, "nearest"), ["cifar10", "CIFAR-100", "Flowers", "Pets"]].tolist() == [
        "0.90",
        "0.50",
        "0.20",
        "0.90",
    ]
    row = (
        tables["redundancy"]
        .query(
            "model == 'mobilenet_v2' and dataset == 'digits' and task == 'probe' and rule == 'first' and delta == 0.9"
        )
        .iloc[0]
    )
    expected = f"{row.dr:.2f} [{row.low:.2f}, {row.high:.2f}]"
    assert table.loc[("ours", "mobilenet v2", 1280, "first"), "digits"] == expected
    assert len(table) == 2 * 3 + 6
    assert set(plots.table1(tables, delta=0.8).index.get_level_values("source")) == {"ours"}


@pytest.mark.parametrize("measure", ["gini", "coefficient_of_variation"])
def test_inequality_has_a_marker_per_fraction_and_an_even_drop(tables, measure):
    ax = visible(plots.inequality(tables, measure=measure))[0]
    (line,) = lines(ax, "mobilenet v2")
    rows = tables["fairness"].query("model == 'mobilenet_v2' and dataset == 'cifar10' and selection == 'random'")
    np.testing.assert_allclose(line.get_xdata(), rows["accuracy"])
    np.testing.assert_allclose(line.get_ydata(), rows[measure])
    dashed = [other for other in ax.get_lines() if other.get_linestyle() == "--"]
    assert len(dashed) == 3
    at_full = dashed[2].get_ydata()[-1], line.get_ydata()[-1]
    assert at_full[0] == pytest.approx(at_full[1])  # nothing lost, nothing to spread
    assert dashed[2].get_ydata()[5] < line.get_ydata()[5] / 2  # the tables lose whole classes
    assert len(visible(plots.inequality(tables, ["mobilenet_v2"], even=False))[0].get_lines()) == 1


def test_even_drop_of_equal_classes_is_only_the_images_noise(tables):
    """With classes that hardly differ, the dashed line stays far below what losing whole classes gives."""
    ax = visible(plots.inequality(tables, ["mobilenet_v2"]))[1]
    dashed = next(line for line in ax.get_lines() if line.get_linestyle() == "--")
    assert max(dashed.get_ydata()) < 0.2 < gini([1, 0, 0, 0])


def test_inequality_refuses_an_unknown_measure(tables):
    with pytest.raises(ValueError, match="unknown measure 'ginny'; known, nearest first: gini"):
        plots.inequality(tables, measure="ginny")


def test_projections_beside_random_neurons(tables):
    figure = plots.projections(tables)
    axes = visible(figure)
    assert len(axes) == 4  # standard and adversarial ResNet50, two tasks
    assert {line.get_label() for line in axes[0].get_lines()} == {
        "random neurons",
        "PCA, top components",
        "PCA, least components",
    }
    top, least = lines(axes[0], "PCA, top components")[0], lines(axes[0], "PCA, least components")[0]
    assert (top.get_ydata() - least.get_ydata()).mean() == pytest.approx(0.08, abs=0.01)
    only = visible(plots.projections(tables, ["mobilenet_v2"], selections=["pca"]))
    assert len(only) == 2 and len(only[0].get_lines()) == 2


def test_shift_shows_both_accuracies_the_gap_and_says_it_stands_in(tables):
    figure = plots.shift(tables)
    own, shifted, gap = visible(figure)
    (a,), (b,), (c,) = (lines(ax, "mobilenet v2") for ax in (own, shifted, gap))
    np.testing.assert_allclose(c.get_ydata(), a.get_ydata() - b.get_ydata(), atol=1e-12)
    assert c.get_ydata().mean() == pytest.approx(0.05, abs=0.01)
    (paper,) = lines(gap, "paper: ResNet50 (timm), ImageNet-1k / V2")
    assert paper.get_ydata()[-1] == pytest.approx(0.80068 - 0.68)
    note = " ".join(figure.get_supxlabel().split())
    assert "Stand-in: CIFAR-10 under common corruptions, in place of ImageNet-1k and ImageNetV2." in note


def test_narrow_layers_and_matryoshka():
    nets = [network(f"ff{w}", w, training="narrow") for w in (8, 64)] + [
        network("mrl", 2048, training="mrl"),
        network("resnet50"),
    ]
    sizes = (8, 64, 512)
    found = build(
        nets[2:],
        [task("digits")],
        lambda m, d, f, s, e: saturating(0.3)(f),
        first_sizes=sizes,
        grid=tuple(k / 2048 for k in sizes) + (1.0,),
    )
    ax = visible(plots.matryoshka(found))[0]
    assert list(lines(ax, "mrl, first k")[0].get_xdata()) == list(sizes)
    assert lines(ax, "resnet50, random") and lines(ax, "mrl, random")
    assert len(visible(plots.matryoshka(found, quantity="redundancy"))[0].get_lines()) == 2
    found = build(
        [nets[0], nets[1], nets[3]],
        [task("digits")],
        lambda m, d, f, s, e: saturating(0.3)(f),
        grid=(0.125, 0.5, 0.9, 1.0),
    )
    ax = visible(plots.width_ablation(found))[0]
    (ff8,) = lines(ax, "ff8")
    np.testing.assert_allclose(ff8.get_xdata(), [1 / 8, 4 / 8, 7 / 8, 1])  # whole neurons, not 0.9
    assert ff8.get_ydata()[-1] == pytest.approx(1.0)
    assert len([line for line in ax.get_lines() if line.get_label().startswith(("ff", "resnet"))]) == 3


FAMILY = [
    network("resnet50"), network("small", 512, "resnet", kind="small", upstream="tinyimagenet202"),
    network(
        "small_adv", 512, "resnet", "adversarial", robust_of="small", kind="small", upstream="tinyimagenet202"
    ),
    network("small_mrl", 512, "resnet", training="mrl", kind="small", upstream="tinyimagenet202"),
    network("small_ff8", 8, "resnet", training="narrow", kind="small", upstream="tinyimagenet202"),
    network("small_ff64", 64, "resnet", training="narrow", kind="small", upstream="tinyimagenet202"),
    network("small_less", 512, "resnet", kind="small", upstream="tinyimagenet50"),
]  # fmt: skip


@pytest.fixture(scope="module")
def family():
    def accuracy(model, dataset, fraction, selection, eval_set):
        # The prefix is ahead by 0.2 up to an eighth; narrow layers need all that they have.
        ahead = 0.2 * (selection == "first" and fraction <= 0.125)
        return saturating(0.9 if "ff" in model else 0.2, 0.8)(fraction) + ahead

    sizes = (8, 64, 512)
    return build(FAMILY, [task("digits")], accuracy, first_sizes=sizes, grid=(0.015625, 0.125, 0.25, 0.5, 0.875, 1.0))


def test_networks_are_grouped_by_what_can_be_compared(family):
    assert plots.networks_by_kind(family) == {"imagenet": ["resnet50"], "small": ["small", "small_adv"]}
    assert plots.networks_by_kind(family, training=("mrl",)) == {"small": ["small_mrl"]}
    # Rows of Fig. 1: the ImageNet ResNet, and the adversarial one with its own counterpart, not with that of ImageNet.
    assert plots.compared(family) == ["resnet50", "small", "small_adv"]
    # Another upstream set is another comparison.
    assert plots.width_networks(family) == ["small_ff8", "small_ff64", "small"]
    assert plots.matryoshka_networks(family) == ["small", "small_adv", "small_mrl"]


def test_needed_share_is_the_critical_fraction_in_whole_neurons(family):
    needed = plots.needed_share(family, ["small_ff8", "small"], [0.5, 0.9])
    assert needed.index.names == ["model", "delta", "dataset"]
    curves = family["probes"].query("eval_set == 'test' and selection == 'random'")
    for (model, delta, _), share in needed.items():
        mean = curves[curves.model.eq(model)].groupby("n_neurons").accuracy.mean()
        reached = mean.index[mean >= delta * mean.iloc[-1]]
        assert share == pytest.approx(reached[0] / mean.index[-1])
    assert needed["small_ff8", 0.9, "digits"] > needed["small", 0.9, "digits"]
    assert plots.needed_share(family, [], [0.9]).empty


def test_matryoshka_lead_is_first_minus_random(family):
    lead = plots.matryoshka_lead(family)
    assert set(lead.rival) == {"small_mrl", "small", "small_adv"} and set(lead.k) == {8, 64}
    assert lead.query("k == 8").lead.to_numpy() == pytest.approx(np.full(3, 0.2), abs=0.03)
    # By hand, for one of them.
    probes = family["probes"].query("eval_set == 'test' and n_neurons == 64")
    mean = probes.groupby(["model", "selection"]).accuracy.mean()
    found = lead.query("k == 64 and rival == 'small'").lead.item()
    assert found == pytest.approx(mean["small_mrl", "first"] - mean["small", "random"])


def test_matryoshka_figure_has_the_layers_trained_narrow(family):
    ax = visible(plots.matryoshka(family))[0]
    (narrow,) = lines(ax, "trained with k neurons (ff)")
    assert list(narrow.get_xdata()) == [8, 64]
    assert not [line for line in ax.get_lines() if "less" in line.get_label() or "resnet50" in line.get_label()]


def test_a_networks_look_is_the_same_in_all_figures_of_its_kind(family):
    by_kind = plots.networks_by_kind(family)
    some, more = (
        plots.accuracy_by_network(family, by_kind["small"][:2]),
        plots.accuracy_by_network(family, by_kind["small"]),
    )
    for label in ("small", "small adv"):
        a, b = (lines(visible(figure)[0], label)[0] for figure in (some, more))
        assert (a.get_color(), a.get_marker()) == (b.get_color(), b.get_marker())
    everything = style.looks(map(str, range(60)))
    assert len({(look.color, look.marker) for look in everything.values()}) == 60


@pytest.mark.parametrize(
    "figure",
    [
        plots.prevalence,
        plots.random_subset_cka,
        plots.part_whole_cka,
        plots.shift,
        plots.accuracy_by_network,
        plots.redundancy_by_network,
        plots.inequality,
        plots.projections,
        plots.table1,
        plots.matryoshka,
        plots.width_ablation,
    ],
)
def test_nothing_to_draw_is_one_clear_line(tables, figure):
    bare = {"networks": tables["networks"], "tasks": tables["tasks"]}
    with pytest.raises(ValueError, match="nothing to draw; it needs .* Run the study for these first") as error:
        figure(bare)
    assert "\n" not in str(error.value)


def test_legend_and_note_leave_the_panels_free(tables):
    figure = plots.accuracy_by_network(tables, note="mini profile: our networks")
    figure.draw_without_rendering()
    boxes = [ax.get_tightbbox() for ax in visible(figure)]
    others = [figure.legends[0].get_window_extent(), figure._supxlabel.get_window_extent()]
    assert not any(box.overlaps(other) for box in boxes for other in others)
    assert not others[0].overlaps(others[1])
    assert others[0].x0 >= 0 and others[0].x1 <= figure.bbox.x1
    assert [text.get_text() for text in figure.legends[0].get_texts()][-1].startswith("paper: ")


def test_save_figure_writes_the_same_bytes_twice(tables, tmp_path):
    figure = plots.redundancy_by_network(tables)
    first = plots.save_figure(figure, tmp_path / "a", "fig10_redundancy")
    again = plots.save_figure(plots.redundancy_by_network(tables), tmp_path / "b", "fig10_redundancy")
    assert [path.name for path in first] == ["fig10_redundancy.png", "fig10_redundancy.pdf"]
    for a, b in zip(first, again, strict=True):
        assert a.read_bytes() == b.read_bytes()
    assert b"CreationDate" not in first[1].read_bytes()
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["fig10_redundancy.pdf", "fig10_redundancy.png"]
    height, width = plt.imread(first[0]).shape[:2]
    assert width >= 900 and height >= 400


def test_a_figure_carries_its_caption_and_its_notebook(tmp_path, monkeypatch):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/01_prevalence.ipynb")
    caption = "How much of a layer a task needs. Bands ±1 standard deviation,\n    from `probes`."
    png, _ = plots.save_figure(plt.figure(), tmp_path, "fig01", caption=caption)
    plt.close("all")
    with Image.open(png) as image:
        assert image.text["Description"] == " ".join(caption.split()) and image.text["Source"] == "01_prevalence.ipynb"


def test_figures_do_not_stay_open(tables):
    plots.redundancy_by_network(tables)
    assert plt.get_fignums() == []


def test_palette_is_the_colour_blind_one():
    assert len(set(plots.PALETTE)) == 10 and len(set(style.MARKERS)) == 10
