"""Claims of section 4 and the appendix: classes, PCA, ImageNet-1k and shifted images."""

from __future__ import annotations

import numpy as np

from dr_utils.claims.estimates import (
    ABSENT,
    LEVEL,
    Cell,
    Estimate,
    Outcome,
    apply,
    compared,
    decided,
    half_missing,
    listed,
    mean,
    no_data,
)
from dr_utils.claims.section2 import CRITICAL_MASS, DELTA, NO_PAIR
from dr_utils.claims.section3 import NO_MRL
from dr_utils.claims.view import View

CLEAR_DROP = 0.02  # less than two points is hardly a drop, and its inequality is that of the whole layer
F3_DROP, F3_STEPS = (0.05, 0.3), 5  # "moderate": the part of the accuracy lost, and at how many accuracies
C1_CLOSE = 0.05  # "close": the 5 % that the paper's abstract calls near
# Where text and caption of Fig. 14 agree; on Pets and Flowers they contradict each other: only reported.
C1_TASKS = ("cifar10", "cifar100")
I1_FRACTION = 0.5  # the published run keeps .740 of .801 there
I2_MARGIN, I2_KEPT = 0.03, 0.75  # a quarter of the published gap of .12; the least delta of the paper's sweeps
IMAGENET = ("imagenet1k", "imagenet")
NO_CLASSES = f"needs per-class accuracies of parts that lose more than {CLEAR_DROP:.0%}"


def f1(view: View) -> Outcome:
    return rises_as_accuracy_falls(view, "gini")


def f2(view: View) -> Outcome:
    return rises_as_accuracy_falls(view, "coefficient_of_variation")


def rises_as_accuracy_falls(view: View, measure: str) -> Outcome:
    """One cell per network and task, of two conditions that both have to be clear; a failure of either is against.

    The slope of inequality on accuracy is below 0, and where accuracy has fallen inequality lies above that of an even
    drop, every class losing the same points. (A drop in equal proportion would leave it unchanged.)
    """
    slopes, excesses = {}, {}
    for m, d in view.cells():
        accuracy, inequality = view.quantities(m, d, "accuracy"), view.quantities(m, d, measure)
        excess, full = view.quantities(m, d, f"{measure}_excess"), accuracy.get(1.0, ABSENT).value
        if dropped := [excess[f] for f in excess if full - accuracy[f].value > CLEAR_DROP]:
            slopes[f"{m}/{d}"] = apply(_slope, [*accuracy.values(), *inequality.values()])
            excesses[f"{m}/{d}"] = mean(dropped)
    cells = []
    above = {cell.name: cell for cell in compared(excesses, 0.0)}
    for falls in compared(slopes, 0.0, above=False):
        both = falls.state, above[falls.name].state
        state = next((s for s in ("against", "opposed", "noise") if s in both), "for")
        text = f"slope {falls.text}, excess over an even drop {above[falls.name].text}"
        cells.append(Cell(falls.name, text, state, falls.value))
    uneven = sum(cell.state == "for" for cell in above.values())
    return decided(cells, NO_CLASSES, note=f"{measure.replace('_', ' ')} on accuracy",
                   why=f"above an even drop on {uneven} of {len(cells)}")  # fmt: skip


def _slope(values: np.ndarray) -> np.ndarray:
    """Least-squares slope of the second half of values [..., 2F] on the first."""
    x, y = np.split(values, 2, axis=-1)
    x = x - x.mean(axis=-1, keepdims=True)
    square = (x**2).sum(axis=-1)
    return np.where(square > 0, (x * y).sum(axis=-1) / np.where(square > 0, square, 1.0), 0.0)


def f3(view: View) -> Outcome:
    """One cell per rival (same family, width and upstream data), task, and selection of the Matryoshka network."""
    found = {}
    for mrl in view.models("mrl"):
        for d, selection in ((d, s) for d in view.datasets(mrl) for s in ("first", "random")):
            for rival in view.rivals(mrl):
                found[f"{selection} against {rival}/{d}"] = _matched(view, d, (mrl, selection), (rival, "random"))
    return decided(compared(found, 0.0), f"{NO_MRL} and per-class accuracies at matched accuracies",
                   note=f"Gini difference at matched accuracy, {F3_DROP[0]:.0%} to {F3_DROP[1]:.0%} lost")  # fmt: skip


