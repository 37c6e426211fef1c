"""Claims of the paper's later version (NeurIPS 2023): other training, middle layers, other directions, Places365."""

from dr_utils.claims.against import printed_curve
from dr_utils.claims.estimates import Cell, compared
from dr_utils.claims.section3 import m1
from dr_utils.claims.section4 import lead
from dr_utils.redundancy import diffused_redundancy

n1 = n2 = m1


def leads(view, critical_mass, *selections):
    """Accuracy of each selection minus that of random neurons, by network, task, selection and fraction."""
    return {f"{s} of {m}/{d} at {f:g}": by for m, d in view.cells() for s in selections
            for f, by in lead(view, m, d, critical_mass, s).items()}  # fmt: skip


def n3(view, decide, critical_mass):
    return decide(compared(leads(view, critical_mass, "pca_least"), 0.0, above=False))


def n4(view, decide, critical_mass, margin, selections):
    found = leads(view, critical_mass, *selections)
    texts = {name: str(by) for name, by in found.items()}
    return decide(compared({name: abs(by) for name, by in found.items()}, margin, above=False, texts=texts))


def n5(view, decide, delta, least):
    """Published numbers of single runs: they have no interval, and nothing of ours is beside them."""
    resnet50 = {"model": "resnet50", "family": "resnet", "kind": "imagenet", "width": 2048, "upstream": "imagenet1k"}
    cells = []
    for training in ("standard", "adversarial"):
        curve = printed_curve(resnet50 | {"training": training}, "places365", "accuracy")
        dr = diffused_redundancy(curve.index, curve, curve[1.0], delta, rule="crossing")
        cells.append(Cell(training, f"{dr:.3f}", "for" if dr > least else "against", dr))
    return decide(cells, why="published single runs without spread: not a measurement of this suite")
