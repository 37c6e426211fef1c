"""The parts of a profile: tasks, selections, probes, similarity, extraction, each with its checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from dr_utils.checks import check_delta, check_fraction, unknown


def _all_or_names(value: Any) -> Any:
    if value == "all" or (isinstance(value, list) and value and all(isinstance(name, str) for name in value)):
        return value
    raise ValueError('expected "all" or a list of names')


def distinct(values: list) -> list:
    """Return the list, or raise ValueError naming what it holds twice."""
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


class Part(BaseModel):
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


class Views(Part):
    """So many augmented views of the train images, computed once and cycled through, an epoch each."""

    views: Count


class TaskProbe(Part):
    """What differs from the profile's probes on one task, such as fewer epochs on ImageNet."""

    epochs: Count | None = None
    lr: Annotated[float, Field(gt=0)] | None = None
    weight_decay: Annotated[float, Field(ge=0)] | None = None
    batch_size: Count | None = None
    step_epochs: Count | None = None


class Task(Part):
    """Images of one task: how many (null: all), at which resolution in pixels, evaluated on which sets.

    `networks` leaves some of the profile's networks out of this task; `probe` and `augmentation` hold exceptions to the
    profile's own; `storage` is what features are rounded to and kept as, float16 where float32 would fill the disk.
    """

    networks: Names = "all"
    train: Count | None = None
    test: Count | None = None
    resolution: Annotated[int, Field(ge=8, le=1024)] = 224
    eval_sets: Annotated[list[str], Field(min_length=1), AfterValidator(distinct)] = ["test"]
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

    selection: Annotated[str, AfterValidator(_known_selection)]
    networks: Names = "all"
    tasks: Names = "all"
    fractions: Grid | None = None


# Where the public code departs from the paper: the weight decay of its last commit, and the best held-out epoch.
PUBLISHED_PROBE = {"weight_decay": 5e-4, "held_out": 0.1}


class Probe(Part):
    """Linear probes: the paper's protocol (Appendix B), or that of its published code, unless a key says otherwise."""

    protocol: Literal["paper", "published"] = "paper"
    solvers: Annotated[list[Literal["sgd", "ridge"]], Field(min_length=1), AfterValidator(distinct)] = ["sgd"]
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


class CKA(Part):
    """Similarity of part and whole: estimators, and how many test images (null: all) of which tasks."""

    estimators: Annotated[list[Literal["biased", "debiased"]], Field(min_length=1), AfterValidator(distinct)] = [
        "biased",
        "debiased",
    ]
    images: Annotated[int, Field(ge=4)] | None = 1000
    tasks: Names = "all"


class Extraction(Part):
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
