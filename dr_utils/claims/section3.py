"""Claims of section 3: architectures and upstream data, width, Matryoshka networks."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd

from dr_utils.claims.estimates import (
    ABSENT,
    DIFFERS,
    HOLDS,
    NOTHING,
    OPEN,
    Cell,
    Estimate,
    Outcome,
    apply,
    compared,
    decided,
    listed,
    mean,
    no_data,
    reached,
)
from dr_utils.claims.paper_names import paper_network, paper_task
from dr_utils.claims.section2 import DELTA, NO_PAIR, pairs_compared
from dr_utils.claims.view import View
from dr_utils.reference import published as published_values

LEAST_DR = 0.2  # the smallest entry of Table 1: the least that the paper itself calls diffused redundancy
FAMILIES = 2  # "across architectures", "in every architecture"
A4_WIDTHS, A4_GAMMA = 3, 0.5  # two widths make no trend; the narrower network wins at least a quarter
A4_PAIRS = 5  # fewer clear comparisons cannot tell a share of a quarter from one of a half
A5_SHARE = 0.5  # a table is more than one of its values: so large a share must be compared before it can hold
W1_WIDTHS = 3
W2_SHARE = 7 / 8  # "almost 90 %": of 8 neurons, 7 are the nearest to it
M2_SIZES = (8, 16, 32)
M3_MOST, M3_MARGIN = 0.25, 0.02  # "quickly"; a lead over two points has not been caught up with, significant or not
M4_CKA, M4_FRACTIONS = 0.6, (0.1, 0.2)  # what the paper's Fig. 8 calls high runs from .61 to .74 at .06 to .125
NO_MRL = "needs a Matryoshka network (networks: training 'mrl')"


def by_family(view: View, numbers: dict[str, Estimate]) -> dict[str, Estimate]:
    """Mean of the numbers of each family's networks, which are named "network/task"."""
    found: dict[str, list[Estimate]] = {}
    for name, number in numbers.items():
        if np.isfinite(number.value):
            found.setdefault(view.family(name.split("/")[0]), []).append(number)
    return {family: mean(parts) for family, parts in found.items()}


def a1(view: View) -> Outcome:
    found = by_family(view, {f"{m}/{d}": view.dr(m, d, DELTA) for m, d in view.cells(view.models("standard"))})
    return _over_families(compared(found, LEAST_DR), "standard networks", f"DR({DELTA}), mean over tasks per family")


def _over_families(cells: list[Cell], what: str, note: str) -> Outcome:
    if 0 < len(cells) < FAMILIES:
        return no_data(f"needs {what} in {FAMILIES} families; this run has only {cells[0].name}", listed(cells, note))
    return decided(cells, f"needs {what} in {FAMILIES} families", note=note)


def a2(view: View) -> Outcome:
    found = by_family(view, pairs_compared(view, view.robust_pairs()))
    if not found:
        return no_data(NO_PAIR)
    return _over_families(compared(found, 0.0), "adversarial pairs", f"DR({DELTA}) adv - std")


def a3(view: View) -> Outcome:
    cells = compared(pairs_compared(view, view.upstream_pairs()), 0.0)
    return decided(cells, "needs a network trained on two upstream sets of known, different sizes (networks: upstream)",
                   note=f"DR({DELTA}) with more data minus less")  # fmt: skip


