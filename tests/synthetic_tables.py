"""Tables as the study writes them, from curves that a test chooses, so that the right answer is known."""

from __future__ import annotations

import zlib
from itertools import combinations

import numpy as np
import pandas as pd

from dr_utils.fairness import coefficient_of_variation, gini
from dr_utils.redundancy import RULES, diffused_redundancy_interval
from dr_utils.resampling import DRAWS, resampled_mean
from dr_utils.study.cell import COLUMNS
from dr_utils.study.draws import quantities

GRID = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0)
SEEDS = (1, 2, 3, 4, 5)
DELTAS = (0.75, 0.8, 0.85, 0.9, 0.95, 1.0)


def network(
    model, width=2048, family="resnet50", training="standard", upstream="imagenet1k", kind="imagenet", robust_of=""
):
    return dict(
        model=model,
        title=model.replace("_", " "),
        width=width,
        family=family,
        training=training,
        upstream=upstream,
        kind=kind,
        source="test",
        licence="MIT",
        top1=np.nan,
        weight_hash="0",
        robust_of=robust_of,
    )


def task(dataset, n_classes=10, n_test=1000, eval_sets=("test",)):
    return [
        dict(
            dataset=dataset,
            title=dataset,
            eval_set=name,
            n_classes=n_classes,
            n_train=2000,
            n_test=n_test,
            resolution=32,
            source="test",
        )
        for name in eval_sets
    ]


def saturating(critical, full=0.9, floor=0.1):
    """Accuracy that rises in log f and reaches `full` at the fraction `critical`."""

    def curve(fraction):
        share = np.log(fraction / GRID[0]) / np.log(critical / GRID[0])
        return floor + (full - floor) * float(np.clip(share, 0, 1))

    return curve


def build(
    networks,
    tasks,
    accuracy,
    *,
    cka=None,
    noise=0.004,
    cka_noise=0.004,
    selections=("random",),
    even=False,
    first_sizes=(),
    grid=GRID,
    seeds=SEEDS,
    draw=0,
):
    """All tables of a run.

    accuracy(model, dataset, fraction, selection, eval_set) gives the mean accuracy; seeds spread around it with
    standard deviation `noise`. cka(model, dataset, fraction) likewise. With `even`, every class loses the same
    points; else the first classes lose all before the next lose any.
    `first_sizes` adds the first-k selection at these sizes; `draw` seeds the noise.
    """
    rng = np.random.default_rng(draw)
    task_rows = [row for rows in tasks for row in rows]
    probes, per_class, ckas, many = [], [], [], {}
    apart = np.random.default_rng(draw + 1)
    for card in networks:
        for entry in task_rows:
            for selection in (*selections, *(("first",) if first_sizes else ())):
                fractions = [k / card["width"] for k in first_sizes] if selection == "first" else grid
                for fraction in fractions:
                    if fraction == 1.0 and selection != "random":
                        continue
                    mean = accuracy(card["model"], entry["dataset"], fraction, selection, entry["eval_set"])
                    full = accuracy(card["model"], entry["dataset"], 1.0, "random", entry["eval_set"])
                    for seed in seeds:
                        keys = dict(
                            model=card["model"],
                            dataset=entry["dataset"],
                            eval_set=entry["eval_set"],
                            selection=selection,
                            fraction=fraction,
                            n_neurons=max(1, int(fraction * card["width"] + 1e-9)),
                            seed=seed,
                        )
                        values = _classes(mean, full, entry["n_classes"], even)
                        values = np.clip(values + rng.normal(0, noise), 0, 1)
                        probes.append(keys | dict(accuracy=values.mean()))
                        per_class += [
                            keys | dict(class_name=f"class {c}", class_accuracy=v) for c, v in enumerate(values)
                        ]
        for dataset in dict.fromkeys(row["dataset"] for row in task_rows):
            for fraction in grid if cka else ():
                keys = dict(
                    model=card["model"],
                    dataset=dataset,
                    estimator="biased",
                    fraction=fraction,
                    n_neurons=max(1, int(fraction * card["width"])),
                )
                at = cka(card["model"], dataset, fraction)

                spread = cka_noise if fraction < 1 else 0.0
                many[card["model"], dataset, fraction] = np.clip(at + apart.normal(0, spread, 500), 0, 1)

                def value(at=at, fraction=fraction):
                    return at if fraction == 1 else float(np.clip(at + rng.normal(0, cka_noise), 0, 1))

                ckas += [keys | dict(comparison="part_whole", seed_a=s, seed_b=-1, cka=value()) for s in seeds]
                ckas += [
                    keys | dict(comparison="part_part", seed_a=a, seed_b=b, cka=value())
                    for a, b in combinations(seeds, 2)
                ]
    tables = dict(
        networks=pd.DataFrame(networks),
        tasks=pd.DataFrame(task_rows),
        probes=pd.DataFrame(probes).assign(solver="sgd", features="raw"),
        per_class=pd.DataFrame(per_class).assign(solver="sgd", features="raw"),
    )
    if ckas:
        order = ["model", "dataset", "comparison", "estimator", "fraction", "n_neurons", "seed_a", "seed_b", "cka"]
        tables["cka"] = pd.DataFrame(ckas)[order]
        tables["cka_draws"] = _draws(tables["cka"])
    tables["draws"] = _resampled(tables, many)
    tables["redundancy"] = _redundancy(tables)
    tables["fairness"] = _fairness(tables)
    return tables


