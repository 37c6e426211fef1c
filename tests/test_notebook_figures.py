"""What notebooks 04 to 07 make of a run's tables: their code is executed here on tables whose answers are known."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
from conftest import ROOT
from synthetic_tables import build, network, saturating, task

import dr_utils
from dr_utils import plots
from dr_utils.fairness import gini
from dr_utils.profiles import load_profile

SMALL = dict(kind="small", upstream="tinyimagenet202")
NETWORKS = [
    network("keras_resnet50", family="resnet"), network("mobilenet_v2", 1280, "mobilenet_v2"),
    network("small", 512, **SMALL), network("small_adv", 512, training="adversarial", robust_of="small", **SMALL),
    network("small_mrl", 512, training="mrl", **SMALL),
    network("small_ff64", 64, training="narrow", **SMALL), network("small_ff8", 8, training="narrow", **SMALL),
    network("small_less", 512, kind="small", upstream="tinyimagenet50"),
]  # fmt: skip
FRACTIONS = (0.015625, 0.125, 0.25, 0.5, 0.9, 1.0)
PROFILE = load_profile("mini")


@pytest.fixture(scope="module")
def tables():
    def accuracy(model, dataset, fraction, selection, eval_set):
        # The prefix is ahead by 0.2 up to an eighth; narrow layers need all that they have; PCA leads, the shift costs.
        lead = {"pca": 0.03, "pca_least": -0.05, "first": 0.2 * (fraction <= 0.125)}.get(selection, 0.0)
        return saturating(0.9 if "ff" in model else 0.2, 0.75)(fraction) + lead - 0.05 * (eval_set == "corrupted")

    found = build(
        NETWORKS, [task("cifar10", eval_sets=("test", "corrupted")), task("digits")], accuracy,
        selections=("random", "pca", "pca_least"), first_sizes=(8, 64, 512), grid=FRACTIONS,
    )  # fmt: skip
    for name in ("probes", "per_class", "fairness"):
        rows, prefix = found[name], found[name].selection.eq("first")
        projected = rows.selection.str.startswith("pca") & ~rows.model.isin(["keras_resnet50", "small", "small_adv"])
        found[name] = rows[~(prefix & rows.model.ne("small_mrl")) & ~projected]
    return found


def run(name: str, tables: dict) -> SimpleNamespace:
    """Run a notebook's cells on these tables, but for those by hand and the claims; return its names and figures."""
    figures, captions, names, fractions = {}, {}, {}, set(tables["probes"].fraction)

    def save_figure(figure, folder, name, *, caption=""):
        figures[name], captions[name] = figure, " ".join(caption.split())

    study = SimpleNamespace(
        profile=PROFILE, note="mini profile: our networks", notes=[], figures_folder=Path("figures"),
        run=lambda: tables,
        nearest_fraction=lambda wanted: min(fractions, key=lambda fraction: abs(fraction - wanted)),
        nearest_delta=lambda wanted: min(PROFILE.deltas, key=lambda delta: abs(delta - wanted)),
    )  # fmt: skip
    cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
    code = [cell.source for cell in cells if cell.cell_type == "code"]
    start = next(i for i, source in enumerate(code) if "study = Study(" in source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dr_utils, "Study", lambda *args, **options: study, raising=False)
        patch.setattr(plots, "save_figure", save_figure)
        for source in [*code[:2], *code[start:-1]]:
            exec(compile(source, name, "exec"), names)
    assert not plt.get_fignums(), "figures do not stay open"
    return SimpleNamespace(**names, figures=figures, captions=captions)


@pytest.fixture(scope="module")
def execute(tables):
    """Return what `run` returns for a notebook, which is run once."""
    return cache(lambda name: run(name, tables))


