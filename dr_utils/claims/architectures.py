"""Claims of section 3.1: architectures, upstream loss and upstream data (Figs. 3, 4, 10, 11, Table 1)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import scipy

from dr_utils.claims import stats
from dr_utils.claims.paper_names import paper_network, paper_task
from dr_utils.claims.prevalence import DELTA, NO_ROBUST
from dr_utils.claims.registry import DIFFERS, HOLDS, NOT_TESTED, NOTHING, Outcome, claim, missing
from dr_utils.claims.stats import Term, mean_of
from dr_utils.claims.verdicts import Cell, aggregate, judge, measured
from dr_utils.claims.view import View
from dr_utils.reference import published as published_values

LEAST_DR = 0.2  # the smallest entry of Table 1: the least that the paper itself calls diffused redundancy
A1_FAMILIES = 2  # "across architectures"
A4_WIDTHS = 3  # two widths make a contrast, not a rank correlation
A4_GAMMA = 0.5  # the narrower network wins at least a quarter of the clear comparisons
A4_PAIRS = 5  # fewer clear comparisons cannot tell a share of a quarter from one of a half

# How many images the upstream sets hold, in millions: "more upstream data" needs an order.
UPSTREAM_SIZE = {"tinyimagenet50": 0.015, "tinyimagenet202": 0.061, "cifar10": 0.05, "cifar100": 0.05,
                 "imagenet100": 0.13, "imagenet1k": 1.28, "imagenet12k": 12.0, "imagenet21k": 14.2}  # fmt: skip


def bounds_cell(name: str, dr: float, low: float, high: float, least: float) -> Cell:
    """Whether a DR from the study's table reaches `least`, both ends of its interval counted in."""
    if not np.isfinite([low, high]).all():
        return Cell(name, f"{dr:.2f} [spread unknown]", "noise", dr)
    rounding = 1e-9  # DR is 1 minus a grid fraction
    state = "for" if low >= least - rounding else "against" if high < least - rounding else "noise"
    return Cell(name, f"{dr:.2f} [{low:.2f}, {high:.2f}]", state, dr)


@claim(
    "A1",
    figure="Figs 3, 10",
    needs=("redundancy", "networks"),
    statement="diffused redundancy exists across architectures",
    published="Table 1: DR(.9) from .2 to .95",
    rule=f"DR({DELTA}) is at least {LEAST_DR}, the smallest entry of Table 1, in {A1_FAMILIES} families or more.",
)
def a1(view: View) -> Outcome:
    """One cell per family: DR(.9), mean over its standard networks and their tasks.

    The ends of the intervals are averaged too, as if the noise of all tasks were one: wider than it need be.
    """
    networks = view.networks[view.networks["training"].eq("standard")]
    families = networks["model"].map(view.family)
    tasks = list(dict.fromkeys(view.tables["redundancy"]["dataset"]))
    cells = []
    for family, rows in networks.groupby(families, sort=False):
        found = [r for m in rows["model"] for d in tasks if (r := view.redundancy(m, d, DELTA)) is not None]
        if found:
            cells.append(bounds_cell(family, *np.mean(found, axis=0), LEAST_DR))
    note = f"DR({DELTA}), rule first, mean over tasks per family"
    if len(cells) < A1_FAMILIES:
        return missing(
            f"needs {A1_FAMILIES} families of standard networks; this run has {len(cells)}",
            measured(cells, note),
        )
    return aggregate(cells, note=note, why=f"the rule: DR at least {LEAST_DR}, the smallest entry of Table 1")


@claim(
    "A2",
    figure="Figs 3, 10",
    needs=("probes", "networks", "tasks"),
    statement="adversarial training raises it in every architecture",
    published="yes",
    rule=f"DR(adversarial) - DR(standard) is clearly above 0, paired by seed, in {A1_FAMILIES} families or more.",
)
def a2(view: View) -> Outcome:
    by_family: dict[str, list] = {}
    for robust, standard in view.robust_pairs():
        for dataset in view.datasets(robust):
            difference = stats.redundancy_difference(
                view, (robust, dataset, "probe"), (standard, dataset, "probe"), DELTA
            )
            if difference is not None:
                by_family.setdefault(view.family(robust), []).append(difference)
    if not by_family:
        return missing(NO_ROBUST)
    cells = [judge(family, mean_of(found), 0.0, len(by_family)) for family, found in by_family.items()]
    note = f"DR({DELTA}) adv - std, mean over tasks per family, paired by seed"
    if len(cells) < A1_FAMILIES:
        return missing(
            f"needs adversarial pairs in {A1_FAMILIES} families or more; this run has only {cells[0].name}",
            measured(cells, note),
        )
    return aggregate(cells, note=note)


