"""Two sizes for each share of the performance to keep: one that keeps it on average, and one that can be promised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.stats import t as student
from sklearn.isotonic import isotonic_regression

from dr_utils.checks import check_delta, check_features, check_fraction, check_labels, unknown
from dr_utils.progress import progress
from dr_utils.sizing.scores import Overlap, Retrieval, Ridge, Vote
from dr_utils.subsets import random_subsets

STEP = 1.08  # from one size of the search to the next
FIRST = 64  # largest size of the first round; each further one doubles it
QUERIES = 1000  # train samples whose neighbours are looked for, at most
METRICS = {
    "classification": ("accuracy", "balanced_accuracy"),
    "regression": ("r2",),
    "knn": ("accuracy",),
    "neighbours": ("overlap",),
    "retrieval": ("recall", "ndcg@10", "mrr"),
}


@dataclass
class Sizing:
    """How many dimensions a task needs: see `critical_mass`.

    Attributes
    ----------
    metric : str
    width : int
        D, dimensions of the full vectors.
    full, full_test : float
        The metric with all dimensions: of train samples out of sample, and of test (NaN where there is no test).
    confidence : float
    curve : DataFrame
        By selection ("random", "first", "pca") and number of dimensions: columns selection, n_neurons, mean and std of
        the metric over subsets (train samples, out of sample), kept (mean / full).
    sizes : DataFrame
        By selection and share: columns selection, keep, neurons, kept, promised, promised_kept.
    """

    metric: str
    width: int
    full: float
    full_test: float
    confidence: float
    curve: pd.DataFrame = field(repr=False)
    sizes: pd.DataFrame = field(repr=False)

    def recommendation(self) -> pd.DataFrame:
        """Return the sizes of random subsets: keep, neurons, kept, promised, promised_kept."""
        return self.sizes.query("selection == 'random'").drop(columns="selection").reset_index(drop=True)

    def sentence(self) -> str:
        """Say the answer in words, both sizes for each share."""
        said = []
        for row in self.recommendation().itertuples():
            promised = f"{row.promised:.0f}" if np.isfinite(row.promised) else "none fewer than all"
            said.append(f"{row.neurons} keep {row.keep:.0%} on average, {promised} can be promised to")
        how = f"({self.metric}, {self.confidence:.0%} confidence)"
        return f"Of {self.width} dimensions, random ones: {'; '.join(said)} {how}."


def critical_mass(
    x_train,
    y_train=None,
    x_test=None,
    y_test=None,
    *,
    keep: Sequence[float] = (0.9, 0.95, 0.99),
    task: str = "classification",
    metric: str | None = None,
    corpus=None,
    k: int = 10,
    seeds: int = 20,
    confidence: float = 0.95,
) -> Sizing:
    """Find how many random dimensions keep a share of the full vectors' performance.

    Performance is out of sample: each train sample is left out of its own fit. Test samples, if given, choose nothing.
    `neurons` is the size whose random subsets keep the share on average. `promised` is the smallest size of which one
    can say with `confidence` that one more random subset keeps it on unseen samples; it is NaN where only the whole
    vector would. Sizes between those of the search are interpolated.

    Parameters
    ----------
    x_train, x_test : float arrays [n, D] and [m, D]
        Features or embeddings; for "retrieval" queries.
    y_train, y_test : arrays [n], [m]
        Labels 0 .. C-1 (classification, knn), numbers (regression), nothing (neighbours), or pairs [p, 2] of a query's
        row and the row of the corpus that answers it (retrieval).
    keep : sequence of float
        Shares to keep, in (0, 1].
    task : {"classification", "regression", "knn", "neighbours", "retrieval"}
        A ridge classifier or regression on standardised dimensions; the majority of the `k` nearest by cosine; how many
        of the `k` nearest by all dimensions stay among them; or finding what answers a query, by cosine.
    metric : str, optional
        "accuracy" or "balanced_accuracy"; "recall" (at `k`), "ndcg@10" or "mrr". By default the first for the task.
    corpus : float array [N, D]
        What is searched (retrieval).
    seeds : int
        Random subsets of each size.
    confidence : float
        Of `promised`, in (0, 1).

    Returns
    -------
    Sizing

    Raises
    ------
    ValueError
        Unknown task or metric, shapes that do not match, NaN, one class, a class with fewer than two samples, a full
        vector whose metric is not above 0.

    References
    ----------
    Equation 1 of the paper, T being any of these tasks.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> x, y = load_digits(return_X_y=True)
    >>> found = critical_mass(x[:900], y[:900], x[900:], y[900:], keep=[0.9], seeds=5)
    >>> found.recommendation()["neurons"].between(20, 45).all()
    np.True_
    """
    keep = [check_delta(share) for share in keep]
    check_fraction(confidence, name="confidence", of="cases")
    if seeds < 2:
        raise ValueError(f"seeds must be at least 2, to see how much subsets differ; got {seeds!r}.")
    scorer, metric = _scorer(task, metric, x_train, y_train, x_test, y_test, corpus, k)
    width, everything = scorer.width, np.arange(scorer.width)
    scorer.choose(everything, [width])
    full = scorer.scores(everything, [width])[0]
    tested = scorer.scores(everything, [width], test=True)[0].mean() if x_test is not None else np.nan
    if not full.mean() > 0:
        raise ValueError(
            f"with all {width} dimensions {metric} is {full.mean():.3g}, out of sample; a share of it means something "
            "only above 0: check labels and features, or choose another metric."
        )
    curves, rows = [], []
    for selection, chosen, orders in (
        ("random", scorer, random_subsets(width, 1.0, range(1, seeds + 1))),
        ("first", scorer, [everything]),
        ("pca", *_components(scorer)),
    ):
        sizes, part, found = search(chosen, full, keep, orders, confidence, f"{selection} dimensions")
        by_subset = part.mean(axis=2)
        curves.append(pd.DataFrame({"selection": selection, "n_neurons": sizes, "mean": by_subset.mean(axis=1),
                                    "std": by_subset.std(axis=1, ddof=1) if len(orders) > 1 else np.nan}))  # fmt: skip
        table = pd.DataFrame({"selection": selection, "keep": keep})
        mean, low = np.ceil(found).T
        table["neurons"] = np.where(np.isfinite(mean), mean, width).astype(int)
        table["promised"] = np.where(low < width, low, np.nan)
        on_test = _on_test(chosen, orders, table) / tested if x_test is not None else pd.Series(dtype=float)
        table.insert(3, "kept", table["neurons"].map(on_test))
        rows.append(table.assign(promised_kept=table["promised"].map(on_test)))
    curve = pd.concat(curves, ignore_index=True)
    curve["kept"] = curve["mean"] / full.mean()
    table = pd.concat(rows, ignore_index=True)
    return Sizing(metric, width, float(full.mean()), float(tested), confidence, curve, table)


def _scorer(task, metric, x_train, y_train, x_test, y_test, corpus, k):
    """Return what scores samples of the task, and the metric's name; refuse what does not fit together."""
    if task not in METRICS:
        raise unknown("task", task, METRICS)
    metric = metric or METRICS[task][0]
    if metric not in METRICS[task]:
        raise unknown(f"metric of {task}", metric, METRICS[task])
    given = {"train": x_train, "test": x_test, "corpus": corpus if task == "retrieval" else None}
    parts = {name: np.asarray(x, np.float32) for name, x in given.items() if x is not None}
    for name, x in parts.items():
        check_features(x, name=f"{name} features", allow_constant=name != "train")
        if x.shape[1] != parts["train"].shape[1]:
            raise ValueError(f"train and {name} features differ in width: {parts['train'].shape[1]} and {x.shape[1]}.")
    x, test = parts["train"], parts.get("test", parts["train"][:0])
    if task == "retrieval":
        if corpus is None:
            raise ValueError("retrieval needs a corpus [N, D] to search; give corpus=...")
        found = [
            Retrieval(rows, parts["corpus"], _pairs(pairs, len(rows), len(parts["corpus"])), metric, k)
            for rows, pairs in ((x, y_train), (test, y_test))[: 1 + (x_test is not None)]
        ]
        return found[0].tested_by(found[-1]), f"recall@{k}" if metric == "recall" else metric
    if task == "regression":
        y, y_test = (np.asarray(labels, float) for labels in (y_train, y_test if x_test is not None else ()))
        for labels, rows, name in ((y, x, "train"), (y_test, test, "test")):
            if labels.shape != (len(rows),) or not np.isfinite(labels).all():
                raise ValueError(f"{name} values must be {len(rows)} finite numbers; got shape {labels.shape}.")
        return Ridge(x, y, test, y_test, classify=False), "R2"
    most = np.random.default_rng(0).permutation(len(x))[:QUERIES]
    if task in ("knn", "neighbours") and not 1 <= k < len(x):
        raise ValueError(f"k must lie between 1 and {len(x) - 1}, the other train samples; got {k!r}.")
    if task == "neighbours":
        scorer = Overlap(x[most], x, k, most)
        return scorer.tested_by(Overlap(test, x, k) if len(test) else scorer), f"overlap@{k}"
    y, y_test = np.asarray(y_train), np.asarray(y_test) if x_test is not None else np.zeros(0, int)
    n_classes = check_labels(y, y_test if len(test) else y, len(x), len(test) if len(test) else len(x))
    few = np.flatnonzero(np.bincount(y) < 2)
    if n_classes < 2 or few.size:
        what = f"class {few[0]} has one train sample" if few.size else "there is one class only"
        raise ValueError(f"{what}; each sample is left out in turn, so two classes of two samples are the least.")
    if task == "knn":
        scorer = Vote(x[most], y[most], x, y, k, most)
        return scorer.tested_by(Vote(test, y_test, x, y, k) if len(test) else scorer), metric
    return Ridge(x, y, test, y_test, balanced=metric == "balanced_accuracy"), metric


