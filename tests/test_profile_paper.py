"""The paper profile against the published grids (tests/data/fraction_grids.csv, read from the authors' scripts)."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from dr_utils.profiles import load_profile
from dr_utils.subsets import n_neurons

GRIDS = pd.read_csv(Path(__file__).parent / "data" / "fraction_grids.csv").fillna("")
TASKS = {"cifar10": "cifar10", "cifar100": "cifar100", "flowers": "flowers", "oxford-iiit-pets": "pets",
         "imagenet": "imagenet1k"}  # fmt: skip
SELECTIONS = {"random": "random", "random:imagenet": "random", "first": "first", "pca": "pca", "pca-least": "pca_least",
              "randproj": "projection_uniform"}  # fmt: skip
WIDTHS = {"resnet18": 512, "resnet50": 2048, "vgg16": 4096, "wrn50": 2048, "vit": 384}


def name_of(row) -> str | None:
    """The profile's name of a network; None for those of the public code alone."""
    training = {"nonrob": "standard", "robustl2eps3": "l2_eps3"}.get(row.variant)
    if training is None or row.model in ("wide_resnet50_4", "resnet50_ff2048"):
        return None
    if patch := re.match(r"vit_small_patch(\d+)", row.model):
        return f"vit_s{patch[1]}_{'imagenet21k' if row.pretrained_on == 'imagenet21k' else 'imagenet1k'}"
    if row.model.startswith(("resnet50_mrl", "resnet50_ff")):
        return row.model
    return f"{ {'vgg16_bn': 'vgg16', 'wide_resnet50_2': 'wrn50_2'}.get(row.model, row.model) }_{training}"


def width_of(name: str) -> int:
    narrow = re.search(r"_ff(\d+)", name)
    return int(narrow[1]) if narrow else WIDTHS[name.partition("_")[0]]


@pytest.fixture(scope="module")
def paper():
    return load_profile("paper")


def published():
    for row in GRIDS.itertuples():
        name, task, selection = name_of(row), TASKS.get(row.dataset), SELECTIONS.get(row.selection)
        values = [float(v) for v in row.grid_fractions_or_neuron_counts.split()]
        if name and task and selection:
            yield name, task, selection, values
        elif name and task and row.selection == "layerwise":
            for layer in ("layer1", "layer2", "layer3"):  # the fourth, averaged, is the penultimate one
                yield f"{name}@{layer}", task, "random", values


def test_every_published_point_is_in_the_profile_and_no_cell_is_new(paper):
    seen = set()
    for name, task, selection, values in published():
        seen.add((name, task))
        ours = paper.selected(name, task)[selection]
        if max(values) > 1:  # counts of neurons
            assert set(map(int, values)) <= {n_neurons(width_of(name), f) for f in ours}, (name, task)
        else:
            assert all(np.isclose(ours, v, rtol=1e-9).any() for v in values), (name, task, selection)
    assert seen == set(paper.cells())


def test_there_are_21_networks_and_the_papers_protocol(paper):
    assert len([name for name in paper.networks if "@" not in name]) == 21
    probe = paper.probe.model_dump(exclude={"ridge_alpha", "solvers", "protocol"})
    assert probe == {
        "epochs": 50, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4, "batch_size": 256, "step_epochs": 10,
        "gamma": 0.1, "standardise": False, "held_out": 0.0,
    }  # fmt: skip
    assert paper.seeds == [1, 2, 3, 4, 5] and paper.cka.images == 1000
    on_imagenet = [n for n, t in paper.cells() if t == "imagenet1k"]
    assert len(on_imagenet) == 10 and not any("21k" in n or "ff" in n or "mrl" in n for n in on_imagenet)
