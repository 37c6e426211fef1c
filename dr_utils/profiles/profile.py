"""What a profile may say: its keys, their defaults and their checks. `networks` and `tasks` alone make a profile."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dr_utils.checks import check_delta, check_fraction, unknown
from dr_utils.store import key_of
from dr_utils.subsets import check_selection

CHECKOUT = Path(__file__).resolve().parents[2]
# The defaults are the paper's: the points of its ResNet50 curves, its seeds, the range of its figures.
FRACTIONS = [0.0005, 0.001, 0.002, 0.003, 0.004, 0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 0.9, 1.0]
SEEDS = [1, 2, 3, 4, 5]
DELTAS = [round(0.75 + 0.01 * i, 2) for i in range(26)]
# Where the public code departs from the paper: the weight decay of its last commit, and the best held-out epoch.
PUBLISHED_PROBE = {"weight_decay": 5e-4, "held_out": 0.1}


def _all_or_names(value: Any) -> Any:
    if value == "all" or (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError('expected "all" or a list of names')


def _distinct(values: list) -> list:
    repeated = [value for i, value in enumerate(values) if value in values[:i]]
    if repeated:
        raise ValueError(f"{repeated[0]!r} is listed twice")
    return values


def _ascending(values: list) -> list:
    return sorted(set(values))


def _tasks(value: Any) -> Any:
    """Read a plain list of names, or a name without a value, as tasks with nothing but defaults."""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        value = dict.fromkeys(_distinct(value))
    return {k: {} if v is None else v for k, v in value.items()} if isinstance(value, Mapping) else value


Names = Annotated[list[str] | Literal["all"], BeforeValidator(_all_or_names)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Some = Field(min_length=1)
Fractions = Annotated[list[Annotated[float, BeforeValidator(check_fraction)]], Some, AfterValidator(_ascending)]
Deltas = Annotated[list[Annotated[float, BeforeValidator(check_delta)]], Some, AfterValidator(_ascending)]


class Part(BaseModel):
    """A mapping of a profile: every key is known, every value has exactly the stated type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Views(Part):
    """A number of augmented views of the train images, computed once; SGD cycles through them, one for each epoch."""

    views: Count


class TaskProbe(Part):
    """What differs from the profile's probes on one task, such as fewer epochs on ImageNet."""

    epochs: Count | None = None
    lr: Positive | None = None
    weight_decay: NotNegative | None = None
    batch_size: Count | None = None
    step_epochs: Count | None = None


class Task(Part):
    """Images of one task: how many (null: all), at which resolution in pixels, evaluated on which sets.

    `networks` names those that are measured on this task; `probe` and `augmentation` are exceptions to the profile's
    own; `storage` is what features are rounded to and kept as: float16 where float32 would fill the disk.
    """

    networks: Names = "all"
    train: Count | None = None
    test: Count | None = None
    resolution: Annotated[int, Field(ge=8, le=1024)] = 224
    eval_sets: Annotated[list[str], Some, AfterValidator(_distinct)] = ["test"]
    probe: TaskProbe = TaskProbe()
    augmentation: Literal["none", "fresh"] | Views | None = None
    storage: Literal["float32", "float16"] = "float32"

    @model_validator(mode="after")
    def _has_test(self) -> Task:
        if "test" not in self.eval_sets:
            raise ValueError(f"eval_sets must hold 'test'; got {self.eval_sets}")
        return self


class Selection(Part):
    """One way to select neurons, for these networks and tasks, at these fractions (default: the profile's)."""

    selection: Annotated[str, AfterValidator(check_selection)]
    networks: Names = "all"
    tasks: Names = "all"
    fractions: Fractions | None = None


class Probe(Part):
    """Linear probes: the paper's protocol (Appendix B), or that of its published code, unless a key says otherwise.

    `standardise` divides features by the train split's standard deviations; `held_out` is the share of the train images
    on which each probe's best epoch is chosen (0: the last epoch); `ridge_alpha: auto` is chosen on train features.
    """

    protocol: Literal["paper", "published"] = "paper"
    solvers: Annotated[list[Literal["sgd", "ridge"]], Some, AfterValidator(_distinct)] = ["sgd"]
    epochs: Count = 50
    lr: Positive = 0.1
    momentum: Share = 0.9
    weight_decay: NotNegative = 1e-4
    batch_size: Count = 256
    step_epochs: Count = 10
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    standardise: bool = False
    held_out: Share = 0.0
    ridge_alpha: Positive | Literal["auto"] = "auto"

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

    estimators: Annotated[list[Literal["biased", "debiased"]], Some, AfterValidator(_distinct)] = ["biased", "debiased"]
    images: Annotated[int, Field(ge=4)] | None = 1000
    tasks: Names = "all"


class Extraction(Part):
    """How features are computed: images per batch, and float32, mixed (or auto: mixed where there is a GPU).

    `augmentation` is of train images: none (features once), {views: K} (K augmented passes, stored and cycled
    through), or fresh (the paper's: augmented anew in every epoch, one pass for all probes); `recipe` says how.
    `normalisation: published` feeds ImageNet-1k ViTs of the paper with ImageNet's mean and deviation, as the public
    code does, though they were trained with 0.5.
    """

    batch_size: Count = 64
    precision: Literal["float32", "mixed", "auto"] = "float32"
    augmentation: Literal["none", "fresh"] | Views = "none"
    recipe: Literal["paper", "published"] = "paper"
    normalisation: Literal["own", "published"] = "own"


