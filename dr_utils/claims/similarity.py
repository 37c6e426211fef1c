"""Claims on CKA: part against whole (section 2.1, Figs. 1e, f), part against part (section 2.2, Fig. 2)."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
import scipy

from dr_utils.claims import stats
from dr_utils.claims.prevalence import DELTAS, NO_ROBUST, resnet_pairs, robust_cells
from dr_utils.claims.registry import DIFFERS, NOT_TESTED, Outcome, claim, missing
from dr_utils.claims.stats import Estimate
from dr_utils.claims.verdicts import aggregate, judge
from dr_utils.claims.view import View

P6_RANGE = 0.1  # a tenth of CKA's scale, and almost twice the .058 that the published curves of Fig. 8 show
P6_FROM = 0.01  # below, a few neurons stand for the layer and their CKA says little
P7_CKA = 0.9  # claims.md
S1_CKA = 0.75  # "about .8": the published curves run from .77 to .86 at these fractions; the least less .02
S1_FRACTION = {"adversarial": 0.1, "standard": 0.2}
S2_STD = 0.05  # an error bar of a twentieth of CKA's scale is the least that is plainly seen in Fig. 2
S2_FROM = 0.1


@claim(
    "P6",
    figure="Figs 1e, f",
    needs=("cka", "networks"),
    statement="part-whole CKA hardly depends on the data it is measured on",
    published='"no significant difference"; printed curves of Fig 8: range up to .058',
    rule=f"At f >= {P6_FROM} the CKA of two tasks differs by clearly less than {P6_RANGE}.",
)
def p6(view: View) -> Outcome:
    """One cell per network: the largest difference of two tasks' mean CKA at any fraction, paired by seed."""
    worst = {}
    for model in view.layers():
        curves = {d: c for d in view.datasets(model) if (c := view.part_whole(model, d)) is not None}
        found = []
        for a, b in combinations(curves, 2):
            for f in stats.fractions_between(curves[a], P6_FROM, 1.0):
                here, there = curves[a].at(f), curves[b].at(f)
                if there is None or len(here.index.intersection(there.index)) < 2:
                    continue
                gap = (here - there).dropna()
                estimate = stats.over_seeds(gap * np.sign(gap.mean() or 1.0))
                found.append((estimate.value, estimate, f"{a} against {b} at f={f:g}"))
        if found:
            worst[model] = (max(found, key=lambda item: item[0]), len(found))
    if not worst:
        return missing("needs part-whole CKA of one network on two tasks or more")
    # The worst of many comparisons was picked, so "against" has to survive all of them.
    n = sum(count for _, count in worst.values())
    cells = [
        judge(m, estimate, P6_RANGE, n, above=False, text=f"{estimate} ({where})")
        for m, ((_, estimate, where), _) in worst.items()
    ]
    return aggregate(
        cells,
        note=f"largest range over tasks at f >= {P6_FROM}, {view.estimator} CKA",
        why=f"the rule: range below {P6_RANGE}",
    )


@claim(
    "P7",
    figure="Figs 1e, f",
    needs=("cka", "networks"),
    statement="a given CKA is reached with fewer neurons in the adversarially trained network",
    published="adv < std",
    rule=f"The smallest f with CKA >= {P7_CKA} is clearly smaller after adversarial training, paired by seed.",
)
def p7(view: View) -> Outcome:
    # Fewer neurons needed is more redundancy by CKA: the smallest f is 1 - DR.
    cells = robust_cells(view, resnet_pairs(view), (P7_CKA,), task="cka")
    note = f"smallest f with CKA >= {P7_CKA}, std minus adv, paired by seed, {view.estimator} CKA"
    return aggregate(cells, note=note) if cells else missing(NO_ROBUST + " with part-whole CKA")


@claim(
    "P8",
    figure="Fig 1, Sec 2.1",
    needs=("probes", "cka", "networks", "tasks"),
    statement="downstream accuracy is a harder test than CKA",
    published="DR by CKA larger than DR by probe",
    rule="DR by CKA is clearly above DR by probe at the same delta, paired by seed.",
)
def p8(view: View) -> Outcome:
    found = {}
    for model, dataset in view.cells():
        for delta in DELTAS:
            value = stats.redundancy_difference(view, (model, dataset, "cka"), (model, dataset, "probe"), delta)
            if value is not None:
                found[f"{model}/{dataset} at {delta:g}"] = value
    if not found:
        return missing("needs part-whole CKA and probes of one network on one task")
    cells = [judge(name, value, 0.0, len(found)) for name, value in found.items()]
    return aggregate(cells, note=f"DR by {view.estimator} CKA minus DR by probe, 95 % interval")


