"""From a profile to tidy tables: cells of network x task, each computed once and found again by content."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path

import pandas as pd

import dr_utils
from dr_utils import assets, claims
from dr_utils.checks import unknown
from dr_utils.datasets import ImageTask, load_dataset
from dr_utils.datasets import available as available_tasks
from dr_utils.features import Features, extract, pick_device
from dr_utils.models import Network, check_network, load_model
from dr_utils.profiles import Profile, load_profile
from dr_utils.progress import progress
from dr_utils.study.cell import CellSpec, compute_cell

CELL_TABLES = ("probes", "per_class", "cka", "redundancy", "fairness")
# The rooms whose code decides the numbers of a cell: when one changes, cells are computed anew.
_NUMERIC_SOURCES = (
    "probes/chains.py", "probes/sgd.py", "probes/ridge.py", "probes/result.py",
    "subsets.py", "cka.py", "redundancy.py", "fairness.py", "study/cell.py",
)  # fmt: skip


class Study:
    """A profile's networks, tasks and tables.

    Parameters
    ----------
    profile : str, Path or Profile
        Name of a profile in notebooks/profiles, path of a YAML file, or a loaded profile.
    out : str or Path, optional
        Folder of the results, "outputs" in the checkout by default; this study writes to ``out/<profile name>/``.
    device : {"auto", "cpu", "cuda"}

    Raises
    ------
    ValueError
        Unknown profile, profile key, network, task or device: before anything is computed.
    dr_utils.assets.CacheError
        The cache folder cannot be written.
    """

    def __init__(self, profile: str | Path | Profile = "mini", *, out: str | Path | None = None, device: str = "auto"):
        self.profile = load_profile(profile)
        self.device = pick_device(device)
        for name in self.profile.networks:
            check_network(name)
        self.profile.check_names(self.profile.networks, available_tasks())
        assets.check_cache()
        self.folder = self.profile.folder(out)
        self.tables_folder = self.folder / "tables"
        self.figures_folder = self.folder / "figures"
        self._networks: dict[str, Network] = {}

    @property
    def note(self) -> str:
        """One line for figures: whose numbers these are."""
        title = f" ({self.profile.title})" if self.profile.title else ""
        return f"Measured by profile {self.profile.name}{title}, not the paper's networks and sizes."

    def network(self, name: str) -> Network:
        """Return a network of the profile, loaded once."""
        if name not in self._networks:
            self._networks[name] = load_model(name)
        return self._networks[name]

    def task(self, name: str, split: str) -> ImageTask:
        """Return a split of a task, cut to the size that the profile names."""
        spec = self.profile.tasks[name]
        size = spec.train if split == "train" else spec.test
        return load_dataset(name, split, size=size, seed=self.profile.subset_seed)

    def features(self, network: str, task: str, split: str) -> Features:
        """Return a network's features on a split, from the store or by one forward pass."""
        settings = self.profile.extraction
        return extract(
            self.network(network),
            self._images[task, split],
            resolution=self.profile.tasks[task].resolution,
            device=self.device,
            batch_size=settings.batch_size,
            precision=settings.precision,
        )

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
            `CELL_TABLES`, "networks", "tasks", over all cells of this profile that are done, and "claims".

        Raises
        ------
        ValueError
            A network or task that the profile does not name.
        """
        networks = self._chosen("network", networks, self.profile.networks)
        tasks = self._chosen("task", tasks, self.profile.tasks)
        # Whatever can fail for want of a file fails here, before the long work.
        for name in progress(networks, desc="loading networks", unit="network"):
            self.network(name)
        for name in progress(tasks, desc="loading images", unit="task"):
            for split in ("train", *self.profile.tasks[name].eval_sets):
                self._images[name, split]  # noqa: B018 - fills the cache
        done = self._read_index()
        cells = [(network, task) for network in networks for task in tasks]
        with progress(total=len(cells), desc="cells", unit="cell") as bar:
            for network, task in cells:
                bar.set_description(f"{network} on {task}")
                done[f"{network}/{task}"] = self._cell(network, task)
                self._write_index(done)
                bar.update(1)
        return self._write_tables(done)

    def _chosen(self, kind: str, asked: Iterable[str] | None, known: Iterable[str]) -> list[str]:
        known = list(known)
        for name in asked or ():
            if name not in known:
                raise unknown(kind, name, known, hint=f"The profile {self.profile.name!r} names these; add it there.")
        return known if asked is None else [name for name in known if name in set(asked)]

    def spec(self, network: str, task: str) -> CellSpec:
        """Return what the profile asks to be measured in one cell."""
        probe, cka = self.profile.probe, self.profile.cka
        return CellSpec(
            fractions=list(self.profile.fractions),
            seeds=list(self.profile.seeds),
            deltas=list(self.profile.deltas),
            selections=self.profile.selected(network, task),
            solvers=list(probe.solvers),
            standardise=probe.standardise,
            sgd=probe.model_dump(exclude={"solvers", "standardise", "ridge_alpha"}),
            ridge_alpha=probe.ridge_alpha,
            cka_estimators=list(cka.estimators) if task in self.profile.cka_tasks() else [],
            cka_images=cka.images,
        )

    def _cell(self, network: str, task: str) -> dict:
        """Compute a cell, or find it in the cache; return its entry in the index."""
        eval_sets = self.profile.tasks[task].eval_sets
        train = self.features(network, task, "train")
        evals = {name: self.features(network, task, name) for name in eval_sets}
        spec = self.spec(network, task)
        identity = {
            "model": network,
            "dataset": task,
            "features": [train.key, *(evals[name].key for name in eval_sets)],
            "eval_sets": list(eval_sets),
            "spec": asdict(spec),
            "code": _numeric_code_hash(),
        }
        key = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]
        folder = assets.cache_dir() / "cells" / key
        if not (folder / "done").exists():
            classes = self._images[task, "train"].classes
            with (
                progress(total=spec.sgd["epochs"], desc=f"probes of {network} on {task}", unit="epoch") as bar,
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
                    device=self.device,
                    on_epoch=lambda *_: bar.update(1),
                )
            notes += [str(w.message) for w in caught if issubclass(w.category, RuntimeWarning)]
            _store_cell(folder, tables, {"identity": identity, "notes": notes})
        about = json.loads((folder / "about.json").read_text())
        return {"key": key, "request": self._request(network, task), "notes": about["notes"]}

    def _request(self, network: str, task: str) -> str:
        """Identify what the profile asks of a cell, without loading its network or images."""
        asked = {
            "task": self.profile.tasks[task].model_dump(),
            "subset_seed": self.profile.subset_seed,
            "extraction": self.profile.extraction.model_dump(),
            "spec": asdict(self.spec(network, task)),
            "code": _numeric_code_hash(),
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]

    def _read_index(self) -> dict:
        """Return the cells of this results folder that still answer what the profile asks."""
        path = self.tables_folder / "cells.json"
        try:
            index = json.loads(path.read_text())
        except (OSError, ValueError):
            return {}
        wanted = {f"{n}/{t}": (n, t) for n in self.profile.networks for t in self.profile.tasks}
        return {
            cell: entry
            for cell, entry in index.items()
            if cell in wanted
            and entry["request"] == self._request(*wanted[cell])
            and (assets.cache_dir() / "cells" / entry["key"] / "done").exists()
        }

    def _write_index(self, index: dict) -> None:
        self.tables_folder.mkdir(parents=True, exist_ok=True)
        with assets.atomic_path(self.tables_folder / "cells.json") as part:
            part.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")

    def _write_tables(self, index: dict) -> dict[str, pd.DataFrame]:
        order = [f"{n}/{t}" for n in self.profile.networks for t in self.profile.tasks]
        folders = [assets.cache_dir() / "cells" / index[cell]["key"] for cell in order if cell in index]
        tables = {
            name: pd.concat([_read_table(folder / f"{name}.csv") for folder in folders], ignore_index=True)
            for name in CELL_TABLES
        }
        tables["networks"] = self._networks_table(tables["probes"].model.unique())
        tables["tasks"] = self._tasks_table(tables["probes"].dataset.unique())
        tables["claims"] = claims.evaluate(tables)
        for name, table in tables.items():
            write_table(table, self.tables_folder / f"{name}.csv")
        return tables

    def _networks_table(self, names: Iterable[str]) -> pd.DataFrame:
        rows = []
        for name in names:
            network = self.network(name)
            card = network.card
            rows.append(
                {
                    "model": name, "title": card.title, "width": card.width, "family": card.family,
                    "training": card.training, "upstream": card.upstream, "kind": card.kind, "source": card.source,
                    "licence": card.licence, "top1": card.top1, "weight_hash": network.weight_hash,
                    "robust_of": card.robust_of,
                }
            )  # fmt: skip
        return pd.DataFrame(rows)

    def _tasks_table(self, names: Iterable[str]) -> pd.DataFrame:
        rows = []
        for name in names:
            card, spec = available_tasks()[name], self.profile.tasks[name]
            train = self._images[name, "train"]
            for eval_set in spec.eval_sets:
                rows.append(
                    {
                        "dataset": name, "title": card.title, "eval_set": eval_set, "n_classes": len(train.classes),
                        "n_train": len(train.labels), "n_test": len(self._images[name, eval_set].labels),
                        "resolution": spec.resolution, "source": card.source,
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)


class _LazyTasks(dict):
    """The images of (task, split), loaded when first asked for."""

    def __init__(self, study: Study) -> None:
        super().__init__()
        self._study = study

    def __missing__(self, key: tuple[str, str]) -> ImageTask:
        self[key] = self._study.task(*key)
        return self[key]


@cache
def _numeric_code_hash() -> str:
    """Hash the numeric rooms' sources, once: what runs is what was imported."""
    root = Path(dr_utils.__file__).parent
    digest = hashlib.sha256()
    for source in _NUMERIC_SOURCES:
        digest.update((root / source).read_bytes())
    return digest.hexdigest()[:16]


def _store_cell(folder: Path, tables: dict[str, pd.DataFrame], about: dict) -> None:
    """Write a cell's tables so that they are there as a whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
    try:
        for name, table in tables.items():
            table.to_csv(part / f"{name}.csv", index=False, lineterminator="\n")
        (part / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
        (part / "done").touch()
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read_table(path: Path) -> pd.DataFrame:
    # Empty strings are names here (a CKA row has no solver), but not in the columns of numbers.
    return pd.read_csv(path, keep_default_na=False, na_values={name: [""] for name in ("cka", "low", "high", "top1")})


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table as CSV, atomically, floats to their last digit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with assets.atomic_path(path) as part:
        table.to_csv(part, index=False, lineterminator="\n")


def read_tables(folder: str | Path) -> dict[str, pd.DataFrame]:
    """Read the tables that a study wrote; ValueError if there are none.

    Parameters
    ----------
    folder : str or Path
        The folder of the CSV files, such as outputs/mini/tables.
    """
    paths = sorted(Path(folder).glob("*.csv"))
    if not paths:
        raise ValueError(f"no tables in {folder}; run ./run_all.sh (or Study(...).run()) first.")
    return {path.stem: _read_table(path) for path in paths}