class CellSpec(Part):
    """What is measured in one cell, a network on a task: together with its features this decides every number.

    `selections` holds the fractions at which each selection is probed; CKA is measured at those of "random". `cka` has
    no estimators where a task is left out of it; `augmentation` says how train images change, {} if they do not.
    """

    seeds: Annotated[list[Seed], Some]
    deltas: Deltas
    selections: dict[str, Fractions]
    probe: Probe
    cka: CKA = CKA()
    augmentation: dict = {}


class Profile(Part):
    """What a run covers.

    Attributes
    ----------
    networks : list of str
        Names known to ``dr_utils.models``.
    tasks : dict of str to Task
        Names known to ``dr_utils.datasets``; may be given as a plain list of names.
    name : str
        The file's name without ``.yaml``; results go to ``outputs/<name>``.
    fractions : list of float
        Ascending, with 1.0, the full layer.
    reference : bool
        True takes the paper's published numbers in place of measurements; networks and tasks are then those of
        ``dr_utils.study.published``, and nothing is loaded.

    Examples
    --------
    >>> profile = Profile(networks=["small_resnet"], tasks=["digits"])
    >>> profile.cells(), profile.seeds, profile.deltas[0]
    ([('small_resnet', 'digits')], [1, 2, 3, 4, 5], 0.75)
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = "custom"
    title: str = ""
    reference: bool = False
    networks: Annotated[list[str], Some, AfterValidator(_distinct)]
    tasks: Annotated[dict[str, Task], Some, BeforeValidator(_tasks)]
    subset_seed: Seed = 0
    fractions: Fractions = FRACTIONS
    seeds: Annotated[list[Seed], Some, AfterValidator(_distinct)] = SEEDS
    deltas: Deltas = DELTAS
    selections: Annotated[list[Selection], Some] = [Selection(selection="random")]
    probe: Probe = Probe()
    cka: CKA = CKA()
    extraction: Extraction = Extraction()

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        if 1.0 not in self.fractions:
            raise ValueError("fractions must hold 1.0, the full layer, which every share is compared with")
        for network, task in self.cells():
            if 1.0 not in self.selected(network, task).get("random", ()):
                raise ValueError(
                    f"selections lack random subsets for {network} on {task}: its full layer is measured with them; "
                    "add {selection: random}"
                )
        return self

    def cells(self) -> list[tuple[str, str]]:
        """Return every (network, task) of the profile, network by network."""
        covered = {t: self.networks if spec.networks == "all" else spec.networks for t, spec in self.tasks.items()}
        return [(network, task) for network in self.networks for task in self.tasks if network in covered[task]]

    def selected(self, network: str, task: str) -> dict[str, list[float]]:
        """Return the selections of one cell with their ascending fractions; entries of one selection are merged."""
        chosen: dict[str, set[float]] = {}
        for entry in self.selections:
            if all(names == "all" or name in names for name, names in ((network, entry.networks), (task, entry.tasks))):
                chosen.setdefault(entry.selection, set()).update(entry.fractions or self.fractions)
        return {selection: sorted(fractions) for selection, fractions in chosen.items()}

    def cka_tasks(self) -> list[str]:
        """Return the tasks that similarity is measured on, in the profile's order."""
        return [task for task in self.tasks if self.cka.tasks == "all" or task in self.cka.tasks]

    def spec(self, network: str, task: str) -> CellSpec:
        """Return what is measured in a cell, the task's exceptions included."""
        settings, own = self.extraction, self.tasks[task]
        kind = own.augmentation or settings.augmentation
        kind = kind if isinstance(kind, str) else kind.model_dump()
        augmentation = {"kind": kind, "recipe": settings.recipe, "seed": self.subset_seed}
        return CellSpec(
            seeds=self.seeds,
            deltas=self.deltas,
            selections=self.selected(network, task),
            probe=self.probe.model_copy(update=own.probe.model_dump(exclude_none=True)),
            cka=self.cka if task in self.cka_tasks() else self.cka.model_copy(update={"estimators": []}),
            augmentation={} if kind == "none" else augmentation,
        )

    def check_names(self, check_network: Callable[[str], Any], cards: Mapping[str, Any]) -> None:
        """Check the names of networks, tasks and evaluation sets; ValueError lists the known ones, nearest first.

        A selection or a task may name a network that is not in this profile, so that a copy of a profile can leave some
        out by one line; but it must exist. The registries are `dr_utils.models.check_network` and
        `dr_utils.datasets.available()`.
        """
        parts = (*self.tasks.values(), *self.selections, self.cka)
        lists = {kind: [getattr(part, kind, "all") for part in parts] for kind in ("networks", "tasks")}
        named = {kind: [n for names in lists[kind] if names != "all" for n in names] for kind in lists}
        for name in dict.fromkeys([*self.networks, *named["networks"]]):
            check_network(name)
        for name in dict.fromkeys([*self.tasks, *named["tasks"]]):
            if name not in cards:
                raise unknown("task", name, cards)
        for name, task in self.tasks.items():
            for eval_set in task.eval_sets:
                if eval_set not in cards[name].splits:
                    raise unknown(f"evaluation set of {name}", eval_set, set(cards[name].splits) - {"train"})

    def fingerprint(self) -> str:
        """Return a hash of everything that decides results: all keys but the title."""
        return key_of(self.model_dump(mode="json", exclude={"title"}))

    def folder(self, out: str | Path | None = None) -> Path:
        """Return where results go: ``<out>/<name>``, by default ``outputs/<name>`` in the checkout."""
        return (Path(out).expanduser() if out else CHECKOUT / "outputs").resolve() / self.name
