"""Augmented training: every epoch's single pass feeds all probes, as separate loops over the same batches would be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_study import tiny_network

import dr_utils.study as study_module
from dr_utils.augmentation import Augmentation
from dr_utils.features import resize_batch
from dr_utils.probes.masked import initial_probe, sample_order
from dr_utils.profiles import Profile, load_profile
from dr_utils.study import Study
from dr_utils.subsets import random_subsets

SIDE, EPOCHS, SEEDS, FRACTIONS = 16, 4, [1, 2], [0.1, 0.5, 1.0]


def profile_of(augmentation, recipe="paper", **probe) -> Profile:
    return Profile.model_validate(
        {
            "name": "augmented",
            "networks": ["tiny_a"],
            "tasks": {"digits": {"train": 90, "test": 80, "resolution": SIDE, "eval_sets": ["test"]}},
            "fractions": FRACTIONS,
            "seeds": SEEDS,
            "deltas": [0.9],
            "selections": [{"selection": "random"}, {"selection": "pca", "fractions": [0.1]}],
            "probe": {"epochs": EPOCHS, "step_epochs": 3, "batch_size": 32, **probe},
            "extraction": {"batch_size": 32, "augmentation": augmentation, "recipe": recipe},
        }
    )


@pytest.fixture
def passes(tmp_path, monkeypatch):
    """The study on a tiny network in an empty cache; lists how many images each forward pass saw."""
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    seen = []

    def load(name, **_):
        network = tiny_network(name)
        network.module.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
        return network

    monkeypatch.setattr(study_module, "load_model", load)
    monkeypatch.setattr(study_module, "check_network", lambda name: name)
    return seen


def run(profile, out):
    study = Study(profile, out=out, device="cpu")
    return study, study.run()


@pytest.mark.parametrize("recipe", ["paper", "published"])
def test_fresh_equals_separate_training_on_the_same_augmented_batches(passes, tmp_path, recipe):
    study, tables = run(profile_of("fresh", recipe), tmp_path / "out")
    assert sum(passes) == 90 + 80 + EPOCHS * 90, "one pass of each epoch feeds every probe"
    train, test = study.task("digits", "train"), study.task("digits", "test")
    network = tiny_network("tiny_a")
    views = [Augmentation(recipe, epoch, seed=0) for epoch in range(EPOCHS)]
    with torch.no_grad():
        x_test = network(resize_batch(test.images, SIDE))
    for fraction in FRACTIONS:
        for seed, columns in zip(SEEDS, random_subsets(160, fraction, SEEDS), strict=True):
            layer = torch.nn.Linear(len(columns), 10)
            weight, bias = initial_probe(len(columns), 10, seed)
            layer.weight.data.copy_(weight)
            layer.bias.data.copy_(bias)
            optimiser = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
            schedule = torch.optim.lr_scheduler.StepLR(optimiser, 3, 0.1)
            for epoch, view in enumerate(views):
                for rows in sample_order(90, epoch, seed).split(32):
                    # Backbone and all, batch by batch, as the published code trains each of its probes.
                    pictures = [
                        view(resize_batch(view.crops(train.images[i : i + 1], i), SIDE), i) for i in rows.tolist()
                    ]
                    with torch.no_grad():
                        x = network(torch.cat(pictures))[:, columns]
                    optimiser.zero_grad()
                    torch.nn.functional.cross_entropy(layer(x), torch.as_tensor(train.labels[rows])).backward()
                    optimiser.step()
                schedule.step()
            expected = (layer(x_test[:, columns]).argmax(1).numpy() == test.labels).mean()
            found = tables["probes"].query("selection == 'random' and fraction == @fraction and seed == @seed")
            assert found.accuracy.item() == pytest.approx(expected, abs=1.5 / 80)


def test_as_many_views_as_epochs_are_fresh_but_kept(passes, tmp_path):
    _, fresh = run(profile_of("fresh"), tmp_path / "fresh")
    passes.clear()
    study, stored = run(profile_of({"views": EPOCHS}), tmp_path / "views")
    assert sum(passes) == EPOCHS * 90, "the plain features were there already"
    np.testing.assert_array_equal(stored["probes"].accuracy, fresh["probes"].accuracy)
    passes.clear()
    assert study.features("tiny_a", "digits", "train", epoch=EPOCHS + 1).x.shape == (90, 160) and not passes
    _, plain = run(profile_of("none"), tmp_path / "none")
    assert not passes and not np.array_equal(plain["probes"].accuracy, fresh["probes"].accuracy)


def test_few_views_are_cycled(passes, tmp_path):
    study, _ = run(profile_of({"views": 2}), tmp_path)
    assert sum(passes) == 90 + 80 + 2 * 90
    first, second, third = (study.features("tiny_a", "digits", "train", epoch=epoch).x for epoch in range(3))
    np.testing.assert_array_equal(first, third)
    assert not np.array_equal(first, second)
    assert study.about("tiny_a", "digits")["spec"]["augmentation"] == {
        "kind": {"views": 2}, "recipe": "paper", "seed": 0,
    }  # fmt: skip


def test_published_probes_hold_out_a_tenth_and_tasks_have_exceptions(passes, tmp_path):
    published = profile_of("none", protocol="published")
    assert (published.probe.weight_decay, published.probe.held_out) == (5e-4, 0.1)
    assert profile_of("none", protocol="published", weight_decay=1e-4).probe.weight_decay == 1e-4
    content = published.model_dump()
    content["tasks"]["digits"] |= {"train": 150, "probe": {"epochs": 2, "batch_size": 64}}
    study, _ = run(Profile.model_validate(content), tmp_path)
    asked = study.about("tiny_a", "digits")["spec"]["probe"]
    assert (asked["epochs"], asked["batch_size"], asked["held_out"], asked["lr"]) == (2, 64, 0.1, 0.1)


def test_half_precision_keeps_accuracy_and_halves_the_store(passes, tmp_path):
    content = profile_of("none", solvers=["sgd", "ridge"]).model_dump()
    sizes, accuracy = {}, {}
    for storage in ("float32", "float16"):
        content["tasks"]["digits"] |= {"train": 400, "test": 600, "storage": storage}
        study, tables = run(Profile.model_validate(content), tmp_path / storage)
        found = study.features("tiny_a", "digits", "train")
        assert found.x.dtype == storage
        sizes[storage] = found.x.nbytes
        accuracy[storage] = tables["probes"].groupby("solver").accuracy.mean()
    assert sizes["float16"] * 2 == sizes["float32"]
    assert (accuracy["float16"] - accuracy["float32"]).abs().max() < 0.003


def test_slips_are_told(tmp_path):
    path = tmp_path / "wrong.yaml"
    for text, message in (
        ("augmentation: {view: 3}", "augmentation: expected 'none', 'fresh' or {views: K}.* got {'view': 3}"),
        ("augmentation: frsh", "augmentation: expected 'none', 'fresh' or {views: K}.* got 'frsh'"),
        ("recipe: other", "recipe: expected 'paper' or 'published'; got 'other'"),
    ):
        path.write_text(
            "networks: [small_resnet]\ntasks: {digits: {}}\nfractions: [1.0]\nseeds: [1]\ndeltas: [0.9]\n"
            f"selections: [{{selection: random}}]\nextraction: {{{text}}}\n"
        )
        with pytest.raises(ValueError, match=message):
            load_profile(path)
