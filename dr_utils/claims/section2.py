"""Claims of section 2: how common diffused redundancy is, and how similar random parts of a layer are.

A rule compares the numbers of its claim with a threshold of claims.yaml; `decide` makes one verdict of all.
"""

from itertools import combinations

import numpy as np

from dr_utils.claims.estimates import FEWEST_SEEDS, close, compared, deviation, slope, worst


def p1(view, decide, fraction, drop):
    curves = {m: view.accuracy(m, "cifar10") for m in view.resnets("standard")}
    return decide(compared({m: curve.at(1.0) - curve.at(fraction) for m, curve in curves.items()}, drop, above=False))


def p2(view, decide, delta):
    # What the largest part below the whole layer leaves out: DR by crossing is above it if that part is enough.
    least = max((1 - f for m, d in view.cells() for f in view.accuracy(m, d).parts()[-1:]), default=0.0)
    return decide(compared({f"{m}/{d}": view.dr(m, d, delta) for m, d in view.cells()}, least))


def p3(view, decide, critical_mass):
    """One cell per network, mean over tasks and fractions; S - 1 degrees of freedom per task: fractions are nested."""
    found = {}
    for model in view.layers():
        ratios, df = [], 0
        for d in view.datasets(model):
            curve, n = view.accuracy(model, d), view.about_task(d, "n_test")
            parts = np.isin(curve.fractions, curve.parts(critical_mass))
            if n and parts.any() and curve.n_seeds >= FEWEST_SEEDS:
                p = curve.mean[parts].clip(0.5 / n, 1 - 0.5 / n)  # at 0 or 1 the binomial error would vanish
                ratios, df = [*ratios, *(curve.std[parts] ** 2 / (p * (1 - p) / n))], df + curve.n_seeds - 1
        if ratios:
            found[model] = deviation(np.mean(ratios) ** 0.5, df)
    return decide(compared(found, 1.0, above=False))


def p4(view, decide, delta):
    def needed(model, dataset):
        return view.about_task(dataset, "n_classes"), 1 - view.dr(model, dataset, delta).value

    points = {}
    for (m, d), rows in view.groups("fewer_classes").items():
        rows = rows[close(rows["delta"], delta)]
        points[f"{m}/{d}"] = [*zip(rows["n_classes"], 1 - rows["dr"], strict=True), needed(m, d)]
    points = points or {m: [needed(m, d) for d in view.datasets(m)] for m in view.models("standard")}
    logs = {name: np.log([(n, share) for n, share in own if n and share > 0]) for name, own in points.items()}
    return decide(compared({name: slope(*own.reshape(-1, 2).T) for name, own in logs.items()}, 0.0))


def pairs_compared(view, pairs, deltas, of="accuracy"):
    """DR of the first of two networks less that of the second, for every pair of this kind, task and delta."""
    cells = [(a, b, d, delta) for a, b in getattr(view, pairs)() for d in view.datasets(a) for delta in deltas]
    return {f"{a}/{d} at {delta:g}": view.dr(a, d, delta, of) - view.dr(b, d, delta, of) for a, b, d, delta in cells}


def p5(view, decide, **pairs):
    return decide(compared(pairs_compared(view, **pairs), 0.0))


def p6(view, decide, most, start):
    gaps = {}
    for model in view.layers():
        curves = [(d, view.cka(model, d)) for d in view.datasets(model)]
        places = [(*two, f) for two in combinations(curves, 2) for f in two[0][1].parts(start)]
        gaps[model] = {f"{a} against {b} at f={f:g}": abs(x.at(f) - y.at(f)) for (a, x), (b, y), f in places}
    return decide(worst(gaps, most))


p7 = a3 = p5  # other pairs, or CKA in place of accuracy


def p8(view, decide, deltas):
    cells = [(m, d, delta) for m, d in view.cells() for delta in deltas]
    gaps = {f"{m}/{d} at {delta:g}": view.dr(m, d, delta, "cka") - view.dr(m, d, delta) for m, d, delta in cells}
    return decide(compared(gaps, 0.0))


def s1(view, decide, least, fractions):
    found, kinds = {}, view.networks.loc[view.resnets_compared(), "training"]
    for m, kind in kinds.items():
        f = fractions[kind]
        found |= {f"{m}/{d} at {f:g}": view.cka(m, d, "part_part").at(f) for d in view.datasets(m)}
    lacking = [f"a ResNet, {kind}" for kind in fractions if kind not in set(kinds)]
    return decide(compared(found, least), half=", ".join(lacking))


def s2(view, decide, most, start):
    found = {}
    for m, d in view.cells():
        rows = view.rows("cka_draws", m, d, "part_part")
        rows = rows[rows["fraction"].ge(start) & rows["fraction"].lt(1)]
        if len(rows) and rows["draws"].min() >= FEWEST_SEEDS:
            found[f"{m}/{d}"] = deviation(rows["std"].mean(), rows["draws"].min() - 1)
    return decide(compared(found, most, above=False))
