"""Profiles: the YAML files that decide what a run covers. Nothing else does."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from dr_utils.checks import check_delta, check_fraction, unknown

CHECKOUT = Path(__file__).resolve().parent.parent
PROFILES = CHECKOUT / "notebooks" / "profiles"
# The notebooks that published numbers suffice for, and the shipped profile that holds these.
REFERENCE, REFERENCE_NOTEBOOKS = "reference", ("01", "03")


class ProfileError(ValueError):
    """A profile that cannot be used; the message has one line per mistake."""


def _all_or_names(value: Any) -> Any:
    if value == "all" or (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError('expected "all" or a list of names')


def _distinct(values: list) -> list:
    repeated = [value for i, value in enumerate(values) if value in values[:i]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return values


def _known_selection(name: str) -> str:
    # Imported here because subsets needs torch, and a profile is read before it is known that torch works.
    from dr_utils.subsets import check_selection

    return check_selection(name)


Names = Annotated[list[str] | Literal["all"], BeforeValidator(_all_or_names)]
Count = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, BeforeValidator(check_fraction)]
Grid = Annotated[list[Fraction], Field(min_length=1), AfterValidator(lambda grid: sorted(set(grid)))]
Deltas = Annotated[
    list[Annotated[float, BeforeValidator(check_delta)]],
    Field(min_length=1),
    AfterValidator(lambda grid: sorted(set(grid))),
]


class _Part(BaseModel):
    """A mapping of a profile: every key is known, every value has exactly the stated type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        # Pydantic would only say "extra inputs are not permitted"; a typing slip wants the right name.
        if isinstance(given, Mapping):
            for key in given:
                if key not in cls.model_fields:
                    raise unknown("profile key", key, cls.model_fields)
        return given


class Views(_Part):
    """So many augmented views of the train images, computed once and cycled through, an epoch each."""

    views: Count


class TaskProbe(_Part):
    """What differs from the profile's probes on one task, such as fewer epochs on ImageNet."""

    epochs: Count | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    batch_size: Count | None = None
    step_epochs: Count | None = None


class Task(_Part):
    """Images of one task: how many (null: all), at which resolution in pixels, evaluated on which sets.

    `networks` leaves some of the profile's networks out of this task; `probe` and `augmentation` hold exceptions to the
    profile's own; `storage` is what features are rounded to and kept as, float16 where float32 would fill the disk.
    """

    networks: Names = "all"
    train: Count | None = None
    test: Count | None = None
    resolution: Annotated[int, Field(ge=8, le=1024)] = 224
    eval_sets: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)] = ["test"]
    probe: TaskProbe = TaskProbe()
    augmentation: Literal["none", "fresh"] | Views | None = None
    storage: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _has_test(self) -> Task:
        if "test" not in self.eval_sets:
            raise ValueError(f"eval_sets must hold 'test'; got {self.eval_sets}")
        return self


class Selection(_Part):
    """One way to select neurons, for these networks and tasks, at these fractions (default: the profile's)."""

    selection: Annotated[str, AfterValidator(_known_selection)]
    networks: Names = "all"
    tasks: Names = "all"
    fractions: Grid | None = None


# Where the public code departs from the paper: the weight decay of its last commit, and the best held-out epoch.
PUBLISHED_PROBE = {"weight_decay": 5e-4, "held_out": 0.1}


class Probe(_Part):
    """Linear probes: the paper's protocol (Appendix B), or that of its published code, unless a key says otherwise."""

    protocol: Literal["paper", "published"] = "paper"
    solvers: Annotated[list[Literal["sgd", "ridge"]], Field(min_length=1), AfterValidator(_distinct)] = ["sgd"]
    epochs: Count = 50
    lr: Annotated[float, Field(gt=0)] = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    batch_size: Count = 256
    step_epochs: Count = 10
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    standardise: bool = False
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.0
    ridge_alpha: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        published = isinstance(given, Mapping) and given.get("protocol") == "published"
        return {**PUBLISHED_PROBE, **given} if published else given

    def sgd(self, exceptions: TaskProbe | None = None) -> dict:
        """Keyword arguments of `dr_utils.probes.fit_probes`, a task's exceptions included."""
        own = self.model_dump(exclude={"protocol", "solvers", "standardise", "ridge_alpha"})
        return own | (exceptions.model_dump(exclude_none=True) if exceptions else {})


