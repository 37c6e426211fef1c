"""The figures hold the data they should: lines, points, labels; and files are the same when written twice."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic_tables import build, network, saturating, task

from dr_utils import plots
from dr_utils.fairness import gini

NETWORKS = [
    network("keras_resnet50", family="resnet"), network("robust50", training="adversarial", robust_of="keras_resnet50"),
    network("mobilenet_v2", 1280, "mobilenet_v2"),
]  # fmt: skip


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


@pytest.mark.parametrize(
    "figure",
    [
        plots.shift,
        plots.inequality,
        plots.projections,
        plots.matryoshka,
        plots.width_ablation,
    ],
)
def test_nothing_to_draw_is_one_clear_line(tables, figure):
    bare = {"networks": tables["networks"], "tasks": tables["tasks"]}
    with pytest.raises(ValueError, match="nothing to draw; it needs .* Run the study for these first") as error:
        figure(bare)
    assert "\n" not in str(error.value)
