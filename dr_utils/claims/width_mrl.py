"""Claims of sections 3.2 and 3.3: narrow layers (Fig. 5) and Matryoshka representations (Figs. 6, 8, 12)."""

from __future__ import annotations

import numpy as np

from dr_utils.claims import stats
from dr_utils.claims.architectures import LEAST_DR, bounds_cell
from dr_utils.claims.curves import close
from dr_utils.claims.prevalence import DELTA, rank_correlation
from dr_utils.claims.registry import Outcome, claim, missing
from dr_utils.claims.stats import Estimate
from dr_utils.claims.verdicts import Cell, aggregate, judge, measured
from dr_utils.claims.view import View

W1_WIDTHS = 3
W2_WIDEST = 16  # the claim is about 8 neurons; twice that still counts in steps of a sixteenth
W2_SHARE = 7 / 8  # "almost 90 %": of 8 neurons, 7 are the nearest to it
M2_SIZES = (8, 16, 32)  # claims.md
M3_MOST = 0.25  # "quickly catch up": within a quarter of the layer
M3_MARGIN = 0.02  # a lead that is not significant but larger than two points has not been caught up with
# what the paper's Fig. 8 calls high: its printed curves run from .61 to .74 at f between .06 and .125
M4_CKA = 0.6
M4_FRACTIONS = (0.1, 0.2)
NO_NARROW = "no networks with narrow layers in this run (networks.csv: training 'narrow')"
NO_MRL = "no Matryoshka network in this run (networks.csv: training 'mrl')"


@claim(
    "W1",
    figure="Fig 5",
    needs=("probes", "networks", "tasks"),
    statement="narrower layers have less of it",
    published="monotone",
    rule=f"DR({DELTA}) has a clearly positive rank correlation with the width, over {W1_WIDTHS} widths or more.",
)
def w1(view: View) -> Outcome:
    """One cell per family and task: rank correlation of width with DR(.9), counted in whole neurons."""
    narrow = view.models("narrow")
    if not narrow:
        return missing(NO_NARROW)
    found, widest = {}, 0
    for family, first in {view.family(m): m for m in reversed(narrow)}.items():
        models = [m for m in view.alike(first) if view.networks.loc[m, "training"] in ("narrow", "standard")]
        for dataset in view.datasets(models[0]):
            cells = [(m, dataset) for m in models if view.accuracy(m, dataset) is not None]
            widths = [int(view.networks.loc[m, "width"]) for m, _ in cells]
            widest = max(widest, len(set(widths)))
            if len(set(widths)) >= W1_WIDTHS:
                rho = rank_correlation(view, cells, widths, needed=False, by_neurons=True)
                if rho is not None:
                    found[f"{family}/{dataset}"] = rho
    if not found:
        return missing(f"needs layers of {W1_WIDTHS} widths of one family on one task; this run has {widest}")
    cells = [judge(name, rho, 0.0, len(found)) for name, rho in found.items()]
    return aggregate(cells, note=f"rank correlation of DR({DELTA}) with width")


@claim(
    "W2",
    figure="Fig 5",
    needs=("probes", "networks", "tasks"),
    statement="ff8 needs almost 90 % of its neurons",
    published="> .9",
    rule=f"The narrowest layer (at most {W2_WIDEST} neurons) needs at least {W2_SHARE:.3f} for {DELTA:.0%}.",
)
def w2(view: View) -> Outcome:
    narrow = view.models("narrow")
    if not narrow:
        return missing(NO_NARROW)
    model = min(narrow, key=lambda m: view.networks.loc[m, "width"])
    width = int(view.networks.loc[model, "width"])
    found = {d: stats.redundancy_draws(view, model, d, DELTA, by_neurons=True) for d in view.datasets(model)}
    found = {d: value for d, value in found.items() if value is not None}
    cells = []
    for dataset, dr in found.items():
        low, high = dr.interval()
        # Needed share is 1 - DR, so the ends change places.
        cell = bounds_cell(f"{model}/{dataset}", 1 - dr.value, 1 - high, 1 - low, W2_SHARE)
        cells.append(cell)
    note = f"share of {width} neurons needed for {DELTA:.0%} of the layer's accuracy"
    if not cells:
        return missing(f"{model} has no probe curve with a whole layer")
    if width > W2_WIDEST:
        return missing(f"the narrowest layer has {width} neurons; the claim is about 8", measured(cells, note))
    return aggregate(cells, note=note, why=f"the rule: at least {W2_SHARE:.3f}")


