"""The slider of each notebook's figure, 01 to 07: what its curves are and what the table says at the cursor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dr_utils import plots
from dr_utils.claims.curves import Curve, close
from dr_utils.explore.old_charts import Series
from dr_utils.explore.readings import Readings
from dr_utils.explore.shown import per_cent, shown
from dr_utils.explore.sliders import CurveSlider, Scene
from dr_utils.study import Study

SHARE, FRACTION = "fraction of the layer's neurons", "fraction"
SELECTIONS = {
    "random": "random neurons", "pca": "PCA", "pca_least": "least PCA", "projection_gaussian": "random directions",
    "projection_uniform": "positive random directions",
}  # fmt: skip


def _slider(study: Study, name: str, choices: Mapping, scene, **options):
    """The notebook's slider, or, with nobody there to move it, its table; a line of text where there is nothing."""
    if not choices:
        return shown("This profile has nothing for this slider to show.")
    return shown(CurveSlider(choices, scene, key=f"{study.folder} {name}", note=study.note, **options))


def _stops(curves: Mapping[str, Curve]) -> list[tuple[str, float]]:
    return [(per_cent(f), f) for f in sorted({round(float(f), 9) for c in curves.values() for f in c.fractions})]


def _with(names: Mapping[str, str], has) -> dict[str, str]:
    return {title: name for title, name in names.items() if has(name)}


def prevalence(study: Study, tables: dict[str, pd.DataFrame]):
    """Notebook 01: accuracy of random subsets, task by task; the slider is the fraction."""
    readings = Readings(tables)

    def scene(model: str) -> Scene:
        curves = {t: c for t, d in readings.tasks.items() if (c := readings.curve(model, d)) is not None}

        def extra(title: str, x: float) -> dict[str, str]:
            curve = curves[title]
            place = int(np.flatnonzero(close(curve.fractions, x))[0])
            return {"kept": per_cent(round(curve.mean[place] / curve.mean[-1], 3)),
                    "neurons": f"{curve.n_neurons[place]} of {curve.n_neurons[-1]}"}  # fmt: skip

        return Scene({title: Series.of(curve) for title, curve in curves.items()}, _stops(curves), extra)

    return _slider(study, "01", readings.networks, scene, slider=FRACTION, x_label=SHARE, y_label="test accuracy",
                   wanted=0.2, log=True, menu="network", value="accuracy ± 1 std")  # fmt: skip


def random_subset_cka(study: Study, tables: dict[str, pd.DataFrame]):
    """Notebook 02: CKA between two random parts, network by network; the slider is the fraction."""
    readings = Readings(tables)
    models = {readings.view.title(m): m for m in readings.view.layers()}

    def curves_on(task: str) -> dict[str, Curve]:
        return {t: c for t, m in models.items() if (c := readings.view.pairs(m, task)) is not None}

    def scene(task: str) -> Scene:
        curves = curves_on(task)

        def extra(title: str, x: float) -> dict[str, str]:
            whole = readings.view.part_whole(models[title], task)
            at = None if whole is None else whole.at(x)
            return {"with the whole layer": "" if at is None else f"{at.mean():.3f}"}

        return Scene({title: Series.of(curve) for title, curve in curves.items()}, _stops(curves), extra)

    return _slider(study, "02", _with(readings.tasks, curves_on), scene, slider=FRACTION, x_label=SHARE, log=True,
                   y_label="CKA of two random parts", wanted=0.1, value="CKA ± 1 std over pairs")  # fmt: skip


def architectures(study: Study, tables: dict[str, pd.DataFrame]):
    """Notebook 03: diffused redundancy, network by network; the slider is delta."""
    readings = Readings(tables)
    models = {readings.view.title(m): m for m in readings.view.layers()}

    def curves_on(task: str) -> dict[str, pd.DataFrame]:
        found = {t: readings.view.redundancy_curve(m, task) for t, m in models.items()}
        return {title: rows for title, rows in found.items() if rows is not None}

    def scene(task: str) -> Scene:
        curves = curves_on(task)

        def extra(title: str, x: float) -> dict[str, str]:
            width = readings.view.networks.loc[models[title], "width"]
            rows = curves[title]
            return {"neurons needed": f"{(1 - rows.dr[close(rows.delta, x)].iloc[0]) * width:.0f} of {width}"}

        series = {
            t: Series(r.delta.to_list(), r.dr.to_list(), r.low.to_list(), r.high.to_list()) for t, r in curves.items()
        }
        return Scene(series, [(per_cent(d), d) for d in readings.deltas], extra)

    return _slider(study, "03", _with(readings.tasks, curves_on), scene, slider="delta", wanted=0.9,
                   x_label="delta, share of the accuracy to keep", y_label="DR, share of neurons to spare",
                   value="DR [95 %]")  # fmt: skip


def width(study: Study, tables: dict[str, pd.DataFrame]):
    """Notebook 04: share of the layer that a task needs against the layer's width, which is the slider."""
    readings = Readings(tables)
    networks = plots.width_networks(tables)
    deltas = sorted({study.nearest_delta(delta) for delta in (0.8, 0.9, 0.95, 0.99)})
    needed = plots.needed_share(tables, networks, deltas)
    widths = readings.view.networks.loc[networks, "width"].astype(int)

    def scene(task: str) -> Scene:
        names = {f"delta {per_cent(delta)}": delta for delta in deltas}
        series = {
            name: Series(list(widths), [needed.get((m, delta, task), np.nan) for m in networks])
            for name, delta in names.items()
        }

        def extra(name: str, x: float) -> dict[str, str]:
            model = networks[list(widths).index(int(x))]
            full = readings.curve(model, task)
            return {"neurons": f"{needed[model, names[name], task] * x:.0f} of {x:.0f}",
                    "full layer's accuracy": "" if full is None else f"{full.mean[-1]:.3f}"}  # fmt: skip

        return Scene(series, [(str(w), float(w)) for w in widths], extra)

    choices = readings.tasks if networks else {}
    return _slider(study, "04", choices, scene, slider="width", x_label="neurons in the layer",
                   y_label="share needed", wanted=8, log=True, value="share needed")  # fmt: skip


