"""A study's tables from the numbers that the paper's authors published, in place of measured ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dr_utils.checks import unknown
from dr_utils.claims.paper_names import ACCURACY, PART_WHOLE, WIDTHS, paper_task
from dr_utils.claims.registry import PUBLISHED, SCHEMA
from dr_utils.profiles import Profile
from dr_utils.reference import published
from dr_utils.study.cell import redundancy_table
from dr_utils.subsets import n_neurons

NOTE = (
    "Published numbers (means and standard deviations that the paper's authors printed, reference_values.csv; DR "
    "follows from the means): nothing here was measured by this suite."
)
HEAD = "For ImageNet-1k the point at fraction 1 is the network's own head, not a probe."
MEAN = 0  # in the column of seeds: the mean over the authors' seeds, since single runs were not published
WHOLE = -1  # in the place of a second seed: the whole layer, as in a measured cka.csv
PROBE_MEANS = ["probe_test_accuracy_mean", "probe_test_accuracy"]
PART_PART = "CKA_between_random_subsets_mean"
# What a reference profile can ask for; anything else was not published.
ASKABLE = {"seeds": [MEAN], "selections": ["random"], "solvers": ["sgd"], "estimators": ["biased"]}


@dataclass(frozen=True)
class _Network:
    """Columns of networks.csv, and the names that the printed accuracies and similarities go by."""

    title: str
    width: int
    family: str
    training: str
    upstream: str
    accuracy: str
    part_whole: str | None = None
    robust_of: str = ""


NETWORKS = {
    "resnet50_standard": _Network(
        "published ResNet50", WIDTHS["ResNet50"], "resnet50", "standard", "imagenet1k",
        ACCURACY["standard"], PART_WHOLE["standard"],
    ),
    "resnet50_l2_eps3": _Network(
        "published ResNet50, l2 eps 3", WIDTHS["ResNet50"], "resnet50", "adversarial", "imagenet1k",
        ACCURACY["adversarial"], PART_WHOLE["adversarial"], robust_of="resnet50_standard",
    ),
    "vit_s16_imagenet21k": _Network(
        "published ViT S-16, ImageNet-21k", WIDTHS["ViT S-16"], "vit_s16", "standard", "imagenet21k",
        "vit_small_patch16_224|nonrob|pretrain=imagenet21k|mode=random",
    ),
}  # fmt: skip
# Title, classes, images in the train split, images in each evaluation set: sizes of the public data sets.
TASKS = {
    "cifar10": ("CIFAR-10", 10, 50_000, {"test": 10_000}),
    "cifar100": ("CIFAR-100", 100, 50_000, {"test": 10_000}),
    "flowers": ("Flowers", 102, 1_020, {"test": 6_149}),
    "pets": ("Pets", 37, 3_680, {"test": 3_669}),
    "imagenet1k": ("ImageNet-1k", 1_000, 1_281_167, {"test": 50_000, "imagenetv2": 10_000}),
}


def check_published(profile: Profile) -> None:
    """Check that a profile with ``reference: true`` asks for what was published.

    Raises
    ------
    ValueError
        A network, task or evaluation set without published curves, or seeds, selections, solvers or estimators other
        than `ASKABLE`.
    """
    hint = "With reference: true a profile can only name what reference_values.csv covers."
    for network in profile.networks:
        if network not in NETWORKS:
            raise unknown("published network", network, NETWORKS, hint=hint)
    for task, spec in profile.tasks.items():
        if task not in TASKS:
            raise unknown("published task", task, TASKS, hint=hint)
        for eval_set in spec.eval_sets:
            if eval_set not in TASKS[task][3]:
                raise unknown(f"published evaluation set of {task}", eval_set, TASKS[task][3], hint=hint)
    asked = {
        "seeds": profile.seeds,
        "selections": sorted({entry.selection for entry in profile.selections}),
        "solvers": profile.probe.solvers,
        "estimators": profile.cka.estimators,
    }
    for key, value in ASKABLE.items():
        if asked[key] != value:
            raise ValueError(
                f"profile {profile.name}: {key} are {asked[key]}, expected {value} with reference: true: nothing else "
                "was published (seed 0 is the mean over the authors' seeds); see notebooks/profiles/reference.yaml."
            )


def published_tables(profile: Profile) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Lay the published numbers out as a study's tables.

    Parameters
    ----------
    profile : Profile
        With ``reference: true``. Points at fractions that it does not list are left out.

    Returns
    -------
    tables : dict of str to DataFrame
        Those of a measured study but for "claims", with the same columns, and "spread": the published standard
        deviations of accuracy. Every accuracy and CKA is a number of the file. A mean has one row, with seed 0. DR, by
        both rules, is computed from the mean curves and has no interval. "per_class" and "fairness" are empty:
        nothing was published.
    notes : list of str
        What the reader should know of these numbers.

    Raises
    ------
    ValueError
        As in `check_published`.
    """
    check_published(profile)
    notes = [
        NOTE,
        "Seed 0 is the mean over the authors' seeds (their 10 pairs, for CKA of two parts); a whole layer is one run.",
        "DR is computed here from the published mean curves; it has no interval: single seeds were not published.",
        "CKA is listed as biased, the estimator of the paper's Appendix A; the printed numbers do not name theirs, and "
        "which printed curve of part and whole belongs to which network was inferred from the order of the legend.",
    ]
    cells = [cell for cell in profile.cells() if not _accuracy(*cell, "test", profile.fractions).empty]
    for network, task in profile.cells():
        if (network, task) not in cells:
            notes.append(f"{network} on {task}: not published.")
    if any(task == "imagenet1k" for _, task in cells):
        notes.append(HEAD)
    found: dict[str, list[pd.DataFrame]] = {"probes": [], "cka": [], "redundancy": [], "spread": []}
    for network, task in cells:
        rows = [_accuracy(network, task, s, profile.fractions) for s in profile.tasks[task].eval_sets]
        accuracy = pd.concat(rows, ignore_index=True)
        cka = _similarity(network, task, profile.fractions if task in profile.cka_tasks() else [])
        found["probes"].append(accuracy[list(SCHEMA["probes"])])
        found["spread"].append(accuracy.dropna(subset=["std"])[list(SCHEMA["spread"])])
        found["cka"].append(cka)
        found["redundancy"].append(redundancy_table(accuracy, _with_whole(cka, network), profile.deltas))
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    tables |= {name: pd.DataFrame(columns=list(SCHEMA[name])) for name in ("per_class", "fairness")}
    tables["networks"] = pd.DataFrame([_network_row(n) for n in dict.fromkeys(n for n, _ in cells)])
    tables["tasks"] = pd.DataFrame(
        [row for t in dict.fromkeys(t for _, t in cells) for row in _task_rows(t, profile.tasks[t])]
    )
    return tables, notes