def a4(view: View) -> Outcome:
    """Goodman-Kruskal gamma, (wins - losses) / (wins + losses) beyond noise, within one kind and upstream set.

    "No correlation" cannot be proven by a test that finds none in a few networks.
    """
    wins = losses = ties = 0
    widths: set[int] = set()
    cards = view.networks.loc[view.models("standard")]
    for a, b in combinations(cards.index, 2):
        thin, wide = sorted((a, b), key=lambda m: cards.loc[m, "width"])
        same = all(cards.loc[a, key] == cards.loc[b, key] for key in ("kind", "upstream"))
        for d in view.datasets(a) if same and cards.loc[thin, "width"] < cards.loc[wide, "width"] else ():
            curves = [view.accuracy(m, d) for m in (wide, thin)]
            if None not in curves and np.isfinite((lead := curves[0].at(1.0) - curves[1].at(1.0)).value):
                low, high = lead.interval()
                wins, losses, ties = wins + (low > 0), losses + (high < 0), ties + (low <= 0 <= high)
                widths |= {int(cards.loc[m, "width"]) for m in (wide, thin)}
    clear = wins + losses
    gamma = (wins - losses) / max(clear, 1)
    text = (f"the wider network is clearly better in {wins} of {clear} clear comparisons ({ties} within noise), "
            f"gamma {gamma:.2f}; widths {', '.join(map(str, sorted(widths)))}")  # fmt: skip
    if len(widths) < A4_WIDTHS:
        return no_data(f"needs standard networks of {A4_WIDTHS} widths on one task", text if widths else NOTHING)
    if clear < A4_PAIRS:
        return Outcome(text, OPEN, f"only {clear} clear comparisons, {A4_PAIRS} are needed")
    return Outcome(text, HOLDS if gamma <= A4_GAMMA else DIFFERS, f"gamma {gamma:.2f}; the rule: at most {A4_GAMMA}")


def a5(view: View) -> Outcome:
    """One cell per network and task of Table 1, by the rule that made it, "nearest"; a grid step outside is noise."""
    table = published_values(source="ICLR23 seed text", figure_or_table="Table 1", quantity="diffused_redundancy_DR")
    entries = {(row.model, row.dataset): float(row.number) for row in table.itertuples()}
    cells, others = [], []
    for m, d in view.cells(view.models("standard")):
        card, found = view.networks.loc[m], view.redundancy(m, d, DELTA, "nearest")
        name = paper_network(card) if card["upstream"] == "imagenet1k" else None
        value = entries.get((name, paper_task(d)))
        if found is None:
            continue
        text = "{:.2f} [{:.2f}, {:.2f}]".format(*found)
        if value is None:
            others.append(Cell(f"{m}/{d}", text, "noise", found[0]))
            continue
        grid, (_, low, high) = 1 - view.accuracy(m, d).fractions, found
        ends = grid[grid < low - 1e-6].max(initial=0.0) - 1e-6, grid[grid > high + 1e-6].min(initial=1.0) + 1e-6
        state = "for" if low - 1e-6 <= value <= high + 1e-6 else "noise" if ends[0] <= value <= ends[1] else "against"
        cells.append(Cell(f"{m}/{d}", f"{text} vs published {value:.2f}", state, found[0]))
    note = "rule nearest, interval over seeds"
    outcome = decided(cells, "needs a network and a task of Table 1", note=note)
    if outcome.verdict == HOLDS and len(cells) < A5_SHARE * len(entries):
        outcome = no_data(f"agrees, but on {len(cells)} of the table's {len(entries)} values", outcome.measured)
    if not others:
        return outcome
    ours = f"not in Table 1: {listed(others, note)}"
    return Outcome(ours if not cells else f"{outcome.measured}; {ours}", outcome.verdict, outcome.why)


def w1(view: View) -> Outcome:
    found = {}
    for family, one in {view.family(m): m for m in view.models("narrow")}.items():
        alike = [m for m in view.models("narrow", "standard") if m in view.alike(one, "upstream")]
        for d in view.datasets(one):
            models = [m for m in alike if view.accuracy(m, d) is not None]
            ranks = view.networks.loc[models, "width"].rank().to_numpy()
            if len(set(ranks)) >= W1_WIDTHS:
                correlation = partial(rank_correlation, ranks)
                found[f"{family}/{d}"] = apply(correlation, [view.dr(m, d, DELTA) for m in models])
    return decided(compared(found, 0.0), f"needs narrow layers of {W1_WIDTHS} widths (networks: training 'narrow')",
                   note=f"rank correlation of DR({DELTA}) with width")  # fmt: skip


