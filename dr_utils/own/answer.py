"""How many of these neurons do I need? The answer for one network's features on one task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import train_test_split

from dr_utils.checks import check_delta, check_labels
from dr_utils.claims.view import View
from dr_utils.device import pick_device
from dr_utils.features import Features
from dr_utils.models import NetworkCard
from dr_utils.profiles import CKA, CellSpec, Probe
from dr_utils.progress import progress
from dr_utils.redundancy import critical_fraction
from dr_utils.study import write_table
from dr_utils.study.cell import compute_cell
from dr_utils.subsets import n_neurons
from dr_utils.transformers import FRACTIONS

KEEP = (0.9, 0.95, 0.99)
DELTAS = tuple(round(0.75 + 0.01 * i, 2) for i in range(26))
SEEDS = (1, 2, 3, 4, 5)
HELD_OUT = 0.25  # of the train samples, on which the size is chosen
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Answer:
    """What one layer has to spare for one task.

    Attributes
    ----------
    network, task : str
        As the tables call them.
    width : int
        D, neurons in the layer.
    classes : tuple of str
    tables : dict of DataFrame
        Measured on the test samples with all train samples, in the columns of a study; every figure takes them.
    chosen : DataFrame
        The probes on the held-out part of train, on which sizes are chosen; columns as in "probes".
    notes : list of str
        What to know of these numbers.
    """

    network: str
    task: str
    width: int
    classes: tuple[str, ...]
    tables: dict[str, pd.DataFrame] = field(repr=False)
    chosen: pd.DataFrame = field(repr=False)
    notes: list[str] = field(repr=False)

    def _view(self) -> View:
        return View(self.tables)

    def size(self, keep: float) -> int:
        """Smallest number of random neurons that keeps this share of the full layer's accuracy on held-out samples.

        Equation 1 of the paper, rule "first": the mean over seeds has to reach it. Test samples have no part in it.

        Raises
        ------
        ValueError
            `keep` is not in (0, 1].
        """
        rows = self.chosen[self.chosen["selection"].eq("random")]
        curve = rows.pivot_table(index="n_neurons", columns="seed", values="accuracy")
        full = curve.loc[self.width].to_numpy()
        share = critical_fraction(curve.index / self.width, curve.to_numpy(), full, check_delta(keep))
        return int(round(share * self.width))

    def recommendation(self, keep: Sequence[float] = KEEP) -> pd.DataFrame:
        """The smallest subset that keeps each share of the accuracy, what it does on test samples and what it saves.

        Parameters
        ----------
        keep : sequence of float
            Shares of the full layer's accuracy, in (0, 1].

        Returns
        -------
        DataFrame
            One row per share: neurons (chosen on held-out train samples), fraction; accuracy and std (test, over
            seeds), full (test accuracy of the whole layer), kept (accuracy / full, test); saved (share of the layer's
            dimensions, of stored features and nearly of a probe's parameters), kilobytes (of 1,000 samples' features
            in float32) and parameters (of a linear probe), each with the whole layer's beside it.
        """
        curve = self._view().accuracy(self.network, self.task)
        full, n_classes = float(curve.mean[-1]), len(self.classes)
        rows = []
        for share in keep:
            k = self.size(share)
            at = int(np.flatnonzero(curve.n_neurons == k)[0])
            rows.append(
                {"keep": share, "neurons": k, "fraction": k / self.width, "accuracy": curve.mean[at],
                 "std": curve.std[at], "full": full, "kept": curve.mean[at] / full,
                 "saved": 1 - k / self.width, "kilobytes": k * FLOAT32, "kilobytes_full": self.width * FLOAT32,
                 "parameters": (k + 1) * n_classes, "parameters_full": (self.width + 1) * n_classes}
            )  # fmt: skip
        return pd.DataFrame(rows)

    def redundancy(self, deltas: Sequence[float] = KEEP) -> pd.DataFrame:
        """DR on the test samples, by every rule, with its 95 % interval: rule, delta, dr, low, high."""
        rows = self.tables["redundancy"].query("task == 'probe'")
        near = np.abs(rows["delta"].to_numpy()[:, None] - np.asarray(deltas)).min(axis=1) < 1e-9
        return rows.loc[near, ["rule", "delta", "dr", "low", "high"]].reset_index(drop=True)

    def payers(self, keep: float, n: int = 5) -> pd.DataFrame:
        """The classes that lose most at the size chosen for `keep`: full, part, lost (test, mean over seeds)."""
        part, full = (
            self._view().per_class(self.network, self.task, fraction) for fraction in (self._fraction(keep), 1.0)
        )
        table = pd.DataFrame({"full": full, "part": part})
        return table.assign(lost=table["full"] - table["part"]).sort_values("lost", ascending=False).head(n)

    def pca(self, keep: Sequence[float] = KEEP) -> pd.DataFrame:
        """PCA against random neurons at the sizes chosen: columns keep, neurons, random, pca, lead (test accuracy)."""
        curves = {s: self._view().accuracy(self.network, self.task, s) for s in ("random", "pca")}
        rows = []
        for share in keep:
            fraction = self._fraction(share)
            random, pca = (curve.at(fraction).value for curve in curves.values())
            if np.isfinite(pca):
                rows.append({"keep": share, "neurons": self.size(share), "random": random, "pca": pca,
                             "lead": pca - random})  # fmt: skip
        return pd.DataFrame(rows, columns=["keep", "neurons", "random", "pca", "lead"])

    def save(self, folder: str | Path) -> list[Path]:
        """Write the recommendation, the classes that pay and the probes as own_*.csv; return the files."""
        paths = {name: Path(folder) / f"own_{name}.csv" for name in ("recommendation", "classes", "probes")}
        write_table(self.recommendation(), paths["recommendation"])
        by_class = [self.payers(keep, len(self.classes)).assign(keep=keep).reset_index() for keep in KEEP]
        write_table(pd.concat(by_class, ignore_index=True), paths["classes"])
        write_table(self.tables["probes"], paths["probes"])
        return list(paths.values())

    def _fraction(self, keep: float) -> float:
        """The grid's fraction of the size chosen for `keep`."""
        curve = self._view().accuracy(self.network, self.task)
        return float(curve.fractions[int(np.flatnonzero(curve.n_neurons == self.size(keep))[0])])


