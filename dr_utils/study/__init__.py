"""From a profile to tidy tables: each network on each task is a cell, measured once and found again by its key."""

from __future__ import annotations

import os
import warnings
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pandas as pd

from dr_utils import store
from dr_utils.augmentation import Augmentation
from dr_utils.datasets import ImageTask, identity, load_dataset, missing_files, take
from dr_utils.datasets import available as available_tasks
from dr_utils.device import device_name
from dr_utils.features import Features, extract, features_identity, stored
from dr_utils.fetch import data_dir
from dr_utils.models import PAPER, Network, check_network, load_model, split_layer
from dr_utils.models.cards import file_hash, missing_weights
from dr_utils.profiles import Profile, load_profile
from dr_utils.progress import progress
from dr_utils.store import AssetError
from dr_utils.study import fewer, published
from dr_utils.study.cell import VERSION, compute_cell
from dr_utils.study.tables import noted_in, read_again, read_tables, table_path, tables_of, write_table, write_tables
from dr_utils.study.workers import Cell, check_cluster, each
from dr_utils.subsets import every_subset

__all__ = ["Study", "read_tables", "table_path", "write_table"]


class Study:
    """A profile's networks, tasks and tables.

    Parameters
    ----------
    profile : str, Path or Profile
        Name of a profile in notebooks/profiles, path of a YAML file, or a loaded profile.
    out : str or Path, optional
        Results go to ``out/<profile name>/``; "outputs" in the checkout by default.
    device : {"auto", "cpu", "cuda"}
    cluster : str
        Who computes cells: "local:N" processes, "auto" as many as fit, or a Dask scheduler's workers (address or file).

    Attributes
    ----------
    folder, tables_folder, figures_folder : Path
    notes : list of str
        After `run`: what to know about single cells, such as diverged probes.

    Raises
    ------
    ValueError
        Unknown profile, key, network, task, device or cluster.
    dr_utils.store.CacheError
        The cache folder cannot be written.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     tables = Study("reference", out=folder).run()  # the paper's published numbers
    >>> tables["redundancy"].query("task == 'probe' and rule == 'first' and delta == 0.9")["dr"].max()
    np.float64(0.9)
    """

    def __init__(
        self,
        profile: str | Path | Profile = "mini",
        out: str | Path | None = None,
        device: str = "auto",
        cluster: str = "local:1",
    ):
        self.cluster = check_cluster(cluster)
        self.profile = load_profile(profile)
        self.device = device_name(device)
        if self.profile.reference:
            self.profile.check_names(published.check_network, published.CARDS)
        else:
            self.profile.check_names(check_network, available_tasks())
            store.check_cache()
        self.folder = self.profile.folder(out)
        self.tables_folder, self.figures_folder = self.folder / "tables", self.folder / "figures"
        self.notes: list[str] = []
        self._networks: dict[str, Network] = {}
        self._tasks: dict[Cell, ImageTask] = {}

    @property
    def note(self) -> str:
        """One line for figures: whose numbers these are."""
        if self.profile.reference:
            return f"{published.NOTE} {published.HEAD}" if "imagenet1k" in self.profile.tasks else published.NOTE
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
        """Return a network of the profile, opened once."""
        if name not in self._networks:
            self._networks[name] = load_model(name, normalisation=self.profile.extraction.normalisation)
        return self._networks[name]

    def task(self, name: str, split: str) -> ImageTask:
        """Return a split of a task, cut to the size that the profile names, loaded once."""
        if (name, split) not in self._tasks:
            self._tasks[name, split] = load_dataset(name, split, **self._drawn(name, split))
        return self._tasks[name, split]

    def features(
        self, network: str, task: str, split: str, *, epoch: int | None = None, images: int | None = None
    ) -> Features:
        """Return a network's features on a split, from the store or by one pass.

        With `epoch` (0, 1, ...) the images are augmented as SGD sees them in it. Views are stored, fresh ones are not.
        Of features that are not stored only those of the first `images` are computed, and not kept.
        """
        settings, augmentation, kept = self.profile.extraction, None, True
        if epoch is None and (found := stored(self._features_key(network, task, split))):
            return found
        if epoch is not None:
            kind = self.profile.spec(network, task).augmentation["kind"]
            kept = kind != "fresh"
            view = epoch % kind["views"] if kept else epoch
            augmentation = Augmentation(settings.recipe, view, self.profile.subset_seed)
        chosen = self.task(task, split)
        if images is not None and images < len(chosen):
            kept, first = False, np.arange(images)
            chosen = replace(chosen, images=take(chosen.images, first), labels=chosen.labels[first])
        return extract(self.network(network), chosen, batch_size=settings.batch_size, store=kept,
                       augmentation=augmentation, **self._extraction(network, task))  # fmt: skip

    def run(self) -> dict[str, pd.DataFrame]:
        """Compute the cells that are missing, reuse the rest, and write and return the tables.

        These are "probes", "per_class", "cka", "cka_draws", "draws", "redundancy", "fairness", "networks" and "tasks";
        of published numbers (``reference: true``) also "spread", their standard deviations. Where nothing is missing,
        the tables are read: no image is loaded, and torch is not imported.

        Raises
        ------
        dr_utils.store.AssetError
            A file is missing.
        RuntimeError
            Cells failed; it names them. The others are stored.
        """
        if self.profile.reference:
            tables, self.notes = published.published_tables(self.profile)
            return write_tables(self.tables_folder, tables, notes=self.notes)
        keys = self._keys()
        # Tables suffice: those that came with the suite have no cells in this machine's store.
        if self._tabled(keys) == keys and (again := read_again(self.tables_folder, self._about_tables(keys))):
            tables, self.notes = again
            return tables
        found = {cell: key and store.read("cells", key) for cell, key in keys.items()}
        todo = [cell for cell in keys if not found[cell]]
        # Whatever can fail fails here, before the long work.
        for network, task in todo:
            if "every" in self.profile.selected(network, task):
                every_subset(self.network(network).width)
        for task in progress(list(dict.fromkeys(t for _, t in todo)), desc="loading images", unit="tasks"):
            for split in self._splits(task):
                self.task(task, split)
        for network in progress(list(dict.fromkeys(n for n, _ in todo)), desc="loading networks", unit="networks"):
            self.network(network).module  # noqa: B018 - loads the weights
        # A ResNet50's cell takes twenty times as long as a small network's.
        there = partial(_compute, self.profile.model_dump_json(), self.device)
        with progress(total=len(todo), desc="cells", unit="cells", even=False) as bar:
            for cell in each(todo, self.cluster, self.device, here=self.compute, there=there) if todo else ():
                bar.set_description_str(f"finished {' on '.join(cell)}")
                bar.update(1)
                keys[cell] = store.key_of(self.made_of(*cell))
                found[cell] = store.read("cells", keys[cell])
        cards = {name: self.network(name).card for name, _ in found}
        tables, self.notes = tables_of(self.profile, found, cards, available_tasks())
        if planned := fewer.plan(self, found):
            tables["fewer_classes"] = fewer.table(self, planned)
        about = self._about_tables(keys)
        return write_tables(self.tables_folder, tables, device=self.device, notes=self.notes, **about)

    def missing(self) -> list[Cell]:
        """Return the cells (network, task) of the profile that are still to be computed."""
        keys = {} if self.profile.reference else self._keys()
        tabled = self._tabled(keys)
        return [cell for cell, key in keys.items()
                if cell not in tabled and not (key and store.path_of("cells", key).is_file())]  # fmt: skip

    def _tabled(self, keys: dict[Cell, str | None]) -> dict[Cell, str]:
        """Return the cells that the tables in the folder were made of, as the profile has them now."""
        noted = noted_in(self.tables_folder).get("cells", {})
        return {cell: key for cell, key in keys.items() if key and key == noted.get("/".join(cell))}

    def about(self, network: str, task: str) -> dict | None:
        """Return what a finished cell was computed from (features, spec) and its notes; None if it is still to do."""
        key = self._keys()[network, task]
        found = key and store.read("cells", key)
        return found.about if found else None

    def check_files(self) -> None:
        """Raise a ValueError that lists the files that a person has to provide for the cells still to be computed."""
        cells = self.missing()
        lines = missing_weights(dict.fromkeys(split_layer(network)[0] for network, _ in cells))
        for task in dict.fromkeys(t for _, t in cells):
            lines += [f"{path}, for {task}" for path in missing_files(task, self._splits(task))]
        if lines:
            where = data_dir() or "no data folder is named (--data DIR, or DR_DATA); it"
            lines.insert(0, f"profile {self.profile.name} needs {len(lines)} files or folders; {where} lacks:")
            last = "To get weights: python -m dr_utils models --data DIR. Data sets lie as their makers publish them."
            raise ValueError("\n  ".join(lines) + f"\n{last}")

    def _splits(self, task: str) -> list[str]:
        return ["train", *self.profile.tasks[task].eval_sets]

    def _drawn(self, task: str, split: str) -> dict:
        spec = self.profile.tasks[task]
        return {"size": spec.train if split == "train" else spec.test, "seed": self.profile.subset_seed}

    def _extraction(self, network: str, task: str) -> dict:
        """Return what decides features beside the network and the images."""
        spec, side = self.profile.tasks[task], self.network(network).card.side
        return {"resolution": side or spec.resolution, "precision": self.profile.extraction.precision,
                "dtype": spec.storage, "device": self.device}  # fmt: skip

    def _features_key(self, network: str, task: str, split: str) -> str:
        digest = identity(task, split, **self._drawn(task, split))
        return store.key_of(features_identity(self.network(network), digest, **self._extraction(network, task)))

    def made_of(self, network: str, task: str) -> dict:
        """Return what decides a cell's numbers: neither images nor weights are needed to know it."""
        return {
            "version": VERSION,
            "model": network,
            "dataset": task,
            "features": {split: self._features_key(network, task, split) for split in self._splits(task)},
            "spec": self.profile.spec(network, task).model_dump(mode="json"),
        }

    def _keys(self) -> dict[Cell, str | None]:
        """Return each cell's key, or None where the files that identify it are gone.

        If the profile is still the same, the key that the tables were made with serves there: results need no data.
        """
        keys, noted = {}, noted_in(self.tables_folder)
        known = noted.get("cells", {}) if noted.get("profile") == self.profile.fingerprint() else {}
        for cell in self.profile.cells():
            try:
                if (card := PAPER.get(split_layer(cell[0])[0])) is not None:
                    file_hash(card, fetch=False)  # to ask what is missing fetches nothing
                keys[cell] = store.key_of(self.made_of(*cell))
            except AssetError:
                keys[cell] = known.get("/".join(cell))
        return keys

    def compute(self, cell: Cell) -> None:
        """Compute and store a cell."""
        network, task = cell
        made_of, spec = self.made_of(network, task), self.profile.spec(network, task)
        evals = {split: self.features(network, task, split) for split in self._splits(task)}
        sizes = {split: len(features.y) for split, features in evals.items()}
        train, classes = evals.pop("train"), self.task(task, "train").classes
        epochs = (lambda epoch: self.features(network, task, "train", epoch=epoch).x) if spec.augmentation else None
        bar = progress(total=spec.probe.epochs, desc=f"probes of {network} on {task}", unit="epochs")
        with bar, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", RuntimeWarning)
            tables, notes = compute_cell(network, task, train, evals, classes, spec, train_epochs=epochs,
                                         device=self.device, on_epoch=lambda *_: bar.update(1))  # fmt: skip
        notes += [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
        about = {**made_of, "notes": notes, "weight_hash": self.network(network).weight_hash, "sizes": sizes,
                 "n_classes": len(classes)}  # fmt: skip
        store.write("cells", store.key_of(made_of), about=about, tables=tables)

    def _about_tables(self, keys: dict[Cell, str]) -> dict:
        """Return what the tables of these cells follow from."""
        tasks = [(t, card.title, card.source) for t, card in available_tasks().items() if t in self.profile.tasks]
        cards = {"networks": [asdict(self.network(n).card) for n, _ in keys], "tasks": tasks}
        return {"profile": self.profile.fingerprint(), "cells": {"/".join(cell): key for cell, key in keys.items()},
                "cards": store.key_of(cards), "fewer_classes": list(fewer.plan(self, keys))}  # fmt: skip


def _compute(profile: str, device: str, cell: Cell) -> None:
    """Compute a cell in another process: only names travel, and what is computed goes to the store."""
    os.environ["DR_PROGRESS"] = "off"  # the bars of several processes would overwrite each other
    _study(profile, device).compute(cell)


@lru_cache(1)
def _study(profile: str, device: str) -> Study:
    return Study(Profile.model_validate_json(profile), device=device)
