"""The paper's path from end to end: weights and images in their published layouts, its protocol, tables and claims."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from test_datasets_paper import data, imagenet, pets  # noqa: F401 - fixtures
from test_models_paper import MEAN, place, resnet18, resnet_reference, to_arrays, vits, wrapped  # noqa: F401

import dr_utils.study as study_module
from dr_utils import run as runner
from dr_utils.claims import judge
from dr_utils.datasets import load_dataset
from dr_utils.features import resize_batch
from dr_utils.models import load_model
from dr_utils.profiles import Profile
from dr_utils.study import Study

NETWORKS = ["resnet18_standard", "resnet18_l2_eps3", "vit_s32_imagenet1k"]
SIDE = 48


@pytest.fixture
def profile():
    pair = NETWORKS[:2]
    return Profile.model_validate(
        {
            "name": "paper_small",
            "networks": NETWORKS,
            "tasks": {
                "pets": {"resolution": SIDE},
                "imagenet1k": {
                    "resolution": SIDE, "storage": "float16", "augmentation": "none", "networks": pair,
                    "eval_sets": ["test", "imagenetv2"], "probe": {"epochs": 2, "batch_size": 8},
                },
            },
            "fractions": [0.1, 0.5, 1.0],
            "seeds": [1, 2, 3],
            "deltas": [0.9],
            "selections": [{"selection": "random"}, {"selection": "pca", "networks": pair, "tasks": ["pets"]}],
            "probe": {"epochs": 3, "batch_size": 8},
            "cka": {"images": 12, "tasks": ["pets"]},
            "extraction": {"batch_size": 8, "augmentation": {"views": 2}, "normalisation": "published"},
        }
    )  # fmt: skip


@pytest.fixture
def weights(data, resnet18, vits):  # noqa: F811
    """A file for each network, as its makers publish them."""
    (data / "weights").mkdir()
    torch.manual_seed(3)
    standard = timm.create_model("resnet18")
    save_file(standard.state_dict(), place(data, "resnet18_standard"))
    torch.save({"model": wrapped(resnet18), "epoch": 89, "optimizer": {"lr": 0.1}}, place(data, "resnet18_l2_eps3"))
    np.savez(place(data, "vit_s32_imagenet1k"), **to_arrays(vits[32]))
    return standard.eval()


def test_published_files_become_tables(profile, weights, pets, imagenet, resnet18, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setenv("DR_PROGRESS", "off")
    study = Study(profile, out=tmp_path / "out", device="cpu")
    tables = study.run()
    probes = tables["probes"]
    assert set(map(tuple, probes[["model", "dataset"]].drop_duplicates().to_numpy())) == set(profile.cells())
    assert set(probes.query("dataset == 'imagenet1k'").eval_set) == {"test", "imagenetv2"}
    assert study.about("vit_s32_imagenet1k", "pets")["spec"]["augmentation"]["kind"] == {"views": 2}
    on_imagenet = study.about("resnet18_standard", "imagenet1k")["spec"]
    assert on_imagenet["augmentation"] == {} and on_imagenet["probe"]["epochs"] == 2
    # Features are those of the networks that the files were written from.
    images = resize_batch(load_dataset("pets", "test").images, SIDE)
    robust = resnet_reference(resnet18, images).numpy()
    found = study.features("resnet18_l2_eps3", "pets", "test").x
    np.testing.assert_allclose(found, robust, rtol=1e-4, atol=1e-4 * np.abs(robust).max())
    std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    with torch.inference_mode():
        expected = weights.forward_head(weights.forward_features((images - MEAN) / std), pre_logits=True).numpy()
    found = study.features("resnet18_standard", "pets", "test").x
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    for vit in (
        study.network("vit_s32_imagenet1k"),
        load_model("vit_s32_imagenet1k@blocks.5", normalisation="published"),
    ):
        assert vit.preprocessing["mean"] == [0.485, 0.456, 0.406], "as the public code"
    assert load_model("vit_s32_imagenet1k@blocks.5").preprocessing["mean"] == [0.5] * 3
    # What the paper's claims are about is there to be judged.
    claims = judge(tables).set_index("claim")
    assert "resnet18_standard/imagenet1k" in claims.measured["I1"]
    assert "largest change of the gap" in claims.measured["I2"] and "stand-in" not in claims.why["I2"]
    assert "not the paper's networks" not in study.note
    # A second study finds all of it, and in the same folder loads nothing, even where the files are gone.
    monkeypatch.setattr(study_module, "compute_cell", refuse)
    monkeypatch.setattr(study_module, "load_dataset", refuse)
    again = Study(profile, out=tmp_path / "again", device="cpu").run()
    np.testing.assert_array_equal(again["probes"].accuracy, probes.accuracy)
    np.testing.assert_array_equal(Study(profile, out=tmp_path / "out", device="cpu").run()["probes"], probes)
    file = place(tmp_path / "data", "resnet18_l2_eps3")
    file.unlink()
    assert not Study(profile, out=tmp_path / "out", device="cpu").missing()
    other = copy.deepcopy(resnet18)
    other.conv1.weight.data.mul_(2)
    torch.save({"model": wrapped(other)}, file)
    missing = Study(profile, out=tmp_path / "out", device="cpu").missing()
    assert missing == [("resnet18_l2_eps3", "pets"), ("resnet18_l2_eps3", "imagenet1k")], "another file has come"


def refuse(*args, **kwargs):
    raise AssertionError("loaded again")


def test_what_is_missing_is_listed_before_any_work(profile, weights, pets, imagenet, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    Study(profile, out=tmp_path / "out", device="cpu").check_files()
    data = tmp_path / "data"  # noqa: F811
    for name in ("vit_s32_imagenet1k", "resnet18_l2_eps3"):
        place(data, name).unlink()
    shutil.rmtree(data / "imagenet" / "val")
    study = Study(profile, out=tmp_path / "out", device="cpu")
    with pytest.raises(ValueError) as refused:
        study.check_files()
    lines = str(refused.value).splitlines()
    assert len(lines) == 5 and f"needs 3 files or folders; {data} lacks:" in lines[0]
    assert lines[1] == "  weights/resnet18_l2_eps3.ckpt, the weights of resnet18_l2_eps3"
    assert lines[2].startswith("  weights/S_32-i1k") and lines[3] == "  imagenet/val, for imagenet1k"
    with pytest.raises(RuntimeError, match="imagenet/val is missing"):  # images first: they are seen through sooner
        study.run()
    with pytest.raises(RuntimeError, match="the weights of resnet18_l2_eps3"):
        Study(profile.model_copy(update={"tasks": {"pets": profile.tasks["pets"]}}), out=tmp_path, device="cpu").run()
    assert not (tmp_path / "home" / "features").exists()


def test_the_papers_profile_asks_for_all_it_lacks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DR_DATA", raising=False)
    assert runner.main(["--profile", "paper", "--only", "04", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("the weights of") == 21 and "no data folder is named" in said
    for path in ("cifar-100-python/train", "oxford-iiit-pet/images", "flowers-102/jpg", "imagenet/train"):
        assert path in said
    assert not (tmp_path / "out").exists()