def matryoshka(study: Study, tables: dict[str, pd.DataFrame]):
    """Notebook 05: the first k neurons of the Matryoshka network beside k random ones; the slider is k."""
    readings = Readings(tables)
    view, networks = readings.view, plots.matryoshka_networks(tables)
    narrow = [m for m in plots.width_networks(tables) if m not in networks]
    nested = view.models("mrl")[:1]

    def prefixes(task: str) -> Curve | None:
        return view.accuracy(nested[0], task, "first") if nested else None

    def scene(task: str) -> Scene:
        series = {}
        for model in networks:
            for selection, name in (("first", "first k"), ("random", "random k")):
                curve = view.accuracy(model, task, selection)
                if curve is not None:
                    _, one_each = np.unique(curve.n_neurons, return_index=True)
                    whole = Series.of(curve, curve.n_neurons)
                    series[f"{view.title(model)}, {name}"] = Series(
                        *(np.asarray(values)[one_each] for values in (whole.x, whole.mean, whole.low, whole.high))
                    )
        full = [readings.curve(m, task) for m in narrow]
        ends = [(int(c.n_neurons[-1]), c.values[-1]) for c in full if c is not None]
        if ends:
            mean = [values.mean() for _, values in ends]
            spread = [values.std(ddof=1) if len(values) > 1 else 0.0 for _, values in ends]
            band = [
                [m - s for m, s in zip(mean, spread, strict=True)],
                [m + s for m, s in zip(mean, spread, strict=True)],
            ]
            series["ff, a layer of k"] = Series([k for k, _ in ends], mean, *band)
        sizes = sorted({int(k) for k in prefixes(task).n_neurons})
        return Scene(series, [(str(k), float(k)) for k in sizes])

    choices = _with(readings.tasks, lambda task: prefixes(task) is not None)
    return _slider(study, "05", choices, scene, slider="k, nesting size", x_label="neurons, k", y_label="test accuracy",
                   wanted=16, log=True, value="accuracy ± 1 std")  # fmt: skip


def fairness(study: Study, tables: dict[str, pd.DataFrame]):
    """Notebook 06: Gini index over classes, network by network; the slider is the fraction."""
    readings = Readings(tables)
    curves = readings.view.fairness_curves("random")
    models = {readings.view.title(m): m for m in readings.view.layers()}

    def scene(task: str) -> Scene:
        rows = {t: curves[m, task] for t, m in models.items() if (m, task) in curves}

        def extra(title: str, x: float) -> dict[str, str]:
            accuracy = rows[title].loc[close(rows[title].fraction, x), "accuracy"].iloc[0]
            classes = readings.classes(models[title], task, x)
            lost = None if classes is None else (classes["full"] - classes["part"]).sort_values(ascending=False)
            most = "" if lost is None or lost.iloc[0] <= 0 else f"{lost.index[0]}, {100 * lost.iloc[0]:.1f} points"
            return {"accuracy": f"{accuracy:.3f}", "loses most": most}

        series = {title: Series(r.fraction.to_list(), r.gini.to_list()) for title, r in rows.items()}
        stops = sorted({round(float(f), 9) for r in rows.values() for f in r.fraction})
        return Scene(series, [(per_cent(f), f) for f in stops], extra)

    choices = _with(readings.tasks, lambda task: any((m, task) in curves for m in models.values()))
    return _slider(study, "06", choices, scene, slider=FRACTION, x_label=SHARE, y_label="Gini index over classes",
                   wanted=0.1, log=True, top=None, value="Gini")  # fmt: skip


def components(study: Study, tables: dict[str, pd.DataFrame]):
    """Notebook 07: accuracy of the best directions and of random neurons; the slider is how many there are."""
    readings = Readings(tables)
    selections = readings.view.selections()
    choices = {
        f"{readings.view.title(m)} on {title}": (m, d)
        for m in readings.view.models() for title, d in readings.tasks.items()
        if set(selections.get((m, d), ())) & set(SELECTIONS) - {"random"}
    }  # fmt: skip

    def scene(choice: tuple[str, str]) -> Scene:
        curves = {name: c for s, name in SELECTIONS.items() if (c := readings.view.accuracy(*choice, s)) is not None}
        series = {}
        for name, curve in curves.items():
            whole = Series.of(curve, curve.n_neurons)
            # Where fewer components exist than were asked for, several fractions have the same number.
            _, last = np.unique(curve.n_neurons[::-1], return_index=True)
            keep = len(curve.n_neurons) - 1 - last
            series[name] = Series(*(np.asarray(v)[keep] for v in (whole.x, whole.mean, whole.low, whole.high)))
        random = series["random neurons"]

        def extra(name: str, x: float) -> dict[str, str]:
            base = random.at(x)
            mean = series[name].at(x)[0]
            return {"lead": "" if base is None else f"{100 * (mean - base[0]):+.1f} points"}

        stops = sorted({int(k) for name, s in series.items() for k in s.x if name != "random neurons"})
        return Scene(series, [(str(k), float(k)) for k in stops], extra)

    return _slider(study, "07", choices, scene, slider="components", x_label="components, or neurons",
                   y_label="test accuracy", wanted=20, log=True, menu="network", value="accuracy ± 1 std")  # fmt: skip
