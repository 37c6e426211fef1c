"""One cell of a study, a network on a task: from features to rows of the tables, nothing read or written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from dr_utils.cka import CKAStatistics, part_part, part_whole, seed_pairs
from dr_utils.fairness import coefficient_of_variation, gini
from dr_utils.features import Features
from dr_utils.probes import choose_alpha, fit_probes, fit_ridge
from dr_utils.redundancy import RULES, diffused_redundancy_interval
from dr_utils.study.grid import Grid
from dr_utils.subsets import n_neurons, random_subsets

# Images per update of the Gram matrices: large enough for fast products, small enough for any memory.
_CKA_BATCH = 4096


@dataclass(frozen=True)
class CellSpec:
    """What is measured in a cell; JSON-able, part of the address of its results.

    Attributes
    ----------
    fractions : list of float
        Ascending, ending at 1 (the full layer).
    seeds : list of int
    deltas : list of float
    selections : dict of str to list of float
        Which fractions each selection is measured at.
    solvers : list of {"sgd", "ridge"}
    standardise : bool
        Whether features are standardised, with the train split's mean and standard deviation.
    sgd : dict
        Keyword arguments of `fit_probes`.
    ridge_alpha : float or "auto"
        "auto" is chosen on train features, see `dr_utils.probes.choose_alpha`.
    cka_estimators : list of str
    cka_images : int
        The first so many test images.
    augmentation : dict
        How train images change from epoch to epoch; empty: they do not.
    """

    fractions: list[float]
    seeds: list[int]
    deltas: list[float]
    selections: dict[str, list[float]]
    solvers: list[str]
    standardise: bool
    sgd: dict
    ridge_alpha: float | str
    cka_estimators: list[str]
    cka_images: int | None
    augmentation: dict = field(default_factory=dict)


def compute_cell(
    model: str,
    dataset: str,
    train: Features,
    evals: Mapping[str, Features],
    classes: Sequence[str],
    spec: CellSpec,
    *,
    train_epochs: Callable[[int], np.ndarray] | None = None,
    device=None,
    on_epoch: Callable[[int, int], None] | None = None,
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Measure accuracy, CKA, redundancy and fairness of one network on one task.

    Parameters
    ----------
    model, dataset : str
        Names, as they stand in the tables.
    train : Features
        What probes, projections and standardisation are fitted on.
    evals : mapping of str to Features
        Evaluation sets by name; "test" must be among them.
    classes : sequence of C str
    spec : CellSpec
    train_epochs : callable, optional
        Given an epoch, the features [n, D] of the train images as they were augmented for it; SGD sees these. What is
        fitted in one go (projections, standardisation, ridge) sees `train`.
    device : str or torch.device, optional
        Where probes are trained and Gram matrices summed.
    on_epoch : callable, optional
        Called with (epochs done, epochs).

    Returns
    -------
    tables : dict of str to DataFrame
        "probes", "per_class", "cka", "redundancy", "fairness", with the columns of house.md.
    notes : list of str
        What the reader of the tables should know of this cell, such as how many components exist.
    """
    grid = Grid(train.x, spec)
    probes, notes = grid.probes, list(grid.notes)
    matrices = {name: grid.matrix(features.x) for name, features in {"train": train, **evals}.items()}
    x_epochs = train_epochs and (lambda epoch: grid.matrix(train_epochs(epoch)))
    y_evals = {name: features.y for name, features in evals.items()}
    kept = {"features": "standardised" if spec.standardise else "raw"}
    keys = pd.DataFrame(
        {
            "selection": [p.selection for p in probes],
            "fraction": [p.fraction for p in probes],
            "n_neurons": [p.n_neurons for p in probes],
            "seed": [p.seed for p in probes],
        }
    )
    accuracy_tables, class_tables = [], []
    for solver in spec.solvers:
        arguments = (
            matrices["train"],
            train.y,
            matrices["test"],
            y_evals["test"],
            [p.columns for p in probes],
        )
        if solver == "sgd":
            seeds = [p.seed for p in probes]
            result = fit_probes(*arguments, seed=seeds, device=device, x_epochs=x_epochs, on_epoch=on_epoch, **spec.sgd)
        else:
            alpha = spec.ridge_alpha
            if alpha == "auto":
                alpha = choose_alpha(matrices["train"][:, : train.x.shape[1]].astype(np.float32), train.y)
                notes.append(f"ridge penalty {alpha:.3g}, chosen on a fifth of the train images")
            result = fit_ridge(*(_single(given) for given in arguments), alpha=alpha)
        for eval_set in evals:
            if eval_set == "test":
                accuracy, per_class = result.accuracy, result.per_class_accuracy
            else:
                accuracy, per_class = result.score(matrices[eval_set], y_evals[eval_set])
            rows = keys.assign(model=model, dataset=dataset, eval_set=eval_set, solver=solver, **kept)
            accuracy_tables.append(rows.assign(accuracy=accuracy))
            class_tables.append(
                rows.loc[rows.index.repeat(len(classes))].assign(
                    class_name=np.tile(np.asarray(classes, dtype=object), len(rows)),
                    class_accuracy=per_class.ravel(),
                )
            )
    key_columns = ["model", "dataset", "eval_set", "selection", "fraction", "n_neurons", "seed"]
    tables = {
        "probes": pd.concat(accuracy_tables)[[*key_columns, "accuracy", "solver", "features"]],
        "per_class": pd.concat(class_tables)[
            [*key_columns, "class_name", "class_accuracy", "solver", "features"]
        ].dropna(subset=["class_accuracy"]),
        "cka": similarity_table(model, dataset, evals["test"].x[: spec.cka_images], spec, device=device),
    }
    tables["redundancy"] = redundancy_table(tables["probes"], tables["cka"], spec.deltas)
    tables["fairness"] = fairness_table(tables["per_class"], tables["probes"])
    return {name: table.reset_index(drop=True) for name, table in tables.items()}, notes


