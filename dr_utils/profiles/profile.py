"""A profile as a whole: what it covers, and whether its parts fit each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from dr_utils.checks import unknown
from dr_utils.profiles.parts import CKA, Deltas, Extraction, Grid, Part, Probe, Selection, Task, distinct

CHECKOUT = Path(__file__).resolve().parents[2]


class Profile(Part):
    """What a run covers.

    Attributes
    ----------
    name : str
        The file's name without ``.yaml``; results go to ``outputs/<name>``.
    networks : list of str
        Names known to ``dr_utils.models``.
    tasks : dict of str to Task
        Names known to ``dr_utils.datasets``.
    fractions : list of float
        Ascending, with 1.0, the full layer.
    reference : bool
        True takes the paper's published numbers in place of measurements; networks and tasks are then names in
        ``dr_utils.study.from_reference``, and nothing is loaded.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    title: str = ""
    reference: bool = False
    networks: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)]
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    subset_seed: Annotated[int, Field(ge=0)] = 0
    fractions: Grid
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(distinct)]
    deltas: Deltas
    selections: Annotated[list[Selection], Field(min_length=1)]
    probe: Probe = Probe()
    cka: CKA = CKA()
    extraction: Extraction = Extraction()

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if 1.0 not in self.fractions:
            raise ValueError("fractions must hold 1.0, the full layer, which every share is compared with")
        for task, settings in self.tasks.items():
            for name in () if settings.networks == "all" else settings.networks:
                if name not in self.networks:
                    raise unknown(f"network of task {task} in this profile", name, self.networks)
        for part in (*self.selections, self.cka):
            for kind in ("networks", "tasks"):
                named = getattr(part, kind, "all")
                known = getattr(self, kind)
                for name in () if named == "all" else named:
                    if name not in known:
                        raise unknown(f"{kind[:-1]} in this profile", name, known)
        for network, task in self.cells():
            if 1.0 not in self.selected(network, task).get("random", ()):
                raise ValueError(
                    f"selections lack random subsets for {network} on {task}: its full layer is measured with them; "
                    "add {selection: random}"
                )
        return self

    def cells(self) -> list[tuple[str, str]]:
        """Every (network, task) of the profile, network by network."""
        return [
            (network, task)
            for network in self.networks
            for task, settings in self.tasks.items()
            if settings.networks == "all" or network in settings.networks
        ]

    def selected(self, network: str, task: str) -> dict[str, list[float]]:
        """Selections of one cell with their ascending fractions; entries of the same selection are merged."""
        chosen: dict[str, set[float]] = {}
        for entry in self.selections:
            if all(names == "all" or name in names for name, names in ((network, entry.networks), (task, entry.tasks))):
                chosen.setdefault(entry.selection, set()).update(entry.fractions or self.fractions)
        return {selection: sorted(fractions) for selection, fractions in chosen.items()}

    def cka_tasks(self) -> list[str]:
        """Tasks that similarity is measured on, in the profile's order."""
        return [task for task in self.tasks if self.cka.tasks == "all" or task in self.cka.tasks]

    def check_names(self, networks: Iterable[str], tasks: Mapping[str, Any] | Iterable[str]) -> None:
        """Check networks and tasks against the registries.

        Parameters
        ----------
        networks : iterable of str
            Names that ``load_model`` knows.
        tasks : mapping of str to TaskCard, or iterable of str
            Names that ``load_dataset`` knows; cards let the evaluation sets be checked against their splits.

        Raises
        ------
        ValueError
            Unknown network, task or evaluation set; the message lists the known ones, nearest first.
        """
        networks, cards = list(networks), tasks if isinstance(tasks, Mapping) else {}
        for network in self.networks:
            if network not in networks:
                raise unknown("network", network, networks)
        tasks = list(tasks)
        for name, task in self.tasks.items():
            if name not in tasks:
                raise unknown("task", name, tasks)
            splits = getattr(cards.get(name), "splits", None)
            for eval_set in task.eval_sets:
                if splits is not None and eval_set not in splits:
                    raise unknown(f"evaluation set of {name}", eval_set, [s for s in splits if s != "train"])

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides results (canonical JSON of all keys but the title)."""
        content = self.model_dump(mode="json", exclude={"title"})
        return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    def folder(self, out: str | Path | None = None) -> Path:
        """Where results go: ``<out>/<name>``, `out` being ``outputs`` in the checkout unless given."""
        return (Path(out).expanduser() if out else CHECKOUT / "outputs").resolve() / self.name
