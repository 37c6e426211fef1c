"""Image tasks: the registry, subsets, digests and the store."""

import logging
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr_utils import datasets, store
from dr_utils.datasets import sources
from dr_utils.datasets.corruptions import KINDS, corrupt
from dr_utils.datasets.task import (
    ImageTask,
    TaskCard,
    class_counts,
    digest_of,
    distinct,
    draw,
    hash_images,
    hash_labels,
    split_off,
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty cache folder."""
    monkeypatch.setenv("DR_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def pictures(n, seed=0, shape=(32, 32, 3)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), dtype=np.uint8)


def pins_of(splits):
    return {name: (hash_images(images), hash_labels(labels)) for name, (images, labels) in splits.items()}


@pytest.fixture
def card_of(monkeypatch):
    """Make the card of a task "cifar10" that decodes to the given splits, and the list of its decodings."""

    def make(splits, **options):
        calls = []
        monkeypatch.setitem(sources.READERS, "cifar10", lambda card: calls.append(card) or splits)
        counts = {name: len(labels) for name, (_, labels) in splits.items()}
        counts["corrupted"] = counts["test"]
        about = ("cifar10", "Tiny", tuple("abc"), counts, "32x32", "here", "MIT", "")
        return TaskCard(*about, **{"version": 1, "pinned": pins_of(splits), **options}), calls

    return make


@pytest.fixture
def tiny(home, monkeypatch, card_of):
    """The registry with a small stand-in for cifar10: 60 train and 30 test images in 3 classes."""
    splits = {
        "train": (pictures(60, 1), np.arange(60) % 3),
        "test": (pictures(30, 2), np.arange(30) % 3),
    }
    card, calls = card_of(splits)
    monkeypatch.setitem(datasets.CARDS, "cifar10", card)
    return card, calls, splits


# ---------------------------------------------------------------- registry


def test_cards_are_complete():
    cards = datasets.available()
    fetched, paper = ["cifar10", "groceries", "fashion_mnist", "digits"], ["cifar100", "pets", "flowers", "imagenet1k"]
    assert list(cards) == fetched + paper
    assert [len(cards[name].classes) for name in fetched] == [10, 14, 10, 10]
    for name, card in cards.items():
        assert card.name == name and card.title and card.source and card.licence and card.note
        assert len(set(card.classes)) == len(card.classes)
        assert {"train", "test"} <= set(card.splits)
        if name in fetched:
            assert set(card.pinned) == set(card.splits) - {"corrupted"}
    assert "not the official split" in cards["fashion_mnist"].note.lower()


def test_digits_need_no_download(home):
    train, test = (datasets.load_dataset("digits", split) for split in ("train", "test"))
    assert isinstance(train, ImageTask)
    assert (len(train), len(test)) == (797, 1000)
    for task in (train, test):
        assert task.images.dtype == np.uint8 and task.images.shape[1:] == (8, 8, 3)
        assert task.labels.dtype == np.int64 and len(task.labels) == len(task)
        assert task.images.max() == 255 and (task.images == task.images[..., :1]).all()
        share = np.bincount(task.labels) / len(task)
        assert share.min() > 0.095 and share.max() < 0.105
    assert not {x.tobytes() for x in train.images} & {x.tobytes() for x in test.images}


def test_digits_are_those_of_scikit_learn(home):
    from sklearn.datasets import load_digits

    pixels, targets = load_digits(return_X_y=True)
    known = {tuple(row): y for row, y in zip(np.rint(pixels * 255 / 16).astype(int), targets, strict=True)}
    task = datasets.load_dataset("digits", "train", size=100)
    for image, label in zip(task.images, task.labels, strict=True):
        assert known[tuple(image[..., 0].ravel())] == label


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("cifar11", "train"), r"unknown task 'cifar11'; known, nearest first: cifar10, .*digits"),
        (("digits", "corrupted"), r"unknown split of digits 'corrupted'; known, nearest first: t.*"),
        (("groceries", "valid"), r"unknown split of groceries 'valid'; known, nearest first: validation, "),
        (("digits", "train", 9), r"size must be 10 .one a class. to 797, .*; got 9"),
        (("digits", "train", 798), r"size must be 10 .* to 797, or None for all train images; got 798"),
    ],
)
def test_bad_requests_are_refused_before_anything_is_loaded(arguments, message, monkeypatch):
    monkeypatch.setattr(datasets, "decoded_split", lambda *_: pytest.fail("loaded"))
    options = dict(zip(("size", "seed"), arguments[2:], strict=False))
    for function in (datasets.load_dataset, datasets.identity):
        with pytest.raises(ValueError, match=message) as caught:
            function(*arguments[:2], **options)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- subsets


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(any), st.data())
def test_class_counts(available, data):
    available = np.array(available)
    present = int((available > 0).sum())
    size = data.draw(st.integers(present, int(available.sum())))
    counts = class_counts(available, size)
    assert counts.sum() == size
    assert (counts <= available).all() and ((counts > 0) == (available > 0)).all()
    quota = [Fraction(int(size * a), int(available.sum())) for a in available]
    if all(q >= 1 or a == 0 for q, a in zip(quota, available, strict=True)):
        # Largest remainder as it is done by hand, ties to the first class.
        whole = [q.numerator // q.denominator for q in quota]
        order = sorted(range(len(quota)), key=lambda c: (whole[c] - quota[c], c))
        for c in order[: size - sum(whole)]:
            whole[c] += 1
        remainders = [q - q.numerator // q.denominator for q in quota]
        if len(set(remainders)) == len(remainders):
            assert counts.tolist() == whole
        assert all(abs(c - q) <= 1 for c, q in zip(counts.tolist(), quota, strict=True))


def test_draw_is_stratified_seeded_and_shuffled():
    labels = np.repeat([0, 1, 2], [700, 200, 100])
    index = draw(labels, 50, 3, "train")
    assert len(set(index.tolist())) == 50
    assert np.bincount(labels[index]).tolist() == [35, 10, 5]
    np.testing.assert_array_equal(index, draw(labels, 50, 3, "train"))
    assert set(index) != set(draw(labels, 50, 4, "train")) and set(index) != set(draw(labels, 50, 3, "test"))
    assert (np.diff(labels[index]) < 0).any()
    assert set(index) <= set(draw(labels, 100, 3, "train"))
    assert sorted(draw(labels, 1000, 3, "train")) == list(range(1000))


def test_subset_belongs_to_its_split(tiny):
    _, _, splits = tiny
    whole = datasets.load_dataset("cifar10", "train")
    np.testing.assert_array_equal(whole.images, splits["train"][0])
    np.testing.assert_array_equal(whole.labels, splits["train"][1])
    part = datasets.load_dataset("cifar10", "train", size=20, seed=1)
    index = draw(splits["train"][1], 20, 1, "train")
    np.testing.assert_array_equal(part.images, splits["train"][0][index])
    np.testing.assert_array_equal(part.labels, splits["train"][1][index])


def test_corrupted_pairs_with_test(tiny):
    clean = datasets.load_dataset("cifar10", "test", size=18, seed=4)
    bad = datasets.load_dataset("cifar10", "corrupted", size=18, seed=4)
    np.testing.assert_array_equal(clean.labels, bad.labels)
    assert clean.digest != bad.digest
    assert bad.digest == datasets.load_dataset("cifar10", "corrupted", size=18, seed=4).digest
    for i, image in enumerate(clean.images):
        expected = corrupt(image, KINDS[i % len(KINDS)], np.random.default_rng([4, i]))
        np.testing.assert_array_equal(bad.images[i], expected)


def test_digest_covers_pixels_labels_and_classes():
    images, labels, classes = pictures(4), np.array([0, 1, 2, 0]), ("a", "b", "c")
    first = digest_of(images, labels, classes)
    assert first == digest_of(list(images.copy()), labels.astype(np.int32), list(classes))
    touched = images.copy()
    touched[3, 31, 31, 2] ^= 1
    others = {
        digest_of(touched, labels, classes),
        digest_of(images, labels[::-1], classes),
        digest_of(images, labels, ("a", "b", "d")),
        digest_of(images, labels, ("ab", "", "c")),
        digest_of(images.reshape(4, 16, 64, 3), labels, classes),
        digest_of(images[::-1], labels, classes),
    }
    assert len(others) == 6 and first not in others


def test_identity_is_the_digest(tiny, monkeypatch, card_of):
    card, calls, _ = tiny
    splits, sizes = ("train", "test", "corrupted"), (None, 9, 12)
    asked = [(split, size, seed) for split in splits for size in sizes for seed in (0, 1)]
    found = {key: datasets.identity("cifar10", key[0], size=key[1], seed=key[2]) for key in asked}
    assert not calls and not store.cache_dir().joinpath("datasets").exists()  # nothing is decoded
    # Without a draw the seed decides nothing, but in the noise of corruptions.
    assert len(set(found.values())) == len(asked) - 2
    assert {key: datasets.load_dataset("cifar10", key[0], size=key[1], seed=key[2]).digest for key in asked} == found
    for other in (card_of(tiny[2], version=2)[0], card_of(tiny[2], pinned={"train": ("0", "1")})[0]):
        monkeypatch.setitem(datasets.CARDS, "cifar10", other)
        assert datasets.identity("cifar10", "train") != found["train", None, 0]


def test_digits_are_drawn_as_ever(home):
    """Tables are compared from release to release: the same size and seed give the same images in the same order."""
    task = datasets.load_dataset("digits", "test", size=100, seed=1)
    assert (hash_images(task.images)[:12], hash_labels(task.labels)[:12]) == ("2f66646855bf", "752dcd0f10fe")
    assert task.digest == "63a5ff73c623dad0453b65fef6bd4df5"


@pytest.mark.parametrize("statement", [
    "load_dataset('digits', 'train', size=20)", "available()['imagenet1k'].classes", "identity('cifar10', 'corrupted')",
])  # fmt: skip
def test_no_torch_is_imported(home, statement):
    code = f"import sys; from dr_utils.datasets import *; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_pictures_without_a_split():
    images = pictures(60, shape=(4, 4, 3))
    labels = np.arange(60) % 3
    images[6], images[9] = images[3], images[3]  # repeats of one class
    images[7] = images[5]  # the same picture under two classes

    def split(images, labels, salt):
        return split_off(distinct(images, labels, salt), labels, 12)

    train, test = split(images, labels, "salt")
    assert len(test) == 12 and len(train) == 60 - 2 - 2 - 12
    shown = [images[i].tobytes() for i in (*train, *test)]
    assert len(set(shown)) == len(shown) and images[5].tobytes() not in shown
    assert np.bincount(labels[test]).tolist() == [4, 4, 4]
    # The order in which the source lists its pictures does not matter.
    again = images[::-1][split(images[::-1], labels[::-1], "salt")[1]]
    np.testing.assert_array_equal(images[test], again)
    assert not np.array_equal(test, split(images, labels, "other")[1])


# ---------------------------------------------------------------- the store


def test_decoded_once(tiny):
    card, calls, splits = tiny
    for _ in range(2):
        for name in ("train", "test"):
            images, labels = sources.decoded_split(card, name)
            np.testing.assert_array_equal(images, splits[name][0])
            assert labels.dtype == np.int64
    assert len(calls) == 1


def test_varying_sizes_are_stored(home, card_of):
    images = [pictures(1, i, (5 + i, 9 - i, 3))[0] for i in range(6)]
    card, calls = card_of({name: (images, np.arange(6) % 3) for name in ("train", "test")})
    sources.decoded_split(card, "train")
    found, _ = sources.decoded_split(card, "train")
    assert len(calls) == 1 and isinstance(found, list)
    for a, b in zip(found, images, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("damage", ["flip", "truncate", "text"])
def test_damaged_store_is_made_again(tiny, damage, caplog):
    card, calls, splits = tiny
    sources.decoded_split(card, "train")
    path = max((store.cache_dir() / "datasets").glob("*.safetensors"), key=lambda path: path.stat().st_size)  # train
    content = path.read_bytes()
    flipped = content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:]
    path.write_bytes({"flip": flipped, "truncate": content[:-1000], "text": b"no tensors"}[damage])
    with caplog.at_level(logging.WARNING):
        again, _ = sources.decoded_split(card, "train")
    np.testing.assert_array_equal(again, splits["train"][0])
    assert len(calls) == 2 and "it is made again" in caplog.text
    sources.decoded_split(card, "train")
    assert len(calls) == 2


def test_another_version_decodes_again(tiny, card_of):
    card, _, splits = tiny
    sources.decoded_split(card, "train")
    new, calls = card_of(splits, version=2)
    sources.decoded_split(new, "train")
    sources.decoded_split(new, "train")
    assert len(calls) == 1


@pytest.mark.parametrize("part", [0, 1])
def test_wrong_content_names_both_hashes(home, part, card_of):
    splits = {name: (pictures(6), np.arange(6) % 3) for name in ("train", "test")}
    good, wrong = pins_of(splits), "0" * 64
    pins = list(good["train"])
    pins[part] = wrong
    card, _ = card_of(splits, pinned={**good, "train": tuple(pins)})
    with pytest.raises(store.AssetError, match=f"{good['train'][part]}.*expected .*{wrong}"):
        sources.decoded_split(card, "train")
    # Through JPEG, another libjpeg may round pixels differently: said, not refused. Labels stay strict.
    card, calls = card_of(splits, pinned={**good, "train": tuple(pins)}, lossy=True)
    if part == 1:
        with pytest.raises(store.AssetError, match="train images and labels of cifar10"):
            sources.decoded_split(card, "train")
        return
    for _ in range(2):
        np.testing.assert_array_equal(sources.decoded_split(card, "train")[0], splits["train"][0])
    assert len(calls) == 1
