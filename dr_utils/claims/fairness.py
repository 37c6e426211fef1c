"""Claims of section 4: how the loss of accuracy is spread over classes (Figs. 7, 9)."""

from __future__ import annotations

import numpy as np

from dr_utils.claims import stats
from dr_utils.claims.inequality import InequalityCurve, inequality_curve, jackknife_error
from dr_utils.claims.registry import Outcome, claim, missing
from dr_utils.claims.stats import Estimate, Term, combine
from dr_utils.claims.verdicts import Cell, aggregate, judge
from dr_utils.claims.view import View
from dr_utils.claims.width_mrl import NO_MRL

CLEAR_DROP = 0.02  # less than two points is hardly a drop, and its inequality is that of the whole layer
F3_DROP = (0.05, 0.3)  # "moderate": the part of the accuracy lost; beyond, the curves of Fig. 7 run together
F3_STEPS = 5  # accuracies at which the two curves are compared
NO_CLASSES = "needs per-class accuracies (per_class.csv) of at least two seeds with the whole layer"


@claim(
    "F1",
    figure="Fig 7",
    needs=("per_class", "probes", "networks", "tasks"),
    statement="accuracy lost by dropping neurons falls on few classes: Gini rises as accuracy falls",
    published="yes",
    rule="The Gini index clearly rises as accuracy falls, and lies clearly above that of an even drop.",
)
def f1(view: View) -> Outcome:
    return rises_as_accuracy_falls(view, "gini", "Gini")


@claim(
    "F2",
    figure="Fig 9",
    needs=("per_class", "probes", "networks", "tasks"),
    statement="same with the coefficient of variation",
    published="yes",
    rule="The coefficient of variation clearly rises as accuracy falls, and lies clearly above that of an even drop.",
)
def f2(view: View) -> Outcome:
    return rises_as_accuracy_falls(view, "coefficient_of_variation", "CV")


def rises_as_accuracy_falls(view: View, measure: str, name: str) -> Outcome:
    """One cell per network and task, of two conditions that both have to be clear.

    The slope of inequality on accuracy over the fractions is below 0, and where accuracy has fallen
    inequality lies above that of an even drop (every class losing the same points). A clear failure of either
    counts against.
    """
    found = {}
    for model, dataset in view.cells():
        curve = inequality_curve(view, model, dataset, measure)
        dropped = (
            []
            if curve is None
            else [p for p in curve.points[:-1] if curve.points[-1].accuracy - p.accuracy > CLEAR_DROP]
        )
        if dropped:
            # One network's fractions share seeds and images, so their mean is as uncertain as one of them.
            excess = Estimate(
                float(np.mean([p.excess.value for p in dropped])),
                float(np.mean([p.excess.error for p in dropped])),
                float(min(p.excess.df for p in dropped)),
            )
            found[f"{model}/{dataset}"] = (slope(curve), excess)
    if not found:
        return missing(f"{NO_CLASSES} and a drop of more than {CLEAR_DROP:.0%}")
    cells, uneven = [], 0
    for cell, (falls, excess) in found.items():
        states = (
            judge(cell, falls, 0.0, len(found), above=False).state,
            judge(cell, excess, 0.0, len(found)).state,
        )
        uneven += states[1] == "for"
        state = next((s for s in ("against", "opposed", "noise") if s in states), "for")
        cells.append(Cell(cell, f"slope {falls}, excess over an even drop {excess}", state, falls.value))
    return aggregate(
        cells,
        note=f"{name} on accuracy, 95 % intervals",
        why=f"{name} above that of an even drop is clear on {uneven} of {len(found)}; a drop in equal "
        "proportion would leave it unchanged",
    )


def slope(curve: InequalityCurve) -> Estimate:
    """Least-squares slope of inequality on accuracy over the fractions, with its noise."""
    accuracy = np.array([p.accuracy for p in curve.points])
    inequality = np.array([p.inequality for p in curve.points])
    value = _slope(accuracy, inequality)
    each = np.array([_slope(a, i) for a, i in zip(curve.left_out_accuracy, curve.left_out, strict=True)])
    centred = accuracy - accuracy.mean()
    scale = (centred**2).sum()
    image = float(np.sqrt((centred**2 * curve.image_error**2).sum()) / scale) if scale else np.inf
    return combine(value, (jackknife_error(each), len(each) - 1), (image, np.inf))


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    x = x - x.mean()
    return float(x @ y / (x @ x)) if x.any() else 0.0


