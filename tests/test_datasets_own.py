"""A user's own pictures: folders, saved Hugging Face datasets, every kind of picture, and what is refused."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import warnings

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dr_utils.datasets import DataWarning, open_images
from dr_utils.datasets.decode import Unreadable, decode
from dr_utils.datasets.task import digest_of
from dr_utils.store import AssetError


def noise(seed, side=8):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def save(folder, name, array, **options):
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(folder / name, **options)


def make_folder(root, counts, first=0):
    """Class folders of different pictures; returns class names by pixels."""
    known = {}
    for name, count in counts.items():
        for i in range(count):
            picture = noise(first + len(known))
            save(root / name, f"{i}.png", picture)
            known[picture.tobytes()] = name
    return known


def as_png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    return file.getvalue()


def check_labels(task, known):
    assert [task.classes[label] for label in task.labels] == [known[image.tobytes()] for image in task.images]
    assert task.labels.dtype == np.int64 and task.digest == digest_of(task.images, task.labels, task.classes)


@pytest.fixture(autouse=True)
def no_unexpected_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        yield


# ---------------------------------------------------------------- folders


@pytest.mark.parametrize("name", ["test", "val", "validation"])
def test_train_and_test_folders(name, tmp_path):
    known = make_folder(tmp_path / "train", {"dog": 5, "cat": 4})
    known |= make_folder(tmp_path / name, {"dog": 2, "cat": 3}, first=100)
    train, test = open_images(tmp_path)
    assert (train.split, test.split, train.name) == ("train", name, tmp_path.name)
    assert train.classes == test.classes == ("cat", "dog")
    assert np.bincount(train.labels).tolist() == [4, 5] and np.bincount(test.labels).tolist() == [3, 2]
    assert train.images.shape == (9, 8, 8, 3) and train.images.dtype == np.uint8
    for task in (train, test):
        check_labels(task, known)
        assert (np.diff(task.labels) < 0).any()  # not sorted by class: some measurements look at the first so many


def test_test_is_preferred_to_val(tmp_path):
    make_folder(tmp_path / "train", {"a": 2, "b": 2})
    make_folder(tmp_path / "val", {"a": 1, "b": 1}, first=50)
    make_folder(tmp_path / "test", {"a": 3, "b": 3}, first=60)
    assert len(open_images(tmp_path)[1]) == 6


def test_one_folder_is_split_stratified_and_seeded(tmp_path):
    known = make_folder(tmp_path, {"train": 20, "bus": 10, "car": 10})  # a class may be called train
    train, test = open_images(str(tmp_path), seed=1)
    assert train.classes == ("bus", "car", "train") and (train.split, test.split) == ("train", "test")
    assert np.bincount(test.labels).tolist() == [3, 3, 6] and len(train) == 28
    assert {image.tobytes() for image in train.images} | {image.tobytes() for image in test.images} == set(known)
    for task in (train, test):
        check_labels(task, known)
    assert open_images(tmp_path, seed=1)[1].digest == test.digest != open_images(tmp_path, seed=2)[1].digest


def test_a_lone_train_folder_is_split(tmp_path):
    make_folder(tmp_path / "train", {"a": 4, "b": 4})
    train, test = open_images(tmp_path)
    assert (len(train), len(test)) == (6, 2)


def test_repeated_pictures_do_not_end_up_on_both_sides(tmp_path):
    known = make_folder(tmp_path, {"a": 6, "b": 6})
    for i in range(12):
        save(tmp_path / "a", f"again{i}.bmp", noise(i % 3))  # the same pixels in other files
    save(tmp_path / "b", "taken.png", noise(5))  # and one of them under another class
    with pytest.warns(DataWarning, match="14 of 25 pictures were left out: repeated ones count once"):
        train, test = open_images(tmp_path)
    pixels = [image.tobytes() for task in (train, test) for image in task.images]
    assert len(pixels) == len(set(pixels)) == 11 and noise(5).tobytes() not in pixels
    check_labels(test, known)


def test_test_pictures_that_are_also_in_train(tmp_path):
    make_folder(tmp_path / "train", {"a": 3, "b": 3})
    make_folder(tmp_path / "test", {"a": 2, "b": 2})
    with pytest.warns(DataWarning, match="4 of 4 test pictures are also in train"):
        open_images(tmp_path)


def test_limit(tmp_path):
    make_folder(tmp_path / "one", {"a": 30, "b": 10})
    train, test = open_images(tmp_path / "one", limit=14)
    assert np.bincount(train.labels).tolist() == [10, 4] and np.bincount(test.labels).tolist() == [5, 1]
    make_folder(tmp_path / "two" / "train", {"a": 30, "b": 10})
    make_folder(tmp_path / "two" / "test", {"a": 3, "b": 3}, first=100)
    train, test = open_images(tmp_path / "two", limit=8)
    assert np.bincount(train.labels).tolist() == [6, 2] and len(test) == 6
    assert all(len(task) == 2 for task in open_images(tmp_path / "one", limit=2))
    with pytest.raises(ValueError, match="limit=1 is less than the 2 classes"):
        open_images(tmp_path / "one", limit=1)


def test_sizes_that_differ_come_as_a_list(tmp_path):
    for i in range(4):
        save(tmp_path / "ab"[i % 2], f"{i}.png", noise(i, side=8 + i))
    train, test = open_images(tmp_path)
    assert isinstance(train.images, list) and len(train) == len(test) == 2
    assert all(image.dtype == np.uint8 and image.ndim == 3 for image in train.images + test.images)


def test_large_pictures_are_reduced(tmp_path, monkeypatch):
    for i in range(4):
        save(tmp_path / "ab"[i % 2], f"{i}.png", np.full((20, 40, 3), 10 * i, np.uint8))
    assert open_images(tmp_path)[0].images.shape[1:] == (20, 40, 3)
    monkeypatch.setattr("dr_utils.datasets.own.MAX_SIDE", 5)
    assert open_images(tmp_path)[0].images.shape[1:] == (5, 10, 3)


def test_hidden_files_and_loose_files_are_passed_over(tmp_path):
    make_folder(tmp_path, {"a": 3, "b": 3, ".cache": 1, "__MACOSX": 1})
    for name in ("a/.DS_Store", "a/Thumbs.db", "b/._0.png", "README.md"):
        (tmp_path / name).write_text("no picture")
    make_folder(tmp_path / "b", {"deeper": 2}, first=50)
    train, test = open_images(tmp_path)
    assert len(train) + len(test) == 8 and train.classes == ("a", "b")


# ---------------------------------------------------------------- pictures


def encoded(image, form="png", **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def test_grey_of_8_and_16_bits():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for form in ("png", "tiff"):
        np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey), form)), np.stack([grey] * 3, axis=2))
        # 16 bits: white is 65535, and 257 times a grey level is that level.
        deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257), form)
        np.testing.assert_array_equal(decode(deep), np.stack([grey] * 3, axis=2))
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey > 127)))[..., 0], np.where(grey > 127, 255, 0))


def test_palettes_and_alpha_over_white():
    colours = noise(0)
    palette = Image.fromarray(colours).quantize(256)
    np.testing.assert_array_equal(decode(encoded(palette)), colours)
    clear = decode(encoded(palette, transparency=palette.getpixel((2, 3))))
    assert (clear[3, 2] == 255).all() and (clear[4] == colours[4]).all()
    alpha = np.concatenate([colours, np.full((8, 8, 1), 0, np.uint8)], axis=2)
    alpha[:4, :, 3] = 255
    alpha[7, :, 3] = 51
    found = decode(encoded(Image.fromarray(alpha)))
    np.testing.assert_array_equal(found[:4], colours[:4])
    assert (found[4:7] == 255).all()
    np.testing.assert_allclose(found[7], 0.2 * colours[7] + 0.8 * 255.0, atol=1)
    grey = Image.merge("LA", [Image.new("L", (4, 4), 0), Image.new("L", (4, 4), 0)])
    assert (decode(encoded(grey)) == 255).all()


def test_cmyk():
    cmyk = Image.fromarray(noise(1)).convert("CMYK")
    np.testing.assert_array_equal(decode(encoded(cmyk, "tiff")), np.asarray(cmyk.convert("RGB")))


def test_the_picture_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    picture = noise(2)[:5]
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(picture), exif=exif)), np.rot90(picture, -1))


@pytest.mark.parametrize(("values", "message"), [
    (np.array([[0, 70000]], np.int32), "pixels from 0 to 70000"),
    (np.ones((2, 2), np.float32), "pixels from 1.0 to 1.0"),
])  # fmt: skip
def test_pixels_whose_white_is_not_known(values, message):
    with pytest.raises(Unreadable, match=message):
        decode(encoded(Image.fromarray(values), "tiff"))


def test_postscript_is_not_run(monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("run"))
    with pytest.raises(Unreadable, match="not a picture"):
        decode(encoded(Image.fromarray(noise(0)), "eps"))


def test_unreadable_files_are_named_skipped_and_counted(tmp_path, monkeypatch):
    known = make_folder(tmp_path, {"a": 8, "b": 8})
    (tmp_path / "a" / "notes.txt").write_text("no picture")
    (tmp_path / "a" / "empty.jpg").touch()
    (tmp_path / "b" / "cut.png").write_bytes(as_png(noise(90, side=64))[:4000])
    save(tmp_path / "b", "bomb.png", noise(91, side=65))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 // 2)  # Pillow refuses twice as many
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        train, test = open_images(tmp_path)
    (message,) = [str(warning.message) for warning in caught if warning.category is DataWarning]
    assert "4 of 20 files cannot be read as pictures and were skipped: " in message and "\n" not in message
    assert (
        f"a{os.sep}empty.jpg (not a picture), a{os.sep}notes.txt (not a picture), b{os.sep}bomb.png (Image size (4225"
        in message
    )
    assert f"b{os.sep}cut.png (" in message and "0x" not in message
    assert len(train) + len(test) == 16
    check_labels(train, known)


def test_a_class_that_cannot_be_read(tmp_path):
    make_folder(tmp_path, {"a": 3})
    for i in range(4):
        save(tmp_path / "b", f"{i}.txt.png", noise(i))
        (tmp_path / "b" / f"{i}.txt.png").write_bytes(b"")
    with (
        pytest.warns(DataWarning, match="4 of 7 files cannot be read as pictures and were skipped: b.0.txt"),
        pytest.raises(ValueError, match=r"no train pictures of 1 of 2 classes \(b\)"),
    ):
        open_images(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_links_lead_out_and_pipes_are_passed_over(tmp_path):
    known = make_folder(tmp_path / "elsewhere", {"a": 4, "b": 4})
    known |= make_folder(tmp_path / "set", {"c": 4}, first=50)
    (tmp_path / "set" / "a").symlink_to(tmp_path / "elsewhere" / "a")
    (tmp_path / "set" / "b").mkdir()
    for file in (tmp_path / "elsewhere" / "b").iterdir():
        (tmp_path / "set" / "b" / file.name).symlink_to(file)
    os.mkfifo(tmp_path / "set" / "c" / "pipe.png")
    train, test = open_images(tmp_path / "set")
    assert len(train) + len(test) == 12
    check_labels(train, known)


def test_the_first_frame_of_an_animation_counts():
    frames = [Image.fromarray(noise(i)) for i in range(3)]
    found = decode(encoded(frames[0], save_all=True, append_images=frames[1:]))
    np.testing.assert_array_equal(found, noise(0))


# ---------------------------------------------------------------- folders that are refused


def no_folder(root):
    root.rmdir()


def loose_files(root):
    make_folder(root, {".": 4})


def one_class(root):
    make_folder(root, {"a": 4})


def empty_classes(root):
    make_folder(root, {"a": 4})
    for name in "bcdefgh":
        (root / name).mkdir()
    (root / "b" / ".DS_Store").touch()


def one_picture(root):
    make_folder(root, {"a": 4, "b": 1})


def repeats_only(root):
    make_folder(root, {"a": 4})
    for i in range(3):
        save(root / "b", f"{i}.png", noise(99))


def unknown_class(root):
    make_folder(root / "train", {"a": 2, "b": 2})
    make_folder(root / "test", {"a": 2, "b": 2, "c": 2}, first=50)


def untested_class(root):
    make_folder(root / "train", {"a": 2, "b": 2})
    make_folder(root / "test", {"a": 2}, first=50)


@pytest.mark.parametrize(("make", "error", "message"), [
    (no_folder, AssetError, "no such folder; give a folder of pictures"),
    (lambda root: None, ValueError, "has no class folders; expected PATH/<class>/"),
    (loose_files, ValueError, "has no class folders; expected PATH/<class>/"),
    (one_class, ValueError, r"has only one class \(a\); a probe needs at least two"),
    (empty_classes, ValueError, "the class folder .*b has no files"),
    (one_picture, ValueError, r"no train pictures of 1 of 2 classes \(b\)"),
    (repeats_only, ValueError, r"no train pictures of 1 of 2 classes \(b\)"),
    (unknown_class, ValueError, r"no train pictures of 1 of 3 classes \(c\)"),
    (untested_class, ValueError, r"no test pictures of 1 of 2 classes \(b\)"),
])  # fmt: skip
def test_folders_that_are_refused(make, error, message, tmp_path):
    root = tmp_path / "pictures"
    root.mkdir()
    make(root)
    warnings.simplefilter("ignore", DataWarning)
    with pytest.raises(error, match=message) as caught:
        open_images(root)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- Hugging Face datasets


IMAGE, LABEL = {"_type": "Image"}, {"names": ["dog", "cat"], "_type": "ClassLabel"}


def write_dataset(folder, pictures, labels, *, label=LABEL, name="label", features=None, shards=2):
    """Write what `datasets` 5.2 wrote for such a dataset, file by file (`Dataset.save_to_disk`)."""
    folder.mkdir(parents=True)
    files = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    image_type = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for i, file in enumerate(files):
        rows = pa.array([{"bytes": p, "path": None} for p in pictures[i::shards]], image_type)
        table = pa.table({"image": rows, name: labels[i::shards]})
        with pa.ipc.new_stream(folder / file, table.schema) as stream:
            stream.write_table(table)
    features = {"image": IMAGE, name: label} if features is None else features
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": features, "license": ""}))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": f} for f in files], "_split": None}))


def write_dict(root, splits):
    root.mkdir(exist_ok=True)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    known = {}
    for number, (name, size) in enumerate(splits.items()):
        pictures = [noise(100 * number + i) for i in range(size)]
        write_dataset(root / name, [as_png(p) for p in pictures], [i % 2 for i in range(size)])
        known |= {p.tobytes(): "dogcat"[3 * (i % 2) :][:3] for i, p in enumerate(pictures)}
    return known


def test_a_dataset_is_split(tmp_path):
    pictures = [noise(i) for i in range(12)]
    write_dataset(tmp_path / "set", [as_png(p) for p in pictures], [i % 2 for i in range(12)])
    train, test = open_images(tmp_path / "set")
    assert train.classes == ("cat", "dog") and (len(train), len(test), test.name) == (8, 4, "set")
    # Shards hold every second picture, which is every second label.
    known = {p.tobytes(): ["dog", "cat"][i % 2] for i, p in enumerate(pictures)}
    for task in (train, test):
        check_labels(task, known)


@pytest.mark.parametrize("test", ["test", "validation"])
def test_a_dataset_dict(test, tmp_path):
    known = write_dict(tmp_path, {"extra": 2, test: 6, "train": 8})
    train, held_out = open_images(tmp_path)
    assert (len(train), len(held_out), held_out.split) == (8, 6, test)
    for task in (train, held_out):
        check_labels(task, known)


@pytest.mark.parametrize(("label", "labels", "classes"), [
    ({"dtype": "string", "_type": "Value"}, ["b", "a"] * 4, ("a", "b")),
    ({"dtype": "int64", "_type": "Value"}, [7, 3] * 4, ("3", "7")),
])  # fmt: skip
def test_labels_without_class_names(label, labels, classes, tmp_path):
    write_dataset(tmp_path / "set", [as_png(noise(i)) for i in range(8)], labels, label=label)
    assert open_images(tmp_path / "set")[0].classes == classes


def test_rows_that_cannot_be_read_are_named(tmp_path):
    pictures = [as_png(noise(i)) for i in range(12)]
    write_dataset(tmp_path / "set", [*pictures[:5], b"nothing", *pictures[6:]], [0] * 6 + [1] * 6, shards=1)
    with pytest.warns(DataWarning, match=r"1 of 12 files cannot be read .* skipped: row 5 \(not a picture\)"):
        assert sum(map(len, open_images(tmp_path / "set"))) == 11


@pytest.mark.parametrize(("features", "message"), [
    ({"image": {"_type": "Array3D", "dtype": "uint8"}, "label": LABEL}, "'image': 'Array3D'.*expected one Image"),
    ({"image": IMAGE, "kind": {"dtype": "float32", "_type": "Value"}}, "'kind': 'Value'.*or a column called label"),
    ({"image": IMAGE, "fine": LABEL, "coarse": LABEL}, "'coarse': 'ClassLabel'.*remove_columns"),
    ({"image": [IMAGE], "label": LABEL}, "'image': False.*expected one Image"),
])  # fmt: skip
def test_columns_of_other_kinds(features, message, tmp_path):
    write_dataset(tmp_path / "set", [as_png(noise(i)) for i in range(4)], [0, 0, 1, 1], features=features)
    with pytest.raises(ValueError, match=message) as error:
        open_images(tmp_path / "set")
    assert "\n" not in str(error.value)


def test_rows_without_a_label(tmp_path):
    write_dataset(tmp_path / "set", [as_png(noise(i)) for i in range(6)], [0, 1, -1, 0, 1, None])
    with pytest.raises(ValueError, match="rows of the dataset in .* have no label; remove them"):
        open_images(tmp_path / "set")


# ---------------------------------------------------------------- two notebooks on one cache


SCRIPT = """
import sys, time
import torch
from pathlib import Path
from dr_utils.datasets.own import open_images
from dr_utils.features import extract
from dr_utils.models.opening import open_model

torch.manual_seed(0)
module = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 5), torch.nn.ReLU())
network, (task, _) = open_model(module, side=64), open_images(sys.argv[1])
Path(sys.argv[2]).touch()
while not Path(sys.argv[3]).exists():
    time.sleep(0.01)
found = extract(network, task, resolution=64, device="cpu", batch_size=2)
print(found.key, found.x.tobytes().hex()[:64])
"""


def test_two_notebooks_on_the_same_cache_at_once(tmp_path):
    make_folder(tmp_path / "pictures", {"a": 10, "b": 10})
    environment = os.environ | {"DR_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    ready, go = [tmp_path / "ready0", tmp_path / "ready1"], tmp_path / "go"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "pictures"), str(mark), str(go)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for mark in ready
    ]
    while not all(mark.exists() for mark in ready) and all(run.poll() is None for run in runs):
        time.sleep(0.05)
    go.touch()
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert outputs[0] == outputs[1] and len(outputs[0].split()) == 2
    # One file, and nothing half-written beside it.
    assert len(list((tmp_path / "home" / "features").iterdir())) == 1