class CKA(_Part):
    """Similarity of part and whole: estimators, and how many test images (null: all) of which tasks."""

    estimators: Annotated[list[Literal["biased", "debiased"]], Field(min_length=1), AfterValidator(_distinct)] = [
        "biased",
        "debiased",
    ]
    images: Annotated[int, Field(ge=4)] | None = 1000
    tasks: Names = "all"


class Extraction(_Part):
    """How features are computed: images per batch, and float32, mixed (or auto: mixed where there is a GPU).

    `augmentation` is of train images: none (features once), {views: K} (K augmented passes, stored and cycled
    through), or fresh (the paper's: augmented anew in every epoch, one pass for all probes); `recipe` says how.
    `normalisation` published feeds ImageNet-1k ViTs of the paper with ImageNet's mean and deviation, as the public code
    does, though they were trained with 0.5.
    """

    batch_size: Count = 64
    precision: Literal["float32", "mixed", "auto"] = "float32"
    augmentation: Literal["none", "fresh"] | Views = "none"
    recipe: Literal["paper", "published"] = "paper"
    normalisation: Literal["own", "published"] = "own"


class Profile(_Part):
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
    networks: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct)]
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    subset_seed: Annotated[int, Field(ge=0)] = 0
    fractions: Grid
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]
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


def available(folder: Path = PROFILES) -> list[str]:
    """Names of the profiles in a folder."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def find_profile(name_or_path: str | Path) -> Path:
    """The file of a profile, given by name ("mini") or as a path to a YAML file.

    Raises
    ------
    ProfileError
        No such profile or file; the message lists the profiles that exist.
    """
    text = os.fspath(name_or_path)
    if text.endswith((".yaml", ".yml")) or os.sep in text:
        path = Path(text).expanduser()
        if not path.is_file():
            raise ProfileError(f"no profile file {text!r}; give a path to a YAML file or one of: {_listed()}.")
        return path.resolve()
    path = PROFILES / f"{text}.yaml"
    if not path.is_file():
        raise ProfileError(str(unknown("profile", text, available(), hint="A path to a YAML file will do as well.")))
    return path


def load_profile(name_or_path: str | Path | Profile) -> Profile:
    """Read and check a profile.

    Parameters
    ----------
    name_or_path : str, Path or Profile
        "mini" (a file in ``notebooks/profiles``), a path to a YAML file, or a profile already read.

    Returns
    -------
    Profile

    Raises
    ------
    ProfileError
        No such profile, not YAML, unknown keys or selections, values of the wrong type or out of range: one line
        per mistake, with its dotted path, what was given and what was expected.
    """
    if isinstance(name_or_path, Profile):
        return name_or_path
    path = find_profile(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile {path.name} is not YAML: {' '.join(str(error).split())}.") from None
    if not isinstance(content, dict):
        raise ProfileError(f"profile {path.name} must be a mapping of keys; got {type(content).__name__}.")
    # Two profiles must not share a folder of results, so a copied file cannot keep the old name.
    if content.setdefault("name", path.stem) != path.stem:
        raise ProfileError(
            f"profile {path.name}: name: expected {path.stem!r}, the file's own; got {content['name']!r}; "
            "change one, or leave the key out."
        )
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        lines = (f"profile {path.name}: {line}" for line in _one_line_each(error))
        raise ProfileError("\n".join(dict.fromkeys(lines))) from None


def _listed() -> str:
    return ", ".join(available()) or "none"


def _one_line_each(error: ValidationError) -> Iterable[str]:
    for mistake in error.errors():
        # The branches of a union stand in the location as well: "str", "literal['all']", "function-before[...]".
        where = ".".join(str(part) for part in mistake["loc"] if re.fullmatch(r"[\w.-]+", str(part)))
        prefix = f"{where}: " if where else ""
        if mistake["type"] == "value_error":
            text = str(mistake["ctx"]["error"])
            given = "" if "; got " in text or "known, nearest" in text else _given(mistake["input"])
            yield f"{prefix}{text.rstrip('.')}{given}."
        elif mistake["type"] == "missing":
            yield f"{prefix}this key is missing."
        else:
            expected = mistake["msg"].replace("Input should be", "expected").replace("List should", "expected to")
            yield f"{prefix}{expected}{_given(mistake['input'])}."


def _given(value: Any) -> str:
    # The whole mapping says nothing about the one key in it that is wrong.
    return "" if isinstance(value, BaseModel | Mapping) else f"; got {value!r}"
