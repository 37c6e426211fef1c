"""A study's tables from the numbers that the paper's authors published, in place of measured ones."""

from __future__ import annotations

from types import SimpleNamespace

import pandas as pd

from dr_utils.checks import unknown
from dr_utils.profiles import Profile
from dr_utils.reference import published, read
from dr_utils.study.cell import COLUMNS, WHOLE, redundancy_table
from dr_utils.subsets import n_neurons

NOTE = (
    "Published numbers (means and standard deviations that the paper's authors printed, reference_values.csv; DR "
    "follows from the means): nothing here was measured by this suite."
)
HEAD = "For ImageNet-1k the point at fraction 1 is the network's own head, not a probe."
MEAN = 0  # in the column of seeds: the mean over the authors' seeds, since single runs were not published
# Rows of networks.csv and tasks.csv with, in the last columns, the names of the printed curves and data sets.
NETWORKS = read("reference_networks.csv").set_index("model", drop=False)
TASKS = read("reference_tasks.csv").set_index(["dataset", "eval_set"], drop=False)
# A profile of published numbers is checked against these, as one that measures is against the registries.
CARDS = {name: SimpleNamespace(splits=list(sets)) for name, sets in TASKS["eval_set"].groupby(level="dataset")}


def check_network(name: str) -> None:
    """Refuse a network without published curves."""
    if name not in NETWORKS.index:
        raise unknown("published network", name, NETWORKS.index)


def published_tables(profile: Profile) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Lay the published numbers out as a study's tables; return notes on them too.

    Beside them is "spread", the standard deviations of accuracy; "per_class", "fairness" and "cka_draws" are empty. Of
    the profile the networks, tasks, fractions and deltas matter.
    """
    found: dict[str, list[pd.DataFrame]] = {"probes": [], "cka": [], "redundancy": [], "spread": []}
    cells, absent = [], []
    for network, task in profile.cells():
        sets = profile.tasks[task].eval_sets
        accuracy = pd.concat([_accuracy(network, task, name, profile.fractions) for name in sets], ignore_index=True)
        if accuracy.empty:
            absent.append(f"{network} on {task}: not published.")
            continue
        cells.append((network, task))
        cka = _similarity(network, task, profile.fractions if profile.spec(network, task).cka.estimators else [])
        # CKA of the whole layer with itself is 1 by definition and was not printed.
        whole = cka[cka["comparison"].eq("part_whole")].tail(1).assign(fraction=1.0, cka=1.0)
        found["probes"].append(accuracy[list(COLUMNS["probes"])])
        found["spread"].append(accuracy.dropna(subset=["std"])[["model", "dataset", "eval_set", "fraction", "std"]])
        found["cka"].append(cka)
        found["redundancy"].append(redundancy_table(accuracy, pd.concat([cka, whole]), profile.deltas))
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    tables |= {name: pd.DataFrame(columns=list(COLUMNS[name])) for name in COLUMNS if name not in tables}
    tables["networks"] = NETWORKS.loc[list(dict.fromkeys(n for n, _ in cells))].drop(columns=["accuracy", "part_whole"])
    sets = [(task, name) for task in dict.fromkeys(t for _, t in cells) for name in profile.tasks[task].eval_sets]
    resolution = [profile.tasks[task].resolution for task, _ in sets]
    tables["tasks"] = TASKS.loc[sets].assign(resolution=resolution).drop(columns="printed")
    notes = [
        NOTE,
        "Seed 0 is the mean over the authors' seeds (their 10 pairs, for CKA of two parts); a whole layer is one run.",
        "DR is computed here from the published mean curves; it has no interval: single seeds were not published.",
        "CKA is listed as biased, the estimator of the paper's Appendix A; the printed numbers do not name theirs, and "
        "which printed curve of part and whole belongs to which network was inferred from the order of the legend.",
        *absent,
    ]
    return tables, [*notes, HEAD] if "imagenet1k" in tables["tasks"]["dataset"].to_numpy() else notes


def _curve(model: str, dataset: str, quantity, fractions: list[float]) -> pd.DataFrame:
    """Return the published rows of one curve at these fractions, rising."""
    rows = published(model=model, dataset=dataset, quantity=quantity, fraction=fractions)
    return rows.dropna(subset=["number"]).sort_values("fraction")


def _accuracy(network: str, task: str, eval_set: str, fractions: list[float]) -> pd.DataFrame:
    """Return rows of probes.csv with the published standard deviation beside them, NaN where there is none."""
    entry, dataset = NETWORKS.loc[network], TASKS.loc[(task, eval_set), "printed"]
    rows = _curve(entry["accuracy"], dataset, ["probe_test_accuracy_mean", "probe_test_accuracy"], fractions)
    std = _curve(entry["accuracy"], dataset, "probe_test_accuracy_std", fractions).set_index("fraction")["number"]
    # Figure 15's are printed beside the mean. The whole layer is one run: its 0 is no spread.
    quoted = rows["quote"].str.extract(r"n_seeds=(?P<runs>\d+) std=(?P<std>[0-9.]+)").astype(float)
    return pd.DataFrame(
        {
            "model": network, "dataset": task, "eval_set": eval_set, "selection": "random",
            "fraction": rows["fraction"], "n_neurons": [n_neurons(entry["width"], f) for f in rows["fraction"]],
            "seed": MEAN, "accuracy": rows["number"], "solver": "sgd", "features": "raw",
            "std": rows["fraction"].map(std).fillna(quoted["std"].where(quoted["runs"] > 1)),
        }
    )  # fmt: skip


def _similarity(network: str, task: str, fractions: list[float]) -> pd.DataFrame:
    """Return rows of cka.csv."""
    entry, tables = NETWORKS.loc[network], []
    for comparison, model, quantity, second in (
        ("part_whole", entry["part_whole"], "CKA_part_vs_whole_mean", WHOLE),
        ("part_part", entry["accuracy"], "CKA_between_random_subsets_mean", MEAN),
    ):
        rows = _curve(model, TASKS.loc[(task, "test"), "printed"], quantity, fractions)
        neurons = [n_neurons(entry["width"], f) for f in rows["fraction"]]
        columns = {"comparison": comparison, "estimator": "biased", "fraction": rows["fraction"], "n_neurons": neurons}
        tables.append(pd.DataFrame({**columns, "seed_a": MEAN, "seed_b": second, "cka": rows["number"]}))
    return pd.concat(tables, ignore_index=True).assign(model=network, dataset=task)[list(COLUMNS["cka"])]
