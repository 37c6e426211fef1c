"""Golden numbers: a cell and the verdicts may change only together with their VERSION, or stored ones would go stale.

To renew the numbers after raising a VERSION: python tests/test_golden.py
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_tables import build, network, saturating, task

from dr_utils import claims
from dr_utils.features import Features
from dr_utils.profiles import CKA, CellSpec, Probe
from dr_utils.study import cell

GOLDEN = Path(__file__).parent / "data" / "golden.json"
RENEW = "raise VERSION in {} (stored results are then made anew) and renew the golden numbers: python {}"


def cell_numbers() -> dict:
    """Compute a tiny cell on features that are made up; return counts of correct predictions, and other numbers."""
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(3, 12))

    def split(n):
        y = np.arange(n) % 3
        return Features(np.maximum(centres[y] + 1.5 * rng.normal(size=(n, 12)), 0).astype(np.float32), y, "", {})

    spec = CellSpec(
        seeds=[1, 2], deltas=[0.8, 0.9], cka=CKA(images=50),
        probe=Probe(solvers=["sgd", "ridge"], epochs=3, batch_size=16),
        selections={"random": [0.1, 0.25, 0.5, 1.0], "first": [0.5], "pca": [0.25], "pca_least": [0.25],
                    "projection_gaussian": [0.5], "projection_uniform": [0.5]},
    )  # fmt: skip
    train, evals = split(60), {"test": split(90), "shifted": split(60)}
    tables, _ = cell.compute_cell("m", "d", train, evals, ["a", "b", "c"], spec)
    keys = ["solver", "eval_set", "selection", "fraction", "seed"]
    probes = tables["probes"].sort_values(keys)
    correct = probes.accuracy * probes.eval_set.map({name: len(given.y) for name, given in evals.items()})
    return {
        "correct": correct.round().astype(int).tolist(),
        "cka": tables["cka"].groupby(["comparison", "estimator", "fraction"]).cka.mean().tolist(),
        "redundancy": tables["redundancy"]
        .groupby(["task", "rule", "delta"])[["dr", "low", "high"]]
        .mean()
        .sum()
        .tolist(),
        "fairness": tables["fairness"][["gini", "coefficient_of_variation"]].mean().tolist(),
    }


def verdicts() -> str:
    """Hash the claims on tables that are made up: a pair of networks and a nested one, three tasks and a shift."""
    networks = [network("resnet50"), network("robust", training="adversarial", robust_of="resnet50"),
                network("nested", training="mrl")]  # fmt: skip
    tasks = [task("cifar10", eval_sets=("test", "corrupted")), task("digits", n_classes=20), task("pets", n_classes=37)]

    def accuracy(model, dataset, fraction, selection, eval_set):
        lower = 0.1 * (eval_set == "corrupted") + 0.05 * (selection == "random") * (fraction < 1)
        return saturating({"robust": 0.1, "nested": 0.4}.get(model, 0.3))(fraction) - lower

    tables = build(networks, tasks, accuracy, cka=lambda m, d, f: saturating(0.2, 1.0)(f), first_sizes=(8, 64, 512),
                   selections=("random", "pca"))  # fmt: skip
    return hashlib.sha256(claims.evaluate(tables).to_csv(index=False).encode()).hexdigest()


def golden(name: str) -> dict:
    return json.loads(GOLDEN.read_text())[name]


def test_a_cells_numbers_change_only_with_their_version():
    found, kept, advice = cell_numbers(), golden("cell"), RENEW.format("dr_utils/study/cell.py", "tests/test_golden.py")
    # Machines round differently; so little cannot move more than a prediction or two.
    moved = np.abs(np.subtract(found["correct"], kept["numbers"]["correct"])).sum()
    same = moved <= 2 and found["cka"] == pytest.approx(kept["numbers"]["cka"], abs=1e-9)
    if moved == 0:
        same &= all(found[key] == pytest.approx(kept["numbers"][key], abs=1e-9) for key in ("redundancy", "fairness"))
    assert same, f"the numbers of a cell have changed: {advice}"
    assert kept["version"] == cell.VERSION, f"the golden numbers are of another version: {advice}"


def test_verdicts_change_only_with_their_version():
    advice = RENEW.format("dr_utils/claims/__init__.py", "tests/test_golden.py")
    assert verdicts() == golden("claims")["sha256"], f"the table of claims has changed: {advice}"
    assert golden("claims")["version"] == claims.VERSION, f"the golden verdicts are of another version: {advice}"


if __name__ == "__main__":
    numbers = {
        "cell": {"version": cell.VERSION, "numbers": cell_numbers()},
        "claims": {"version": claims.VERSION, "sha256": verdicts()},
    }
    GOLDEN.write_text(json.dumps(numbers, indent=1) + "\n")