def upstream_pairs(view: View) -> list[tuple[str, str]]:
    """(trained on more data, trained on less): standard networks of one family, width and kind."""
    rows = view.networks.loc[view.models("standard")]
    pairs = []
    for a, b in combinations(rows["model"], 2):
        alike = all(rows.loc[a, key] == rows.loc[b, key] for key in ("family", "width", "kind"))
        alike &= paper_network(rows.loc[a]) == paper_network(rows.loc[b])  # one family may hold ViT-S/16 and /32
        sizes = [UPSTREAM_SIZE.get(rows.loc[m, "upstream"]) for m in (a, b)]
        if alike and None not in sizes and sizes[0] != sizes[1]:
            pairs.append((a, b) if sizes[0] > sizes[1] else (b, a))
    return pairs


@claim(
    "A3",
    figure="Figs 4, 11",
    needs=("probes", "networks", "tasks"),
    statement="more upstream data raises it, by how much depends on the task",
    published="yes",
    rule="DR with more upstream data minus DR with less is clearly above 0, paired by seed.",
)
def a3(view: View) -> Outcome:
    found = {
        (more, d): difference
        for more, less in upstream_pairs(view)
        for d in view.datasets(more)
        if (difference := stats.redundancy_difference(view, (more, d, "probe"), (less, d, "probe"), DELTA))
    }
    if not found:
        return missing(
            "no network of one family and width trained on two upstream sets of known, different sizes "
            "(networks.csv: upstream)"
        )
    cells = [judge(f"{m}/{d}", value, 0.0, len(found)) for (m, d), value in found.items()]
    values = [value.value for value in found.values()]
    return aggregate(
        cells,
        note=f"DR({DELTA}) more minus less upstream data, paired by seed",
        why=f"by task from {min(values):.2f} to {max(values):.2f}",
    )


@claim(
    "A4",
    figure="Table 1, intro",
    needs=("probes", "networks", "tasks"),
    statement="accuracy does not follow the length of the layer",
    published="none",
    rule=f"Wider networks win so few clear comparisons with narrower ones that gamma <= {A4_GAMMA}.",
)
def a4(view: View) -> Outcome:
    """Among clear comparisons of a wider with a narrower network, how many does the wider win?

    Goodman-Kruskal gamma = (wins - losses) / (wins + losses) over the comparisons beyond noise; the claim
    holds where gamma is at most 0.5. "No correlation" cannot be proven by a test that finds none in a few
    networks. Networks are compared within one kind and upstream set only.
    """
    rows = view.networks.loc[view.models("standard")]
    wins = losses = ties = 0
    rhos, widths = [], set()
    for dataset in view.datasets():
        for _, group in rows.groupby(["kind", "upstream"], sort=False):
            models = [
                m for m in group["model"] if (c := view.accuracy(m, dataset)) is not None and c.at(1.0) is not None
            ]
            widths |= {int(group.loc[m, "width"]) for m in models} if len(models) > 1 else set()
            accuracies = [float(view.accuracy(m, dataset).at(1.0).mean()) for m in models]
            if len(set(group.loc[models, "width"])) > 1 and len(set(accuracies)) > 1:
                rhos.append(float(scipy.stats.spearmanr(group.loc[models, "width"], accuracies).statistic))
            for a, b in combinations(models, 2):
                if group.loc[a, "width"] == group.loc[b, "width"]:
                    continue
                wide, thin = (a, b) if group.loc[a, "width"] > group.loc[b, "width"] else (b, a)
                low, high = stats.contrast(view, [Term(1, wide, dataset, 1.0), Term(-1, thin, dataset, 1.0)]).interval()
                wins, losses, ties = wins + (low > 0), losses + (high < 0), ties + (low <= 0 <= high)
    if not rhos:
        return missing("needs standard networks of different widths on one task")
    clear = wins + losses
    gamma = (wins - losses) / clear if clear else 0.0
    text = (
        f"the wider network is clearly better in {wins} of {clear} clear comparisons ({ties} within noise), "
        f"gamma {gamma:.2f}; mean Spearman correlation over tasks {np.mean(rhos):.2f}; widths "
        f"{', '.join(map(str, sorted(widths)))}"
    )
    if len(widths) < A4_WIDTHS:
        return missing(f"needs networks of {A4_WIDTHS} different widths; this run has {sorted(widths)}", text)
    if clear < A4_PAIRS:
        return missing(f"within noise: only {clear} clear comparisons, {A4_PAIRS} are needed", text)
    verdict = HOLDS if gamma <= A4_GAMMA else DIFFERS
    return Outcome(text, verdict, f"gamma {gamma:.2f}; the rule: at most {A4_GAMMA}")