@claim(
    "F3",
    figure="Fig 7",
    needs=("per_class", "probes", "networks", "tasks"),
    statement="the Matryoshka network is more unequal where its accuracy drop is moderate",
    published='"slightly higher"',
    rule=f"At equal accuracy, with {F3_DROP[0]:.0%} to {F3_DROP[1]:.0%} lost, its Gini index is clearly higher.",
)
def f3(view: View) -> Outcome:
    """One cell per rival (same family, width and upstream data), task, and selection of the Matryoshka network."""
    if not view.models("mrl"):
        return missing(NO_MRL)
    found = {}
    for mrl in view.models("mrl"):
        alike, width = view.networks.loc[view.alike(mrl)], view.networks.loc[mrl, "width"]
        rivals = alike.loc[alike["training"].isin(["standard", "adversarial"]) & alike["width"].eq(width), "model"]
        for dataset in view.datasets(mrl):
            for selection in ("first", "random"):
                ours = inequality_curve(view, mrl, dataset, "gini", selection)
                for rival in rivals if ours else ():
                    theirs = inequality_curve(view, rival, dataset, "gini")
                    gap = matched_difference(ours, theirs) if theirs else None
                    if gap:
                        found[f"{selection} against {rival}/{dataset}"] = gap
    if not found:
        return missing(f"{NO_CLASSES}, of a Matryoshka network and one of its family and width at matched accuracies")
    cells = [judge(name, gap, 0.0, len(found)) for name, gap in found.items()]
    low, high = F3_DROP
    return aggregate(cells, note=f"Gini difference at matched accuracy, {low:.0%} to {high:.0%} of accuracy lost")


def matched_difference(ours: InequalityCurve, theirs: InequalityCurve) -> Estimate | None:
    """Mean difference of inequality at the same accuracies, interpolated; None where none is shared."""
    full = ours.points[-1].accuracy
    wanted = full * (1 - np.linspace(*F3_DROP, F3_STEPS))
    ranges = [[p.accuracy for p in c.points] for c in (ours, theirs)]
    wanted = wanted[(wanted >= max(map(min, ranges))) & (wanted <= min(map(max, ranges)))]
    if not len(wanted):
        return None
    means, errors = [], []
    for curve in (ours, theirs):
        accuracy = np.array([p.accuracy for p in curve.points])
        means.append(_at(accuracy, np.array([p.inequality for p in curve.points]), wanted))
        each = np.array([_at(a, i, wanted) for a, i in zip(curve.left_out_accuracy, curve.left_out, strict=True)])
        errors.append((jackknife_error(each), len(each) - 1))
        # The fractions share their images: the mean is as uncertain as one of them.
        errors.append((_at(accuracy, curve.image_error, wanted), np.inf))
    return combine(means[0] - means[1], *errors)


def _at(accuracy: np.ndarray, inequality: np.ndarray, wanted: np.ndarray) -> float:
    order = np.argsort(accuracy)
    return float(np.interp(wanted, accuracy[order], inequality[order]).mean())


@claim(
    "F4",
    figure="Fig 7",
    needs=("probes", "networks", "tasks"),
    statement="accuracy grows with the number of neurons",
    published="monotone",
    rule="Accuracy clearly rises from the smallest subset to the whole layer, and no step clearly falls.",
)
def f4(view: View) -> Outcome:
    """One cell per network and task: the rise from end to end is clear and no step is a clear fall."""
    curves = {cell: view.accuracy(*cell) for cell in view.cells()}
    curves = {cell: c for cell, c in curves.items() if len(c.fractions) > 1}
    if not curves:
        return missing("needs probes at two fractions or more")
    n_steps = sum(len(c.fractions) - 1 for c in curves.values())
    cells, rising = [], 0
    for (model, dataset), curve in curves.items():
        grid = curve.fractions

        def step(low, high, model=model, dataset=dataset):
            return stats.contrast(view, [Term(1, model, dataset, high), Term(-1, model, dataset, low)])

        steps = [step(low, high) for low, high in zip(grid[:-1], grid[1:], strict=True)]
        falls = [s for s in steps if s.interval(stats.LEVEL / n_steps)[1] < 0]
        up = sum(s.value >= 0 for s in steps)
        rising += up
        whole = step(grid[0], grid[-1])
        state = "against" if falls else "for" if whole.interval()[0] > 0 else "noise"
        text = f"{up} of {len(steps)} steps up, {len(falls)} clearly down, {whole.value:+.3f} in all"
        cells.append(Cell(f"{model}/{dataset}", text, state, whole.value))
    return aggregate(cells, note=f"{rising} of {n_steps} steps up in all")