def _pairs(pairs, n_queries: int, n_corpus: int) -> np.ndarray:
    pairs = np.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise ValueError(f"relevance must be pairs [p, 2] of a query's row and the corpus's; got shape {pairs.shape}.")
    for column, n, name in ((pairs[:, 0], n_queries, "queries"), (pairs[:, 1], n_corpus, "the corpus")):
        if column.size and (column.min() < 0 or column.max() >= n):
            raise ValueError(f"relevance names row {column.max()} of {name}, which has {n} rows.")
    if lacking := n_queries - len(np.unique(pairs[:, 0])):
        raise ValueError(f"{lacking} of {n_queries} queries have no relevant row of the corpus; leave them out.")
    return np.unique(pairs, axis=0)


def _components(scorer):
    """Return the samples in their principal components, and the components' order."""
    components = np.linalg.eigh(np.cov(scorer.basis(), rowvar=False).reshape(scorer.width, -1))[1][:, ::-1]
    return scorer.rotated(components.astype(np.float32)), [np.arange(scorer.width)]


def search(scorer, full: np.ndarray, keep: Sequence[float], orders, confidence: float, desc: str = ""):
    """Look for sizes that keep each share, no further than needed.

    Returns
    -------
    sizes : list of int
    part : array [sizes, orders, n]
        Scores of each sample.
    found : list of (float, float)
        For each share: the size that keeps it on average and the one that can be promised; NaN where there is none.
    """
    most, sizes, parts = min(FIRST, scorer.width), [], []
    with progress(desc=desc, unit="subsets") as bar:
        while True:
            new = [size for size in sizes_to(most) if not sizes or size > sizes[-1]]
            scorer.choose(orders[0], new)
            round_ = []
            for order in orders:
                round_.append(scorer.scores(order, new))
                bar.update(1)
            parts.append(np.stack(round_, axis=1))
            sizes, part = sizes + new, np.concatenate(parts)
            found = [tuple(crossing(sizes, gain) for gain in bounds(part, full, share, confidence)) for share in keep]
            if most == scorer.width or np.isfinite(found).all():
                return sizes, part, found
            most = min(scorer.width, 2 * most)


