"""What a profile may say: its keys, their defaults and their checks. `networks` and `tasks` alone make a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WrapValidator, model_validator

from dr_utils.checks import unknown
from dr_utils.store import key_of
from dr_utils.subsets import SELECTIONS

CHECKOUT = Path(__file__).resolve().parents[2]
# The defaults are the paper's: the points of its ResNet50 curves, its seeds, the range of its figures.
FRACTIONS = [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0]
DELTAS = [round(0.75 + 0.01 * i, 2) for i in range(26)]
# Where the public code departs from the paper: the weight decay of its last commit, and the best held-out epoch.
PUBLISHED_PROBE = {"weight_decay": 5e-4, "held_out": 0.1}


def _told(expected: str) -> WrapValidator:
    """Return what says in one line what a type of several kinds expects; pydantic's own errors have a line for each."""

    def check(value: Any, validate: Callable[[Any], Any]) -> Any:
        try:
            return validate(value)
        except ValueError:
            raise ValueError(f"expected {expected}; got {value!r}.") from None

    return WrapValidator(check)


def _named(name: str, names: list[str] | str) -> bool:
    return names == "all" or name in names


def _distinct(values: list) -> list:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} is listed twice; got {values}.")
    return values


def _with_test(names: list) -> list:
    if "test" not in names:
        raise ValueError(f"expected 'test' among them; got {names}.")
    return names


def _tasks(value: Any) -> Any:
    """Read a plain list of names, or a name without a value, as tasks with nothing but defaults."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(_distinct(value))
    return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, Mapping) else value


Some, Distinct, Ascending = Field(min_length=1), AfterValidator(_distinct), AfterValidator(lambda v: sorted(set(v)))
Names = Annotated[Literal["all"] | Annotated[list[str], Some], _told('"all" or a list of names')]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Views = Annotated[dict[Literal["views"], Count], Some]
Augmentation = Annotated[
    Literal["none", "fresh"] | Views, _told("'none', 'fresh' or {views: K}, K a whole number of passes")
]
Shares = Annotated[list[Annotated[float, Field(gt=0, le=1)]], Some, Ascending]  # fractions or deltas


class Part(BaseModel):
    """A mapping of a profile: every key is known, every value has exactly the stated type."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        wrong = given.keys() - cls.model_fields if isinstance(given, Mapping) else ()
        if wrong:
            raise ValueError("\n".join(str(unknown("profile key", key, cls.model_fields)) for key in sorted(wrong)))
        return given


class TaskProbe(Part):
    """What differs from the profile's probes on one task, such as fewer epochs on ImageNet."""

    epochs: Count | None = None
    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    batch_size: Count | None = None
    step_epochs: Count | None = None


class Task(Part):
    """Images of one task: how many (null: all), their side in pixels, and what is special about this task.

    `storage` is what features are rounded to and kept as: float16 where float32 would fill the disk.
    """

    networks: Names = "all"
    train: Count | None = None
    test: Count | None = None
    resolution: Annotated[int, Field(ge=8, le=1024)] = 224
    eval_sets: Annotated[list[str], Distinct, AfterValidator(_with_test)] = ["test"]
    probe: TaskProbe = TaskProbe()
    augmentation: Augmentation | None = None
    storage: Literal["float32", "float16"] = "float32"


class Selection(Part):
    """One way to select neurons, for these networks and tasks, at these fractions (default: the profile's)."""

    selection: Literal[*SELECTIONS]
    networks: Names = "all"
    tasks: Names = "all"
    fractions: Shares | None = None


class Probe(Part):
    """Linear probes: the paper's protocol (Appendix B), or that of its published code, unless a key says otherwise.

    `held_out` is the share of the train images on which each probe's best epoch is chosen (0: the last epoch).
    """

    protocol: Literal["paper", "published"] = "paper"
    solvers: Annotated[list[Literal["sgd", "ridge"]], Some, Distinct] = ["sgd"]
    epochs: Count = 50
    lr: Positive = 0.1
    momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4
    batch_size: Count = 256
    step_epochs: Count = 10
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    standardise: bool = False
    held_out: Share = 0.0
    ridge_alpha: Annotated[Literal["auto"] | Positive, _told("a number above 0, or 'auto'")] = "auto"

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, given: Any) -> Any:
        published = isinstance(given, Mapping) and given.get("protocol") == "published"
        return {**PUBLISHED_PROBE, **given} if published else given

    def sgd(self) -> dict:
        """Return the keyword arguments of `dr_utils.probes.fit_probes`."""
        return self.model_dump(exclude={"protocol", "solvers", "standardise", "ridge_alpha"})


class CKA(Part):
    """Similarity of part and whole: estimators, and how many test images (null: all) of which tasks."""

    estimators: Annotated[list[Literal["biased", "debiased"]], Some, Distinct] = ["biased", "debiased"]
    images: Annotated[int, Field(ge=4)] | None = 1000
    tasks: Names = "all"


class Extraction(Part):
    """How features are computed; notebooks/profiles/README.md says what `augmentation` and the last two keys do."""

    batch_size: Count = 64
    precision: Literal["float32", "mixed", "auto"] = "float32"
    augmentation: Augmentation = "none"
    recipe: Literal["paper", "published"] = "paper"
    normalisation: Literal["own", "published"] = "own"


