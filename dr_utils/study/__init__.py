"""From a profile to tidy tables: cells of network x task, each computed once and found again by content."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd

from dr_utils import claims, store
from dr_utils.augmentation import Augmentation
from dr_utils.checks import unknown
from dr_utils.claims.against import against_paper
from dr_utils.claims.view import View
from dr_utils.datasets import ImageTask, load_dataset
from dr_utils.datasets import available as available_tasks
from dr_utils.device import pick_device
from dr_utils.features import Features, extract
from dr_utils.models import PAPER, Network, NetworkCard, check_network, load_model, split_layer
from dr_utils.models import available as available_networks
from dr_utils.profiles import Profile, load_profile
from dr_utils.progress import progress
from dr_utils.study import asked, index
from dr_utils.study.cell import compute_cell
from dr_utils.study.files import read_tables, source_hash, store_cell, write_table
from dr_utils.study.from_reference import HEAD, NOTE, check_published, published_tables
from dr_utils.study.needs import absent, told
from dr_utils.study.tables import CELL_TABLES, judged, measured_tables

__all__ = ["CELL_TABLES", "Study", "read_tables", "write_table"]


class Study:
    """A profile's networks, tasks and tables.

    Parameters
    ----------
    profile : str, Path or Profile
        Name of a profile in notebooks/profiles, path of a YAML file, or a loaded profile.
    out : str or Path, optional
        Folder of the results, "outputs" in the checkout by default; this study writes to ``out/<profile name>/``.
    device : {"auto", "cpu", "cuda"}

    Attributes
    ----------
    folder, tables_folder, figures_folder : Path
        Where results go.
    notes : list of str
        After `run`: what the reader of the tables should know of single cells, such as diverged probes.

    Raises
    ------
    ValueError
        Unknown profile, profile key, network, task or device: before anything is computed.
    dr_utils.store.CacheError
        The cache folder cannot be written.
    """

    def __init__(self, profile: str | Path | Profile = "mini", *, out: str | Path | None = None, device: str = "auto"):
        self.profile = load_profile(profile)
        self.device = pick_device(device)
        if self.profile.reference:
            check_published(self.profile)
        else:
            self.profile.check_names(check_network, available_tasks())
            store.check_cache()
        self.folder = self.profile.folder(out)
        self.tables_folder = self.folder / "tables"
        self.figures_folder = self.folder / "figures"
        self.notes: list[str] = []
        self._networks: dict[str, Network] = {}

    @property
    def note(self) -> str:
        """One line for figures: whose numbers these are."""
        if self.profile.reference:
            return f"{NOTE} {HEAD}" if "imagenet1k" in self.profile.tasks else NOTE
        title = f" ({self.profile.title})" if self.profile.title else ""
        networks = {split_layer(name)[0] for name in self.profile.networks}
        others = "" if networks <= PAPER.keys() else ", not the paper's networks and sizes"
        return f"Measured by profile {self.profile.name}{title}{others}."

    def nearest_fraction(self, wanted: float) -> float:
        """Return the profile's fraction nearest to `wanted`, so that a notebook serves any grid."""
        return min(self.profile.fractions, key=lambda fraction: abs(fraction - wanted))

    def nearest_delta(self, wanted: float) -> float:
        """Return the profile's delta nearest to `wanted`."""
        return min(self.profile.deltas, key=lambda delta: abs(delta - wanted))

    def network(self, name: str) -> Network:
        """Return a network of the profile, loaded once."""
        self._refuse_published()
        if name not in self._networks:
            self._networks[name] = load_model(name, normalisation=self.profile.extraction.normalisation)
        return self._networks[name]

    def task(self, name: str, split: str) -> ImageTask:
        """Return a split of a task, cut to the size that the profile names."""
        self._refuse_published()
        spec = self.profile.tasks[name]
        size = spec.train if split == "train" else spec.test
        return load_dataset(name, split, size=size, seed=self.profile.subset_seed)

    def features(self, network: str, task: str, split: str, *, view: int | None = None, store: bool = True) -> Features:
        """Return a network's features on a split, or on an augmented view of it, from the store or by one pass."""
        settings = self.profile.extraction
        images = self._images[task, split]
        augmentation = None
        if view is not None:
            augmentation = Augmentation(settings.recipe, view, self.profile.subset_seed)
        return extract(
            self.network(network),
            images,
            resolution=self.resolution(network, task),
            device=self.device,
            batch_size=settings.batch_size,
            precision=settings.precision,
            augmentation=augmentation,
            dtype=self.profile.tasks[task].storage,
            store=store,
        )

    def resolution(self, network: str, task: str) -> int:
        """Side in pixels of what a network sees: the only one that it takes, else the task's in the profile."""
        return self.network(network).card.side or self.profile.tasks[task].resolution

    @cached_property
    def _images(self) -> _LazyTasks:
        return _LazyTasks(self)

    def run(self, networks: Iterable[str] | None = None, tasks: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
        """Compute what is missing for these cells, reuse the rest, and write the tables.

        Parameters
        ----------
        networks, tasks : iterable of str, optional
            Which of the profile's networks and tasks; all by default.

        Returns
        -------
        dict of str to DataFrame
            `CELL_TABLES`, "networks", "tasks", over all cells of this profile that are done, and "claims"; of published
            numbers (``reference: true``) also "spread", their standard deviations.

        Raises
        ------
        ValueError
            A network or task that the profile does not name.
        """
        networks = self._chosen("network", networks, self.profile.networks)
        tasks = self._chosen("task", tasks, self.profile.tasks)
        if self.profile.reference:
            return self._write_published()
        done = self._read_index()
        cells = [(n, t) for n, t in self.profile.cells() if n in networks and t in tasks]
        cells = [(network, task) for network, task in cells if f"{network}/{task}" not in done]
        # Whatever can fail for want of a file fails here, before the long work.
        for name in progress(_names(cells, 1), desc="loading images", unit="tasks"):
            for split in ("train", *self.profile.tasks[name].eval_sets):
                self._images[name, split]  # noqa: B018 - fills the cache
        for name in progress(_names(cells, 0), desc="loading networks", unit="networks"):
            self.network(name).module  # noqa: B018 - loads the weights
        # A ResNet50's cell takes twenty times as long as a small network's.
        with progress(total=len(cells), desc="cells", unit="cells", even=False) as bar:
            for network, task in cells:
                bar.set_description(f"{network} on {task}")
                done[f"{network}/{task}"] = self._cell(network, task)
                index.write(self.tables_folder, done)
                bar.update(1)
        return self._write_tables(done)

    def missing(self) -> list[tuple[str, str]]:
        """Cells (network, task) of the profile that are still to be computed."""
        if self.profile.reference:
            return []
        done = self._read_index()
        return [(n, t) for n, t in self.profile.cells() if f"{n}/{t}" not in done]

    def check_files(self) -> None:
        """Look for the files that a person has to provide for the cells that are still to be computed.

        Raises
        ------
        ValueError
            Some are missing: the message lists all of them.
        """
        lines = absent(self.profile, self.missing())
        if lines:
            raise ValueError(told(self.profile, lines))

    def about(self, network: str, task: str) -> dict | None:
        """What a finished cell was computed from (features, spec, code) and its notes; None if it is still to do."""
        entry = self._read_index().get(f"{network}/{task}")
        return entry and json.loads((store.cache_dir() / "cells" / entry["key"] / "about.json").read_text())

    def _chosen(self, kind: str, given: Iterable[str] | None, known: Iterable[str]) -> list[str]:
        known = list(known)
        for name in given or ():
            if name not in known:
                raise unknown(kind, name, known, hint=f"The profile {self.profile.name!r} names these; add it there.")
        return known if given is None else [name for name in known if name in set(given)]

    def view(self, network: str, task: str, epoch: int) -> np.ndarray:
        """Return the features [n, D] of the train images as SGD sees them in an epoch, 0, 1, ...

        Stored where the profile asks for a number of views; computed anew, and not kept, where every epoch is fresh.
        """
        kind = asked.augmentation(self.profile, task)["kind"]
        views = None if isinstance(kind, str) else kind["views"]
        number = epoch if views is None else epoch % views
        return self.features(network, task, "train", view=number, store=views is not None).x

    def _cell(self, network: str, task: str) -> dict:
        """Compute a cell, or find it in the cache; return its entry in the index."""
        eval_sets = self.profile.tasks[task].eval_sets
        train = self.features(network, task, "train")
        evals = {name: self.features(network, task, name) for name in eval_sets}
        spec = asked.spec(self.profile, network, task)
        identity = {
            "model": network,
            "dataset": task,
            "features": [train.key, *(evals[name].key for name in eval_sets)],
            "eval_sets": list(eval_sets),
            "spec": asdict(spec),
            "code": source_hash(*index.NUMERIC_SOURCES),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        folder = store.cache_dir() / "cells" / key
        if not (folder / "done").exists():
            classes = self._images[task, "train"].classes
            with (
                progress(total=spec.sgd["epochs"], desc=f"probes of {network} on {task}", unit="epochs") as bar,
                warnings.catch_warnings(record=True) as caught,
            ):
                warnings.simplefilter("always", RuntimeWarning)
                tables, notes = compute_cell(
                    network,
                    task,
                    train,
                    evals,
                    classes,
                    spec,
                    train_epochs=partial(self.view, network, task) if spec.augmentation else None,
                    device=self.device,
                    on_epoch=lambda *_: bar.update(1),
                )
            notes += [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
            sizes = {name: len(features.y) for name, features in {"train": train, **evals}.items()}
            facts = {"weight_hash": self.network(network).weight_hash, "n_classes": len(classes), "sizes": sizes}
            store_cell(folder, tables, {"identity": identity, "notes": notes, **facts})
        return {"key": key, "request": asked.request(self.profile, network, task), "file": index.file_of(network)}

    def _read_index(self) -> dict:
        """Return the cells of this results folder that still answer what the profile asks."""
        wanted = {f"{n}/{t}": (n, t) for n, t in self.profile.cells()}
        return {
            cell: entry
            for cell, entry in index.read(self.tables_folder).items()
            if cell in wanted
            and index.is_pinned(wanted[cell][0], entry.get("file"), available_networks())
            and entry["request"] == asked.request(self.profile, *wanted[cell])
            and (store.cache_dir() / "cells" / entry["key"] / "done").exists()
        }

    def _write_tables(self, done: dict) -> dict[str, pd.DataFrame]:
        keys = {(n, t): done[f"{n}/{t}"]["key"] for n, t in self.profile.cells() if f"{n}/{t}" in done}
        tables, self.notes = measured_tables(self.profile, keys, self._card)
        tables["claims"] = judged(tables, [entry["key"] for _, entry in sorted(done.items())])
        tables["against_paper"] = against_paper(View(tables))
        for name, table in tables.items():
            write_table(table, self.tables_folder / f"{name}.csv")
        return tables

    def _card(self, network: str) -> NetworkCard:
        """A network's card, without loading it where that can be."""
        return available_networks().get(network) or PAPER.get(network) or self.network(network).card

    def _write_published(self) -> dict[str, pd.DataFrame]:
        """Write the published numbers as tables: all cells at once, since nothing is computed."""
        tables, self.notes = published_tables(self.profile)
        tables["claims"] = claims.evaluate(tables)
        for name, table in tables.items():
            write_table(table, self.tables_folder / f"{name}.csv")
        return tables

    def _refuse_published(self) -> None:
        if self.profile.reference:
            raise ValueError(
                f"profile {self.profile.name} holds published numbers (reference: true): it has no network and no "
                "image to load; take a profile that measures, such as mini."
            )


class _LazyTasks(dict):
    """The images of (task, split), loaded when first asked for."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = study

    def __missing__(self, key: tuple[str, str]) -> ImageTask:
        self[key] = self._study.task(*key)
        return self[key]


def _names(cells: Iterable[tuple[str, str]], place: int) -> list[str]:
    return list(dict.fromkeys(cell[place] for cell in cells))