def sizes_to(most: int) -> list[int]:
    """Return the sizes of the search, 1 to `most`: every one at first, then in steps of `STEP`."""
    sizes, size = [], 1.0
    while size < most:
        sizes.append(int(size))
        size = max(size + 1, size * STEP)
    return [*sizes, most]


def bounds(part: np.ndarray, full: np.ndarray, keep: float, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return by how much subsets exceed the share to keep, by size: their mean, and a lower bound for another subset.

    The bound has the variance between subsets, that of their mean, and that of the mean over samples, each sample
    paired with itself under all dimensions. `part` is [sizes, subsets, n], `full` [n].
    """
    gain = part - np.float32(keep) * full
    by_subset, n = gain.mean(axis=2), part.shape[1]
    variance = gain.mean(axis=1).var(axis=1, ddof=1) / len(full)
    if n > 1:
        variance += by_subset.var(axis=1, ddof=1) * (1 + 1 / n)
    mean = by_subset.mean(axis=1)
    return mean, mean - student.ppf(confidence, n - 1 if n > 1 else len(full) - 1) * np.sqrt(variance)


def crossing(sizes: Sequence[int], values) -> float:
    """Return the size at which values, made to rise, reach 0, interpolated in its logarithm; NaN where they do not.

    >>> round(crossing([10, 20, 40], [-0.2, 0.0, 0.1]))
    20
    """
    rising = isotonic_regression(values)
    reached = np.flatnonzero(rising >= -1e-9)
    if not reached.size:
        return np.nan
    at = reached[0]
    if at == 0:
        return float(sizes[0])
    return float(np.exp(np.interp(0, rising[at - 1 : at + 1], np.log(sizes[at - 1 : at + 1]))))


def _on_test(scorer, orders, table: pd.DataFrame) -> pd.Series:
    """Return the metric on test, mean over subsets, at the sizes in a table; one sweep for all of them."""
    sizes = sorted({*table["neurons"], *table["promised"].dropna().astype(int)})
    return pd.Series(np.mean([scorer.scores(order, sizes, test=True).mean(axis=1) for order in orders], axis=0), sizes)
