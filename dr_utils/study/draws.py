"""Table "draws": what accuracy and its inequality over classes might have been, had seeds and images been others."""

from __future__ import annotations

import numpy as np
import pandas as pd

from dr_utils.fairness import coefficient_of_variation, even_drop, gini
from dr_utils.resampling import resampled_accuracy

DRAWS_COLUMNS = ("model", "dataset", "eval_set", "quantity", "selection", "fraction", "n_neurons", "mean", "draws",
                 "solver", "features")  # fmt: skip
INEQUALITY = {"gini": gini, "coefficient_of_variation": coefficient_of_variation}


def draws_table(rows: pd.DataFrame, correct: np.ndarray, per_class: np.ndarray, y: np.ndarray) -> pd.DataFrame:
    """Return "draws" for the probes of one solver on one evaluation set: `correct` [rows, n], `per_class` [rows, C].

    `mean` is over seeds; `draws` holds by how much each resample of seeds and images (`resampled_accuracy`) departs
    from it, or for an excess from the mean of all. On the test set the inequality over classes is drawn beside
    accuracy, and its excess over that of an even drop: twice the estimate less the mean of its draws, since few images
    per class look like inequality.
    """

    def part(chosen: pd.Index, of_seeds: bool = True) -> tuple[np.ndarray, np.ndarray]:
        drawn = resampled_accuracy(correct[chosen], y, n_classes, of_seeds=of_seeds)
        return per_class[chosen].mean(axis=0), drawn

    found, n_classes = [], per_class.shape[1]
    whole = part(rows.index[rows["selection"].eq("random") & rows["fraction"].eq(1.0)])
    share = np.bincount(y, minlength=n_classes) / len(y)
    for (selection, fraction, k), group in rows.groupby(["selection", "fraction", "n_neurons"], sort=False):
        own = part(group.index, selection != "every")
        uneven = group["eval_set"].iloc[0] == "test" and selection in ("random", "first")
        for name, (mean, draws) in quantities(own, whole, share, uneven).items():
            found.append((name, selection, fraction, k, mean, draws))
    table = pd.DataFrame(found, columns=["quantity", "selection", "fraction", "n_neurons", "mean", "draws"])
    same = rows.iloc[0][["model", "dataset", "eval_set", "solver", "features"]].to_dict()
    return table.assign(**same)[list(DRAWS_COLUMNS)]


def quantities(part: tuple, whole: tuple, share: np.ndarray, uneven: bool) -> dict[str, tuple[float, np.ndarray]]:
    """Return the quantities of "draws", each a mean and deviations from it.

    `part` and `whole` are per-class accuracies [C] and resampled ones [draws, C], `share` [C] is each class's share of
    the images. With `uneven`, inequality over classes is among them.
    """
    there = share > 0
    (own, drawn), (full, full_drawn) = ((values[there], draws[:, there]) for values, draws in (part, whole))
    found = {"accuracy": (own @ share[there], drawn @ share[there])}
    for name, measure in INEQUALITY.items() if uneven else ():
        found[name] = measure(own), measure(drawn)
        even, evens = even_drop(full, own.mean()), even_drop(full_drawn, drawn.mean(axis=1))
        excess = measure(drawn) - measure(evens)
        found[f"{name}_excess"] = 2 * (measure(own) - measure(even)) - excess.mean(), excess
    centred = {name: draws.mean() if name.endswith("excess") else mean for name, (mean, draws) in found.items()}
    return {name: (float(mean), deviations(draws, centred[name])) for name, (mean, draws) in found.items()}


def deviations(draws: np.ndarray, mean: float) -> np.ndarray:
    """Return draws less their mean, small numbers that float16 holds to three digits."""
    return (draws - mean).astype(np.float16)