def answer(
    train: Features,
    test: Features,
    classes: Sequence[str],
    *,
    card: NetworkCard | None = None,
    task: str = "own data",
    fractions: Sequence[float] = FRACTIONS,
    seeds: Sequence[int] = SEEDS,
    deltas: Sequence[float] = DELTAS,
    solver: str = "sgd",
    standardise: bool = False,
    seed: int = 0,
    device: str = "auto",
) -> Answer:
    """Measure a layer on a task, and choose sizes on a held-out quarter of the train samples.

    Parameters
    ----------
    train, test : Features
        [n, D] each.
    classes : sequence of C str
        Names of the labels.
    card : NetworkCard, optional
        Of the network; without it the features are "own features".
    task : str
        How tables and figures call the data.
    fractions : sequence of float
        Shares of the layer to try, in (0, 1]; 1 is added. Those that give the same number of neurons are measured once.
    seeds : sequence of int
        One random permutation of the neurons and one probe initialisation each.
    deltas : sequence of float
        Shares of the accuracy for the curve of DR, in (0, 1]; `KEEP` is added.
    solver : {"sgd", "ridge"}
        The paper's probes, or ridge regression in closed form.
    standardise : bool
        Divide by the train samples' standard deviation first.
    seed : int
        Draws the held-out part.
    device : {"auto", "cpu", "cuda"}

    Returns
    -------
    Answer

    Raises
    ------
    ValueError
        Labels that do not match, a class with fewer than two train samples, an unknown device or solver.
    """
    n_classes = check_labels(train.y, test.y, len(train.x), len(test.x))
    if n_classes > len(classes):
        raise ValueError(f"labels name {n_classes} classes, but {len(classes)} class names are given.")
    few = np.flatnonzero(np.bincount(train.y, minlength=n_classes) < 2)
    if few.size:
        raise ValueError(
            f"class {classes[few[0]]!r} has fewer than 2 train samples; a quarter of train is held out to choose the "
            "size on: add samples, or leave such classes out."
        )
    width = train.x.shape[1]
    card = card or NetworkCard(
        name="own", title="own features", width=width, family="own", training="unknown", upstream="unknown", kind="own",
        source="given as features", licence="unstated", top1=None,
    )  # fmt: skip
    spec = _spec(width, fractions, seeds, deltas, solver, standardise)
    device = pick_device(device)
    # Every class in both parts, whatever its size.
    held = max(n_classes, round(HELD_OUT * len(train.y)))
    rest, held_out = train_test_split(
        np.arange(len(train.y)), test_size=min(held, len(train.y) - n_classes), stratify=train.y, random_state=seed
    )
    part = [Features(train.x[rows], train.y[rows], f"{train.key}-{name}", {}) for name, rows in
            (("rest", rest), ("held out", held_out))]  # fmt: skip
    measured = []
    for label, fitted, scored in (("choosing", *part), ("measuring", train, test)):
        with progress(total=spec.probe.epochs, desc=f"{label}: probes of {card.title}", unit="epochs") as bar:
            tables, notes = compute_cell(card.name, task, fitted, {"test": scored}, classes, spec, device=device,
                                         on_epoch=lambda *_, bar=bar: bar.update(1))  # fmt: skip
        measured.append((tables, notes))
    (choosing, _), (tables, notes) = measured
    tables["networks"] = pd.DataFrame([_network_row(card)])
    tables["tasks"] = pd.DataFrame([
        {"dataset": task, "title": task, "eval_set": "test", "n_classes": n_classes, "n_train": len(train.y),
         "n_test": len(test.y), "resolution": card.side, "source": "own"}
    ])  # fmt: skip
    return Answer(card.name, task, width, tuple(classes), tables, choosing["probes"], notes)


def _spec(width, fractions, seeds, deltas, solver, standardise) -> CellSpec:
    sizes = {n_neurons(width, fraction): float(fraction) for fraction in sorted({*fractions}, reverse=True)}
    grid = sorted({**sizes, width: 1.0}.values())
    return CellSpec(
        seeds=list(seeds), deltas=[*deltas, *KEEP], selections={"random": grid, "pca": grid},
        probe=Probe(solvers=[solver], standardise=standardise), cka=CKA(images=None),
    )  # fmt: skip


def _network_row(card: NetworkCard) -> dict:
    names = (
        "title",
        "width",
        "family",
        "training",
        "upstream",
        "kind",
        "side",
        "source",
        "licence",
        "top1",
        "robust_of",
    )
    return {"model": card.name, **{name: getattr(card, name) for name in names}, "weight_hash": ""}
