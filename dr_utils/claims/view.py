"""The study's tables as curves: what every claim reads, cut and ordered once."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import pandas as pd

from dr_utils.claims.curves import Curve, close, curve_from, with_whole
from dr_utils.claims.paper_names import paper_network
from dr_utils.claims.registry import PUBLISHED, check_tables

# The paper's protocol first; what stands in for it where a profile lacks it.
PROBE_PREFERENCE = (("sgd", "raw"), ("sgd", "standardised"), ("ridge", "raw"), ("ridge", "standardised"))
ESTIMATOR_PREFERENCE = ("biased", "debiased")  # biased is the estimator of the paper's appendix A
TEXT = ("title", "family", "training", "upstream", "kind", "robust_of")
PAPER_TASKS = {
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "flowers": "Flowers",
    "oxford-iiit-pets": "Pets",
    "imagenet1k": "ImageNet-1k",
}
MAIN_SETS = ("test", "validation", "val")


class View:
    """Read-only access to the tables of one run.

    Parameters
    ----------
    tables : dict of DataFrame
        As the study writes them. Empty tables count as missing.

    Raises
    ------
    ValueError
        A table lacks columns, or holds text where numbers belong.
    """

    def __init__(self, tables: dict[str, pd.DataFrame]):
        self.tables = check_tables(tables)
        self._curves: dict[tuple, Curve | None] = {}
        self._class_curves: dict[tuple, dict[float, pd.DataFrame]] = {}
        self._wholes: dict[tuple, Curve | None] = {}
        self._main_sets: dict[str, str] = {}

    # ---- networks and tasks

    @cached_property
    def networks(self) -> pd.DataFrame:
        """One row per network, indexed by its name, in the order of the table."""
        table = self.tables["networks"].drop_duplicates("model").set_index("model", drop=False)
        # An empty column is read from CSV as NaN, which pandas takes for numbers: name the text columns.
        text = {column: table[column].fillna("").astype(str) for column in TEXT}
        return table.assign(**text)

    @cached_property
    def from_paper(self) -> bool:
        """Whether these are the numbers that the paper's authors published, and nothing was measured."""
        table = self.tables.get("networks")
        return table is not None and "source" in table and bool(table["source"].eq(PUBLISHED).all())

    def title(self, model: str) -> str:
        """How figures call a network."""
        return self.networks.loc[model, "title"] or model

    def task_title(self, dataset: str) -> str:
        """How figures call a task."""
        rows = [row for (name, _), row in self._tasks.items() if name == dataset]
        return PAPER_TASKS.get(dataset, dataset) if not rows else str(rows[0]["title"])

    def models(self, training: str | tuple[str, ...] | None = None) -> list[str]:
        """Networks of this kind of training that have results."""
        wanted = (training,) if isinstance(training, str) else training
        rows = self.networks if wanted is None else self.networks[self.networks["training"].isin(wanted)]
        have = {key[0] for key in self._groups} | {key[0] for key in self._cka_groups}
        return [model for model in rows["model"] if model in have]

    def family(self, model: str) -> str:
        """Architecture; the zoo's are named apart from those trained on ImageNet."""
        card = self.networks.loc[model]
        return card["family"] if card["kind"] == "imagenet" else f"{card['kind']} {card['family']}".strip()

    def alike(self, model: str) -> list[str]:
        """Networks with results, of this one's family, kind and upstream data: what else differs is the comparison."""
        rows, card = self.networks, self.networks.loc[model]
        same = [all(rows.loc[m, key] == card[key] for key in ("family", "kind", "upstream")) for m in self.models()]
        return [m for m, chosen in zip(self.models(), same, strict=True) if chosen]

    def resnets(self, training: str) -> list[str]:
        """Networks like the paper's ResNet50, else any ResNet; ImageNet ones first."""
        rows = self.networks.loc[self.models(training)]
        alike = [paper_network(card) == "ResNet50" for card in rows.to_dict("records")]
        for match in (
            pd.Series(alike, index=rows.index, dtype=bool),
            rows["family"].str.startswith("resnet"),
        ):
            if match.any():
                chosen = rows[match]
                return list(chosen.loc[chosen["kind"].ne("imagenet").sort_values(kind="stable").index, "model"])
        return []

    def resnets_compared(self) -> list[str]:
        """The paper's first pair as far as there is one: a standard ResNet, then an adversarially trained with its own.

        The first is an ImageNet one where there is any; the pair, which differs in training only, may be another's.
        """
        pair = [m for robust, standard in self.robust_pairs() for m in (standard, robust)
                if robust == next(iter(self.resnets("adversarial")), None)]  # fmt: skip
        return list(dict.fromkeys(self.resnets("standard")[:1] + pair))

    def robust_pairs(self) -> list[tuple[str, str]]:
        """(adversarially trained, its standard counterpart), both with results."""
        have = set(self.models())
        rows = self.networks[self.networks["training"].eq("adversarial")]
        return [(m, s) for m, s in zip(rows["model"], rows["robust_of"], strict=True) if m in have and s in have]

    def datasets(self, model: str | None = None) -> list[str]:
        """Tasks with results (of this network), in the order of the tasks table."""
        have = {key[1] for key in [*self._groups, *self._cka_groups] if model in (None, key[0])}
        order = list(dict.fromkeys(self.tables["tasks"]["dataset"])) if "tasks" in self.tables else []
        return [name for name in order if name in have] + sorted(have - set(order))

    def layers(self) -> list[str]:
        """Networks with results, but for those trained narrow: a layer without redundancy is a claim of its own (W1).

        What the paper says of layers in general, it says of penultimate layers of their ordinary width: middle layers
        are left out too.
        """
        return [model for model in self.models() if self.networks.loc[model, "training"] not in ("narrow", "layer")]

    def cells(self, models: list[str] | None = None) -> list[tuple[str, str]]:
        """Every (network, task) with a probe curve; of `layers` unless other networks are given."""
        models = self.layers() if models is None else models
        return [(m, d) for m in models for d in self.datasets(m) if self.accuracy(m, d) is not None]

    def n_test(self, dataset: str, eval_set: str | None = None) -> int | None:
        """Number of test images; None where the tasks table does not say."""
        return self._task(dataset, eval_set, "n_test")

    def n_classes(self, dataset: str) -> int | None:
        return self._task(dataset, None, "n_classes")

    @cached_property
    def _tasks(self) -> dict[tuple[str, str], dict]:
        rows = self.tables["tasks"].to_dict("records") if "tasks" in self.tables else []
        return {(row["dataset"], row["eval_set"]): row for row in rows}

    def _task(self, dataset: str, eval_set: str | None, column: str) -> int | None:
        row = self._tasks.get((dataset, eval_set or self.main_set(dataset)))
        return int(row[column]) if row and pd.notna(row[column]) else None

    def main_set(self, dataset: str) -> str:
        """The evaluation set that belongs to the task itself."""
        if dataset not in self._main_sets:
            have = {key[2] for key in self._groups if key[1] == dataset}
            self._main_sets[dataset] = next((name for name in MAIN_SETS if name in have), "test")
        return self._main_sets[dataset]

    # ---- accuracies

    @cached_property
    def protocol(self) -> tuple[str, str]:
        """(solver, features) of the probes that the claims are judged by."""
        return _preferred(self.tables.get("probes"))

    @cached_property
    def _groups(self) -> dict[tuple, pd.DataFrame]:
        return _group(self.tables.get("probes"), self.protocol)

    @cached_property
    def _class_groups(self) -> dict[tuple, pd.DataFrame]:
        return _group(self.tables.get("per_class"), self.protocol)

    def accuracy(
        self, model: str, dataset: str, selection: str = "random", eval_set: str | None = None
    ) -> Curve | None:
        """Probe accuracy; None where there is none."""
        key = (model, dataset, eval_set or self.main_set(dataset), selection)
        if key not in self._curves:
            rows = self._groups.get(key)
            self._curves[key] = None if rows is None else self._stated(key, curve_from(rows, "accuracy", "seed"))
        return self._curves[key]

    def _stated(self, key: tuple, curve: Curve | None) -> Curve | None:
        """The curve with its published standard deviations, where the tables have some."""
        table = self.tables.get("spread")
        if table is None or curve is None:
            return curve
        keys = zip(table["model"], table["dataset"], table["eval_set"], strict=True)
        rows = table[[found == key[:3] for found in keys]]
        return replace(curve, stated=rows.set_index("fraction")["std"].reindex(curve.fractions).to_numpy(float))

    def per_class(
        self,
        model: str,
        dataset: str,
        fraction: float,
        selection: str = "random",
        eval_set: str | None = None,
    ) -> pd.DataFrame | None:
        """Accuracy per class at one fraction, a row per seed, a column per class; None if absent."""
        key = (model, dataset, eval_set or self.main_set(dataset), selection)
        if key not in self._class_curves:
            rows = self._class_groups.get(key)
            self._class_curves[key] = (
                {}
                if rows is None
                else {
                    f: table.droplevel("fraction").dropna()
                    for f, table in rows.pivot_table(
                        index=["fraction", "seed"], columns="class_name", values="class_accuracy"
                    ).groupby(level="fraction")
                }
            )
        return next((t for f, t in self._class_curves[key].items() if close(f, fraction)), None)

    # ---- similarity

    @cached_property
    def estimator(self) -> str:
        have = set(self.tables["cka"]["estimator"]) if "cka" in self.tables else set()
        return next((name for name in ESTIMATOR_PREFERENCE if name in have), ESTIMATOR_PREFERENCE[0])

    @cached_property
    def _cka_groups(self) -> dict[tuple, pd.DataFrame]:
        table = self.tables.get("cka")
        if table is None:
            return {}
        rows = table[table["estimator"].eq(self.estimator)].dropna(subset=["cka"])
        return dict(list(rows.groupby(["model", "dataset", "comparison"], sort=False)))

    def part_whole(self, model: str, dataset: str) -> Curve | None:
        """CKA of random parts with the whole layer; at fraction 1 it is 1 by definition."""
        if (model, dataset) not in self._wholes:
            rows = self._cka_groups.get((model, dataset, "part_whole"))
            self._wholes[model, dataset] = None if rows is None else with_whole(curve_from(rows, "cka", "seed_a"))
        return self._wholes[model, dataset]

    def part_part(self, model: str, dataset: str, fraction: float) -> pd.DataFrame | None:
        """CKA of pairs of parts at one fraction: columns seed_a, seed_b, cka; None where there is none."""
        rows = self._cka_groups.get((model, dataset, "part_part"))
        if rows is None:
            return None
        rows = rows[close(rows["fraction"], fraction)]
        return rows[["seed_a", "seed_b", "cka"]] if len(rows) else None

    def pairs(self, model: str, dataset: str) -> Curve | None:
        """CKA between random parts of one size, a column per pair of seeds; None where there is none."""
        rows = self._cka_groups.get((model, dataset, "part_part"))
        if rows is None:
            return None
        return curve_from(rows.assign(pair=1000 * rows["seed_a"] + rows["seed_b"]), "cka", "pair")

    # ---- redundancy and fairness, as the study wrote them

    def redundancy(self, model: str, dataset: str, delta: float, *, task="probe", rule="first"):
        """(dr, low, high) of one network and task; None where the table has no such row."""
        table = self.tables["redundancy"]
        rows = table[
            table["model"].eq(model)
            & table["dataset"].eq(dataset)
            & table["task"].eq(task)
            & table["rule"].eq(rule)
            & close(table["delta"], delta)
        ]
        if task == "probe":
            solver, features = self.protocol
            rows = rows[rows["solver"].eq(solver) & rows["features"].eq(features)]
        else:
            rows = rows[rows["estimator"].eq(self.estimator)]
        return None if rows.empty else tuple(float(rows[name].iloc[0]) for name in ("dr", "low", "high"))

    def redundancy_curve(self, model: str, dataset: str) -> pd.DataFrame | None:
        """DR by probe and rule "first" over delta: columns delta, dr, low, high; None where there is none."""
        table = self.tables.get("redundancy")
        if table is None or table.empty:
            return None
        solver, features = self.protocol
        rows = table[
            table["model"].eq(model)
            & table["dataset"].eq(dataset)
            & table["task"].eq("probe")
            & table["rule"].eq("first")
            & table["solver"].eq(solver)
            & table["features"].eq(features)
        ]
        return rows[["delta", "dr", "low", "high"]].sort_values("delta") if len(rows) else None

    def fairness_curves(self, selection: str) -> dict[tuple[str, str], pd.DataFrame]:
        """Rows of fairness.csv by (network, task), fractions rising."""
        table = self.tables.get("fairness")
        if table is None or table.empty:
            return {}
        solver, features = self.protocol
        rows = table[table["selection"].eq(selection) & table["solver"].eq(solver) & table["features"].eq(features)]
        groups = rows.sort_values("fraction").groupby(["model", "dataset"], sort=False)
        return {key: group for key, group in groups}

    def selections(self) -> dict[tuple[str, str], set[str]]:
        """Which selections each (network, task) has probes of."""
        found: dict[tuple[str, str], set[str]] = {}
        for model, dataset, _, selection in self._groups:
            found.setdefault((model, dataset), set()).add(selection)
        return found


def _preferred(table: pd.DataFrame | None) -> tuple[str, str]:
    have = set() if table is None else set(zip(table["solver"], table["features"], strict=True))
    return next((pair for pair in PROBE_PREFERENCE if pair in have), PROBE_PREFERENCE[0])


def _group(table: pd.DataFrame | None, protocol: tuple[str, str]) -> dict[tuple, pd.DataFrame]:
    if table is None:
        return {}
    rows = table[table["solver"].eq(protocol[0]) & table["features"].eq(protocol[1])]
    return dict(list(rows.groupby(["model", "dataset", "eval_set", "selection"], sort=False)))
