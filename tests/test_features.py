"""Features against a plain loop, the store, memory that runs out, and bad input."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from dr_utils import store
from dr_utils.augmentation import Augmentation
from dr_utils.datasets import ImageTask
from dr_utils.device import pick_device
from dr_utils.features import extract, features_identity, resize_batch, stored
from dr_utils.models import Network, NetworkCard


class Body(torch.nn.Module):
    """Convolution and pooling; remembers its batches, and fails like a full machine above `limit` images."""

    def __init__(self, limit=None, text="not enough memory: you tried to allocate"):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 6, 3, stride=2)
        self.limit, self.text, self.batches = limit, text, []

    def forward(self, x):
        if self.limit and len(x) > self.limit:
            raise RuntimeError(self.text)
        self.batches.append(len(x))
        return torch.relu(self.conv(x)).mean((2, 3))


def features_key(*given, **options) -> str:
    return store.key_of(features_identity(*given, **options))


def make_network(body=None):
    card = NetworkCard(
        name="body", title="Body", width=6, family="tiny", training="standard", upstream="none", kind="small",
        source="tests", licence="MIT", top1=None,
    )  # fmt: skip
    return Network(card, lambda: body or Body())


def make_task(n=23, side=20, as_list=False, digest="digest"):
    images = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    labels = np.arange(n, dtype=np.int64) % 3
    return ImageTask("noise", "test", list(images) if as_list else images, labels, ("a", "b", "c"), digest)


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("DR_HOME", str(tmp_path))
    monkeypatch.setenv("DR_PROGRESS", "off")


def test_features_equal_one_image_at_a_time():
    network, task = make_network(), make_task()
    found = extract(network, task, resolution=32, device="cpu", batch_size=5)
    with torch.inference_mode():
        one_by_one = np.concatenate([network(resize_batch(task.images[i : i + 1], 32)).numpy() for i in range(23)])
    np.testing.assert_allclose(found.x, one_by_one, atol=1e-6)
    np.testing.assert_array_equal(found.y, task.labels)
    assert found.x.dtype == np.float32 and network.card.width == found.x.shape[1]


def test_lists_of_pictures_of_any_size_work_and_equal_arrays():
    array = extract(make_network(), make_task(), resolution=16, device="cpu", store=False)
    listed = extract(make_network(), make_task(as_list=True), resolution=16, device="cpu", store=False)
    np.testing.assert_allclose(array.x, listed.x, atol=1e-6)
    mixed = [np.zeros((9, 30, 3), np.uint8), np.full((40, 12, 3), 255, np.uint8)]
    assert resize_batch(mixed, 8).shape == (2, 3, 8, 8)
    np.testing.assert_allclose(resize_batch(mixed, 8)[1].numpy(), 1.0, atol=1e-6)


def test_resize_agrees_with_pillow():
    picture = np.random.default_rng(1).integers(0, 256, (37, 53, 3), dtype=np.uint8)
    ours = resize_batch([picture], 16)[0].permute(1, 2, 0).numpy() * 255
    pillow = np.asarray(Image.fromarray(picture).resize((16, 16), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(ours - pillow).max() < 1.0  # Pillow rounds to whole grey levels


def test_second_extraction_runs_no_forward_pass():
    body = Body()
    first = extract(make_network(body), make_task(), resolution=16, device="cpu")
    passes = len(body.batches)
    second = extract(make_network(body), make_task(), resolution=16, device="cpu")
    assert len(body.batches) == passes and second.key == first.key
    np.testing.assert_array_equal(first.x, second.x)
    assert second.manifest["versions"]["torch"] == torch.__version__


def test_other_images_weights_or_resolution_are_other_features():
    network, task = make_network(), make_task()
    keys = {extract(network, task, resolution=r, device="cpu").key for r in (16, 20)}
    keys.add(extract(network, make_task(digest="other"), resolution=16, device="cpu").key)
    with torch.no_grad():
        changed = Body()
        changed.conv.bias += 1
    keys.add(extract(make_network(changed), task, resolution=16, device="cpu").key)
    assert len(keys) == 4


def test_the_key_is_known_without_images_and_weights():
    network, task = make_network(), make_task()
    options = {"resolution": 16, "device": "cpu", "dtype": "float16", "augmentation": Augmentation("paper", view=2)}
    found = extract(network, task, **options)
    assert features_key(network, task.digest, **options) == found.key and stored(found.key).key == found.key
    keys = [features_key(network, task.digest, **{**options, **other}) for other in (
        {"resolution": 17}, {"precision": "mixed"}, {"dtype": "float32"}, {"augmentation": None},
        {"augmentation": Augmentation("paper", view=3)}, {"augmentation": Augmentation("paper", view=2, seed=1)},
    )]  # fmt: skip
    assert len({*keys, found.key}) == 7


def test_default_resolution_is_the_networks_own_side():
    card = make_network().card
    own = Network(dataclasses.replace(card, side=20), Body)
    options = {"device": "cpu", "dtype": "float16"}
    assert extract(own, make_task(), **options).key == features_key(own, "digest", resolution=20, **options)
    assert features_key(make_network(), "digest") == features_key(make_network(), "digest", resolution=224)


def test_auto_is_what_the_machine_has(monkeypatch):
    task = {"digest": "digest", "resolution": 16}
    for gpu in (False, True):
        monkeypatch.setattr("dr_utils.features.has_cuda", lambda gpu=gpu: gpu)
        auto = features_key(make_network(), **task)
        assert auto == features_key(make_network(), **task, device="cuda" if gpu else "cpu")
        assert auto == features_key(make_network(), **task, precision="mixed" if gpu else "float32")


READER = """
import sys
import numpy as np
from types import SimpleNamespace as Some
from dr_utils import device
device.GPU_FILES = ()
from dr_utils import features
found = features.extract(
    Some(identity="id", width=3, card=Some(name="a", side=None)),
    Some(digest="digest", labels=np.arange(4), name="b", split="test", images=None),
)
assert found.x.shape == (4, 3) and found.y.tolist() == [0, 1, 2, 3] and found.manifest == {"note": 1}
assert "torch" not in sys.modules
"""


@pytest.mark.skipif(pick_device().type == "cuda", reason="a machine with a GPU asks torch about it")
def test_stored_features_are_read_without_torch(monkeypatch):
    key = features_key(SimpleNamespace(identity="id", card=SimpleNamespace(side=None)), "digest")
    store.write("features", key, about={"note": 1}, arrays={"x": np.ones((4, 3), np.float32), "y": np.arange(4)})
    subprocess.run([sys.executable, "-c", READER], check=True)


def test_a_damaged_store_is_computed_again():
    first = extract(make_network(), make_task(), resolution=16, device="cpu")
    (path,) = (store.cache_dir() / "features").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-40])
    body = Body()
    np.testing.assert_array_equal(extract(make_network(body), make_task(), resolution=16, device="cpu").x, first.x)
    assert body.batches
    content = bytearray(path.read_bytes())
    content[-5] ^= 0xFF
    path.write_bytes(content)
    body.batches.clear()
    np.testing.assert_array_equal(extract(make_network(body), make_task(), resolution=16, device="cpu").x, first.x)
    assert body.batches


def test_large_features_are_mapped_and_are_the_same_file(monkeypatch):
    small = extract(make_network(), make_task(), resolution=16, device="cpu")
    (path,) = (store.cache_dir() / "features").glob("*.safetensors")
    in_memory = load_file(path)
    path.unlink()
    monkeypatch.setattr(store, "MAPPED_BYTES", 1)
    for _ in range(2):  # computed, then read
        mapped = extract(make_network(), make_task(), resolution=16, device="cpu")
        np.testing.assert_array_equal(mapped.x, small.x)
        assert mapped.manifest == small.manifest and mapped.key == small.key
    assert isinstance(extract(make_network(), make_task(n=9, digest="other"), resolution=16, device="cpu").x, np.memmap)
    for name, array in load_file(path).items():
        np.testing.assert_array_equal(array, in_memory[name])
        assert array.dtype == in_memory[name].dtype


def test_large_features_that_fail_leave_nothing_and_damage_is_seen(monkeypatch):
    monkeypatch.setattr(store, "MAPPED_BYTES", 1)
    with pytest.raises(RuntimeError, match="shape mismatch"):
        extract(make_network(Body(limit=3, text="shape mismatch")), make_task(), resolution=16, device="cpu")
    assert not list((store.cache_dir() / "features").iterdir())
    first = extract(make_network(), make_task(), resolution=16, device="cpu", dtype="float16")
    expected = np.array(first.x)
    (path,) = (store.cache_dir() / "features").glob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-500] ^= 0xFF
    del first
    path.unlink()
    path.write_bytes(content)
    body = Body()
    again = extract(make_network(body), make_task(), resolution=16, device="cpu", dtype="float16")
    assert body.batches and again.x.dtype == np.float16
    np.testing.assert_array_equal(again.x, expected)
    monkeypatch.setattr(store.os, "posix_fallocate", full_disk, raising=False)
    with pytest.raises(store.CacheError, match="No space left|full"):
        extract(make_network(), make_task(digest="other"), resolution=16, device="cpu")


def full_disk(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_batches_shrink_until_memory_suffices():
    body = Body(limit=3)
    found = extract(make_network(body), make_task(), resolution=16, device="cpu", batch_size=16)
    assert max(body.batches) <= 2 and sum(body.batches) == 23  # 16, 8, 4 fail
    np.testing.assert_allclose(found.x, extract(make_network(), make_task(digest="x"), resolution=16).x, atol=1e-6)


def test_other_failures_are_not_taken_for_full_memory():
    with pytest.raises(RuntimeError, match="shape mismatch"):
        extract(make_network(Body(limit=3, text="shape mismatch")), make_task(), resolution=16, device="cpu")


def test_mixed_precision_is_close_and_kept_apart():
    exact = extract(make_network(), make_task(), resolution=16, device="cpu", precision="float32")
    mixed = extract(make_network(), make_task(), resolution=16, device="cpu", precision="mixed")
    assert mixed.key != exact.key and mixed.x.dtype == np.float32
    np.testing.assert_allclose(mixed.x, exact.x, rtol=0.05, atol=0.01)


def test_bad_input_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="precision must be"):
        extract(make_network(), make_task(), resolution=16, precision="half")
    with pytest.raises(ValueError, match="resolution must be at least 1; got 0"):
        extract(make_network(), make_task(), resolution=0)
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        extract(make_network(), make_task(), batch_size=0)
    with pytest.raises(ValueError, match="dtype must be"):
        extract(make_network(), make_task(), dtype="float64")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="sees no CUDA device"):
        pick_device("cuda")
    broken = Body()
    with torch.no_grad():
        broken.conv.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="features of body on noise test hold .* NaN"):
        extract(make_network(broken), make_task(), resolution=16, device="cpu")
    assert not list(store.cache_dir().glob("features/*"))


@pytest.mark.gpu
def test_cuda_mixed_precision_is_close_to_float32_on_the_cpu():
    cpu = extract(make_network(), make_task(), resolution=16, device="cpu")
    cuda = extract(make_network(), make_task(), resolution=16, device="cuda")
    np.testing.assert_allclose(cuda.x, cpu.x, rtol=0.02, atol=2e-3)