def rank_correlation(ranks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Spearman correlation of values [..., n] with ranks [n]; values without differences show no trend: 0."""
    other = pd.DataFrame(np.atleast_2d(values)).rank(axis=1).to_numpy().reshape(np.shape(values))
    a, b = ranks - ranks.mean(), other - other.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum() * (b**2).sum(axis=-1))
    return np.where(scale > 0, b @ a / np.where(scale > 0, scale, 1.0), 0.0)


def w2(view: View) -> Outcome:
    """DR is eq. 1 itself, as every subset was measured; its interval is over the test images."""
    found = {f"{m}/{d}": dr for m in view.models("narrow") for d in view.datasets(m)
             if (dr := view.redundancy(m, d, DELTA, "exact"))}  # fmt: skip
    cells = reached({name: (1 - dr, 1 - high, 1 - low) for name, (dr, low, high) in found.items()}, W2_SHARE)
    return decided(cells, "needs a layer of 8 neurons and selection 'every' in the profile",
                   note=f"share of the neurons needed for {DELTA:.0%} of the layer's accuracy")  # fmt: skip


def m1(view: View) -> Outcome:
    cells = compared({f"{m}/{d}": view.dr(m, d, DELTA) for m, d in view.cells(view.models("mrl"))}, LEAST_DR)
    return decided(cells, NO_MRL, note=f"DR({DELTA}) of its random subsets, rule crossing")


def first_against_random(view: View) -> dict[str, dict[int, Estimate]]:
    """Accuracy of the Matryoshka network's first k neurons minus that of random k neurons, by rival/task and k.

    The random neurons are its own and those of the other networks of its family, width and upstream data.
    """
    found: dict[str, dict[int, Estimate]] = {}
    for mrl in view.models("mrl"):
        for d in view.datasets(mrl):
            first = view.accuracy(mrl, d, "first")
            for rival in [mrl, *view.rivals(mrl)] if first is not None else ():
                if (random := view.accuracy(rival, d)) is None:
                    continue
                width = view.networks.loc[mrl, "width"]
                theirs = dict(zip(random.n_neurons, random.points, strict=True))
                ours = dict(zip(first.n_neurons, first.points, strict=True))
                steps = {int(k): ours[k] - theirs[k] for k in ours if k in theirs and k < width}
                if steps:
                    found[f"{rival}/{d}"] = steps
    return found


NO_FIRST = "needs first-k subsets of a Matryoshka network beside random ones of the same sizes (selection 'first')"


def m2(view: View) -> Outcome:
    steps = {f"against {name} at k={k}": step for name, found in first_against_random(view).items()
             for k, step in found.items() if k in M2_SIZES}  # fmt: skip
    return decided(compared(steps, 0.0), NO_FIRST, note="accuracy, first k minus random k")


def m3(view: View) -> Outcome:
    """Against: a clear lead at every larger k. Where there was no lead there is nothing to catch up with: noise."""
    cells = []
    width = max((int(view.networks.loc[m, "width"]) for m in view.models("mrl")), default=0)
    for name, steps in first_against_random(view).items():
        clear = {k: step.interval()[0] > 0 for k, step in steps.items()}
        sizes = list(steps)
        behind = [k for k in sizes if clear[k] or steps[k].value > M3_MARGIN]
        caught = next((k for k in sizes if k > max(behind, default=0)), None)
        late = [clear[k] for k in sizes if k > M3_MOST * width]
        state = "for" if clear[sizes[0]] and caught is not None and caught <= M3_MOST * width else "noise"
        state = "against" if caught is None and late and all(late) else state
        text = f"k={caught} of {width}" if caught else f"still behind by {steps[sizes[-1]].value:.3f} at k={sizes[-1]}"
        cells.append(Cell(name, text + ("" if clear[sizes[0]] else ", no clear lead before"), state, caught or width))
    return decided(cells, NO_FIRST if view.models("mrl") else NO_MRL, note="smallest k with no significant lead")


def m4(view: View) -> Outcome:
    found = {f"{m}/{d} at {f:g}": curve.at(f) if (curve := view.part_whole(m, d)) else ABSENT
             for m in view.models("mrl") for d in view.datasets(m) for f in M4_FRACTIONS}  # fmt: skip
    return decided(compared(found, M4_CKA), f"{NO_MRL} and its CKA at f = {M4_FRACTIONS}", note=f"{view.estimator} CKA")
