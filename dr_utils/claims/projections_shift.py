"""Claims of appendix D: PCA against random neurons (Fig. 14), ImageNet-1k and shifted images (Fig. 15)."""

from __future__ import annotations

import numpy as np

from dr_utils.claims import stats
from dr_utils.claims.curves import close
from dr_utils.claims.prevalence import CRITICAL_MASS, DELTA, NO_ROBUST, resnet_pairs
from dr_utils.claims.registry import DIFFERS, NOT_TESTED, Outcome, claim, missing
from dr_utils.claims.stats import Estimate, Term
from dr_utils.claims.verdicts import Cell, aggregate, judge, measured
from dr_utils.claims.view import View

C1_CLOSE = 0.05  # "close": the 5 % that the paper's abstract calls near
# Where text and caption of Fig. 14 agree; on Pets and Flowers they contradict each other: only reported.
C1_CLOSE_TASK, C1_BETTER_TASK = "cifar10", "cifar100"
I1_FRACTION = 0.5  # the published run keeps .740 of .801 there
I2_MARGIN = 0.03  # a quarter of the published gap of .12
I2_KEPT = 0.75  # down to the least delta of the paper's sweeps; near chance every gap closes
IMAGENET, IMAGENET_V2 = ("imagenet1k", "imagenet"), "imagenetv2"
STAND_IN = "stand-in: CIFAR-10 under common corruptions"


def pca_lead(view: View, model: str, dataset: str, fraction: float) -> list[Term]:
    """Terms of accuracy(pca) - accuracy(random) at one fraction."""
    return [Term(1, model, dataset, fraction, "pca"), Term(-1, model, dataset, fraction)]


def pca_fractions(view: View, model: str, dataset: str) -> list[float]:
    """Fractions from .1 that both have; PCA has no more components than training images."""
    pca, random = view.accuracy(model, dataset, "pca"), view.accuracy(model, dataset)
    if pca is None or random is None:
        return []
    return [f for f in stats.fractions_between(pca, CRITICAL_MASS, 1.0) if close(random.fractions, f).any()]


@claim(
    "C1",
    figure="App D, Fig 14",
    needs=("probes", "networks", "tasks"),
    statement="PCA is close to random neurons for CIFAR10 and Pets, better for CIFAR100 and Flowers",
    published="text and caption disagree on Pets and Flowers",
    rule=f"At f >= {CRITICAL_MASS}: clearly within {C1_CLOSE} on {C1_CLOSE_TASK}, clearly better on {C1_BETTER_TASK}.",
)
def c1(view: View) -> Outcome:
    """Both halves must hold, each on every fraction from .1 and network with standard training.

    CIFAR-10: the difference is clearly within 5 points either way. CIFAR-100: PCA is clearly better.
    """
    leads = {}
    for model in view.models("standard"):
        for dataset in view.datasets(model):
            for f in pca_fractions(view, model, dataset):
                lead = stats.contrast(view, pca_lead(view, model, dataset, f))
                leads[model, dataset, f] = lead
    if not leads:
        return missing("needs PCA and random subsets at the same fractions (probes.csv: selection 'pca')")
    judged = {key: lead for key, lead in leads.items() if key[1] in (C1_CLOSE_TASK, C1_BETTER_TASK)}
    cells = []
    for (model, dataset, f), lead in judged.items():
        name = f"{model}/{dataset} at {f:g}"
        if dataset == C1_CLOSE_TASK:
            distance = Estimate(abs(lead.value), lead.error, lead.df)
            cells.append(judge(name, distance, C1_CLOSE, len(judged), above=False, text=f"{lead}"))
        else:
            cells.append(judge(name, lead, 0.0, len(judged)))
    others = [
        Cell(f"{m}/{d} at {f:g}", str(lead), "noise", lead.value)
        for (m, d, f), lead in leads.items()
        if (m, d, f) not in judged
    ]
    rest = f"; not judged: {measured(others)}" if others else ""
    note = "accuracy of PCA minus random neurons, paired by seed"
    lacking = [d for d in (C1_CLOSE_TASK, C1_BETTER_TASK) if not any(key[1] == d for key in judged)]
    if not cells:
        return missing(f"no PCA results on {' or '.join(lacking)}", f"{note}{rest}")
    outcome = aggregate(
        cells,
        note=note,
        why=f"the rule: within {C1_CLOSE} on {C1_CLOSE_TASK}, above 0 on {C1_BETTER_TASK}, at f >= {CRITICAL_MASS}",
    )
    if lacking and outcome.verdict != DIFFERS:
        return Outcome(
            outcome.measured + rest,
            NOT_TESTED,
            f"no {lacking[0]} with PCA in this run; the other half: {outcome.why}",
        )
    return Outcome(outcome.measured + rest, outcome.verdict, outcome.why)


@claim(
    "C2",
    figure="Fig 14",
    needs=("probes", "networks", "tasks"),
    statement="PCA's lead is smaller on the adversarially trained network",
    published="yes",
    rule=f"PCA's lead, standard minus adversarial, is clearly above 0 (mean over f >= {CRITICAL_MASS}).",
)
def c2(view: View) -> Outcome:
    """One cell per pair and task: PCA's lead, standard minus adversarial network, mean over f >= .1."""
    found = {}
    for robust, standard in resnet_pairs(view):
        for dataset in view.datasets(robust):
            grid = [
                f
                for f in pca_fractions(view, robust, dataset)
                if close(pca_fractions(view, standard, dataset) or [np.nan], f).any()
            ]
            gaps = []
            for f in grid:
                terms = pca_lead(view, standard, dataset, f)
                terms += [Term(-t.weight, *_rest(t)) for t in pca_lead(view, robust, dataset, f)]
                gaps.append(stats.contrast(view, terms))
            if gaps:  # the fractions share seeds and images: their mean is as uncertain as one of them
                found[f"{robust}/{dataset}"] = Estimate(
                    float(np.mean([g.value for g in gaps])),
                    float(np.mean([g.error for g in gaps])),
                    float(min(g.df for g in gaps)),
                )
    if not found:
        return missing(NO_ROBUST if not view.robust_pairs() else "no PCA subsets for both networks of a pair")
    cells = [judge(name, gap, 0.0, len(found)) for name, gap in found.items()]
    return aggregate(cells, note=f"lead of PCA, standard minus adversarial, mean over f >= {CRITICAL_MASS}")


