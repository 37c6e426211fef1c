"""Claims of section 3: architectures and upstream data, width, Matryoshka networks."""

from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd

from dr_utils.claims.estimates import Cell, apply, bounds, compared, mean
from dr_utils.claims.section2 import pairs_compared
from dr_utils.reference import paper_network, paper_task, published


def a1(view, decide, delta, least, families, what, pairs=None):
    """One cell per family, the mean over its networks, or pairs of them, and over tasks."""
    alone = {f"{m}/{d}": view.dr(m, d, delta) for m, d in view.cells("standard")}
    numbers, found = pairs_compared(view, pairs, [delta]) if pairs else alone, {}
    for name, number in numbers.items():
        if np.isfinite(number.value):
            found.setdefault(view.family(name.split("/")[0]), []).append(number)
    cells = compared({family: mean(parts) for family, parts in found.items()}, least)
    return decide(cells, half="" if len(cells) >= families else f"{what} in {families} families")


a2 = a1


def a4(view, decide, widths, gamma, fewest):
    """Goodman-Kruskal gamma: that a test finds no correlation in a few networks would not prove that there is none."""
    width, alike = view.networks.width, view.networks.kind + view.networks.upstream
    leads, seen = [], set()
    for wide, thin in permutations(view.models("standard"), 2):
        for d in view.datasets(thin) if alike[wide] == alike[thin] and width[wide] > width[thin] else ():
            lead = view.accuracy(wide, d).at(1.0) - view.accuracy(thin, d).at(1.0)
            if np.isfinite(lead.value):
                leads.append(lead.interval())
                seen |= {width[wide], width[thin]}
    wins, losses = sum(low > 0 for low, _ in leads), sum(high < 0 for _, high in leads)
    clear, found = wins + losses, (wins - losses) / max(wins + losses, 1)
    state = "noise" if clear < fewest or len(seen) < widths else "for" if found <= gamma else "against"
    text = f"better in {wins} of {clear} clear comparisons of {len(leads)}, gamma {found:.2f}"
    cells = [Cell(f"the wider of {', '.join(map(str, sorted(seen)))}", text, state, found)] if leads else []
    return decide(cells, half="" if len(seen) >= widths else f"standard networks of {widths} widths")


def a5(view, decide, delta, share):
    """One cell per network and task of Table 1, by the rule that made it, "nearest"; a grid step outside is noise."""
    table = published(source="ICLR23 seed text", figure_or_table="Table 1", quantity="diffused_redundancy_DR")
    entries = {(row.model, row.dataset): float(row.number) for row in table.itertuples()}
    cells = []
    for m, d in view.cells("standard"):
        card, (dr, low, high) = view.networks.loc[m], view.redundancy(m, d, delta, "nearest")
        value = entries.get((card["upstream"] == "imagenet1k" and paper_network(card), paper_task(d)))
        if value is None or np.isnan(dr):
            continue
        low, high, grid = low - 1e-6, high + 1e-6, 1 - view.accuracy(m, d).fractions
        below, above = grid[grid < low].max(initial=0.0), grid[grid > high].min(initial=1.0)
        state = "for" if low <= value <= high else "noise" if below - 1e-6 <= value <= above + 1e-6 else "against"
        text = f"{dr:.2f} vs published {value:.2f}, next steps of the grid {below:.2f} and {above:.2f}"
        cells.append(Cell(f"{m}/{d}", text, state, dr))
    few = f"more than {len(cells)} of the table's {len(entries)} values"
    return decide(cells, half=few if len(cells) < share * len(entries) else "")


def w1(view, decide, delta, widths):
    found = {}
    for family, one in {view.family(m): m for m in view.models("narrow")}.items():
        alike = [m for m in view.models("narrow", "standard") if m in view.alike(one, "upstream")]
        for d in view.datasets(one):
            models = [m for m in alike if view.accuracy(m, d)]
            ranks = view.networks.loc[models, "width"].rank().to_numpy()
            if len(set(ranks)) >= widths:
                drs = [view.dr(m, d, delta) for m in models]
                found[f"{family}/{d}"] = apply(partial(rank_correlation, ranks), drs)
    return decide(compared(found, 0.0))


def rank_correlation(ranks, values):
    """Spearman correlation of values [..., n] with ranks [n]; values without differences show no trend: 0."""
    other = pd.DataFrame(np.atleast_2d(values)).rank(axis=1).to_numpy().reshape(np.shape(values))
    a, b = ranks - ranks.mean(), other - other.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum() * (b**2).sum(axis=-1))
    return np.where(scale > 0, b @ a / np.where(scale > 0, scale, 1.0), 0.0)


def w2(view, decide, delta, share):
    """DR is eq. 1 itself, as every subset was measured; its interval is over the test images."""
    found = {f"{m}/{d}": view.redundancy(m, d, delta, "exact") for m, d in view.cells("narrow")}
    shares = {name: bounds(1 - dr, 1 - high, 1 - low) for name, (dr, low, high) in found.items()}
    return decide(compared(shares, share - 1e-9))


def m1(view, decide, delta, least, training):
    return decide(compared({f"{m}/{d}": view.dr(m, d, delta) for m, d in view.cells(*training)}, least))


def first_against_random(view):
    """Accuracy of the Matryoshka network's first k neurons minus that of random k of its own and of its rivals."""
    found = {}
    for mrl, d in view.cells("mrl"):
        first, width = view.accuracy(mrl, d, "first"), view.networks.width[mrl]
        for rival in [mrl, *view.rivals(mrl)]:
            random = view.accuracy(rival, d)
            theirs = dict(zip(random.n_neurons, random.points, strict=True))
            ours = {int(k): point for k, point in zip(first.n_neurons, first.points, strict=True) if k < width}
            if steps := {k: point - theirs[k] for k, point in ours.items() if k in theirs}:
                found[f"{rival}/{d}"] = steps
    return found


def m2(view, decide, sizes):
    leads = [(name, k, lead) for name, steps in first_against_random(view).items() for k, lead in steps.items()]
    return decide(compared({f"against {name} at k={k}": lead for name, k, lead in leads if k in sizes}, 0.0))


def m3(view, decide, most, margin):
    """Against: a clear lead at every larger k. Where there was no lead there is nothing to catch up with: noise."""
    cells, width = [], max((view.networks.width[m] for m in view.models("mrl")), default=0)
    for name, steps in first_against_random(view).items():
        sizes, clear = list(steps), {k: step.interval()[0] > 0 for k, step in steps.items()}
        behind = [k for k in sizes if clear[k] or steps[k].value > margin]
        caught = next((k for k in sizes if k > max(behind, default=0)), None)
        late = [clear[k] for k in sizes if k > most * width]
        state = "for" if clear[sizes[0]] and caught is not None and caught <= most * width else "noise"
        state = "against" if caught is None and late and all(late) else state
        text = f"k={caught} of {width}" if caught else f"still behind by {steps[sizes[-1]].value:.3f} at k={sizes[-1]}"
        cells.append(Cell(name, text + ("" if clear[sizes[0]] else ", no clear lead before"), state, caught or width))
    return decide(cells)


def m4(view, decide, least, fractions):
    cells = [(m, d, f) for m, d in view.cells("mrl") for f in fractions]
    return decide(compared({f"{m}/{d} at {f:g}": view.cka(m, d).at(f) for m, d, f in cells}, least))