def _classes(mean, full, n, even):
    """Per-class accuracies with this mean: 0.06 around the full accuracy, less what was lost."""
    base = np.linspace(full - 0.03, full + 0.03, n)
    if even:
        return base - (full - mean)
    loss, rest = np.zeros(n), (full - mean) * n
    for c in range(n):  # the first classes lose all they have before the next one loses anything
        loss[c] = min(rest, base[c])
        rest -= loss[c]
    return base - loss


def _draws(cka):
    """Draws that agree with the seeds, and a law that agrees with the draws."""
    of = cka.groupby(["model", "dataset", "comparison", "estimator", "fraction", "n_neurons"], sort=False).cka
    rows = of.agg(draws="count", mean="mean", std="std", low="min", high="max").reset_index()
    return rows.assign(expected=rows["mean"], r=0.05)


def _resampled(tables, many):
    """Resamples of the seeds and of the images; of the noise of these four fifths are shared by all rows of a task."""
    keys = ["model", "dataset", "eval_set", "selection", "fraction", "n_neurons"]
    n_test = {(row.dataset, row.eval_set): row.n_test for row in tables["tasks"].itertuples()}
    parts, rows = {}, []
    for key, group in tables["per_class"].groupby(keys, sort=False):
        values = group.pivot(index="seed", columns="class_name", values="class_accuracy").to_numpy()
        own, n_class = values.mean(axis=0), n_test[key[1], key[2]] / values.shape[1]
        noise = (np.random.default_rng(zlib.crc32(repr(k).encode())) for k in (key[1], key))
        shared, alone = (rng.standard_normal((DRAWS, len(own))) for rng in noise)
        images = np.sqrt(0.8) * shared + np.sqrt(0.2) * alone
        drawn = np.stack([resampled_mean(column) for column in values.T], axis=1) if len(values) > 1 else own
        parts[key] = own, np.clip(drawn + images * np.sqrt(own * (1 - own) / n_class), 0, 1)
    for key, part in parts.items():
        whole = next(parts[k] for k in parts if k[:4] == (*key[:3], "random") and k[4] == 1.0)
        share = np.full(len(part[0]), 1 / len(part[0]))
        for name, (mean, draws) in quantities(part, whole, share, key[2] == "test").items():
            rows.append((*key[:3], name, *key[3:], mean, draws, "sgd", "raw"))
    if "cka" in tables:
        parts = tables["cka"].query("comparison == 'part_whole'")
        for (m, d, f, k), _ in parts.groupby(["model", "dataset", "fraction", "n_neurons"], sort=False):
            mean, draws = many[m, d, f].mean(), resampled_mean(many[m, d, f])
            for name in ("cka", "cka_pairs"):
                rows.append((m, d, "test", name, "random", f, k, mean, (draws - mean).astype(np.float16), "", ""))
    return pd.DataFrame(rows, columns=list(COLUMNS["draws"]))


def _redundancy(tables):
    rows = []
    random = tables["probes"].query("selection == 'random' and eval_set == 'test'")
    curves = [(key, "probe", g, "accuracy", "seed") for key, g in random.groupby(["model", "dataset"], sort=False)]
    if "cka" in tables:
        parts = tables["cka"].query("comparison == 'part_whole'")
        curves += [(key, "cka", g, "cka", "seed_a") for key, g in parts.groupby(["model", "dataset"], sort=False)]
    for (model, dataset), kind, group, value, seed in curves:
        curve = group.pivot(index="fraction", columns=seed, values=value)
        full = curve.loc[1.0].to_numpy() if kind == "probe" else 1.0
        shares = group.groupby("fraction").n_neurons.first() / group.n_neurons.max()
        for rule in (*RULES, *(["exact"] if group.n_neurons.max() <= 8 else [])):
            for delta in DELTAS:
                at, given = (shares.drop_duplicates(), "first") if rule == "exact" else (curve.index, rule)
                own = curve.loc[shares.drop_duplicates().index] if rule == "exact" else curve
                dr, low, high = diffused_redundancy_interval(at, own.to_numpy(), full, delta, rule=given)
                rows.append(
                    dict(
                        model=model,
                        dataset=dataset,
                        task=kind,
                        rule=rule,
                        delta=delta,
                        dr=dr,
                        low=low,
                        high=high,
                        solver="sgd" if kind == "probe" else "",
                        features="raw" if kind == "probe" else "",
                        estimator="biased" if kind == "cka" else "",
                    )
                )
    return pd.DataFrame(rows)


def _fairness(tables):
    keys = ["model", "dataset", "selection", "fraction"]
    own = tables["per_class"].query("eval_set == 'test'")
    means = own.groupby([*keys, "class_name"], sort=False)["class_accuracy"].mean()
    return pd.DataFrame(
        [
            dict(zip(keys, key, strict=True))
            | dict(
                accuracy=v.mean(),
                gini=gini(v),
                coefficient_of_variation=coefficient_of_variation(v),
                solver="sgd",
                features="raw",
            )
            for key, v in means.groupby(level=keys, sort=False)
        ]
    )