def _rest(term: Term) -> tuple:
    return term.model, term.dataset, term.fraction, term.selection, term.eval_set


@claim(
    "I1",
    figure="Fig 15",
    needs=("probes", "networks", "tasks"),
    statement="few neurons suffice on ImageNet-1k as well",
    published="f .1/.5/.9/1: .297/.740/.778/.801",
    rule=f"A share of {I1_FRACTION} of the neurons clearly keeps {DELTA} of the accuracy.",
)
def i1(view: View) -> Outcome:
    """One cell per network: half of the neurons keep nine tenths of the accuracy."""
    found = {}
    for dataset in (d for d in view.datasets() if d in IMAGENET):
        for model in view.models(("standard", "adversarial")):
            curve = view.accuracy(model, dataset)
            if curve is None or curve.at(1.0) is None or curve.at(I1_FRACTION) is None:
                continue
            kept = stats.contrast(view, [Term(1, model, dataset, I1_FRACTION), Term(-DELTA, model, dataset, 1.0)])
            text = ", ".join(
                f"f={f:g} {stats.mean_std(curve.at(f))}" for f in (0.1, 0.5, 0.9, 1.0) if curve.at(f) is not None
            )
            found[f"{model}/{dataset}"] = (kept, text)
    if not found:
        return missing("no ImageNet-1k probes in this run")
    cells = [judge(name, kept, 0.0, len(found), text=text) for name, (kept, text) in found.items()]
    return aggregate(cells, why=f"the rule: at least {DELTA} of the full layer's accuracy at f={I1_FRACTION}")


@claim(
    "I2",
    figure="Fig 15",
    needs=("probes", "networks", "tasks"),
    statement="the gap to ImageNetV2 stays as neurons are dropped",
    published='"maintained"',
    rule=f"The gap changes by clearly less than {I2_MARGIN} wherever {I2_KEPT:.0%} of the accuracy is kept.",
)
def i2(view: View) -> Outcome:
    """One cell per network: the largest change of the gap over fractions that keep 75 % of the accuracy."""
    found, n = {}, 0
    for model, dataset, eval_set in shifted(view):
        curve = view.accuracy(model, dataset)
        changes = []
        for f in curve.fractions if curve.at(1.0) is not None else ():
            if f < 1 and curve.at(f).mean() >= I2_KEPT * curve.mean[-1]:
                change = gap_change(view, model, dataset, eval_set, float(f))
                if change is not None:
                    changes.append((abs(change.value), change, float(f)))
        if changes:
            found[model, dataset, eval_set] = max(changes, key=lambda item: item[0])
            n += len(changes)
    if not found:
        return missing("needs a shifted test set beside the task's own (imagenetv2, or corrupted for CIFAR-10)")
    cells = []
    for (model, dataset, eval_set), (size, change, f) in found.items():
        full = _gap(view, model, dataset, eval_set, 1.0)
        text = f"gap {full:.3f} at f=1, change at most {change} (f={f:g})"
        distance = Estimate(size, change.error, change.df)
        cells.append(judge(f"{model}/{dataset}", distance, I2_MARGIN, n, above=False, text=text))
    stand_in = not any(d in IMAGENET for _, d, _ in found)
    n_test = {view.n_test(d, e) for _, d, e in found}
    note = f"{STAND_IN}, n_test {sorted(n_test)[0]}" if stand_in else ""
    why = f"the rule: the gap changes by less than {I2_MARGIN} where {I2_KEPT:.0%} of the accuracy is kept"
    return aggregate(
        cells, note=note, why=f"{STAND_IN} in place of ImageNet and ImageNetV2; {why}" if stand_in else why
    )


def shifted(view: View) -> list[tuple[str, str, str]]:
    """(network, task, shifted set): ImageNet with ImageNetV2, else CIFAR-10 with its corruptions."""
    for datasets, eval_set in ((IMAGENET, IMAGENET_V2), (("cifar10",), "corrupted")):
        found = [
            (m, d, eval_set)
            for m, d in view.cells()
            if d in datasets and view.accuracy(m, d, eval_set=eval_set) is not None
        ]
        if found:
            return found
    return []


def gap_change(view: View, model: str, dataset: str, eval_set: str, fraction: float) -> Estimate | None:
    """Gap between own and shifted test set at a fraction, minus the gap of the whole layer."""
    terms = [
        Term(sign * weight, model, dataset, at, eval_set=name)
        for sign, name in ((1, None), (-1, eval_set))
        for weight, at in ((1, fraction), (-1, 1.0))
    ]
    return stats.contrast(view, terms)


def _gap(view: View, model: str, dataset: str, eval_set: str, fraction: float) -> float:
    own, other = view.accuracy(model, dataset), view.accuracy(model, dataset, eval_set=eval_set)
    return float(own.at(fraction).mean() - other.at(fraction).mean())
