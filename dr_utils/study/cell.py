"""One cell of a study, a network on a task: from features to rows of the tables. Nothing is read or written here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, product

import numpy as np
import pandas as pd

from dr_utils.cka import CKAStatistics, part_part, part_whole, subset_cka_law
from dr_utils.fairness import coefficient_of_variation, gini
from dr_utils.features import Features
from dr_utils.probes import choose_alpha, fit_probes, fit_ridge
from dr_utils.profiles import CellSpec
from dr_utils.redundancy import RULES, critical_fractions, diffused_redundancy_interval
from dr_utils.resampling import GROUPS, resampled_mean
from dr_utils.study.draws import DRAWS_COLUMNS, deviations, draws_table
from dr_utils.subsets import PROJECTIONS, every_subset, first_subset, fit_projection, n_neurons, random_subsets

# Part of every cell's key. Raise it when a cell's numbers change, and renew the golden numbers: tests/test_golden.py.
VERSION = 4

_PROBE = ("model", "dataset", "eval_set", "selection", "fraction", "n_neurons", "seed")
COLUMNS = {
    "probes": (*_PROBE, "accuracy", "solver", "features"),
    "per_class": (*_PROBE, "class_name", "class_accuracy", "solver", "features"),
    "cka": ("model", "dataset", "comparison", "estimator", "fraction", "n_neurons", "seed_a", "seed_b", "cka"),
    "cka_draws": ("model", "dataset", "comparison", "estimator", "fraction", "n_neurons", "draws", "mean", "std", "low",
                  "high", "expected", "r"),
    "redundancy": ("model", "dataset", "task", "rule", "delta", "dr", "low", "high", "solver", "features", "estimator"),
    "fairness": ("model", "dataset", "selection", "fraction", "accuracy", "gini", "coefficient_of_variation",
                 "solver", "features"),
    "draws": DRAWS_COLUMNS,
}  # fmt: skip
WHOLE = -1  # in place of a second seed: CKA with the whole layer
PAIRED_SEEDS = 5  # part and part are compared for pairs of the first five seeds, as in Fig. 2
DRAWS, FIRST_DRAW = 500, 10_001  # random subsets of each size for "cka_draws", by seeds apart from those of profiles


class Grid:
    """All probes of a cell over one matrix: the neurons, and beside them the components of every projection.

    `rows` says which probe, a position in `subsets` and `seeds`, measures a selection at a fraction with a seed.
    Fractions that keep the same number of neurons share a probe, so that nothing is trained twice.
    """

    def __init__(self, x_train: np.ndarray, spec: CellSpec):
        self.subsets, self.seeds, self.notes = [], [], []
        self._blocks: dict[tuple, tuple] = {}  # projections and their columns
        self._mean, self._std = 0.0, None
        if spec.probe.standardise:
            self._mean, std = x_train.mean(axis=0, dtype=np.float64), x_train.std(axis=0, dtype=np.float64)
            # A neuron that is silent on train stays at zero instead of becoming NaN.
            self._std = np.where(std > 0, std, 1.0)
        x_train = self._scaled(x_train)
        width, found, rows = x_train.shape[1], {}, []
        if "every" in spec.selections:
            for subset in every_subset(width):
                rows.append(("every", len(subset) / width, len(subset), 0, len(self.subsets)))
                self.subsets.append(subset)
            self.seeds = [spec.seeds[0]] * len(rows)  # of the first weights and the order of samples
        sampled = {name: fractions for name, fractions in spec.selections.items() if name != "every"}
        for (selection, fractions), seed in product(sampled.items(), spec.seeds):
            order = self._order(selection, seed, n_neurons(width, max(fractions)), x_train)
            for fraction in fractions:
                subset = order[: n_neurons(width, fraction)]
                probe = found.setdefault((selection, len(subset), seed), len(self.subsets))
                if probe == len(self.subsets):
                    self.subsets.append(subset)
                    self.seeds.append(seed)
                rows.append((selection, fraction, len(subset), seed, probe))
        self.rows = pd.DataFrame(rows, columns=["selection", "fraction", "n_neurons", "seed", "probe"])
        every = self.rows["selection"].eq("every")
        self.rows.loc[every, "seed"] = self.rows[every].groupby("n_neurons").cumcount() + 1

    def _order(self, selection: str, seed: int, wanted: int, x_train: np.ndarray) -> np.ndarray:
        """Return the columns in the order of selection: a probe of k neurons reads the first k."""
        width = x_train.shape[1]
        if selection not in PROJECTIONS:
            return random_subsets(width, 1.0, [seed])[0] if selection == "random" else first_subset(width, 1.0)
        # Principal components are the same for every seed, random directions are not.
        name = (selection, seed if selection.startswith("projection") else None)
        if name not in self._blocks:
            fitted = fit_projection(selection, x_train, seed=seed)
            end = width + sum(len(columns) for _, columns in self._blocks.values())
            self._blocks[name] = fitted, np.arange(end, end + min(wanted, fitted.n_components))
            if fitted.note:
                self.notes.append(f"{selection}: {fitted.note}; larger fractions use all of them")
        return self._blocks[name][1]

    def _scaled(self, x: np.ndarray) -> np.ndarray:
        return x if self._std is None else ((x - self._mean) / self._std).astype(np.float32)

    def matrix(self, x: np.ndarray) -> np.ndarray:
        """Return the columns for all probes from features [n, D]: the neurons, then each projection's components."""
        x = self._scaled(x)
        blocks = [x, *(fitted.transform(x, len(columns)) for fitted, columns in self._blocks.values())]
        return np.concatenate(blocks, axis=1) if len(blocks) > 1 else x


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
    """Measure one network on one task: return the tables of `COLUMNS`, and notes on what to know about them.

    `evals` are evaluation sets by name, "test" among them. `train_epochs(epoch)` gives the features [n, D] of the train
    images as augmented for an epoch; SGD sees these. Projections, standardisation and ridge are fitted on `train`.
    """
    grid = Grid(train.x, spec)
    notes = list(grid.notes)
    matrices = {name: grid.matrix(features.x) for name, features in {"train": train, **evals}.items()}
    x_epochs = train_epochs and (lambda epoch: grid.matrix(train_epochs(epoch)))
    given = (matrices["train"], train.y, matrices["test"], evals["test"].y, grid.subsets)
    found: dict[str, list[pd.DataFrame]] = {"probes": [], "per_class": [], "draws": []}
    for solver in spec.probe.solvers:
        if solver == "sgd":
            result = fit_probes(*given, seed=grid.seeds, device=device, x_epochs=x_epochs, on_epoch=on_epoch,
                                **spec.probe.sgd())  # fmt: skip
        else:
            alpha = spec.probe.ridge_alpha
            if alpha == "auto":
                alpha = choose_alpha(matrices["train"][:, : train.x.shape[1]], train.y)
                notes.append(f"ridge penalty {alpha:.3g}, chosen on a fifth of the train images")
            result = fit_ridge(*given, alpha=alpha)
        for eval_set, features in evals.items():
            scored = result if eval_set == "test" else result.on(matrices[eval_set], features.y)
            accuracy, per_class, correct = (
                score[grid.rows["probe"]] for score in (scored.accuracy, scored.per_class_accuracy, scored.correct)
            )
            rows = grid.rows.assign(model=model, dataset=dataset, eval_set=eval_set, solver=solver,
                                    features="standardised" if spec.probe.standardise else "raw")  # fmt: skip
            found["probes"].append(rows.assign(accuracy=accuracy))
            names = np.tile(np.asarray(classes, dtype=object), len(rows))
            by_class = rows.loc[rows.index.repeat(len(classes))]
            found["per_class"].append(by_class.assign(class_name=names, class_accuracy=per_class.ravel()))
            found["draws"].append(draws_table(rows, correct, per_class, features.y))
    similarity = similarity_tables(model, dataset, evals["test"].x[: spec.cka.images], spec, device=device)
    for name, table in similarity.items():
        found[name] = [*found.get(name, []), table]
    tables = {name: pd.concat(parts, ignore_index=True)[list(COLUMNS[name])] for name, parts in found.items()}
    tables["per_class"] = tables["per_class"].dropna(subset=["class_accuracy"]).reset_index(drop=True)
    tables["redundancy"] = redundancy_table(tables["probes"], tables["cka"], spec.deltas, tables["draws"])
    # One solver's are kept, the one that claims are judged by.
    kept = "sgd" if "sgd" in spec.probe.solvers else "ridge"
    tables["draws"] = tables["draws"][tables["draws"]["solver"].isin(["", kept])].reset_index(drop=True)
    tables["fairness"] = fairness_table(tables["per_class"], tables["probes"])
    return tables, notes


