"""Claims of section 4, appendix D and the later version: classes, PCA, shifted images; other directions, Places365."""

from itertools import pairwise, product

import numpy as np

from dr_utils.claims.against import printed_curve
from dr_utils.claims.estimates import ABSENT, LEVEL, Cell, apply, compared, mean, within, worst
from dr_utils.claims.section3 import m1
from dr_utils.redundancy import diffused_redundancy


def f1(view, decide, measure, drop):
    """One cell per network and task, of two conditions that both have to be clear; a failure of either is against.

    An even drop takes the same points from every class; a drop in equal proportion would leave inequality unchanged.
    """
    slopes, excesses, cells = {}, {}, []
    for m, d in view.cells():
        accuracy, inequality = view.quantities(m, d, "accuracy"), view.quantities(m, d, measure)
        excess, full = view.quantities(m, d, f"{measure}_excess"), accuracy.get(1.0, ABSENT).value
        if dropped := [excess[f] for f in excess if full - accuracy[f].value > drop]:
            slopes[f"{m}/{d}"] = apply(_slope, [*accuracy.values(), *inequality.values()])
            excesses[f"{m}/{d}"] = mean(dropped)
    above = {cell.name: cell for cell in compared(excesses, 0.0)}
    for falls in compared(slopes, 0.0, above=False):
        both = falls.state, above[falls.name].state
        state = next((s for s in ("against", "opposed", "noise") if s in both), "for")
        text = f"slope {falls.text}, excess over an even drop {above[falls.name].text}"
        cells.append(Cell(falls.name, text, state, falls.value))
    return decide(cells)


f2 = f1


def _slope(values):
    """Least-squares slope of the second half of values [..., 2F] on the first."""
    x, y = np.split(values, 2, axis=-1)
    x = x - x.mean(axis=-1, keepdims=True)
    square = (x**2).sum(axis=-1)
    return np.where(square > 0, (x * y).sum(axis=-1) / np.where(square > 0, square, 1.0), 0.0)


def f3(view, decide, lost, steps):
    """One cell per rival (same family, width and upstream data), task, and selection of the Matryoshka network."""
    found, kept = {}, 1 - np.linspace(*lost, steps)
    for m, d in view.cells("mrl"):
        for selection, rival in product(("first", "random"), view.rivals(m)):
            sides = _accuracy_and_gini(view, m, d, selection), _accuracy_and_gini(view, rival, d, "random")
            found[f"{selection} against {rival}/{d}"] = _matched(kept, *sides)
    return decide(compared(found, 0.0))


def _accuracy_and_gini(view, model, dataset, selection):
    """Both at all fractions, rising, of a selection and the whole layer."""
    accuracy, gini = (
        {1.0: view.quantities(model, dataset, name).get(1.0, ABSENT)} | view.quantities(model, dataset, name, selection)
        for name in ("accuracy", "gini")
    )
    return [accuracy[f] for f in sorted(gini)], [gini[f] for f in sorted(gini)]


