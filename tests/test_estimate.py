"""What a profile is said to cost against what a run of it does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from test_study import tiny_network
from test_study_augmentation import EPOCHS, FRACTIONS, SEEDS, profile_of, run
from test_study_augmentation import passes as passes  # noqa: PLC0414 - a fixture

from dr_utils import estimate as estimating
from dr_utils.__main__ import main
from dr_utils.estimate import count, estimate, images_per_second, probe_rate, report
from dr_utils.profiles import Profile, load_profile
from dr_utils.subsets import n_neurons


@pytest.mark.parametrize("augmentation", ["none", {"views": 3}, "fresh"])
def test_counts_are_those_of_a_run(passes, tmp_path, augmentation):
    profile = profile_of(augmentation)
    cost = count(profile, tiny_network("tiny_a"), "digits")
    study, tables = run(profile, tmp_path / "out")
    assert cost["forwards"] == sum(passes)
    assert cost["probes"] == len(tables["probes"])
    stored = [f for f in (tmp_path / "home" / "features").glob("*.safetensors")]
    views = 3 if augmentation == {"views": 3} else 0
    assert len(stored) == 2 + views
    x = sum(study.features("tiny_a", "digits", split).x.nbytes for split in ("train", "test"))
    assert cost["bytes"] == x + views * study.features("tiny_a", "digits", "train").x.nbytes
    # A loop that runs the network for each probe in each epoch: (train images x epochs + test images) x probes.
    assert cost["published_forwards"] == len(tables["probes"]) * (EPOCHS * 90 + 80)


def test_operations_are_those_of_the_products():
    profile = profile_of("none")
    lengths = [max(1, int(160 * f)) for f in FRACTIONS] + [16]  # the last: principal components
    counted = 0
    for k in lengths * len(SEEDS):
        for _ in range(EPOCHS):
            for start in range(0, 90, 32):
                rows = min(32, 90 - start)
                counted += 2 * rows * k * 10  # logits: a multiplication and an addition each
                counted += 2 * rows * k * 10  # and so for the gradient
    assert count(profile, tiny_network("tiny_a"), "digits")["flops"] == pytest.approx(counted)


def test_projection_has_every_cell_and_adds_up(monkeypatch):
    content = load_profile("mini").model_dump()
    names = ["small_resnet", "small_resnet_adversarial", "small_resnet_ff8"]
    content |= {"networks": names, "selections": [{"selection": "random"}], "tasks": {"digits": {"test": 100}}}
    profile = Profile.model_validate(content)
    measured = []
    real = estimating.images_per_second
    monkeypatch.setattr(estimating, "images_per_second", lambda *a: measured.append(a[0].card.name) or real(*a))
    table = estimate(profile, device="cpu")
    assert measured == ["small_resnet", "small_resnet_ff8"], "one architecture is measured once"
    assert list(table.network) == names
    assert (table.extraction_s > 0).all() and (table.probes_s > 0).all()
    np.testing.assert_allclose(table.extraction_s * table.images_per_second, table.forwards)
    text = report(profile, table, "cpu")
    assert "not measured" in text and f"{table.forwards.sum():,}" in text
    rows = {line.split("  ")[0]: line for line in text.splitlines()}
    assert f"{table.probes.sum():,}" in rows["in all"] and f"{table.probes.sum():,}" in rows["digits"]


def test_rates_are_work_over_time(monkeypatch):
    """A clock that says two seconds for a batch, then one for an epoch of probes and three for five."""
    clock = iter([2.0, 1.0, 3.0])
    monkeypatch.setattr(estimating, "seconds", lambda *given: next(clock))
    network, cpu = tiny_network("tiny_a"), torch.device("cpu")
    assert images_per_second(network, 16, cpu, 8, mixed=False) == 8 / 2.0
    lengths = [n_neurons(16, f) for f in (0.005, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0)]
    assert probe_rate(cpu, 8, width=16, n_classes=3) == 4 * 4 * 16 * 3 * 5 * sum(lengths) / (3.0 - 1.0)


def test_command_line_prints_the_projection(tmp_path, capsys):
    content = {
        "networks": ["small_resnet_ff8"], "tasks": {"digits": {"test": 100}}, "fractions": [0.5, 1.0], "seeds": [1],
        "deltas": [0.9], "selections": [{"selection": "random"}], "probe": {"epochs": 2},
    }  # fmt: skip
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(content))
    assert main(["estimate", "--profile", str(path), "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    assert "profile own on cpu: projected" in shown
    # 797 train and 100 test images, once each; 2 probes would each see them in 2 epochs.
    assert " 897 " in shown and f"{2 * (2 * 797 + 100):,}" in shown
    assert main(["estimate", "--profile", "nosuch"]) == 2
    assert "unknown profile 'nosuch'" in capsys.readouterr().err


def test_unknown_tasks_are_refused():
    content = load_profile("mini").model_dump()
    content["tasks"] = {"digitz": {}}
    content["selections"], content["cka"] = [{"selection": "random"}], {}
    with pytest.raises(ValueError, match="unknown task 'digitz'; known, nearest first: digits"):
        estimate(Profile.model_validate(content), device="cpu")
