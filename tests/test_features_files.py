"""Ready-made features from every kind of file, their splits, and what is refused."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from dr_utils.features_files import open_features
from dr_utils.store import AssetError

N, D = 60, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)).astype(np.float32)
Y = np.arange(N) % 3
NAMES = np.array(["dog", "cat", "ant"])
X_TEST, Y_TEST = RNG.normal(size=(9, D)).astype(np.float32), np.arange(9) % 3


def rows(*features):
    """Rows and their labels, in an order of their own: what a split must not change."""
    x, y = np.concatenate([f.x for f in features]), np.concatenate([f.y for f in features])
    order = np.lexsort(x.T)
    return x[order], y[order]


# ---------------------------------------------------------------- files


def write_npy(folder, x, y):
    np.save(folder / "x.npy", x)
    np.save(folder / "y.npy", y)
    return folder / "x.npy", folder / "y.npy"


def write_npz(folder, x, y):
    np.savez(folder / "f.npz", Features=x, Labels=y, other=np.zeros(3))
    return (folder / "f.npz",)


def write_safetensors(folder, x, y):
    save_file({"x": torch.from_numpy(x), "y": torch.from_numpy(y)}, folder / "f.safetensors")
    return (folder / "f.safetensors",)


def write_parquet(folder, x, y):
    frame = pd.DataFrame(
        x, columns=[f"f{i}" for i in range(x.shape[1])], index=pd.Index(np.arange(len(x)) + 7, name="id")
    )
    frame.assign(label=y, note="text").to_parquet(folder / "f.parquet")
    return (folder / "f.parquet",)


def write_lists(folder, x, y):
    column = pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), x.shape[1])
    pq.write_table(pa.table({"embeddings": column, "target": y, "size": y}), folder / "f.parquet")
    return (folder / "f.parquet",)


FORMS = [write_npy, write_npz, write_safetensors, write_parquet, write_lists]


@pytest.mark.parametrize("write", FORMS)
def test_every_format_gives_the_same_features(write, tmp_path):
    train, test, classes = open_features(*(str(path) for path in write(tmp_path, X, Y)), seed=1)
    reference_train, reference_test, _ = open_features(X, Y, seed=1)
    for found, expected in ((train, reference_train), (test, reference_test)):
        np.testing.assert_array_equal(found.x, expected.x)
        np.testing.assert_array_equal(found.y, expected.y)
        assert found.key == expected.key and found.x.dtype == np.float32 and found.y.dtype == np.int64
    assert classes == ("0", "1", "2") and train.manifest["split"] == "train"
    assert train.manifest["source"] == write(tmp_path, X, Y)[0].name and train.key != test.key


@pytest.mark.parametrize("write", [write_npy, write_npz, write_parquet, write_lists])
def test_names_become_classes_sorted(write, tmp_path):
    train, test, classes = open_features(*write(tmp_path, X, NAMES[Y]))
    assert classes == ("ant", "cat", "dog")
    known = {row.tobytes(): name for row, name in zip(X, NAMES[Y], strict=True)}
    for part in (train, test):
        assert [known[row.tobytes()] for row in part.x] == [classes[label] for label in part.y]


def test_numbers_are_sorted_as_numbers():
    _, test, classes = open_features(X, np.array([10, 2, 100])[Y])
    assert classes == ("2", "10", "100") and set(test.y) == {0, 1, 2}


@pytest.mark.parametrize(("given", "labels"), [
    (torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y)),
    (pd.DataFrame(X), pd.Series(NAMES[Y])),
    (X.astype(np.float16), pd.Series(NAMES[Y]).astype("category")),
    (X.tolist(), NAMES[Y].tolist()),
])  # fmt: skip
def test_what_is_in_memory(given, labels):
    train, test, classes = open_features(given, labels)
    np.testing.assert_allclose(rows(train, test)[0], rows(*open_features(X, Y)[:2])[0], atol=2e-3)
    assert len(classes) == 3


def test_bfloat16(tmp_path):
    save_file({"x": torch.from_numpy(X).bfloat16(), "y": torch.from_numpy(Y)}, tmp_path / "f.safetensors")
    train, test, _ = open_features(tmp_path / "f.safetensors")
    np.testing.assert_array_equal(
        rows(train, test)[0], rows(*open_features(torch.from_numpy(X).bfloat16().float(), Y)[:2])[0]
    )


# ---------------------------------------------------------------- splits


def test_a_split_is_stratified_seeded_and_loses_nothing():
    y = np.repeat([0, 1, 2], [30, 20, 10])
    train, test, _ = open_features(X, y, test_share=0.3, seed=4)
    assert np.bincount(test.y).tolist() == [9, 6, 3] and np.bincount(train.y).tolist() == [21, 14, 7]
    for a, b in zip(rows(train, test), (X[np.lexsort(X.T)], y[np.lexsort(X.T)]), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (np.diff(train.y) < 0).any() and (np.diff(test.y) < 0).any()  # not sorted by class, as the rows are
    again, other = open_features(X, y, seed=4)[1], open_features(X, y, seed=5)[1]
    assert again.key == test.key != other.key


def check_parts(train, test):
    np.testing.assert_array_equal(train.x, X)
    np.testing.assert_array_equal(test.x, X_TEST)
    np.testing.assert_array_equal(train.y, Y)
    np.testing.assert_array_equal(test.y, Y_TEST)


def test_both_parts_of_one_file(tmp_path):
    np.savez(tmp_path / "f.npz", X_train=X, y_train=Y, X_test=X_TEST, y_test=Y_TEST)
    check_parts(*open_features(tmp_path / "f.npz")[:2])
    np.savez(tmp_path / "g.npz", x_train=X, x_test=X_TEST)
    check_parts(*open_features(tmp_path / "g.npz", Y, test_labels=Y_TEST)[:2])


def test_both_parts_of_two_files(tmp_path):
    (tmp_path / "test").mkdir()
    test_file, test_names = write_npy(tmp_path / "test", X_TEST, Y_TEST)
    (train_file,) = write_npz(tmp_path, X, Y)
    check_parts(*open_features(train_file, test_features=test_file, test_labels=test_names)[:2])
    check_parts(*open_features(X, Y, test_features=X_TEST, test_labels=Y_TEST)[:2])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("arguments", "message"), [
    (dict(features=X, labels=Y[:50]), "train features have 60 rows, but there are 50 train labels"),
    (dict(features=X, labels=Y, test_features=X_TEST, test_labels=Y), "test features have 9 rows, but there are 60 "),
    (dict(features=X, labels=np.where(Y == 1, np.nan, Y)), "train labels must be whole numbers or .*got float64"),
    (dict(features=X, labels=pd.Series(["a", None] * 30)), "one for every row; got (NoneType|float), str"),
    (dict(features=X, labels=[1, "a"] * 30 + [None]), "got NoneType, int, str"),
    (dict(features=X, labels=np.eye(3)[Y]), r"one class per row, \[n\]; got shape \(60, 3\)"),
    (dict(features=X, labels=np.zeros(60, int)), r"only one class \(0\); a probe needs at least two"),
    (dict(features=X, labels=np.array(["a"] * 59 + ["b"])), r"1 class \(b\) with fewer than 2 rows"),
    (dict(features=np.where(X > 1.5, np.nan, X), labels=Y), "train features hold .* NaN or infinite values in"),
    (dict(features=X.astype(np.float64) * 1e300, labels=Y), "train features hold .* NaN or infinite"),
    (dict(features=np.ones((60, 3)), labels=Y), "train features are constant"),
    (dict(features=X.reshape(60, 5, 1), labels=Y), r"shape \(60, 5, 1\), expected \[n, D\]; pool .*x.mean\(axis=1\)"),
    (dict(features=X.reshape(60, 5, 1, 1), labels=Y), r"pool them .* x.mean\(axis=\(2, 3\)\)"),
    (dict(features=X[0], labels=Y), "train features must be a non-empty matrix"),
    (dict(features=X.astype(str), labels=Y), "train features must be numbers; got type <U"),
    (dict(features=X + 1j, labels=Y), "train features must be numbers; got type complex64"),
    (dict(features=X), "no train labels: an array has none of y, labels, .*found no named arrays; pass labels=..."),
    (dict(features=X, labels=Y, test_features=X_TEST), "no test labels: .*; pass test_labels=..."),
    (dict(features=X, labels=Y, test_labels=Y_TEST), "test_labels were given without test_features"),
    (dict(features=X, labels=Y, test_features=X_TEST[:, :4], test_labels=Y_TEST), "differ in width: 5 and 4"),
    (dict(features=X, labels=Y, test_features=X_TEST, test_labels=Y_TEST + 1), r"1 class \(3\) in test but not in "),
    (dict(features=X, labels=Y, test_features=X_TEST, test_labels=Y_TEST % 2), r"1 class \(2\) in train but not in "),
    (dict(features=X, labels=Y, test_features=X_TEST, test_labels=NAMES[Y_TEST]), "differ in kind"),
    (dict(features=X, labels=Y, test_share=1), "test_share must lie between 0 and 1; got 1"),
    (dict(features=X, labels=Y, seed=-1), "seed must be an integer, not negative"),
    (dict(features=X[:12], labels=[0] * 2 + [1] * 10, test_share=0.9), r"no train row of 1 class \(0\); take less"),
])  # fmt: skip
def test_bad_values(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        open_features(**arguments)
    assert "\n" not in str(error.value)


def test_names_in_the_file_are_listed(tmp_path):
    np.savez(tmp_path / "f.npz", first=X, second=Y)
    with pytest.raises(
        ValueError, match="^f.npz has no matrix of features: .* one of x, features, embeddings, .*; found f"
    ):
        open_features(tmp_path / "f.npz")
    np.savez(tmp_path / "f.npz", x=X, second=Y)
    with pytest.raises(ValueError, match="no train labels: f.npz has none of y, .*found x, second; pass labels="):
        open_features(tmp_path / "f.npz")
    pq.write_table(pa.table({"text": NAMES[Y], "label": Y}), tmp_path / "f.parquet")
    with pytest.raises(ValueError, match="f.parquet has no matrix of features: .*found text, label"):
        open_features(tmp_path / "f.parquet")


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "pickle.npy"])
def test_pickles_are_never_run(name, tmp_path):
    trapped = np.array([Trap(tmp_path / "trap")] * 4, dtype=object)
    if name == "pickle.npy":
        (tmp_path / name).write_bytes(pickle.dumps(trapped))
    elif name == "x.npy":
        np.save(tmp_path / name, trapped, allow_pickle=True)
    else:
        np.savez(tmp_path / name, x=trapped, y=Y[:4])
    with pytest.raises(AssetError, match=f"{name} is refused: it holds Python objects, which only a pickle can load"):
        open_features(tmp_path / name, Y[:4])
    assert not (tmp_path / "trap").exists()
    np.load(tmp_path / name, allow_pickle=True)["x" if name == "x.npz" else ...]
    assert (tmp_path / "trap").exists()  # the trap works: it is the loader that kept it shut


@pytest.mark.parametrize("write", FORMS)
def test_damaged_files(write, tmp_path):
    path = write(tmp_path, X, Y)[0]
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(AssetError, match=f"^{path.name} (cannot be read as|is refused)") as error:
        open_features(path, Y)
    assert "\n" not in str(error.value)


def test_lists_of_different_lengths(tmp_path):
    pq.write_table(pa.table({"x": [[1.0, 2.0], [3.0]], "y": [0, 1]}), tmp_path / "f.parquet")
    with pytest.raises(AssetError, match="the lists of column x differ in length"):
        open_features(tmp_path / "f.parquet")


def test_files_that_are_not_there_or_of_another_kind(tmp_path):
    with pytest.raises(AssetError, match="gone.npy: no such file; give a .npy, .npz, .safetensors, .parquet file"):
        open_features(tmp_path / "gone.npy", Y)
    (tmp_path / "x.csv").write_text("1,2")
    with pytest.raises(AssetError, match=r"x.csv: features are read from .npy, .* files; got '.csv'"):
        open_features(tmp_path / "x.csv", Y)