def _curve(model: str, dataset: str, quantity, fractions: list[float]) -> pd.DataFrame:
    """Published rows of one curve at these fractions, rising."""
    rows = published(model=model, dataset=dataset, quantity=quantity).dropna(subset=["fraction", "number"])
    wanted = np.isclose(rows["fraction"].to_numpy()[:, None], fractions, rtol=1e-9, atol=0).any(axis=1)
    return rows[wanted].sort_values("fraction")


def _accuracy(network: str, task: str, eval_set: str, fractions: list[float]) -> pd.DataFrame:
    """Rows of probes.csv with the published standard deviation beside them, NaN where there is none."""
    entry, dataset = NETWORKS[network], paper_task(task) if eval_set == "test" else eval_set
    rows = _curve(entry.accuracy, dataset, PROBE_MEANS, fractions)
    std = _curve(entry.accuracy, dataset, "probe_test_accuracy_std", fractions).set_index("fraction")["number"]
    # Figure 15's are printed beside the mean. The whole layer is one run: its 0 is no spread.
    quoted = rows["quote"].str.extract(r"n_seeds=(?P<runs>\d+) std=(?P<std>[0-9.]+)").astype(float)
    return pd.DataFrame(
        {
            "model": network, "dataset": task, "eval_set": eval_set, "selection": "random",
            "fraction": rows["fraction"],
            "n_neurons": [n_neurons(entry.width, f) for f in rows["fraction"]], "seed": MEAN,
            "accuracy": rows["number"], "solver": "sgd", "features": "raw",
            "std": rows["fraction"].map(std).fillna(quoted["std"].where(quoted["runs"] > 1)),
        }
    )  # fmt: skip


def _similarity(network: str, task: str, fractions: list[float]) -> pd.DataFrame:
    """Rows of cka.csv."""
    entry, tables = NETWORKS[network], []
    for comparison, model, quantity, second in (
        ("part_whole", entry.part_whole, "CKA_part_vs_whole_mean", WHOLE),
        ("part_part", entry.accuracy, PART_PART, MEAN),
    ):
        rows = _curve(model or "", paper_task(task), quantity, fractions)
        neurons = [n_neurons(entry.width, f) for f in rows["fraction"]]
        columns = {"comparison": comparison, "estimator": "biased", "fraction": rows["fraction"], "n_neurons": neurons}
        tables.append(pd.DataFrame({**columns, "seed_a": MEAN, "seed_b": second, "cka": rows["number"]}))
    return pd.concat(tables, ignore_index=True).assign(model=network, dataset=task)[list(SCHEMA["cka"])]


def _with_whole(cka: pd.DataFrame, network: str) -> pd.DataFrame:
    """The same with the whole layer, whose CKA with itself is 1 by definition and was not printed."""
    last = cka[cka["comparison"].eq("part_whole")].tail(1)
    return pd.concat([cka, last.assign(fraction=1.0, n_neurons=NETWORKS[network].width, cka=1.0)], ignore_index=True)


def _network_row(name: str) -> dict:
    entry = NETWORKS[name]
    row = {key: getattr(entry, key) for key in ("title", "width", "family", "training", "upstream")}
    row |= {"kind": "imagenet", "side": None, "source": PUBLISHED, "licence": "", "top1": None, "weight_hash": ""}
    return {"model": name, **row, "robust_of": entry.robust_of}


def _task_rows(name: str, spec) -> list[dict]:
    title, n_classes, n_train, sizes = TASKS[name]
    return [
        {"dataset": name, "title": title, "eval_set": eval_set, "n_classes": n_classes, "n_train": n_train,
         "n_test": sizes[eval_set], "resolution": spec.resolution, "source": PUBLISHED}
        for eval_set in spec.eval_sets
    ]  # fmt: skip
