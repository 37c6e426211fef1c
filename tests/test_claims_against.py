"""Differences to the printed curves against the file of printed numbers, read independently."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from synthetic_tables import GRID, build, network, saturating, task

import dr_utils
from dr_utils.claims import evaluate
from dr_utils.claims.against import COLUMNS, against_paper
from dr_utils.claims.view import View
from dr_utils.reference import SOURCE as PUBLISHED

REFERENCE = Path(dr_utils.__file__).parent / "data" / "reference_values.csv"
RESNET = "resnet50|nonrob|pretrain=imagenet|mode=random"
VIT = "vit_small_patch16_224|nonrob|pretrain=imagenet21k|mode=random"


def printed(model: str, dataset: str, quantity: str) -> dict[float, float]:
    with REFERENCE.open(newline="") as file:
        rows = [
            r for r in csv.DictReader(file) if (r["model"], r["dataset"], r["quantity"]) == (model, dataset, quantity)
        ]
    return {float(r["delta_or_fraction"].partition("=")[2]): float(r["value"]) for r in rows}


@pytest.fixture(scope="module")
def tables():
    cards = [
        network("keras_resnet50", family="resnet"),
        network("vit21k", 384, "vit_small_patch16_224", upstream="imagenet21k"),
        network("vit1k", 384, "vit_small_patch16_224"), network("narrow", 8, "resnet50_ff8", "narrow"),
        network("small", 512, "resnet", kind="small"),
    ]  # fmt: skip
    tasks = [
        task("cifar10", n_test=2000),
        task("imagenet1k", n_test=4000, eval_sets=("test", "imagenetv2")),
        task("digits"),
    ]
    grid = sorted({*GRID, 0.015625, 0.03125, 0.0625, 0.125, 0.25})  # those of the printed curves of part and whole too
    return build(cards, tasks, lambda m, d, f, s, e: saturating(0.3)(f), cka=lambda m, d, f: saturating(0.3, 1.0)(f),
                 grid=grid)  # fmt: skip


def test_every_point_is_ours_less_the_printed_number(tables):
    found = against_paper(View(tables))
    assert tuple(found.columns) == COLUMNS
    assert set(found.model) == {"keras_resnet50", "vit21k"}, "others have no printed curves"
    assert set(found.dataset) == {"cifar10", "imagenet1k"}
    probes = tables["probes"].groupby(["model", "dataset", "eval_set", "fraction"]).accuracy
    mean, std = probes.mean(), probes.std(ddof=1)
    names = {"keras_resnet50": RESNET, "vit21k": VIT}
    for row in found.query("quantity == 'accuracy'").itertuples():
        dataset = {"test": "imagenet", "imagenetv2": "imagenetv2"}[row.eval_set] if "1k" in row.dataset else row.dataset
        numbers = printed(names[row.model], dataset, "probe_test_accuracy_mean") | printed(
            names[row.model], dataset, "probe_test_accuracy"
        )
        key = (row.model, row.dataset, row.eval_set, row.at)
        assert row.published == numbers[row.at] and row.measured == pytest.approx(mean[key])
        assert row.difference == pytest.approx(mean[key] - numbers[row.at])
        assert row.spreads == pytest.approx((mean[key] - numbers[row.at]) / std[key])
    on_cifar = found.query("model == 'keras_resnet50' and dataset == 'cifar10' and quantity == 'accuracy'")
    grid = set(tables["probes"].fraction)
    assert len(on_cifar) == sum(f in grid for f in {**printed(RESNET, "cifar10", "probe_test_accuracy_mean"), 1.0: 0})
    assert {"accuracy", "part_part", "part_whole", "redundancy"} == set(found.quantity)
    assert not found.query("quantity == 'part_whole' and at == 1").size, "there both are 1 by definition"
    assert found.query("quantity == 'redundancy'").spreads.isna().all(), (
        "its spread is an interval, no standard deviation"
    )


def test_claims_about_printed_numbers_say_how_far(tables):
    found = evaluate(tables).set_index("claim").difference
    row = against_paper(View(tables)).query(
        "model == 'keras_resnet50' and dataset == 'cifar10' and quantity == 'accuracy'"
    )
    two = row[row["at"].round(9).isin([0.2, 1.0])]
    low, high = two.difference.min(), two.difference.max()
    assert found["P1"].startswith(f"2 printed points: {low:+.3f} to {high:+.3f}, ")
    assert found["P1"].endswith(f"{two.spreads.min():+.1f} to {two.spreads.max():+.1f} std")
    assert (
        found["I1"].startswith("4 printed points")
        and "printed points" in found["P6"]
        and found["W1"] == ""
        and found["M4"] == ""
    )


def test_published_numbers_are_not_compared_with_themselves(tables):
    own = {**tables, "networks": tables["networks"].assign(source=PUBLISHED)}
    assert against_paper(View(own)).empty
    assert (evaluate(own).difference == "").all()


def test_missing_tables_have_no_differences(tables):
    assert against_paper(View({})).empty and (evaluate({}).difference == "").all()
