"""Claims of section 2.1: how common diffused redundancy is, and how adversarial training changes it."""

from __future__ import annotations

import numpy as np
import scipy

from dr_utils.claims import stats
from dr_utils.claims.registry import DIFFERS, HOLDS, NOT_TESTED, Outcome, claim, missing
from dr_utils.claims.stats import Draws, Estimate, Term
from dr_utils.claims.verdicts import Cell, aggregate, judge, measured
from dr_utils.claims.view import View

DELTA = 0.9  # the tolerance of Table 1
DELTAS = (0.8, 0.9, 0.95)  # from the sweep of Fig. 1b, d: its middle and a step either way
CRITICAL_MASS = 0.1  # where the paper's curves have risen; claims.md asks for f >= .1

P1_FRACTION, P1_DROP = (
    0.2,
    0.05,
)  # "20 % of neurons", "within 5 %": read as points, the reading kinder to the claim
P4_CLASS_COUNTS = 3  # two different class counts make a contrast of tasks, not a trend
NO_ROBUST = (
    "no adversarially trained network with its standard counterpart in this run "
    "(networks.csv: training 'adversarial', robust_of)"
)


@claim(
    "P1",
    figure="Fig 1a",
    needs=("probes", "networks", "tasks"),
    statement="20 % of ResNet50's neurons stay within 5 % of the full layer on CIFAR10",
    published="text: within 5 %; printed run: 5.9 points, 6.6 %",
    rule=f"The accuracy lost at f = {P1_FRACTION} is clearly below {100 * P1_DROP:.0f} points (95 % interval).",
)
def p1(view: View) -> Outcome:
    models = [m for m in view.resnets("standard") if view.accuracy(m, "cifar10") is not None]
    if not models:
        return missing("no ResNet with standard training and probes on CIFAR-10 in this run")
    model = models[0]
    terms = [Term(1.0, model, "cifar10", 1.0), Term(-1.0, model, "cifar10", P1_FRACTION)]
    drop = stats.contrast(view, terms)
    if drop is None:
        return missing(f"{model} on CIFAR-10 lacks the fractions {P1_FRACTION} and 1")
    curve = view.accuracy(model, "cifar10")
    full, part = curve.at(1.0), curve.at(P1_FRACTION)
    relative = drop.value / full.mean()
    text = (
        f"{stats.mean_std(part)} vs {stats.mean_std(full)}: "
        f"{100 * drop.value:.1f} points, {100 * relative:.1f} % "
        f"({model}, cifar10, {stats.protocol_note(view, 'cifar10', len(curve.seeds))})"
    )
    cell = judge(model, drop, P1_DROP, 1, above=False)
    low, high = (100 * bound for bound in drop.interval())
    bounds = f"drop of {100 * drop.value:.1f} points, 95 % interval {low:.1f} to {high:.1f}"
    why = {
        "for": f"{bounds}, below 5",
        "against": f"{bounds}, above 5",
        "noise": f"within noise: {bounds}, which includes 5",
    }[cell.state]
    verdict = {"for": HOLDS, "against": DIFFERS, "noise": NOT_TESTED}[cell.state]
    return Outcome(text, verdict, why + f"; relative to the full layer {100 * relative:.1f} %")


@claim(
    "P2",
    figure="Table 1, Sec 2",
    needs=("redundancy", "networks"),
    statement="past a critical mass any random subset does about as well as the layer, on every task",
    published="Table 1: DR(.9) from .2 to .95",
    rule=f"DR({DELTA}) is clearly above 0 on most cells, and on none clearly not.",
)
def p2(view: View) -> Outcome:
    cells = redundancy_cells(view, view.layers(), 0.0)
    if not cells:
        return missing(f"redundancy.csv has no probe rows at delta {DELTA} for the networks of this run")
    return aggregate(cells, note=f"DR({DELTA}), rule first, 95 % interval")


def redundancy_cells(view: View, models: list[str], threshold: float) -> list[Cell]:
    """DR(.9) of the study's table against a threshold, one cell per network and task."""
    table, cells = view.tables["redundancy"], []
    for model, dataset in table[["model", "dataset"]].drop_duplicates().itertuples(index=False):
        found = view.redundancy(model, dataset, DELTA) if model in models else None
        if found is None:
            continue
        dr, low, high = found
        if not np.isfinite([low, high]).all():
            state, text = "noise", f"{dr:.2f} [spread unknown]"
        else:
            state = "for" if low > threshold else "against" if high <= threshold and dr <= threshold else "noise"
            text = f"{dr:.2f} [{low:.2f}, {high:.2f}]"
        cells.append(Cell(f"{model}/{dataset}", text, state, dr))
    return cells


@claim(
    "P3",
    figure="Figs 1a, c, e, f",
    needs=("probes", "networks", "tasks"),
    statement="redundancy is diffused: picks hardly differ",
    published='"very low" error bars',
    rule=f"At f >= {CRITICAL_MASS} the variance over subsets is clearly below the binomial variance of the test set.",
)
def p3(view: View) -> Outcome:
    """One cell per network: variance over picks by the binomial one of the images, mean over tasks and f.

    The chi-square interval counts S - 1 degrees of freedom per task: the fractions of a seed are nested.
    The claim is one of smallness, so it takes an upper bound below 1 to hold.
    """
    ratios: dict[str, list] = {}
    for model, dataset in view.cells():
        curve, n = view.accuracy(model, dataset), view.n_test(dataset)
        if not n or len(curve.seeds) < stats.FEWEST_SEEDS:
            continue
        for f in stats.fractions_between(curve, CRITICAL_MASS, 1.0):
            picks = curve.at(f)
            p = float(np.clip(picks.mean(), 0.5 / n, 1 - 0.5 / n))  # at 0 or 1 the binomial error would vanish
            ratios.setdefault(model, []).append((dataset, picks.std(), np.sqrt(p * (1 - p) / n), len(picks) - 1))
    if not ratios:
        return missing(
            f"no curve with {stats.FEWEST_SEEDS} seeds or more at fractions from {CRITICAL_MASS}, "
            "or no n_test in tasks.csv"
        )
    cells = []
    for model, rows in ratios.items():
        df = sum({dataset: df for dataset, _, _, df in rows}.values())
        ratio = float(np.mean([(s / b) ** 2 for _, s, b, _ in rows]))
        text = (
            f"std {np.mean([s for _, s, _, _ in rows]):.4f} vs binomial error {np.mean([b for _, _, b, _ in rows]):.4f}"
        )
        cells.append(judge(model, _VarianceRatio(ratio, df), 1.0, len(ratios), above=False, text=text))
    return aggregate(cells, note=f"means over tasks and f >= {CRITICAL_MASS}")