@claim(
    "S1",
    figure="Fig 2",
    needs=("cka", "networks"),
    statement="any two random 10 % of the adversarially trained ResNet50 are similar; 20 % for the standard one",
    published="CKA about .8 each",
    rule=f"The mean CKA of two random subsets is clearly above {S1_CKA}, in both networks.",
)
def s1(view: View) -> Outcome:
    """Both halves must hold: one that fails is enough against the claim, one alone does not carry it."""
    found, lacking = [], []
    for training, fraction in S1_FRACTION.items():
        compared = view.networks.loc[view.resnets_compared()].query("training == @training")["model"]
        models = dict.fromkeys([*view.resnets(training)[:1], *compared])
        pairs = [
            (m, d, p) for m in models for d in view.datasets(m) if (p := view.part_part(m, d, fraction)) is not None
        ]
        found += [(f"{m}/{d} at {fraction:g}", mean_over_pairs(p)) for m, d, p in pairs]
        if not pairs:
            lacking.append(f"{training} ResNet with part-part CKA at f={fraction:g}")
    if not found:
        return missing("no " + " and no ".join(lacking) + " in this run")
    cells = [judge(name, value, S1_CKA, len(found)) for name, value in found]
    outcome = aggregate(
        cells,
        note=f"mean {view.estimator} CKA over the pairs of seeds, 95 % interval",
        why=f"the rule: CKA above {S1_CKA}",
    )
    if lacking and outcome.verdict != DIFFERS:
        return Outcome(outcome.measured, NOT_TESTED, f"no {lacking[0]} in this run; the other half: {outcome.why}")
    return outcome


def mean_over_pairs(pairs: pd.DataFrame) -> Estimate:
    """Mean CKA over pairs of seeds, jackknife over seeds: pairs that share a seed are not independent."""
    seeds = sorted(set(pairs["seed_a"]) | set(pairs["seed_b"]))
    mean, n = float(pairs["cka"].mean()), len(seeds)
    without = [pairs.loc[pairs["seed_a"].ne(s) & pairs["seed_b"].ne(s), "cka"].mean() for s in seeds]
    if n < stats.FEWEST_SEEDS or not np.isfinite(without).all():
        return Estimate(mean, np.inf)
    spread = np.sum((np.array(without) - np.mean(without)) ** 2)
    return Estimate(mean, float(np.sqrt((n - 1) / n * spread)), n - 1)


@claim(
    "S2",
    figure="Fig 2",
    needs=("cka", "networks"),
    statement="with very low error bars",
    published="low",
    rule=f"At f >= {S2_FROM} the standard deviation over pairs of subsets is clearly below {S2_STD}.",
)
def s2(view: View) -> Outcome:
    """One cell per network and task: mean over f >= .1 of the std over pairs, chi-square with S - 1 df."""
    found = {}
    for model in view.layers():
        for dataset in view.datasets(model):
            curve = view.part_whole(model, dataset)
            grid = [] if curve is None else stats.fractions_between(curve, S2_FROM, 1.0)
            tables = [p for f in grid if (p := view.part_part(model, dataset, f)) is not None]
            n_seeds = min((len(set(p["seed_a"]) | set(p["seed_b"])) for p in tables), default=0)
            if n_seeds >= stats.FEWEST_SEEDS:
                found[f"{model}/{dataset}"] = (np.mean([p["cka"].std() for p in tables]), n_seeds - 1)
    if not found:
        return missing(f"needs part-part CKA of {stats.FEWEST_SEEDS} seeds or more at fractions from {S2_FROM}")
    cells = [judge(name, _Spread(float(std), df), S2_STD, len(found), above=False) for name, (std, df) in found.items()]
    return aggregate(
        cells,
        note=f"mean std over pairs at f >= {S2_FROM}, 95 % interval",
        why=f"the rule: std below {S2_STD}",
    )


class _Spread(Estimate):
    """A standard deviation with its chi-square interval; `error` holds the degrees of freedom."""

    def interval(self, level: float = stats.LEVEL) -> tuple[float, float]:
        chi = scipy.stats.chi2.ppf([1 - level / 2, level / 2], self.error)
        return tuple(self.value * np.sqrt(self.error / chi))
