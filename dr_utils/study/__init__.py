"""From a profile to tidy tables: each network on each task is a cell, measured once and found again by its key."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from dr_utils import store
from dr_utils.augmentation import Augmentation
from dr_utils.checks import unknown
from dr_utils.datasets import ImageTask, identity, load_dataset, missing_files
from dr_utils.datasets import available as available_tasks
from dr_utils.device import device_name
from dr_utils.features import Features, extract, features_key, stored
from dr_utils.fetch import data_dir
from dr_utils.models import PAPER, Network, check_network, load_model, split_layer
from dr_utils.models.listing import file_hash, missing_weights
from dr_utils.profiles import Profile, load_profile
from dr_utils.progress import progress
from dr_utils.store import AssetError, Stored
from dr_utils.study import published
from dr_utils.study.cell import VERSION, compute_cell
from dr_utils.study.tables import read_tables, tables_of, write_table

__all__ = ["Study", "read_tables", "write_table"]

Cell = tuple[str, str]  # network, task


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
        After `run`: what to know about single cells, such as diverged probes.

    Raises
    ------
    ValueError
        Unknown profile, profile key, network, task or device: before anything is computed.
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

    def __init__(self, profile: str | Path | Profile = "mini", out: str | Path | None = None, device: str = "auto"):
        self.profile = load_profile(profile)
        self.device = device_name(device)
        if self.profile.reference:
            published.check_published(self.profile)
        else:
            self.profile.check_names(check_network, available_tasks())
            store.check_cache()
        self.folder = self.profile.folder(out)
        self.tables_folder, self.figures_folder = self.folder / "tables", self.folder / "figures"
        self.notes: list[str] = []
        self._networks: dict[str, Network] = {}
        self._tasks: dict[Cell, ImageTask] = {}
        self._digests: dict[Cell, str] = {}

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
        self._refuse_published()
        if name not in self._networks:
            self._networks[name] = load_model(name, normalisation=self.profile.extraction.normalisation)
        return self._networks[name]

    def task(self, name: str, split: str) -> ImageTask:
        """Return a split of a task, cut to the size that the profile names, loaded once."""
        self._refuse_published()
        if (name, split) not in self._tasks:
            self._tasks[name, split] = load_dataset(name, split, **self._drawn(name, split))
        return self._tasks[name, split]

    def features(self, network: str, task: str, split: str, *, view: int | None = None, store: bool = True) -> Features:
        """Return a network's features on a split, or on an augmented view of it, from the store or by one pass."""
        settings = self.profile.extraction
        if view is None and (found := stored(self._features_key(network, task, split))):
            return found
        images, augmentation = self.task(task, split), None
        if view is not None:
            augmentation = Augmentation(settings.recipe, view, self.profile.subset_seed)
        return extract(self.network(network), images, batch_size=settings.batch_size, augmentation=augmentation,
                       store=store, **self._extraction(network, task))  # fmt: skip

    def view(self, network: str, task: str, epoch: int) -> np.ndarray:
        """Return the features [n, D] of the train images as SGD sees them in an epoch, 0, 1, ...

        Stored where the profile asks for a number of views; computed anew, and not kept, where every epoch is fresh.
        """
        kind = self.profile.spec(network, task).augmentation["kind"]
        number = epoch if kind == "fresh" else epoch % kind["views"]
        return self.features(network, task, "train", view=number, store=kind != "fresh").x

    def run(self, networks: Iterable[str] | None = None, tasks: Iterable[str] | None = None) -> dict[str, pd.DataFrame]:
        """Compute what is missing for these cells, reuse the rest, and write the tables.

        Where nothing is missing, the tables are read: no image is loaded, and torch is not imported.

        Parameters
        ----------
        networks, tasks : iterable of str, optional
            Which of the profile's networks and tasks; all by default.

        Returns
        -------
        dict of str to DataFrame
            "probes", "per_class", "cka", "redundancy", "fairness", "networks" and "tasks" over all cells of this
            profile that are done; of published numbers (``reference: true``) also "spread", their standard deviations.

        Raises
        ------
        ValueError
            A network or task that the profile does not name.
        dr_utils.store.AssetError
            A file is missing.
        """
        networks = self._chosen("network", networks, self.profile.networks)
        tasks = self._chosen("task", tasks, self.profile.tasks)
        if self.profile.reference:
            tables, self.notes = published.published_tables(self.profile)
            return self._written(tables, {"profile": self.profile.fingerprint()})
        keys = self._keys()
        wanted = [(n, t) for n, t in keys if n in networks and t in tasks]
        done = {cell: key for cell, key in keys.items() if key and store.has("cells", key)}
        if done.keys() >= set(wanted) and (tables := self._read_again(done)):
            return tables
        found = {cell: store.read("cells", key) for cell, key in done.items()}
        todo = [cell for cell in wanted if found.get(cell) is None]
        # Whatever can fail for want of a file fails here, before the long work.
        for task in progress(list(dict.fromkeys(t for _, t in todo)), desc="loading images", unit="tasks"):
            for split in self._splits(task):
                self.task(task, split)
        for network in progress(list(dict.fromkeys(n for n, _ in todo)), desc="loading networks", unit="networks"):
            self.network(network).module  # noqa: B018 - loads the weights
        # A ResNet50's cell takes twenty times as long as a small network's.
        with progress(total=len(todo), desc="cells", unit="cells", even=False) as bar:
            for network, task in todo:
                bar.set_description(f"{network} on {task}")
                keys[network, task], found[network, task] = self._compute(network, task)
                bar.update(1)
        found = {cell: found[cell] for cell in keys if found.get(cell)}
        cards = {name: self.network(name).card for name, _ in found}
        tables, self.notes = tables_of(self.profile, found, cards, available_tasks())
        return self._written(tables, self._about_tables({cell: keys[cell] for cell in found}))

    def missing(self) -> list[Cell]:
        """Return the cells (network, task) of the profile that are still to be computed."""
        keys = {} if self.profile.reference else self._keys()
        return [cell for cell, key in keys.items() if not (key and store.has("cells", key))]

    def about(self, network: str, task: str) -> dict | None:
        """Return what a finished cell was computed from (features, spec) and its notes; None if it is still to do."""
        key = self._keys([(network, task)])[network, task]
        found = key and store.read("cells", key)
        return found.about if found else None

    def check_files(self) -> None:
        """Look for the files that a person has to provide for the cells that are still to be computed.

        Raises
        ------
        ValueError
            Some are missing: the message lists all of them.
        """
        cells, root = self.missing(), data_dir()
        lines = missing_weights(dict.fromkeys(split_layer(network)[0] for network, _ in cells))
        for task in dict.fromkeys(t for _, t in cells):
            lines += [f"{path}, for {task}" for path in missing_files(task, self._splits(task))]
        if lines:
            where = f"{root} (--data, DR_DATA)" if root else "no data folder is named (--data DIR, or DR_DATA); it"
            raise ValueError(
                f"profile {self.profile.name} needs {len(lines)} files or folders that are not there; {where} lacks:\n"
                + "".join(f"  {line}\n" for line in lines)
                + "To get weights: python -m dr_utils models --data DIR. Data sets lie as their makers publish them."
            )

    def _chosen(self, kind: str, given: Iterable[str] | None, known: Iterable[str]) -> list[str]:
        given = list(known if given is None else given)
        for name in given:
            if name not in known:
                raise unknown(kind, name, known, hint=f"The profile {self.profile.name!r} names these; add it there.")
        return given

    def _splits(self, task: str) -> list[str]:
        return ["train", *self.profile.tasks[task].eval_sets]

    def _drawn(self, task: str, split: str) -> dict:
        spec = self.profile.tasks[task]
        return {"size": spec.train if split == "train" else spec.test, "seed": self.profile.subset_seed}

    def _extraction(self, network: str, task: str) -> dict:
        """Return what decides features beside the network and the images."""
        spec = self.profile.tasks[task]
        side = self.network(network).card.side or spec.resolution
        return {"resolution": side, "precision": self.profile.extraction.precision, "dtype": spec.storage,
                "device": self.device}  # fmt: skip

    def _features_key(self, network: str, task: str, split: str) -> str:
        if (task, split) not in self._digests:
            self._digests[task, split] = identity(task, split, **self._drawn(task, split))
        return features_key(self.network(network), self._digests[task, split], **self._extraction(network, task))

    def _made_of(self, network: str, task: str) -> dict:
        """Return what decides a cell's numbers: neither images nor weights are needed to know it."""
        return {
            "version": VERSION,
            "model": network,
            "dataset": task,
            "features": {split: self._features_key(network, task, split) for split in self._splits(task)},
            "spec": self.profile.spec(network, task).model_dump(mode="json"),
        }

    def _keys(self, cells: Iterable[Cell] | None = None) -> dict[Cell, str | None]:
        """Return each cell's key in the store.

        Where the files that identify a network or a task are gone, it is the key that the tables were made with, if the
        profile is still the same: to look at results you need not have the paper's data at hand. Else it is None.
        """
        keys, noted = {}, self._noted()
        known = noted.get("cells", {}) if noted.get("profile") == self.profile.fingerprint() else {}
        for cell in self.profile.cells() if cells is None else cells:
            try:
                if (card := PAPER.get(split_layer(cell[0])[0])) is not None:
                    file_hash(card, fetch=False)  # to ask what is missing fetches nothing
                keys[cell] = store.key_of(self._made_of(*cell))
            except AssetError:
                keys[cell] = known.get("/".join(cell))
        return keys

    def _compute(self, network: str, task: str) -> tuple[str, Stored]:
        """Compute a cell and store it; return its key too."""
        made_of, spec = self._made_of(network, task), self.profile.spec(network, task)
        found = {split: self.features(network, task, split) for split in self._splits(task)}
        sizes = {split: len(features.y) for split, features in found.items()}
        train, classes = found.pop("train"), self.task(task, "train").classes
        with (
            progress(total=spec.probe.epochs, desc=f"probes of {network} on {task}", unit="epochs") as bar,
            warnings.catch_warnings(record=True) as caught,
        ):
            warnings.simplefilter("always", RuntimeWarning)
            tables, notes = compute_cell(
                network,
                task,
                train,
                found,
                classes,
                spec,
                train_epochs=partial(self.view, network, task) if spec.augmentation else None,
                device=self.device,
                on_epoch=lambda *_: bar.update(1),
            )
        notes += [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
        about = {**made_of, "notes": notes, "weight_hash": self.network(network).weight_hash, "sizes": sizes,
                 "n_classes": len(classes)}  # fmt: skip
        key = store.key_of(made_of)
        store.write("cells", key, about=about, tables=tables)
        return key, Stored({}, tables, about)

    def _noted(self) -> dict:
        """Return what about.json says of the tables in the folder."""
        try:
            return json.loads((self.tables_folder / "about.json").read_text())
        except (OSError, ValueError):
            return {}

    def _about_tables(self, keys: dict[Cell, str]) -> dict:
        tasks = {t: (card.title, card.source) for t, card in available_tasks().items() if t in self.profile.tasks}
        networks = {n: {**asdict(self.network(n).card)} for n, _ in keys}
        return {"profile": self.profile.fingerprint(), "cells": {"/".join(cell): key for cell, key in keys.items()},
                "cards": store.key_of({"networks": networks, "tasks": tasks})}  # fmt: skip

    def _read_again(self, keys: dict[Cell, str]) -> dict[str, pd.DataFrame] | None:
        """Return the tables in the folder if they are made of just these cells and nobody has changed them since."""
        noted = self._noted()
        files, notes = noted.pop("files", {}), noted.pop("notes", [])
        paths = {self.tables_folder / f"{name}.csv": content for name, content in files.items()}
        if noted != self._about_tables(keys) or any(not p.is_file() or store.sha256_of(p) != paths[p] for p in paths):
            return None
        self.notes = notes
        return read_tables(self.tables_folder, files)

    def _written(self, tables: dict[str, pd.DataFrame], about: dict) -> dict[str, pd.DataFrame]:
        """Write the tables, and what they are made of; return them as anybody reads them."""
        for name, table in tables.items():
            write_table(table, self.tables_folder / f"{name}.csv")
        files = {name: store.sha256_of(self.tables_folder / f"{name}.csv") for name in tables}
        with store.atomic_path(self.tables_folder / "about.json") as part:
            part.write_text(json.dumps({**about, "notes": self.notes, "files": files}, indent=1, sort_keys=True) + "\n")
        return read_tables(self.tables_folder, tables)

    def _refuse_published(self) -> None:
        if self.profile.reference:
            raise ValueError(
                f"profile {self.profile.name} holds published numbers (reference: true): it has no network and no "
                "image to load; take a profile that measures, such as mini."
            )