class _VarianceRatio(Estimate):
    """Sample variance over a known one: `value` is the ratio, `error` the degrees of freedom."""

    def interval(self, level: float = stats.LEVEL) -> tuple[float, float]:
        chi = scipy.stats.chi2.ppf([1 - level / 2, level / 2], self.error)
        return tuple(self.error * self.value / chi)


@claim(
    "P4",
    figure="Fig 1, Sec 2.1",
    needs=("probes", "networks", "tasks"),
    statement="tasks with more classes need more neurons",
    published="CIFAR100, Flowers > CIFAR10, Pets",
    rule=f"Within a network, 1 - DR({DELTA}) has a clearly positive rank correlation with the number of classes.",
)
def p4(view: View) -> Outcome:
    counts = {d: view.n_classes(d) for d in view.datasets() if view.n_classes(d)}
    cells, models = [], view.models("standard")
    for model in models:
        tasks = [d for d in view.datasets(model) if d in counts]
        if len({counts[d] for d in tasks}) < 2:
            continue
        rho = rank_correlation(view, [(model, d) for d in tasks], [counts[d] for d in tasks], needed=True)
        if rho is not None:
            cells.append(judge(model, rho, 0.0, len(models)))
    note = f"rank correlation of 1 - DR({DELTA}) with the number of classes, per network"
    if not cells:
        return missing("needs tasks with different numbers of classes for one network")
    if len(set(counts.values())) < P4_CLASS_COUNTS:
        listed = ", ".join(f"{d} {c}" for d, c in counts.items())
        return missing(
            f"needs tasks with {P4_CLASS_COUNTS} different numbers of classes; this run has {listed}, "
            "so that classes cannot be told from the tasks' other differences",
            measured(cells, note),
        )
    return aggregate(cells, note=note)


def rank_correlation(
    view: View, cells: list[tuple[str, str]], sizes, *, needed: bool, by_neurons: bool = False
) -> Draws | None:
    """Spearman correlation of sizes with DR(.9), or with 1 - DR where `needed`, with the noise of DR."""
    curves = [view.accuracy(*cell) for cell in cells]
    if any(curve is None for curve in curves):
        return None
    seeds = sorted(set.intersection(*(set(curve.seeds) for curve in curves)))
    if not seeds:
        return None
    drawn = [stats.redundancy_draws(view, *cell, DELTA, seeds=seeds, by_neurons=by_neurons) for cell in cells]
    if None in drawn:
        return None
    sign = -1 if needed else 1
    sizes = scipy.stats.rankdata(sizes)
    value = _spearman(sizes, np.array([[sign * d.value for d in drawn]]))[0]
    return Draws(float(value), _spearman(sizes, np.column_stack([sign * d.draws for d in drawn])), len(seeds))


def _spearman(ranks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Rank correlation of each row of values [N, T]; a row without differences shows no trend: 0."""
    other = scipy.stats.rankdata(values, axis=1)
    a, b = ranks - ranks.mean(), other - other.mean(axis=1, keepdims=True)
    scale = np.sqrt((a**2).sum() * (b**2).sum(axis=1))
    return np.divide(b @ a, scale, out=np.zeros(len(b)), where=scale > 0)


def robust_cells(view: View, pairs, deltas, task: str = "probe") -> list[Cell]:
    """DR(adversarial) - DR(standard), one cell per pair, task and delta, paired by seed."""
    found = {
        (robust, dataset, delta): stats.redundancy_difference(
            view, (robust, dataset, task), (standard, dataset, task), delta
        )
        for robust, standard in pairs
        for dataset in view.datasets(robust)
        for delta in deltas
    }
    found = {key: value for key, value in found.items() if value is not None}
    return [judge(f"{m}/{d} at {delta:g}", value, 0.0, len(found)) for (m, d, delta), value in found.items()]


def resnet_pairs(view: View) -> list[tuple[str, str]]:
    """The ResNet50-like pairs where there are any, else all pairs: sections 2.1 speaks of ResNet50."""
    pairs = view.robust_pairs()
    alike = set(view.resnets("adversarial"))
    return [pair for pair in pairs if pair[0] in alike] or pairs


@claim(
    "P5",
    figure="Figs 1b, d",
    needs=("probes", "networks", "tasks"),
    statement="the adversarially trained network has more diffused redundancy than the standard one, on every task",
    published="adv > std",
    rule=f"DR(adversarial) - DR(standard) is clearly above 0, paired by seed, at delta {', '.join(map(str, DELTAS))}.",
)
def p5(view: View) -> Outcome:
    cells = robust_cells(view, resnet_pairs(view), DELTAS)
    return aggregate(cells, note="DR(adv) - DR(std), paired by seed, 95 % interval") if cells else missing(NO_ROBUST)