@claim(
    "M1",
    figure="Figs 6, 12",
    needs=("redundancy", "networks"),
    statement="the Matryoshka network has diffused redundancy too",
    published="yes",
    rule=f"DR({DELTA}) of its random subsets is at least {LEAST_DR}, the smallest entry of Table 1.",
)
def m1(view: View) -> Outcome:
    models = list(view.networks.loc[view.networks["training"].eq("mrl"), "model"])
    if not models:
        return missing(NO_MRL)
    datasets = list(dict.fromkeys(view.tables["redundancy"]["dataset"]))
    cells = [
        bounds_cell(f"{m}/{d}", *found, LEAST_DR)
        for m in models
        for d in datasets
        if (found := view.redundancy(m, d, DELTA)) is not None
    ]
    if not cells:
        return missing("redundancy.csv has no probe rows for the Matryoshka network")
    return aggregate(cells, note=f"DR({DELTA}) of its random subsets, rule first", why=f"the rule: at least {LEAST_DR}")


def first_against_random(view: View) -> dict[tuple[str, str, str], dict[int, Estimate]]:
    """Accuracy of the Matryoshka network's first k neurons minus that of random k neurons, by k.

    Returns
    -------
    dict
        (Matryoshka network, network that the random neurons are from, task) -> {k: difference}. The random
        neurons come from the same network and from the others of its family, width and upstream data.
    """
    found = {}
    for mrl in view.models("mrl"):
        card = view.networks.loc[mrl]
        others = view.networks.loc[view.alike(mrl)].query("training != 'mrl' and width == @card.width")
        rivals = [mrl, *others["model"]]
        for dataset in view.datasets(mrl):
            first = view.accuracy(mrl, dataset, "first")
            for rival in rivals if first is not None else ():
                random = view.accuracy(rival, dataset)
                if random is None:
                    continue
                steps = {
                    int(k): _difference(view, (mrl, dataset, first, k), (rival, dataset, random, k))
                    for k in first.n_neurons
                    if k in random.n_neurons and k < card["width"]
                }
                if steps:
                    found[mrl, rival, dataset] = dict(sorted(steps.items()))
    return found


def _difference(view: View, first: tuple, random: tuple) -> Estimate:
    """Unpaired difference: the first neurons do not depend on the seed, or only through the probe."""
    sides = []
    for (model, dataset, curve, k), selection in ((first, "first"), (random, "random")):
        row = int(np.flatnonzero(curve.n_neurons == k)[0])
        values, fraction = curve.values[row], float(curve.fractions[row])
        error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else 0.0
        sides.append((values.mean(), error, len(values) - 1, stats.Term(1, model, dataset, fraction, selection)))
    (a, error_a, df_a, term_a), (b, error_b, df_b, term_b) = sides
    terms = [term_a, stats.Term(-1, term_b.model, term_b.dataset, term_b.fraction, "random")]
    return stats.combine(
        float(a - b),
        (error_a, max(df_a, 1)),
        (error_b if df_b else np.inf, max(df_b, 1)),
        stats.image_error(view, terms, [a, b]),
    )


NO_FIRST = (
    "no first-k subsets of the Matryoshka network beside random ones of the same size (probes.csv: selection 'first')"
)