def _matched(view: View, dataset: str, *sides: tuple[str, str]) -> Estimate:
    """Mean difference of the Gini index at the same accuracies, interpolated; absent where none is shared."""
    curves = []
    for model, selection in sides:
        accuracy, inequality = ({1.0: view.quantities(model, dataset, q).get(1.0, ABSENT)}
                                | view.quantities(model, dataset, q, selection)
                                for q in ("accuracy", "gini"))  # fmt: skip
        curves.append(([accuracy[f] for f in sorted(inequality)], [inequality[f] for f in sorted(inequality)]))
    values = [np.array([point.value for point in accuracy]) for accuracy, _ in curves]
    wanted = values[0][-1] * (1 - np.linspace(*F3_DROP, F3_STEPS))
    wanted = wanted[(wanted >= max(v.min() for v in values)) & (wanted <= min(v.max() for v in values))]
    if not len(wanted):
        return ABSENT

    def at(numbers: np.ndarray) -> np.ndarray:
        flat = numbers.reshape(-1, 2, numbers.shape[-1] // 2)
        found = [np.interp(wanted, *(row[np.argsort(x)] for row in (x, y))).mean() for x, y in flat]
        return np.reshape(found, numbers.shape[:-1])

    ours, theirs = (apply(at, accuracy + inequality) for accuracy, inequality in curves)
    return ours - theirs


def f4(view: View) -> Outcome:
    curves = {f"{m}/{d}": view.accuracy(m, d).points for m, d in view.cells()}
    steps = {name: [b - a for a, b in zip(points[:-1], points[1:], strict=True)] for name, points in curves.items()}
    n_steps, cells, rising = sum(map(len, steps.values())), [], 0
    for name, points in curves.items():
        up, whole = sum(step.value >= 0 for step in steps[name]), points[-1] - points[0]
        falls = [step for step in steps[name] if step.interval(LEVEL / n_steps)[1] < 0]
        state = "against" if falls else "for" if whole.interval()[0] > 0 else "noise"
        text = f"{up} of {len(steps[name])} steps up, {len(falls)} clearly down, {whole.value:+.3f} in all"
        cells.append(Cell(name, text, state, whole.value))
        rising += up
    cells = cells if n_steps else []
    return decided(cells, "needs probes at two fractions or more", note=f"{rising} of {n_steps} steps up in all")


def pca_lead(view: View, model: str, dataset: str) -> dict[float, Estimate]:
    """Accuracy of PCA minus that of random neurons at the fractions from .1 that both have."""
    pca, random = view.accuracy(model, dataset, "pca"), view.accuracy(model, dataset)
    if pca is None or random is None:
        return {}
    found = {f: pca.at(f) - random.at(f) for f in pca.between(CRITICAL_MASS)}
    return {f: lead for f, lead in found.items() if np.isfinite(lead.value)}


def c1(view: View) -> Outcome:
    leads = {(f"{m}/{d} at {f:g}", d): lead for m in view.models("standard") for d in view.datasets(m)
             for f, lead in pca_lead(view, m, d).items()}  # fmt: skip
    near, better, rest = ({name: lead for (name, d), lead in leads.items() if d == task or task is None and
                           d not in C1_TASKS} for task in (*C1_TASKS, None))  # fmt: skip
    texts, n = {name: str(lead) for name, lead in near.items()}, len(near) + len(better)
    cells = compared({k: abs(v) for k, v in near.items()}, C1_CLOSE, above=False, texts=texts, n=n)
    outcome = decided(cells + compared(better, 0.0, n=n), f"needs PCA on {C1_TASKS[0]} and {C1_TASKS[1]}",
                      note="accuracy of PCA minus random neurons")  # fmt: skip
    for found, task in ((near, C1_TASKS[0]), (better, C1_TASKS[1])):
        outcome = outcome if found else half_missing(outcome, f"needs PCA on {task}")
    others = f"; not judged: {listed(compared(rest, 0.0))}" if rest else ""
    return Outcome(outcome.measured + others, outcome.verdict, outcome.why)


def c2(view: View) -> Outcome:
    found = {}
    for robust, standard in view.resnet_pairs():
        for d in view.datasets(robust):
            ours, theirs = pca_lead(view, robust, d), pca_lead(view, standard, d)
            found[f"{robust}/{d}"] = mean([theirs[f] - ours[f] for f in ours if f in theirs])
    return decided(
        compared(found, 0.0),
        f"{NO_PAIR}, with PCA",
        note=f"lead of PCA, standard minus adversarial, mean over f >= {CRITICAL_MASS}",
    )


def i1(view: View) -> Outcome:
    found, texts = {}, {}
    for m, d in view.cells(view.models("standard", "adversarial")):
        if d in IMAGENET:
            curve = view.accuracy(m, d)
            found[f"{m}/{d}"] = curve.at(I1_FRACTION) - curve.at(1.0) * DELTA
            points = {f: curve.at(f) for f in (0.1, 0.5, 0.9, 1.0)}
            texts[f"{m}/{d}"] = ", ".join(f"f={f:g} {p.value:.3f}" for f, p in points.items() if np.isfinite(p.value))
    return decided(compared(found, 0.0, texts=texts), "needs probes on ImageNet-1k")


def i2(view: View) -> Outcome:
    """One cell per network: the largest change of the gap over the fractions."""
    sets = [(IMAGENET, "imagenetv2", ""), (("cifar10",), "corrupted", "stand-in: CIFAR-10 under common corruptions")]
    for tasks, shifted, note in sets:
        worst, texts, n = {}, {}, 0
        for m, d in view.cells():
            own, other = view.accuracy(m, d), view.accuracy(m, d, eval_set=shifted) if d in tasks else None
            if other is None or not np.isfinite(own.at(1.0).value):
                continue
            full = own.at(1.0) - other.at(1.0)
            kept = [f for f in own.between(0.0) if own.at(f).value >= I2_KEPT * own.at(1.0).value]
            changes = {f: abs(own.at(f) - other.at(f) - full) for f in kept}
            n += len(changes)
            if changes:
                f = max(changes, key=lambda f: changes[f].value)
                worst[f"{m}/{d}"] = changes[f]
                texts[f"{m}/{d}"] = f"gap {full.value:.3f} at f=1, change at most {changes[f]} (f={f:g})"
        if worst:
            cells = compared(worst, I2_MARGIN, above=False, texts=texts, n=n, picked=True)
            return decided(cells, "", why=note)
    return no_data("needs a shifted test set beside the task's own (imagenetv2, or corrupted for CIFAR-10)")
