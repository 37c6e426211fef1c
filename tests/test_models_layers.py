"""Middle layers by name, NAME@LAYER, against hooks on the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dr_utils.claims import judge
from dr_utils.claims.view import View
from dr_utils.models import check_network, load_model, split_layer
from dr_utils.plots import look, looks, titled
from dr_utils.profiles import Profile
from dr_utils.study import Study


@pytest.mark.parametrize(
    ("layer", "pool"), [("3", ""), ("4", ""), ("5", ""), ("4.conv1", ""), ("5", "#flat"), ("3", "#flat")]
)
def test_features_are_the_layers_output(layer, pool):
    network = load_model("small_resnet")
    images = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    network.module.body.module.get_submodule(layer).register_forward_hook(lambda _, given, output: seen.append(output))
    with torch.inference_mode():
        network(images)
        found = load_model(f"small_resnet@{layer}{pool}")
        features = found(images)
    expected = seen[0].flatten(1) if pool else seen[0].mean((2, 3))
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)
    assert features.shape[1] == found.card.width and found.card.training == "layer"
    assert found.card.side == 32 and ("unpooled" in found.card.title) == bool(pool)


def test_layers_of_one_network_have_hashes_of_their_own():
    names = ("small_resnet", "small_resnet@3", "small_resnet@4", "small_resnet@4#flat")
    assert len({load_model(name).identity for name in names}) == len(names)
    assert split_layer("a.b@c.d#flat") == ("a.b", "c.d", "flat") and split_layer("a") == ("a", "", "mean")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("small_resnt@3", "unknown network 'small_resnt'; known, nearest first: small_resnet"),
        ("small_resnet@33", "unknown layer of small_resnet '33'; known, nearest first: 3"),
        ("small_resnet@3#max", "unknown pool 'max'; known"),
    ],
)
def test_slips_are_told_before_work(name, message):
    with pytest.raises(ValueError, match=message):
        check_network(name)


def test_a_study_reads_them_and_claims_leave_them_out(tmp_path, monkeypatch):
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DR_PROGRESS", "off")
    profile = Profile.model_validate(
        {
            "name": "layers", "networks": ["small_resnet@3", "small_resnet", "small_resnet@4"],
            "tasks": {"digits": {"train": 100, "test": 80, "resolution": 32}}, "fractions": [0.2, 1.0],
            "seeds": [1, 2, 3], "deltas": [0.9], "selections": [{"selection": "random"}],
            "probe": {"epochs": 3}, "cka": {"images": 80},
        }
    )  # fmt: skip
    study = Study(profile, out=tmp_path, device="cpu")
    tables = study.run()
    assert set(tables["probes"].model) == set(profile.networks)
    view = View(tables)
    assert view.layers() == ["small_resnet"] and view.models("standard") == ["small_resnet"]
    rows = titled(tables["probes"], tables)
    assert len(set(look("network", rows, tables)["palette"].values())) == 3
    alone = look("network", rows[rows["model"].eq("small_resnet")], tables)
    assert alone["palette"] == looks(alone["palette"])["palette"] and len(alone["palette"]) == 1
    spoken_of = judge(tables).set_index("claim").measured.str.contains("@")
    assert list(spoken_of.index[spoken_of]) == ["N2"], "the claim about them alone"
    assert not study.missing(), "what is done is known without loading it"
