"""What is to be seen in each figure: file name -> caption and the tables it is drawn from."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

# What ends the file name of a figure that is drawn once per kind of network.
KINDS = {"imagenet": "networks trained on ImageNet", "small": "the suite's small networks, 32 x 32 pixels"}

BANDS = "Lines are means over seeds, bands ±1 standard deviation."
INTERVALS = "Lines are DR of the mean curve, bars 95 % bootstrap intervals over seeds."
SHARE = "against the share of neurons kept"
DR = (
    "diffused redundancy DR, the largest share of neurons that can be dropped while a share δ of the whole layer's "
    "accuracy stays"
)
PAPER = "Grey and dashed, where comparable: the paper's own curves."
PUBLISHED = "Published numbers of the paper's authors: nothing in this figure was measured by this suite."
# Published means have no single seeds: there is nothing to draw an interval from, and no curve of ours beside them.
MEASURED_ONLY = {INTERVALS: "Lines are DR of the published mean curve.", ", with 95 % intervals over seeds": "",
                 f" {PAPER}": ""}  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """Number in the paper, what is shown in a few words, what to see, and tables it is drawn from."""

    number: str
    title: str
    text: str = ""
    tables: tuple[str, ...] = ()


CAPTIONS = {
    "own_prevalence": Caption(
        "Your own",
        "How much of a network's layer a task needs",
        f"Notebook 08's network and data. Left: test accuracy of linear probes on random neurons, {SHARE}; dotted, 0.9 "
        f"of the whole layer's accuracy. Middle: {DR}, against δ, with 95 % intervals over seeds. Right: linear CKA of "
        f"the kept neurons with the whole layer. {BANDS}",
        ("own_recommendation", "own_classes", "own_probes"),
    ),
    "fig01_prevalence": Caption(
        "Figure 1",
        "How much of a layer a task needs",
        "A row per network: a ResNet, then the paper's comparison of standard and adversarial training; a line per "
        f"task. Left: test accuracy of linear probes on random neurons, {SHARE}; dotted, 0.9 of the whole layer's "
        f"accuracy. Middle: {DR}, against δ, with 95 % intervals over seeds. Right: linear CKA of the kept neurons "
        f"with the whole layer. {BANDS} {PAPER} Look for how early accuracy flattens, how thin its bands are from "
        "there on (where thin, any pick does as well as any other: redundancy is diffused), and where CKA stands by "
        "then.",
        ("probes", "redundancy", "cka"),
    ),
    "fig02_random_subset_cka": Caption(
        "Figure 2",
        "Similarity of two random parts of a layer",
        f"Linear CKA between two random subsets of the same size, {SHARE}; a panel per network, a line per task. Lines "
        "are means over all pairs of seeds, bands ±1 standard deviation. Two subsets share neurons by chance, so every "
        f"line reaches 1 at the right. {PAPER} Look for the share from which CKA is above .8, and for how narrow the "
        "bands are.",
        ("cka",),
    ),
    "fig03_architectures": Caption(
        "Figure 3",
        "Accuracy by architecture, against the share of neurons",
        f"Test accuracy of linear probes on random neurons, {SHARE}; a panel per task, a line per network. {BANDS} "
        f"{PAPER} Compare the shapes, how far to the left a line is already flat, rather than the heights.",
        ("probes",),
    ),
    "layers_accuracy": Caption(
        "",
        "Middle layers: accuracy",
        "Middle layers of a network, averaged over positions, and its penultimate one: test accuracy of linear probes "
        f"on random neurons, against the number of neurons; a panel per task. {BANDS} The paper's later version asks "
        "this.",
        ("probes",),
    ),
    "layers_redundancy": Caption(
        "",
        "Middle layers: diffused redundancy",
        f"{DR[0].upper()}{DR[1:]}, against δ, for middle layers and the penultimate one. {INTERVALS}",
        ("redundancy",),
    ),
    "fig04_upstream_data": Caption(
        "Figure 4",
        "Accuracy by upstream data",
        "Networks that differ only in the data they were first trained on: test accuracy of linear probes on random "
        f"neurons, {SHARE}; a panel per task. {BANDS} Look for whether the one with more upstream data is flat "
        "earlier.",
        ("probes",),
    ),
    "fig05_width_ablation": Caption(
        "Figure 5",
        "Layers of different widths",
        "Networks trained with layers of different widths (ff8 has 8 neurons): accuracy of random neurons as a share "
        "of what the network's own whole layer reaches, against the share kept, counted in whole neurons; a panel per "
        f"task. Dotted: 0.9. {BANDS} Where the lines of narrow layers lie below those of wide ones, narrow layers have "
        "less to spare.",
        ("probes",),
    ),
    "fig06_matryoshka": Caption(
        "Figure 6",
        "The first k neurons of a Matryoshka network against k random ones",
        "Test accuracy of linear probes against the number of neurons: the first k of the Matryoshka network, for "
        "which it was trained; random ones of the same layer and of networks with one ordinary head; and whole layers "
        f"of networks trained with k neurons (ff). A panel per task. {BANDS} Look for the lead of the first k at the "
        "left, and for where the others catch up.",
        ("probes",),
    ),
    "fig07_gini": Caption(
        "Figure 7",
        "Who pays for the dropped neurons: Gini index",
        "Gini index of the accuracies of single classes (0: all classes alike) against mean test accuracy; a panel per "
        "task, a line per network, a marker per share of neurons, the whole layer at the right. Hollow markers: the "
        "first k of the Matryoshka network. Dashed: the same accuracy if every class had lost the same number of "
        "points. Only what lies above the dashed line falls on few classes.",
        ("fairness", "per_class"),
    ),
    "fig08_part_whole_cka": Caption(
        "Figure 8",
        "Similarity of parts and the whole layer",
        f"Linear CKA between random neurons and the whole layer, {SHARE}; a panel per task, a line per network. "
        f"{BANDS} {PAPER} Look for how much alike the panels are: the paper finds that the task hardly matters.",
        ("cka",),
    ),
    "fig09_coefficient_of_variation": Caption(
        "Figure 9",
        "Who pays for the dropped neurons: coefficient of variation",
        "As Figure 7, with the coefficient of variation of the class accuracies (standard deviation over mean) in "
        "place of the Gini index. Dashed: the same accuracy if every class had lost the same number of points.",
        ("fairness", "per_class"),
    ),
    "fig10_architectures_redundancy": Caption(
        "Figure 10",
        "Diffused redundancy by architecture",
        f"{DR[0].upper()}{DR[1:]}, against δ; a panel per task, a line per network. {INTERVALS} {PAPER} A line that "
        "lies further out has more neurons to spare; one that falls to 0 only at δ = 1 says that the last per cent of "
        "accuracy takes most of the layer.",
        ("redundancy",),
    ),
    "fig11_upstream_data_redundancy": Caption(
        "Figure 11",
        "Diffused redundancy by upstream data",
        f"Networks that differ only in the data they were first trained on: {DR}, against δ; a panel per task. "
        f"{INTERVALS} Look for whether more upstream data lifts the line on every task.",
        ("redundancy",),
    ),
    "fig12_matryoshka_redundancy": Caption(
        "Figure 12",
        "Diffused redundancy of the Matryoshka network",
        f"{DR[0].upper()}{DR[1:]}, against δ, for random neurons of the Matryoshka network and of ordinary ones of the "
        f"same shape; a panel per task. {INTERVALS} Were all redundancy of the Matryoshka layer structured, its line "
        "would lie far below the others.",
        ("redundancy",),
    ),
    "fig13_architectures_by_neurons": Caption(
        "Figure 13",
        "Accuracy by architecture, against the number of neurons",
        "As Figure 3, against the number of neurons in place of their share: how many does a task need, whoever "
        f"provides them? {BANDS}",
        ("probes",),
    ),
    "fig14_pca": Caption(
        "Figure 14",
        "Random neurons against the best directions",
        "Test accuracy of linear probes on k random neurons and on as many principal components of the train features, "
        "against their share; other projections where the profile has them. A row per network, a panel per task. "
        f"{BANDS} Look for how soon random neurons come up to the best directions.",
        ("probes",),
    ),
    "fig15_shift": Caption(
        "Figure 15",
        "Dropping neurons under a shift of the data",
        f"Accuracy of probes on random neurons, {SHARE}, a line per network. Left: test images like those of training. "
        "Middle: shifted ones, ImageNetV2 in the paper; where the profile has no ImageNet, CIFAR-10 under common "
        f"corruptions stands in, and the figure says so. Right: the gap between the two. {BANDS} {PAPER} Look for "
        "whether the gap grows as neurons are dropped.",
        ("probes",),
    ),
}


def caption(stem: str) -> Caption:
    """The caption of a figure file; one made from the name where `CAPTIONS` has none."""
    base, _, kind = stem.rpartition("_")
    known = CAPTIONS.get(base if kind in KINDS else stem)
    if known is not None:
        title = f"{known.title}: {KINDS[kind]}" if kind in KINDS else known.title
        return Caption(known.number, title, known.text, known.tables)
    number, words = re.fullmatch(r"(?:fig0*(\d+)_)?(.*)", stem, re.DOTALL).groups()
    return Caption(f"Figure {number}" if number else "", words.replace("_", " ").strip() or stem)


def of_published(words: Caption) -> Caption:
    """The caption of the same figure drawn from published numbers in place of measured ones: it says so first."""
    text = words.text
    for measured, instead in MEASURED_ONLY.items():
        text = text.replace(measured, instead)
    return replace(words, title=f"{words.title} (published numbers)", text=f"{PUBLISHED} {text}".strip())