def similarity_tables(model: str, dataset: str, x: np.ndarray, spec: CellSpec, *, device=None) -> dict:
    """Return "cka", of part and whole for every fraction and seed and of part and part for pairs of seeds.

    Beside it "cka_draws": mean, standard deviation and 5 and 95 % quantiles over `DRAWS` subsets, or half as many pairs
    of them; what `subset_cka_law` expects; and the layer's r. And rows of "draws": these means, with resampled subsets
    and images.
    """
    if not spec.cka.estimators:
        return {name: pd.DataFrame(columns=list(COLUMNS[name])) for name in ("cka", "cka_draws")}
    width, seeds = x.shape[1], spec.seeds
    statistics = CKAStatistics(width, estimators=spec.cka.estimators, device=device or "cpu").update(x)
    fractions = np.repeat(spec.selections["random"], len(seeds))
    parts = [part for f in spec.selections["random"] for part in random_subsets(width, f, seeds)]
    paired = [i for i in range(len(parts)) if i % len(seeds) < PAIRED_SEEDS]
    pairs = [(i, j) for i, j in combinations(paired, 2) if fractions[i] == fractions[j]]
    orders = np.array(random_subsets(width, 1.0, range(FIRST_DRAW, FIRST_DRAW + DRAWS)))
    rows, drawn, resampled = [], [], []
    sizes = [n_neurons(width, f) for f in spec.selections["random"]]
    # Disjoint pairs of draws, and each draw with the whole layer, which comes last.
    compared = [(i, i + 1) for i in range(0, DRAWS, 2)] + [(i, DRAWS) for i in range(DRAWS)]
    for estimator in spec.cka.estimators:
        q = statistics.matrix(estimator)
        for n, cka in enumerate(part_whole(q, parts)):
            rows.append(("part_whole", estimator, fractions[n], len(parts[n]), seeds[n % len(seeds)], WHOLE, cka))
        for (i, j), cka in zip(pairs, part_part(q, parts, pairs), strict=True):
            both = seeds[i % len(seeds)], seeds[j % len(seeds)]
            rows.append(("part_part", estimator, fractions[i], len(parts[i]), *both, cka))
        r, means = np.trace(q) / q.sum() if q.any() else np.nan, []
        for f, k, whole, part in zip(spec.selections["random"], sizes, *subset_cka_law(q, sizes), strict=True):
            found = np.split(part_part(q, [*orders[:, :k], orders[0]], compared), [DRAWS // 2])
            for comparison, cka, law in zip(("part_part", "part_whole"), found, (part, whole), strict=True):
                cka = pd.Series(cka).dropna()
                spread = cka.std(), *cka.quantile([0.05, 0.95])
                drawn.append((comparison, estimator, f, k, len(cka), cka.mean(), *spread, law, r))
            means.append((f, k, *map(np.nan_to_num, found)))  # where CKA is undefined no similarity was shown
        if estimator == ("biased" if "biased" in spec.cka.estimators else "debiased"):
            images = image_noise(x, sizes, estimator, device)
            for (f, k, *found), *moved in zip(means, *images, strict=True):
                for name, cka, by in zip(("cka_pairs", "cka"), found, moved, strict=True):
                    drawn_cka = deviations(resampled_mean(cka) + by, cka.mean())
                    resampled.append(("test", name, "random", f, k, cka.mean(), drawn_cka, "", ""))
    found = {"cka": rows, "cka_draws": drawn, "draws": resampled}
    return {name: pd.DataFrame([(model, dataset, *row) for row in rows], columns=list(COLUMNS[name]))
            for name, rows in found.items()}  # fmt: skip


def image_noise(x: np.ndarray, sizes: Sequence[int], estimator: str, device=None) -> np.ndarray:
    """Return by how much resampled images move the mean CKA of part and part and of part and whole: [2, sizes, draws].

    A group of images is left out at a time; what that does to a mean over all subsets is told by the law's one number.
    Groups are the same for every network, so that differences between networks are paired.
    """
    groups = max(2, min(GROUPS, len(x) // 4))
    group, without = np.arange(len(x)) % groups, []
    for g in range(groups):
        kept = CKAStatistics(x.shape[1], estimators=(estimator,), device=device or "cpu").update(x[group != g])
        without.append(subset_cka_law(kept.matrix(estimator), sizes, order=1)[::-1])
    # Pseudo-values, but for a constant; images that say nothing move nothing.
    pseudo = np.moveaxis(np.nan_to_num(-(groups - 1) * np.array(without)), 0, -1)
    return resampled_mean(pseudo, stream=1) - pseudo.mean(axis=-1, keepdims=True)


def redundancy_table(
    probes: pd.DataFrame, cka: pd.DataFrame, deltas: Sequence[float], draws: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Return DR of one cell by every rule over `deltas`, with its interval, for probes and for CKA.

    Intervals are over the seeds; those of "crossing" also over the test images where there are `draws`. Rule "exact" is
    eq. 1 itself where every subset of a layer was measured.
    """
    curves = []
    chosen = probes[(probes["selection"] == "random") & (probes["eval_set"] == "test")]
    for (solver, features), group in chosen.groupby(["solver", "features"]):
        curve = group.pivot_table(index="fraction", columns="seed", values="accuracy")
        if curve.loc[1.0].any():  # of a layer that never answers right there is no share to keep
            curves.append(("probe", (solver, features, ""), curve, curve.loc[1.0].to_numpy()))
    for estimator, group in cka[cka["comparison"] == "part_whole"].groupby("estimator"):
        curve = group.pivot_table(index="fraction", columns="seed_a", values="cka", dropna=False)
        # Where CKA is undefined no similarity was shown.
        curves.append(("cka", ("", "", estimator), curve.fillna(0.0), 1.0))
    cell = (probes["model"].iloc[0], probes["dataset"].iloc[0])
    rows = [
        (*cell, task, rule, delta,
         *diffused_redundancy_interval(curve.index.to_numpy(), curve.to_numpy(), full, delta, rule=rule), *labels)
        for task, labels, curve, full in curves for rule in RULES for delta in deltas
        if rule != "crossing" or draws is None or task == "cka"
    ]  # fmt: skip
    if draws is not None:
        accuracy = draws[draws["quantity"].eq("accuracy") & draws["eval_set"].eq("test")]
        for (selection, *labels), group in accuracy.groupby(["selection", "solver", "features"]):
            if rule := {"random": "crossing", "every": "exact"}.get(selection):
                rows += [(*cell, "probe", rule, delta, *dr, *labels, "") for delta, dr in _drawn(group, deltas, rule)]
    return pd.DataFrame(rows, columns=list(COLUMNS["redundancy"]))


def _drawn(curve: pd.DataFrame, deltas: Sequence[float], rule: str) -> list[tuple]:
    """Return DR over `deltas` with its 95 % interval from a curve's rows of "draws"."""
    curve = curve.drop_duplicates("n_neurons").sort_values("n_neurons")
    shares, mean = curve["n_neurons"].to_numpy() / curve["n_neurons"].max(), curve["mean"].to_numpy()
    if not mean[-1]:
        return []
    drawn = mean[:, None] + np.stack(curve["draws"])
    ratio = np.column_stack([mean / mean[-1], drawn / np.maximum(drawn[-1], 1e-9)])
    found = []
    for delta in deltas:
        dr, *draws = (1 - critical_fractions(shares, ratio, delta, "first" if rule == "exact" else rule)).round(12)
        low, high = np.quantile(draws, [0.025, 0.975], method="inverted_cdf")
        found.append((delta, (dr, min(low, dr), max(high, dr))))
    return found


def fairness_table(per_class: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    """Return the inequality of per-class accuracies, averaged over seeds first (Figs. 7, 9)."""
    keys = ["model", "dataset", "selection", "fraction", "solver", "features"]
    overall = probes[probes["eval_set"] == "test"].groupby(keys)["accuracy"].mean()
    tested = per_class[per_class["eval_set"] == "test"]
    by_class = tested.groupby([*keys, "class_name"])["class_accuracy"].mean()
    table = by_class.groupby(keys).agg(gini=gini, coefficient_of_variation=coefficient_of_variation)
    return table.join(overall).reset_index()[list(COLUMNS["fairness"])]
