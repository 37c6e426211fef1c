"""Claims of section 4 and the appendix: classes, PCA, ImageNet-1k and shifted images."""

from dataclasses import replace
from itertools import pairwise, product

import numpy as np

from dr_utils.claims.estimates import ABSENT, LEVEL, Cell, apply, compared, listed, mean, worst


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
    uneven = sum(cell.state == "for" for cell in above.values())
    return decide(cells, why=f"above an even drop on {uneven} of {len(cells)}")


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
    n_steps, rising, cells = sum(map(len, steps.values())), 0, []
    for name, own in steps.items():
        up, whole = sum(step.value >= 0 for step in own), curves[name][-1] - curves[name][0]
        falls = sum(step.interval(LEVEL / n_steps)[1] < 0 for step in own)
        state = "against" if falls else "for" if whole.interval()[0] > 0 else "noise"
        text = f"{up} of {len(own)} steps up, {falls} clearly down, {whole.value:+.3f} in all"
        cells.append(Cell(name, text, state, whole.value))
        rising += up
    return decide(cells, note=f"{rising} of {n_steps} steps up in all")


def lead(view, model, dataset, critical_mass, selection="pca"):
    """Accuracy of a selection minus that of random neurons at the fractions from this one on that both have."""
    selected, random = view.accuracy(model, dataset, selection), view.accuracy(model, dataset)
    found = {f: selected.at(f) - random.at(f) for f in selected.parts(critical_mass)}
    return {f: by for f, by in found.items() if np.isfinite(by.value)}


def c1(view, decide, critical_mass, margin, tasks):
    near, better, rest = {}, {}, {}
    for m, d in view.cells("standard"):
        found = dict(zip(tasks, (near, better), strict=True)).get(d, rest)
        found |= {f"{m}/{d} at {f:g}": by for f, by in lead(view, m, d, critical_mass).items()}
    n, texts = len(near) + len(better), {name: str(by) for name, by in near.items()}
    cells = compared({name: abs(by) for name, by in near.items()}, margin, above=False, texts=texts, n=n)
    missing = [f"PCA on {task}" for task, found in zip(tasks, (near, better), strict=True) if not found]
    outcome = decide(cells + compared(better, 0.0, n=n), half=", ".join(missing))
    others = f"; not judged: {listed(compared(rest, 0.0))}" if rest else ""
    return replace(outcome, measured=outcome.measured + others)


def c2(view, decide, critical_mass):
    found = {}
    for robust, standard in view.resnet_pairs():
        for d in view.datasets(robust):
            ours, theirs = (lead(view, m, d, critical_mass) for m in (robust, standard))
            found[f"{robust}/{d}"] = mean([theirs[f] - ours[f] for f in ours if f in theirs])
    return decide(compared(found, 0.0))


def i1(view, decide, fraction, delta):
    curves = {f"{m}/{d}": view.accuracy(m, d) for m, d in view.cells("standard", "adversarial")
              if d == "imagenet1k"}  # fmt: skip
    points = {name: [(f, curve.at(f).value) for f in (0.1, 0.5, 0.9, 1.0)] for name, curve in curves.items()}
    texts = {name: ", ".join(f"f={f:g} {x:.3f}" for f, x in own if np.isfinite(x)) for name, own in points.items()}
    kept = {name: curve.at(fraction) - curve.at(1.0) * delta for name, curve in curves.items()}
    return decide(compared(kept, 0.0, texts=texts))


def i2(view, decide, most, kept, sets):
    """One cell per network: the largest change of the gap over the fractions."""
    for task, (shifted, why) in sets.items():
        changes, gaps = {}, {}
        for m, d in view.cells():
            own, other = view.accuracy(m, d), view.accuracy(m, d, eval_set=shifted)
            if d == task and other:
                full = own.at(1.0) - other.at(1.0)
                parts = [f for f in own.parts() if own.at(f).value >= kept * own.at(1.0).value]
                changes[f"{m}/{d}"] = {f"f={f:g}": abs(own.at(f) - other.at(f) - full) for f in parts}
                gaps[f"{m}/{d}"] = f"gap {full.value:.3f} at f=1, change at most "
        if cells := worst(changes, most, gaps):
            return decide(cells, why=why)
    return decide([])
