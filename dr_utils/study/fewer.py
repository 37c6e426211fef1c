"""The same images with fewer of their classes: does a task with more classes need more neurons (Sec. 2.1)?"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from dr_utils import store
from dr_utils.datasets import available as available_tasks
from dr_utils.features import Features
from dr_utils.profiles import CellSpec
from dr_utils.progress import progress
from dr_utils.study.cell import compute_cell

COLUMNS = ("model", "dataset", "n_classes", "part", "classes", "delta", "dr", "low", "high")


def plan(study, cells: Iterable[tuple[str, str]]) -> dict[str, tuple[dict, CellSpec]]:
    """Return, by its key, what decides each measurement that a `Study` asks for on these cells, and its spec.

    Part 1, 2, ... of a task are random draws of so many of its classes, the same for every network.
    """
    found = {}
    for network, task in cells:
        for n, part in study.profile.fewer(network, task):
            draw = np.random.default_rng([study.profile.subset_seed, n, part])
            classes = sorted(draw.choice(len(available_tasks()[task].classes), n, replace=False).tolist())
            spec = study.profile.spec(network, task)
            part_of = {"cka": {"estimators": []}, "probe": {"solvers": spec.probe.solvers[:1]}}
            update = {name: getattr(spec, name).model_copy(update=changed) for name, changed in part_of.items()}
            spec = spec.model_copy(update={"selections": {"random": spec.selections["random"]}, **update})
            made_of = {**study.made_of(network, task), "spec": spec.model_dump(mode="json")}
            made_of |= {"classes": classes, "part": part}
            found[store.key_of(made_of)] = made_of, spec
    return found


def table(study, planned: dict[str, tuple[dict, CellSpec]]) -> pd.DataFrame:
    """Measure what is missing of a plan and return it all: DR by crossing, in `COLUMNS`."""
    missing = [key for key in planned if not store.path_of("cells", key).is_file()]
    for key in progress(missing, desc="fewer classes", unit="cells", even=False):
        rows = _measured(study, *planned[key])
        store.write("cells", key, about=planned[key][0], tables={"fewer_classes": rows})
    found = (store.read("cells", key) for key in planned)
    return pd.concat([stored.tables["fewer_classes"] for stored in found if stored], ignore_index=True)


def _measured(study, made_of: dict, spec: CellSpec) -> pd.DataFrame:
    network, task, classes = made_of["model"], made_of["dataset"], np.array(made_of["classes"])
    splits = {}
    for split in ("train", "test"):
        whole = study.features(network, task, split)
        kept = np.isin(whole.y, classes)
        splits[split] = Features(whole.x[kept], np.searchsorted(classes, whole.y[kept]), "", {})
    names = [available_tasks()[task].classes[c] for c in classes]
    train = splits.pop("train")
    tables, _ = compute_cell(network, task, train, splits, names, spec, device=study.device)
    rows = tables["redundancy"].query("task == 'probe' and rule == 'crossing'")
    rows = rows.assign(n_classes=len(classes), part=made_of["part"], classes=", ".join(names))
    return rows[list(COLUMNS)].reset_index(drop=True)