def _matched(kept, ours, theirs):
    """Mean difference of the Gini index at these shares of our accuracy, interpolated; absent where none is shared."""
    values = [np.array([point.value for point in accuracy]) for accuracy, _ in (ours, theirs)]
    wanted = values[0][-1] * kept
    wanted = wanted[(wanted >= max(v.min() for v in values)) & (wanted <= min(v.max() for v in values))]

    def at(numbers):
        flat = numbers.reshape(-1, 2, numbers.shape[-1] // 2)
        found = [np.interp(wanted, *(row[np.argsort(x)] for row in (x, y))).mean() for x, y in flat]
        return np.reshape(found, numbers.shape[:-1])

    return apply(at, ours[0] + ours[1]) - apply(at, theirs[0] + theirs[1]) if len(wanted) else ABSENT


def f4(view, decide):
    curves = {f"{m}/{d}": view.accuracy(m, d).points for m, d in view.cells()}
    steps = {name: [b - a for a, b in pairwise(points)] for name, points in curves.items() if len(points) > 1}
    n_steps, cells = sum(map(len, steps.values())), []
    for name, own in steps.items():
        up, whole = sum(step.value >= 0 for step in own), curves[name][-1] - curves[name][0]
        falls = sum(step.interval(LEVEL / n_steps)[1] < 0 for step in own)
        state = "against" if falls else "for" if whole.interval()[0] > 0 else "noise"
        text = f"{up} of {len(own)} steps up, {falls} clearly down, {whole.value:+.3f} in all"
        cells.append(Cell(name, text, state, whole.value))
    return decide(cells)


def lead(view, model, dataset, critical_mass, selection="pca"):
    """Accuracy of a selection minus that of random neurons at the fractions from this one on that both have."""
    selected, random = view.accuracy(model, dataset, selection), view.accuracy(model, dataset)
    found = {f: selected.at(f) - random.at(f) for f in selected.parts(critical_mass)}
    return {f: by for f, by in found.items() if np.isfinite(by.value)}


def leads(view, cells, critical_mass, *selections):
    """`lead` of each selection on these networks and tasks."""
    return {f"{s} of {m}/{d} at {f:g}": by for m, d in cells for s in selections
            for f, by in lead(view, m, d, critical_mass, s).items()}  # fmt: skip


def c1(view, decide, critical_mass, margin, tasks):
    near, better = (
        leads(view, [(m, d) for m, d in view.cells("standard") if d == task], critical_mass, "pca") for task in tasks
    )
    n, half = len(near) + len(better), "" if near and better else f"PCA on both {tasks[0]} and {tasks[1]}"
    return decide(within(near, margin, n) + compared(better, 0.0, n=n), half=half)


def c2(view, decide, critical_mass):
    found = {}
    for robust, standard in view.resnet_pairs():
        for d in view.datasets(robust):
            ours, theirs = (lead(view, m, d, critical_mass) for m in (robust, standard))
            found[f"{robust}/{d}"] = mean([theirs[f] - ours[f] for f in ours if f in theirs])
    return decide(compared(found, 0.0))


def i1(view, decide, fraction, delta):
    curves = {f"{m}/{d}": view.accuracy(m, d) for m, d in view.cells("standard", "adversarial") if d == "imagenet1k"}
    return decide(compared({name: curve.at(fraction) - curve.at(1.0) * delta for name, curve in curves.items()}, 0.0))


def i2(view, decide, most, kept, sets):
    """One cell per network: the largest change of the gap over the fractions."""
    for task, (shifted, why) in sets.items():
        changes = {}
        for m, d in view.cells():
            own, other = view.accuracy(m, d), view.accuracy(m, d, eval_set=shifted)
            if d == task and other:
                full = own.at(1.0) - other.at(1.0)
                parts = [f for f in own.parts() if own.at(f).value >= kept * own.at(1.0).value]
                changes[f"{m}/{d}"] = {f"f={f:g}": abs(own.at(f) - other.at(f) - full) for f in parts}
        if cells := worst(changes, most):
            return decide(cells, why=why)
    return decide([])


n1 = n2 = m1


def n3(view, decide, critical_mass):
    return decide(compared(leads(view, view.cells(), critical_mass, "pca_least"), 0.0, above=False))


def n4(view, decide, critical_mass, margin, selections):
    return decide(within(leads(view, view.cells(), critical_mass, *selections), margin))


def n5(view, decide, delta, least):
    resnet50 = {"model": "resnet50", "family": "resnet", "kind": "imagenet", "width": 2048, "upstream": "imagenet1k"}
    cells = []
    for training in ("standard", "adversarial"):
        curve = printed_curve(resnet50 | {"training": training}, "places365", "accuracy")
        dr = diffused_redundancy(curve.index, curve, curve[1.0], delta, rule="crossing")
        cells.append(Cell(training, f"{dr:.3f}", "for" if dr > least else "against", dr))
    return decide(cells, why="published single runs without spread: not a measurement of this suite")
