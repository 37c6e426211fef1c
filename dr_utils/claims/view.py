"""The study's tables as networks, tasks and curves: what every claim reads, cut and ordered once."""

from __future__ import annotations

from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from dr_utils.claims.estimates import Curve, Estimate, close
from dr_utils.reference import NAMES, paper_network
from dr_utils.resampling import DRAWS, GROUPS
from dr_utils.study.cell import COLUMNS

SCHEMA = {
    **COLUMNS,
    "networks": ("model", "title", "width", "family", "training", "upstream", "kind", "robust_of"),
    "tasks": ("dataset", "title", "eval_set", "n_classes", "n_train", "n_test"),
    "spread": ("model", "dataset", "eval_set", "fraction", "std"),  # published numbers only: they have no single seeds
    "fewer_classes": ("model", "dataset", "n_classes", "part", "delta", "dr"),
}
# What a group of rows has in common, of the columns that its table has.
KEYS = ("model", "dataset", "eval_set", "selection", "quantity", "comparison", "task", "rule")
NO_ROWS = {name: pd.DataFrame(columns=list(columns)) for name, columns in SCHEMA.items()}
NO_CURVE = Curve(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0), [], 0)


class View:
    """Read-only access to the tables of one run, as `Study.run` returns them; ValueError if one is not like that."""

    def __init__(self, tables: dict[str, pd.DataFrame]):
        self.tables = NO_ROWS | {name: _checked(name, tables[name]) for name in SCHEMA if name in tables}
        self.networks = self.tables["networks"].drop_duplicates("model").set_index("model", drop=False)
        # The paper's own, where there are any: SGD and the biased estimator.
        self.solver = "ridge" if set(self.tables["probes"]["solver"]) == {"ridge"} else "sgd"
        self.estimator = "debiased" if set(self.tables["cka"]["estimator"]) == {"debiased"} else "biased"
        self._groups: dict[str, dict[tuple, pd.DataFrame]] = {}
        self._curves: dict[tuple, Curve] = {}

    def groups(self, table: str) -> dict[tuple, pd.DataFrame]:
        """Rows of a table by its `KEYS`, those of one solver and estimator."""
        if table not in self._groups:
            rows = self.tables[table]
            for column, own in (("solver", self.solver), ("estimator", self.estimator)):
                rows = rows[rows[column].isin(["", own])] if column in rows else rows
            self._groups[table] = dict(list(rows.groupby([key for key in KEYS if key in rows], sort=False)))
        return self._groups[table]

    def rows(self, table: str, *key: str) -> pd.DataFrame:
        """Rows of a table that have these values in its `KEYS`."""
        return self.groups(table).get(key, NO_ROWS[table])

    @cached_property
    def _measured(self) -> dict[str, set[str]]:
        """Networks with results on each task, in the order of the tasks table."""
        have = {key[:2] for table in ("probes", "cka") for key in self.groups(table)}
        tasks = dict.fromkeys([*self.tables["tasks"]["dataset"], *sorted(d for _, d in have)])
        return {task: {m for m, d in have if d == task} for task in tasks}

    def datasets(self, model: str | None = None) -> list[str]:
        """Tasks with results (of this network)."""
        return [task for task, models in self._measured.items() if (model in models if model else models)]

    def models(self, *training: str) -> list[str]:
        """Networks that have results, of these kinds of training if any are named."""
        have = set().union(*self._measured.values())
        return [m for m, kind in self.networks["training"].items() if m in have and (not training or kind in training)]

    def layers(self) -> list[str]:
        """Penultimate layers of ordinary width: what the paper says of layers in general, it says of these."""
        return [m for m in self.models() if self.networks.training[m] not in ("narrow", "layer")]

    def cells(self, *training: str) -> list[tuple[str, str]]:
        """Every (network, task) with results; of `layers` unless kinds of training are named."""
        return [(m, d) for m in (self.models(*training) if training else self.layers()) for d in self.datasets(m)]

    def about_task(self, dataset: str, column: str):
        """An entry of the tasks table, such as title, n_test or n_classes; None where it has none."""
        return next(iter(self.rows("tasks", dataset, "test")[column]), None)

    def title(self, model: str) -> str:
        return self.networks.title[model] or model

    def family(self, model: str) -> str:
        """Architecture; small networks are named apart from those trained on ImageNet."""
        kind, family = self.networks.loc[model, ["kind", "family"]]
        return family if kind == "imagenet" else f"{kind} {family}".strip()

    def alike(self, model: str, *keys: str) -> list[str]:
        """Networks with results that agree with this one in family, kind and these columns."""
        rows = self.networks[["family", "kind", *keys]]
        same = rows.eq(rows.loc[model]).all(axis=1)
        return [other for other in self.models() if same[other]]

    def rivals(self, mrl: str) -> list[str]:
        """Networks to compare a Matryoshka network with: of its family, width and upstream data."""
        return [m for m in self.alike(mrl, "width", "upstream") if self.networks.training[m] != "mrl"]

    def resnets(self, training: str) -> list[str]:
        """Networks like the paper's ResNet50, else any ResNet; ImageNet ones first."""
        cards = self.networks.loc[self.models(training)].to_dict("records")
        alike = [card for card in cards if paper_network(card) == "ResNet50"]
        alike = alike or [card for card in cards if card["family"].startswith("resnet")]
        return [card["model"] for card in sorted(alike, key=lambda card: card["kind"] != "imagenet")]

    def resnets_compared(self) -> list[str]:
        """The first standard ResNet, and the first adversarially trained one with its own standard counterpart."""
        robust = self.resnets("adversarial")[:1]
        pairs = [m for pair in self.robust_pairs() if pair[0] in robust for m in pair[::-1]]
        return list(dict.fromkeys(self.resnets("standard")[:1] + pairs))

    def robust_pairs(self) -> list[tuple[str, str]]:
        """(adversarially trained, its standard counterpart), both with results."""
        pairs = [(m, self.networks.robust_of[m]) for m in self.models("adversarial")]
        return [pair for pair in pairs if pair[1] in self.models()]

    def resnet_pairs(self) -> list[tuple[str, str]]:
        """The pairs of ResNets where there are any, else all pairs: section 2.1 speaks of ResNet50."""
        alike, pairs = self.resnets("adversarial"), self.robust_pairs()
        return [pair for pair in pairs if pair[0] in alike] or pairs

    def upstream_pairs(self) -> list[tuple[str, str]]:
        """(trained on more data, trained on less): standard networks of one family, width and kind."""
        sizes = self.networks["upstream"].map(NAMES["upstream"])
        pairs = [sorted(pair, key=lambda m: -sizes[m]) for pair in combinations(self.models("standard"), 2)]
        # One family may hold ViT-S/16 and /32.
        name = {m: paper_network(card) for m, card in self.networks.iterrows()}
        return [(a, b) for a, b in pairs if sizes[a] > sizes[b] and name[a] == name[b] and b in self.alike(a, "width")]

    def accuracy(self, model: str, dataset: str, selection: str = "random", eval_set: str = "test") -> Curve:
        """Probe accuracy; empty where there is none."""
        key = model, dataset, eval_set, selection
        return self._curve("probes", key, "accuracy", (*key, "accuracy"))

    def cka(self, model: str, dataset: str, comparison: str = "part_whole") -> Curve:
        """CKA of random parts with the whole layer, or "part_part", between parts; means over all draws of parts."""
        drawn = {"part_whole": "cka", "part_part": "cka_pairs"}[comparison]
        return self._curve("cka", (model, dataset, comparison), "cka", (model, dataset, "test", "random", drawn))

    def _curve(self, table: str, key: tuple, value: str, drawn: tuple) -> Curve:
        """The curve of the seeds that have every fraction, with the noise of these rows of "draws"."""
        if drawn in self._curves or self.rows(table, *key).empty:
            return self._curves.get(drawn, NO_CURVE)
        rows = self.rows(table, *key).dropna(subset=[value])
        seed = rows["seed"] if value == "accuracy" else 1000 * rows["seed_a"] + rows["seed_b"]
        grid = rows.assign(seed=seed).set_index(["fraction", "seed"])[value].unstack().sort_index().dropna(axis=1)
        means, std, draws, n_seeds = grid.mean(axis=1), grid.std(axis=1), np.zeros((len(grid), DRAWS)), 0
        if value == "accuracy":
            std = std.fillna(self.rows("spread", *drawn[:3]).set_index("fraction")["std"])
        resampled = self.rows("draws", *drawn).set_index("fraction").reindex(grid.index)
        if resampled["mean"].notna().all():
            draws, n_seeds = np.stack(resampled["draws"]).astype(float), grid.shape[1]
            if value == "cka":  # means over all draws of subsets have the noise of their images, drawn in groups
                means, n_seeds = resampled["mean"], GROUPS
        points = [Estimate(float(mean), d, n_seeds) for mean, d in zip(means, draws, strict=True)]
        columns = grid.index, rows.groupby("fraction")["n_neurons"].first(), means, std
        self._curves[drawn] = Curve(*(column.to_numpy() for column in columns), points, grid.shape[1])
        return self._curves[drawn]

    def quantities(self, model: str, dataset: str, quantity: str, selection: str = "random") -> dict[float, Estimate]:
        """A quantity of "draws" on the task's own test set by fraction, such as "gini" or "gini_excess"."""
        rows = self.rows("draws", model, dataset, "test", selection, quantity).sort_values("fraction")
        n_seeds = self.accuracy(model, dataset, selection).n_seeds
        drawn = zip(rows["fraction"], rows["mean"], rows["draws"], strict=True)
        return {f: Estimate(value, np.asarray(d, float), n_seeds) for f, value, d in drawn if n_seeds}

    def per_class(self, model: str, dataset: str, fraction: float) -> pd.Series:
        """Accuracy of each class by random subsets at one fraction, mean over seeds; empty where there is none."""
        rows = self.rows("per_class", model, dataset, "test", "random")
        rows = rows[close(rows["fraction"], fraction)]
        return rows.pivot_table(index="seed", columns="class_name", values="class_accuracy").dropna().mean()

    def dr(self, model: str, dataset: str, delta: float, of: str = "accuracy") -> Estimate:
        """DR by rule "crossing", of "accuracy" or "cka"; absent where there is no whole curve."""
        return getattr(self, of)(model, dataset).redundancy(delta)

    def redundancy(self, model: str, dataset: str, delta: float, rule: str = "first") -> tuple[float, float, float]:
        """DR by probe and its interval, as the study wrote it; NaN where the table has no such row."""
        rows = self.rows("redundancy", model, dataset, "probe", rule)
        rows = rows.loc[close(rows["delta"], delta), ["dr", "low", "high"]]
        return tuple(map(float, rows.iloc[0])) if len(rows) else (np.nan,) * 3


def _checked(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Return the table; ValueError if it is not what is expected."""
    if table.empty:
        return NO_ROWS[name]
    if absent := [column for column in SCHEMA[name] if column not in table]:
        absent, expected = ", ".join(absent), ", ".join(SCHEMA[name])
        raise ValueError(f"table {name!r} lacks the column(s) {absent}; expected {expected}. Run the study again.")
    return table