def _single(given):
    """Half precision as single, anything else as it is."""
    return given.astype(np.float32) if getattr(given, "dtype", None) == np.float16 else given


def similarity_table(model: str, dataset: str, x: np.ndarray, spec: CellSpec, *, device=None) -> pd.DataFrame:
    """CKA of part and whole for every fraction and seed, and of part and part for every pair of seeds."""
    width, seeds, pairs = x.shape[1], spec.seeds, seed_pairs(len(spec.seeds))
    statistics = CKAStatistics(width, estimators=spec.cka_estimators, device=device or "cpu")
    for start in range(0, len(x), _CKA_BATCH):
        statistics.update(x[start : start + _CKA_BATCH])
    subsets = [s for fraction in spec.fractions for s in random_subsets(width, fraction, seeds)]
    rows = []
    for estimator in spec.cka_estimators:
        q = statistics.matrix(estimator)
        whole = part_whole(q, subsets).reshape(len(spec.fractions), len(seeds))
        all_pairs = [(i + f * len(seeds), j + f * len(seeds)) for f in range(len(spec.fractions)) for i, j in pairs]
        parts = part_part(q, subsets, all_pairs).reshape(len(spec.fractions), len(pairs))
        for f, fraction in enumerate(spec.fractions):
            shared = (estimator, fraction, n_neurons(width, fraction))
            rows += [("part_whole", *shared, seed, -1, whole[f, s]) for s, seed in enumerate(seeds)]
            rows += [("part_part", *shared, seeds[i], seeds[j], parts[f, p]) for p, (i, j) in enumerate(pairs)]
    columns = ["comparison", "estimator", "fraction", "n_neurons", "seed_a", "seed_b", "cka"]
    table = pd.DataFrame(rows, columns=columns)
    table.insert(0, "model", model)
    table.insert(1, "dataset", dataset)
    return table


def redundancy_table(probes: pd.DataFrame, cka: pd.DataFrame, deltas: Sequence[float]) -> pd.DataFrame:
    """DR of one cell by both rules over `deltas`, with its interval over the seeds, for probes and for CKA."""
    curves = []
    chosen = probes[(probes.selection == "random") & (probes.eval_set == "test")]
    for (solver, features), group in chosen.groupby(["solver", "features"], sort=True):
        performance = group.pivot_table(index="fraction", columns="seed", values="accuracy")
        curves.append(
            (
                {"task": "probe", "solver": solver, "features": features, "estimator": ""},
                performance,
                performance.loc[1.0].to_numpy(),
            )
        )
    for estimator, group in cka[cka.comparison == "part_whole"].groupby("estimator", sort=True):
        performance = group.pivot_table(index="fraction", columns="seed_a", values="cka", dropna=False)
        # Where CKA is undefined no similarity was shown.
        curves.append(
            (
                {"task": "cka", "solver": "", "features": "", "estimator": estimator},
                performance.fillna(0.0),
                1.0,
            )
        )
    rows = []
    for labels, performance, full in curves:
        for rule in RULES:
            for delta in deltas:
                dr, low, high = diffused_redundancy_interval(
                    performance.index.to_numpy(), performance.to_numpy(), full, delta, rule=rule
                )
                rows.append({**labels, "rule": rule, "delta": delta, "dr": dr, "low": low, "high": high})
    columns = [
        "model",
        "dataset",
        "task",
        "rule",
        "delta",
        "dr",
        "low",
        "high",
        "solver",
        "features",
        "estimator",
    ]
    model, dataset = probes.model.iloc[0], probes.dataset.iloc[0]
    return pd.DataFrame(rows).assign(model=model, dataset=dataset)[columns]


def fairness_table(per_class: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Inequality of per-class accuracies, averaged over seeds first: Gini and coefficient of variation (Figs. 7, 9)."""
    keys = ["model", "dataset", "selection", "fraction", "solver", "features"]
    overall = probes[probes.eval_set == "test"].groupby(keys, sort=True).accuracy.mean()
    by_class = per_class[per_class.eval_set == "test"].groupby([*keys, "class_name"], sort=True).class_accuracy.mean()
    table = by_class.groupby(keys, sort=True).agg(gini=gini, coefficient_of_variation=coefficient_of_variation)
    table = table.join(overall).reset_index()
    return table[
        [
            "model",
            "dataset",
            "selection",
            "fraction",
            "accuracy",
            "gini",
            "coefficient_of_variation",
            "solver",
            "features",
        ]
    ]