class FewerClasses(Part):
    """The same images with fewer of their classes: how many classes, by task, each for `parts` draws of them."""

    tasks: Annotated[dict[str, Annotated[list[Annotated[int, Field(ge=2)]], Some]], Some]
    networks: Names = "all"
    parts: Count = 3


class CellSpec(Part):
    """What is measured in one cell, a network on a task: together with its features this decides every number.

    `cka`, at the fractions of "random", has no estimators where it is not measured. `augmentation` {} means none.
    """

    seeds: Annotated[list[Seed], Some]
    deltas: Shares
    selections: dict[str, Shares]
    probe: Probe
    cka: CKA = CKA()
    augmentation: dict = {}


class Profile(Part):
    """What a run covers: `networks` that `dr_utils.models` knows, on `tasks` that `dr_utils.datasets` knows.

    With `reference: true` the paper's published numbers are taken in place of measurements, and nothing is loaded.

    >>> profile = Profile(networks=["small_resnet"], tasks=["digits"])
    >>> profile.cells(), profile.seeds, profile.deltas[0]
    ([('small_resnet', 'digits')], [1, 2, 3, 4, 5], 0.75)
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "custom"
    title: str = ""
    reference: bool = False
    networks: Annotated[list[str], Some, Distinct]
    tasks: Annotated[dict[str, Task], Some, BeforeValidator(_tasks)]
    subset_seed: Seed = 0
    fractions: Shares = FRACTIONS
    seeds: Annotated[list[Seed], Some, Distinct] = [1, 2, 3, 4, 5]
    deltas: Shares = DELTAS
    selections: Annotated[list[Selection], Some] = [Selection(selection="random")]
    probe: Probe = Probe()
    cka: CKA = CKA()
    extraction: Extraction = Extraction()
    fewer_classes: FewerClasses | None = None

    @model_validator(mode="after")
    def _measures_full_layers(self) -> Profile:
        for network, task in self.cells():
            if 1.0 not in self.selected(network, task).get("random", ()):
                needed = "selections must hold {selection: random}, and its fractions 1.0."
                raise ValueError(f"the full layer of {network} is not measured on {task}; {needed}")
        return self

    def cells(self) -> list[tuple[str, str]]:
        """Return every (network, task) of the profile, network by network."""
        return [(n, t) for n in self.networks for t, task in self.tasks.items() if _named(n, task.networks)]

    def selected(self, network: str, task: str) -> dict[str, list[float]]:
        """Return the selections of one cell with their ascending fractions; entries of one selection are merged."""
        chosen: dict[str, set[float]] = {}
        for entry in self.selections:
            if _named(network, entry.networks) and _named(task, entry.tasks):
                chosen.setdefault(entry.selection, set()).update(entry.fractions or self.fractions)
        return {selection: sorted(fractions) for selection, fractions in chosen.items()}

    def fewer(self, network: str, task: str) -> list[tuple[int, int]]:
        """Return (number of classes, part) of what is measured with fewer classes on one cell."""
        asked = self.fewer_classes
        if asked is None or not _named(network, asked.networks):
            return []
        return [(n, part) for n in asked.tasks.get(task, ()) for part in range(1, asked.parts + 1)]

    def spec(self, network: str, task: str) -> CellSpec:
        """Return what is measured in a cell, the task's exceptions included."""
        own = self.tasks[task]
        kind = own.augmentation or self.extraction.augmentation
        augmentation = {"kind": kind, "recipe": self.extraction.recipe, "seed": self.subset_seed}
        return CellSpec(
            seeds=self.seeds,
            deltas=self.deltas,
            selections=self.selected(network, task),
            probe=self.probe.model_copy(update=own.probe.model_dump(exclude_none=True)),
            cka=self.cka if _named(task, self.cka.tasks) else self.cka.model_copy(update={"estimators": []}),
            augmentation={} if kind == "none" else augmentation,
        )

    def check_names(self, check_network: Callable[[str], Any], cards: Mapping[str, Any]) -> None:
        """Check the names of networks, tasks and evaluation sets, also of those that only a selection names."""
        for part in filter(None, (self, *self.tasks.values(), *self.selections, self.cka, self.fewer_classes)):
            networks, tasks = (getattr(part, kind, "all") for kind in ("networks", "tasks"))
            for name in networks if networks != "all" else []:
                check_network(name)
            for name in tasks if tasks != "all" else []:
                if name not in cards:
                    raise unknown("task", name, cards)
        for name, sizes in self.fewer_classes.tasks.items() if self.fewer_classes else ():
            if name not in self.tasks:
                raise unknown("task of fewer_classes", name, self.tasks)
            if max(sizes) >= len(cards[name].classes):
                least = f"expected fewer than its {len(cards[name].classes)} classes"
                raise ValueError(f"fewer_classes.tasks.{name}: {least}; got {sizes}.")
        for name, task in self.tasks.items():
            for eval_set in set(task.eval_sets) - set(cards[name].splits):
                raise unknown(f"evaluation set of {name}", eval_set, set(cards[name].splits) - {"train"})

    def fingerprint(self) -> str:
        """Return a hash of everything that decides results: all keys but the title."""
        return key_of(self.model_dump(mode="json", exclude={"title"}))

    def folder(self, out: str | Path | None = None) -> Path:
        """Return where results go: ``<out>/<name>``, by default ``outputs/<name>`` in the checkout."""
        return (Path(out).expanduser() if out else CHECKOUT / "outputs").resolve() / self.name