# A table is more than one of its values: so large a share of it must be compared before it can hold as a whole.
A5_SHARE = 0.5


@claim(
    "A5",
    figure="Table 1",
    needs=("redundancy", "networks", "probes"),
    statement="Table 1",
    published="24 values of DR(.9), from .2 to .95",
    rule=f"The published value lies in our interval, on at least {A5_SHARE:.0%} of the table's values.",
)
def a5(view: View) -> Outcome:
    """One cell per network and task that Table 1 has too, by the rule that made the table ("nearest").

    For: the published value lies in our interval. Against: it lies more than one step of our grid outside.
    A few values can refute the table; that it holds takes `A5_SHARE` of them.
    """
    table = published_values(source="ICLR23 seed text", figure_or_table="Table 1", quantity="diffused_redundancy_DR")
    entries = {(row.model, row.dataset): float(row.number) for row in table.itertuples()}
    cells, others = [], []
    for model in view.models("standard"):
        card = view.networks.loc[model]
        name = paper_network(card) if card["upstream"] == "imagenet1k" else None
        for dataset in view.datasets(model):
            rules = [view.redundancy(model, dataset, DELTA, rule=rule) for rule in ("nearest", "first")]
            if None in rules:
                continue
            (dr, low, high), first = rules[0], rules[1][0]
            text = f"{dr:.2f} [{low:.2f}, {high:.2f}] (first {first:.2f})"
            value = entries.get((name, paper_task(dataset)))
            if value is None:
                others.append(Cell(f"{model}/{dataset}", text, "noise", dr))
                continue
            curve = view.accuracy(model, dataset)
            state = "noise" if curve is None else _compare(value, low, high, 1 - curve.fractions)
            cells.append(Cell(f"{model}/{dataset}", f"{text} vs published {value:.2f}", state, dr))
    note = "rule nearest, 95 % interval over seeds"
    if not cells:
        return missing("no network and task of Table 1 in this run", measured(others, note) if others else NOTHING)
    outcome = aggregate(
        cells, note=note, why="weights, images and probes differ from the paper's where the profile says so"
    )
    if outcome.verdict == HOLDS and len(cells) < A5_SHARE * len(entries):
        why = f"agrees, but on {len(cells)} of the table's {len(entries)} values; {outcome.why}"
        outcome = Outcome(outcome.measured, NOT_TESTED, why)
    if others:
        text = f"{outcome.measured}; not in Table 1: {measured(others)}"
        return Outcome(text, outcome.verdict, outcome.why)
    return outcome


def _compare(value: float, low: float, high: float, grid: np.ndarray) -> str:
    """Published value against our interval, grid of possible DR values in any order."""
    if not np.isfinite([low, high]).all():
        return "noise"
    rounding = 1e-6
    below, above = grid[grid < low - rounding], grid[grid > high + rounding]
    if low - rounding <= value <= high + rounding:
        return "for"
    wide_low, wide_high = below.max(initial=0.0), above.min(initial=1.0)
    return "noise" if wide_low - rounding <= value <= wide_high + rounding else "against"