def lines(ax):
    """Return the lines with data; others are only there for seaborn's legend."""
    return [line for line in ax.get_lines() if len(line.get_xdata()) > 1]


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_widths_are_compared_within_a_family_from_narrow_to_wide(execute):
    found = execute("04_width_ablation")
    assert list(found.networks.model) == ["small_ff8", "small_ff64", "small"]
    figure = found.figures["fig05_width_ablation"]
    assert legend(figure) == ["small ff8", "small ff64", "small"]
    assert "mini profile: our networks" in " ".join(figure.get_supxlabel().split())
    ff8 = lines(figure.axes[0])[0]
    np.testing.assert_allclose(sorted(set(ff8.get_xdata())), [1 / 8, 2 / 8, 4 / 8, 7 / 8, 1])  # whole neurons, not 0.9
    assert ff8.get_ydata()[-1] == pytest.approx(1.0)


def test_the_share_needed_is_the_first_that_reaches_delta_in_whole_neurons(execute, tables):
    needed = execute("04_width_ablation").needed
    assert set(needed.network) == {"small ff8", "small ff64", "small"} and set(needed.delta) == {0.8, 0.9, 0.95, 0.99}
    probes = tables["probes"].query("eval_set == 'test' and selection == 'random'")
    for row in needed.itertuples():
        ours = probes[probes.model.eq(row.network.replace(" ", "_")) & probes.dataset.eq(row.task)]
        mean = ours.groupby("n_neurons").accuracy.mean()
        assert row.neurons == pytest.approx(mean.index[mean >= row.delta * mean.iloc[-1]][0])
        assert row.full == pytest.approx(mean.iloc[-1])
    at = needed.query("delta == 0.9").set_index(["network", "task"])["share needed"]
    assert at["small ff8", "digits"] > at["small", "digits"]


def test_the_matryoshka_prefix_is_beside_its_rivals_and_layers_trained_narrow(execute):
    found = execute("05_mrl")
    # Another upstream set, another kind of network: another comparison.
    assert list(found.networks.model) == ["small", "small_adv", "small_mrl"]
    figure = found.figures["fig06_matryoshka"]
    curves = ["small mrl, first k", "small, random k", "small adv, random k", "small mrl, random k"]
    assert legend(figure) == [*curves, "trained with k neurons (ff)"]
    assert set(found.first.n_neurons) == {8, 64}
    assert list(found.whole.n_neurons.unique()) == [8, 64]
    assert legend(found.figures["fig12_matryoshka_redundancy"]) == curves[1:]


def test_the_lead_is_first_minus_random(execute, tables):
    lead = execute("05_mrl").lead
    assert set(lead.network) == {"small mrl", "small", "small adv"} and set(lead.n_neurons) == {8, 64}
    assert lead.query("n_neurons == 8").points.to_numpy() == pytest.approx(np.full(6, 20), abs=3)
    # By hand, for one of them.
    probes = tables["probes"].query("eval_set == 'test' and n_neurons == 64 and dataset == 'digits'")
    mean = probes.groupby(["model", "selection"]).accuracy.mean()
    points = lead.query("n_neurons == 64 and network == 'small' and task == 'digits'").points.item()
    assert points == pytest.approx(100 * (mean["small_mrl", "first"] - mean["small", "random"]))


@pytest.mark.parametrize("measure", ["gini", "coefficient_of_variation"])
def test_inequality_has_a_marker_per_fraction_and_an_even_loss(execute, tables, measure):
    found = execute("06_fairness")
    name = {"gini": "fig07_gini", "coefficient_of_variation": "fig09_coefficient_of_variation"}[measure]
    assert set(found.figures) >= {f"{name}_imagenet", f"{name}_small"}
    figure = found.figures[f"{name}_small"]
    # No narrow networks, and none of two that differ in the amount of upstream data only.
    assert legend(figure) == ["small", "small adv", "small mrl", "small mrl, first k"]
    ax = found.figures[f"{name}_imagenet"].axes[0]
    (line,) = [line for line in lines(ax) if line.get_marker() == "s"]
    rows = tables["fairness"].query("model == 'mobilenet_v2' and dataset == 'cifar10' and selection == 'random'")
    np.testing.assert_allclose(line.get_xdata(), rows["accuracy"])
    np.testing.assert_allclose(line.get_ydata(), rows[measure])
    dashed = [line for line in lines(ax) if line.get_linestyle() == "--"][-1]
    assert dashed.get_color() == line.get_color()
    assert dashed.get_ydata()[-1] == pytest.approx(line.get_ydata()[-1])  # nothing lost, nothing to spread
    assert dashed.get_ydata()[1] < line.get_ydata()[1] / 2  # the tables lose whole classes
    # Classes that hardly differ: the even loss stays far below the loss of whole classes.
    if measure == "gini":
        assert max(dashed.get_ydata()) < 0.2 < gini([1, 0, 0, 0])


