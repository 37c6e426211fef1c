"""The study's tables as networks, tasks and curves: what every claim reads, cut and ordered once."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from dr_utils.claims.estimates import ABSENT, Curve, Estimate, close
from dr_utils.claims.paper_names import paper_network
from dr_utils.reference import SOURCE as PUBLISHED
from dr_utils.study.cell import COLUMNS

SCHEMA = {
    **COLUMNS,
    "networks": ("model", "title", "width", "family", "training", "upstream", "kind", "robust_of"),
    "tasks": ("dataset", "title", "eval_set", "n_classes", "n_train", "n_test"),
    "spread": ("model", "dataset", "eval_set", "fraction", "std"),  # published numbers only: they have no single seeds
    "fewer_classes": ("model", "dataset", "n_classes", "part", "delta", "dr"),
}  # fmt: skip
NUMBERS = {
    "fraction", "n_neurons", "seed", "accuracy", "class_accuracy", "seed_a", "seed_b", "cka", "delta", "dr",
    "low", "high", "gini", "coefficient_of_variation", "width", "n_classes", "n_train", "n_test", "std", "mean",
}  # fmt: skip
# The paper's protocol first; what stands in for it where a profile lacks it.
PROBE_PREFERENCE = (("sgd", "raw"), ("sgd", "standardised"), ("ridge", "raw"), ("ridge", "standardised"))
# How many images the upstream sets hold, in millions: "more upstream data" needs an order.
UPSTREAM_SIZE = {"tinyimagenet50": 0.015, "tinyimagenet202": 0.061, "cifar10": 0.05, "cifar100": 0.05,
                 "imagenet100": 0.13, "imagenet1k": 1.28, "imagenet12k": 12.0, "imagenet21k": 14.2}  # fmt: skip
PAPER_TASKS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "flowers": "Flowers", "oxford-iiit-pets": "Pets",
               "imagenet1k": "ImageNet-1k"}  # fmt: skip
_CURVE = ["model", "dataset", "eval_set", "selection"]


class View:
    """Read-only access to the tables of one run, as `Study.run` returns them; empty ones count as missing.

    A table that lacks columns, or holds text where numbers belong, raises ValueError.
    """

    def __init__(self, tables: dict[str, pd.DataFrame]):
        self.tables = {name: tables[name] for name in SCHEMA if name in tables and _checked(name, tables[name])}
        probes = self.tables.get("probes")
        have = set() if probes is None else set(zip(probes["solver"], probes["features"], strict=True))
        self.protocol = next((pair for pair in PROBE_PREFERENCE if pair in have), PROBE_PREFERENCE[0])
        estimators = set(self.tables["cka"]["estimator"]) if "cka" in self.tables else set()
        self.estimator = "debiased" if estimators == {"debiased"} else "biased"  # the paper's own, where there is one
        self._curves: dict[tuple, Curve | None] = {}

    # ---- networks and tasks

    @cached_property
    def networks(self) -> pd.DataFrame:
        """One row per network, indexed by its name, in the order of the table."""
        table = self.tables["networks"].drop_duplicates("model").set_index("model", drop=False)
        # An empty column is read from CSV as NaN, which pandas takes for numbers: name the text columns.
        text = ("title", "family", "training", "upstream", "kind", "robust_of")
        return table.assign(**{column: table[column].fillna("").astype(str) for column in text})

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
        return str(rows[0]["title"]) if rows else PAPER_TASKS.get(dataset, dataset)

    def models(self, *training: str) -> list[str]:
        """Networks that have results, of these kinds of training if any are named."""
        rows = self.networks[self.networks["training"].isin(training)] if training else self.networks
        have = {key[0] for key in (*self._probes, *self._similarities)}
        return [model for model in rows["model"] if model in have]

    def layers(self) -> list[str]:
        """Networks with results, but for those trained narrow (a claim of its own, W1) and middle layers.

        What the paper says of layers in general, it says of penultimate layers of their ordinary width.
        """
        return [model for model in self.models() if self.networks.loc[model, "training"] not in ("narrow", "layer")]

    def family(self, model: str) -> str:
        """Architecture; small networks are named apart from those trained on ImageNet."""
        card = self.networks.loc[model]
        return card["family"] if card["kind"] == "imagenet" else f"{card['kind']} {card['family']}".strip()

    def alike(self, model: str, *keys: str) -> list[str]:
        """Networks with results that agree with this one in family, kind and these columns."""
        rows, card = self.networks, self.networks.loc[model]
        return [m for m in self.models() if all(rows.loc[m, key] == card[key] for key in ("family", "kind", *keys))]

    def rivals(self, mrl: str) -> list[str]:
        """Networks to compare a Matryoshka network with: of its family, width and upstream data."""
        return [m for m in self.alike(mrl, "width", "upstream") if self.networks.loc[m, "training"] != "mrl"]

    def resnets(self, training: str) -> list[str]:
        """Networks like the paper's ResNet50, else any ResNet; ImageNet ones first."""
        rows = self.networks.loc[self.models(training)]
        alike = [paper_network(card) == "ResNet50" for card in rows.to_dict("records")]
        chosen = rows[alike] if any(alike) else rows[rows["family"].str.startswith("resnet")]
        return list(chosen.loc[chosen["kind"].ne("imagenet").sort_values(kind="stable").index, "model"])

    def resnets_compared(self) -> list[str]:
        """The paper's first pair as far as there is one: a standard ResNet, then an adversarially trained with its own.

        The first is an ImageNet one where there is any; the pair, which differs in training only, may be another's.
        """
        pair = [m for robust, standard in self.robust_pairs() for m in (standard, robust)
                if robust == next(iter(self.resnets("adversarial")), None)]  # fmt: skip
        return list(dict.fromkeys(self.resnets("standard")[:1] + pair))

    def robust_pairs(self) -> list[tuple[str, str]]:
        """(adversarially trained, its standard counterpart), both with results."""
        return [(m, s) for m in self.models("adversarial") if (s := self.networks.loc[m, "robust_of"]) in self.models()]

    def resnet_pairs(self) -> list[tuple[str, str]]:
        """The pairs of ResNets where there are any, else all pairs: section 2.1 speaks of ResNet50."""
        alike = self.resnets("adversarial")
        return [pair for pair in self.robust_pairs() if pair[0] in alike] or self.robust_pairs()

    def upstream_pairs(self) -> list[tuple[str, str]]:
        """(trained on more data, trained on less): standard networks of one family, width and kind."""
        rows, pairs = self.networks, []
        for a, b in combinations(self.models("standard"), 2):
            sizes = [UPSTREAM_SIZE.get(rows.loc[m, "upstream"]) for m in (a, b)]
            # One family may hold ViT-S/16 and /32.
            same = b in self.alike(a, "width") and paper_network(rows.loc[a]) == paper_network(rows.loc[b])
            if same and None not in sizes and sizes[0] != sizes[1]:
                pairs.append((a, b) if sizes[0] > sizes[1] else (b, a))
        return pairs

    def datasets(self, model: str | None = None) -> list[str]:
        """Tasks with results (of this network), in the order of the tasks table."""
        have = {key[1] for key in (*self._probes, *self._similarities) if model in (None, key[0])}
        order = list(dict.fromkeys(self.tables["tasks"]["dataset"])) if "tasks" in self.tables else []
        return [name for name in order if name in have] + sorted(have - set(order))

    def cells(self, models: list[str] | None = None) -> list[tuple[str, str]]:
        """Every (network, task) with a probe curve; of `layers` unless other networks are given."""
        models = self.layers() if models is None else models
        return [(m, d) for m in models for d in self.datasets(m) if self.accuracy(m, d) is not None]

    @cached_property
    def _tasks(self) -> dict[tuple[str, str], dict]:
        rows = self.tables["tasks"].to_dict("records") if "tasks" in self.tables else []
        return {(row["dataset"], row["eval_set"]): row for row in rows}

    def about_task(self, dataset: str, column: str, eval_set: str = "test") -> int | None:
        """A number of the tasks table, such as n_test or n_classes; None where it does not say."""
        row = self._tasks.get((dataset, eval_set))
        return int(row[column]) if row and pd.notna(row[column]) else None

    # ---- accuracy and similarity

    @cached_property
    def _probes(self) -> dict[tuple, pd.DataFrame]:
        return _grouped(self._ours("probes"), _CURVE)

    @cached_property
    def _draws(self) -> dict[tuple, pd.DataFrame]:
        table = self.tables.get("draws")
        rows = None if table is None else table[table["solver"].isin(["", self.protocol[0]])]
        return _grouped(rows, [*_CURVE, "quantity"])

    @cached_property
    def _similarities(self) -> dict[tuple, pd.DataFrame]:
        table = self.tables.get("cka")
        rows = None if table is None else table[table["estimator"].eq(self.estimator)].dropna(subset=["cka"])
        return _grouped(rows, ["model", "dataset", "comparison"])

    def _ours(self, name: str) -> pd.DataFrame | None:
        """Rows of the probes that claims are judged by."""
        table, (solver, features) = self.tables.get(name), self.protocol
        return None if table is None else table[table["solver"].eq(solver) & table["features"].eq(features)]

    def accuracy(self, model: str, dataset: str, selection: str = "random", eval_set: str = "test") -> Curve | None:
        """Probe accuracy; None where there is none."""
        key = (model, dataset, eval_set, selection)
        if key not in self._curves:
            self._curves[key] = self._curve(self._probes.get(key), "accuracy", "seed", (*key, "accuracy"))
        return self._curves[key]

    def part_whole(self, model: str, dataset: str) -> Curve | None:
        """CKA of random parts with the whole layer, its means over all draws of parts; None where there is none."""
        key = (model, dataset, "part_whole")
        if key not in self._curves:
            drawn = (model, dataset, "test", "random", "cka")
            self._curves[key] = self._curve(self._similarities.get(key), "cka", "seed_a", drawn)
        return self._curves[key]

    def pairs(self, model: str, dataset: str) -> Curve | None:
        """CKA between random parts of one size, a column per pair of seeds; None where there is none."""
        rows = self._similarities.get((model, dataset, "part_part"))
        pair = None if rows is None else rows.assign(pair=1000 * rows["seed_a"] + rows["seed_b"])
        return self._curve(pair, "cka", "pair", (model, dataset, "test", "random", "cka_pairs"))

    def _curve(self, rows: pd.DataFrame | None, value: str, seed: str, drawn: tuple) -> Curve | None:
        """Rows as a curve of the seeds that have every fraction."""
        if rows is None:
            return None
        grid = rows.set_index(["fraction", seed])[value].unstack().sort_index().dropna(axis=1)
        if grid.empty:
            return None
        neurons = rows.groupby("fraction")["n_neurons"].first().reindex(grid.index).to_numpy()
        draws = self.draws(*drawn)
        if draws is not None:
            draws = draws.set_index("fraction").reindex(grid.index)
            draws = None if draws["mean"].isna().any() else draws
        found = {} if draws is None else {"draws": np.stack(draws["draws"]).astype(float)}
        if draws is not None and value == "cka":
            found["means"] = draws["mean"].to_numpy(float)
        if (stated := self.tables.get("spread")) is not None and value == "accuracy":
            own = stated[(stated[_CURVE[:3]] == list(drawn[:3])).all(axis=1)].set_index("fraction")["std"]
            found["stated"] = own.reindex(grid.index).to_numpy(float)
        seeds = tuple(int(s) for s in grid.columns)
        return Curve(grid.index.to_numpy(float), neurons, grid.to_numpy(float), seeds, **found)

    def draws(self, model: str, dataset: str, eval_set: str, selection: str, quantity: str) -> pd.DataFrame | None:
        """Rows of "draws" for one quantity, fractions rising; None where there are none."""
        rows = self._draws.get((model, dataset, eval_set, selection, quantity))
        return None if rows is None else rows.sort_values("fraction")

    def quantities(self, model: str, dataset: str, quantity: str, selection: str = "random") -> dict[float, Estimate]:
        """A quantity of "draws" on the task's own test set at every fraction, such as "gini" or "gini_excess"."""
        rows, curve = self.draws(model, dataset, "test", selection, quantity), self.accuracy(model, dataset, selection)
        if rows is None or curve is None:
            return {}
        drawn = zip(rows["fraction"], rows["mean"], rows["draws"], strict=True)
        return {f: Estimate(value, np.asarray(d, float), len(curve.seeds)) for f, value, d in drawn}

    def per_class(self, model: str, dataset: str, fraction: float) -> pd.DataFrame | None:
        """Accuracy per class of random subsets at one fraction, a row per seed, a column per class; None if absent."""
        rows = self._classes.get((model, dataset, "test", "random"))
        rows = rows if rows is None else rows[close(rows["fraction"], fraction)]
        if rows is None or rows.empty:
            return None
        return rows.pivot_table(index="seed", columns="class_name", values="class_accuracy").dropna()

    @cached_property
    def _classes(self) -> dict[tuple, pd.DataFrame]:
        return _grouped(self._ours("per_class"), _CURVE)

    # ---- redundancy and fairness

    def dr(self, model: str, dataset: str, delta: float, of: str = "probe") -> Estimate:
        """DR by rule "crossing", by probes or by CKA; `ABSENT` where there is no whole curve."""
        curve = self.accuracy(model, dataset) if of == "probe" else self.part_whole(model, dataset)
        return ABSENT if curve is None else curve.redundancy(delta)

    def redundancy(self, model: str, dataset: str, delta: float, rule: str = "first") -> tuple | None:
        """(dr, low, high) by probe, as the study wrote it; None where the table has no such row."""
        rows = self.redundancy_curve(model, dataset, rule)
        rows = rows if rows is None else rows[close(rows["delta"], delta)]
        return None if rows is None or rows.empty else tuple(map(float, rows[["dr", "low", "high"]].iloc[0]))

    def redundancy_curve(self, model: str, dataset: str, rule: str = "first") -> pd.DataFrame | None:
        """DR by probe over delta: columns delta, dr, low, high; None where there is none."""
        rows = self._redundancies.get((model, dataset, "probe", rule))
        return None if rows is None else rows[["delta", "dr", "low", "high"]].sort_values("delta")

    @cached_property
    def _redundancies(self) -> dict[tuple, pd.DataFrame]:
        return _grouped(self._ours("redundancy"), ["model", "dataset", "task", "rule"])

    def fairness_curves(self) -> dict[tuple[str, str], pd.DataFrame]:
        """Rows of "fairness" for random subsets by (network, task), fractions rising."""
        rows = self._ours("fairness")
        rows = None if rows is None else rows[rows["selection"].eq("random")].sort_values("fraction")
        return _grouped(rows, ["model", "dataset"])


def _grouped(rows: pd.DataFrame | None, keys: list[str]) -> dict[tuple, pd.DataFrame]:
    return {} if rows is None else dict(list(rows.groupby(keys, sort=False)))


def _checked(name: str, table: pd.DataFrame) -> bool:
    """Return whether a table has rows; ValueError if they are not what is expected."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"table {name!r} must be a pandas DataFrame; got {type(table).__name__}.")
    again, expected = "Run the study again to write it anew.", SCHEMA[name]
    if table.empty:
        return False
    if absent := [column for column in expected if column not in table.columns]:
        columns = f"the column(s) {', '.join(absent)}; expected {', '.join(expected)}"
        raise ValueError(f"table {name!r} lacks {columns}. {again}")
    for column in NUMBERS.intersection(expected):
        if not pd.api.types.is_numeric_dtype(table[column]):
            given = f"must hold numbers; got {table[column].iloc[0]!r}"
            raise ValueError(f"table {name!r}: column {column!r} {given}. {again}")
    return True
