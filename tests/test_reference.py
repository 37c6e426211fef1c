"""The table of published numbers: complete, parsed, and found by column."""

import hashlib
from importlib import resources

import numpy as np

from dr_utils.reference import published

SHA256 = "226a09cf3b792e2e6936f2067313132fb7196df854c9481904d82df56e480f78"


def test_file_is_the_one_that_was_handed_over():
    data = resources.files("dr_utils.data").joinpath("reference_values.csv").read_bytes()
    # A checkout may have turned the line ends; the numbers must not have changed.
    data = data.replace(b"\r\n", b"\n")
    assert hashlib.sha256(data).hexdigest() == SHA256


def test_all_rows_and_parsed_columns():
    table = published()
    assert len(table) == 1138
    for name in ("fraction", "delta", "number"):
        assert table[name].dtype == np.float64
    text = table["delta_or_fraction"].fillna("")
    assert table["fraction"].notna().tolist() == text.str.startswith("fraction=").tolist()
    assert table["delta"].notna().tolist() == text.str.startswith("delta=").tolist()
    assert table.loc[table["number"].isna(), "value"].tolist()[0] == ">0.90"


def test_filters():
    row = published(model="ViT S-16", dataset="cifar10", quantity="diffused_redundancy_DR", delta=0.9)
    assert row["number"].tolist() == [0.7]
    curve = published(
        model="resnet50|nonrob|pretrain=imagenet|mode=random",
        dataset="cifar10",
        quantity="probe_test_accuracy_mean",
        fraction=[0.2, 0.1],
    )
    assert curve["fraction"].tolist() == [0.1, 0.2]
    assert curve["number"].round(4).tolist() == [0.7789, 0.8323]
    assert len(published(quantity="feature_length")) == 6


def test_what_was_never_published_is_empty():
    assert published(dataset="groceries").empty
    assert list(published(dataset="groceries").columns) == list(published().columns)


def test_a_caller_cannot_spoil_the_table():
    table = published()
    table.loc[:, "number"] = 0.0
    assert published()["number"].nunique() > 100