def test_the_classes_that_lose_most_are_named(execute):
    found = execute("06_fairness")
    assert list(found.worst.index.names) == ["network"] and found.worst.notna().all(axis=None)
    assert found.worst.loc["small", "digits"].startswith("class ")
    assert found.sliding.query("fraction < 1")["loses most"].str.contains("points").all()


def test_projections_are_beside_random_neurons(execute):
    found = execute("07_pca_imagenetv2")
    figure = found.figures["fig14_pca"]
    assert legend(figure) == ["random neurons", "PCA, top components", "PCA, least components"]
    assert len(figure.axes) == 6  # the ImageNet ResNet, a standard and an adversarial network; two tasks
    lead = found.lead
    assert set(lead.network) == {"keras resnet50", "small", "small adv"} and lead.points.mean() == pytest.approx(
        3, abs=0.7
    )


def test_the_shift_shows_both_accuracies_and_the_gap_and_says_what_the_images_are(execute):
    found = execute("07_pca_imagenetv2")
    assert {"fig15_shift_imagenet", "fig15_shift_small"} <= set(found.figures)
    assert set(found.both.task) == {"cifar10"} and found.both.gap.mean() == pytest.approx(0.05, abs=0.01)
    figure = found.figures["fig15_shift_imagenet"]
    assert [ax.get_title() for ax in figure.axes] == ["cifar10: own test images", "corrupted images", "gap"]
    assert legend(figure) == ["keras resnet50", "mobilenet v2", "paper: ResNet50 (timm), ImageNet-1k / V2"]
    (paper,) = [line for line in lines(figure.axes[2]) if str(line.get_label()).startswith("paper: ")]
    assert paper.get_ydata()[-1] == pytest.approx(0.80068 - 0.68)
    note = " ".join(figure.get_supxlabel().split())
    assert "CIFAR-10 under common corruptions, in place of ImageNet-1k and ImageNetV2." in note


def test_every_figure_has_a_caption_with_its_tables(execute):
    for name in ("04_width_ablation", "05_mrl", "06_fairness", "07_pca_imagenetv2"):
        for caption in execute(name).captions.values():
            assert caption.partition(".")[0] and "Tables: `" in caption


@pytest.mark.parametrize(
    "name, says",
    [
        ("04_width_ablation", "no networks with narrow layers: Figure 5 is not drawn"),
        ("05_mrl", "no Matryoshka network: Figures 6 and 12 are not drawn"),
        ("06_fairness", "no accuracies of single classes: Figures 7 and 9 are not drawn"),
        ("07_pca_imagenetv2", "no principal components: Figure 14 is not drawn"),
    ],
)
def test_a_profile_that_lacks_what_a_figure_needs_is_told_so(tables, capsys, name, says):
    bare = {
        key: rows[rows["model"].isin(["mobilenet_v2"])] if "model" in rows else rows for key, rows in tables.items()
    }
    bare["probes"] = bare["probes"].query("eval_set == 'test'")
    bare |= {key: bare[key].iloc[:0] for key in ("per_class", "fairness")}
    assert not run(name, bare).figures
    assert says in capsys.readouterr().out