@claim(
    "M2",
    figure="Fig 6",
    needs=("probes", "networks", "tasks"),
    statement="its first-k subsets beat all random subsets at very small k",
    published="yes",
    rule=f"First k minus random k is clearly above 0 at k = {', '.join(map(str, M2_SIZES))}.",
)
def m2(view: View) -> Outcome:
    if not view.models("mrl"):
        return missing(NO_MRL)
    found = {
        (key, k): step
        for key, steps in first_against_random(view).items()
        for k, step in steps.items()
        if k in M2_SIZES
    }
    if not found:
        return missing(NO_FIRST + f" at k = {', '.join(map(str, M2_SIZES))}")
    cells = [
        judge(f"against {rival}/{d} at k={k}", step, 0.0, len(found)) for ((_, rival, d), k), step in found.items()
    ]
    return aggregate(cells, note="accuracy, first k minus random k")


@claim(
    "M3",
    figure="Fig 6",
    needs=("probes", "networks", "tasks"),
    statement="the others catch up as k grows",
    published="yes",
    rule=f"A clear lead at the smallest k is gone by {M3_MOST} of the layer: not significant, at most {M3_MARGIN}.",
)
def m3(view: View) -> Outcome:
    """One cell per rival network and task: the smallest k from which the lead is not significant nor large.

    For: a clear lead at the smallest k, caught up with by a quarter of the layer. Against: a clear lead at
    every larger k. Where there is no lead to begin with, there is nothing to catch up with: within noise.
    """
    if not view.models("mrl"):
        return missing(NO_MRL)
    cells = []
    for (mrl, rival, dataset), steps in first_against_random(view).items():
        width = int(view.networks.loc[mrl, "width"])
        sizes = list(steps)
        ahead = [steps[k].interval()[0] > 0 or steps[k].value > M3_MARGIN for k in sizes]
        led = steps[sizes[0]].interval()[0] > 0
        last = max((i for i, still in enumerate(ahead) if still), default=-1)
        name = f"{rival}/{dataset}"
        if last + 1 == len(sizes):
            late = [steps[k] for k in sizes if k > M3_MOST * width]
            state = "against" if late and all(s.interval()[0] > 0 for s in late) else "noise"
            cells.append(Cell(name, f"still behind by {steps[sizes[-1]].value:.3f} at k={sizes[-1]}", state, sizes[-1]))
        else:
            caught = sizes[last + 1]
            state = "for" if led and caught <= M3_MOST * width else "noise"
            cells.append(
                Cell(name, f"k={caught} of {width}" + ("" if led else ", no clear lead before"), state, caught)
            )
    if not cells:
        return missing(NO_FIRST)
    return aggregate(cells, note="smallest k with no significant lead", why=f"the rule: by {M3_MOST} of the layer")


@claim(
    "M4",
    figure="Fig 8",
    needs=("cka", "networks"),
    statement="its part-whole CKA is high as well",
    published="high; printed .65 to .74 at f=.125",
    rule=f"CKA with the whole layer is clearly above {M4_CKA} at f = {', '.join(map(str, M4_FRACTIONS))}.",
)
def m4(view: View) -> Outcome:
    models = view.models("mrl")
    if not models:
        return missing(NO_MRL)
    curves = {(m, d): c for m in models for d in view.datasets(m) if (c := view.part_whole(m, d)) is not None}
    found = {
        f"{m}/{d} at {f:g}": stats.over_seeds(c.at(f))
        for (m, d), c in curves.items()
        for f in M4_FRACTIONS
        if close(c.fractions, f).any()
    }
    if not found:
        return missing(f"no part-whole CKA of the Matryoshka network at f = {M4_FRACTIONS[0]}, {M4_FRACTIONS[1]}")
    cells = [judge(name, value, M4_CKA, len(found)) for name, value in found.items()]
    return aggregate(cells, note=f"{view.estimator} CKA of random subsets", why=f"the rule: above {M4_CKA}")
