"""What a profile asks of one cell, and the hash by which a finished cell is known to answer it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from dr_utils.profiles import Profile
from dr_utils.study import index
from dr_utils.study.cell import CellSpec
from dr_utils.study.files import source_hash


def spec(profile: Profile, network: str, task: str) -> CellSpec:
    """Return what is to be measured in a cell."""
    probe, cka = profile.probe, profile.cka
    selections = profile.selected(network, task)
    return CellSpec(
        # Similarity on the grid of the random subsets: DR by CKA and by probe are compared.
        fractions=selections["random"],
        seeds=list(profile.seeds),
        deltas=list(profile.deltas),
        selections=selections,
        solvers=list(probe.solvers),
        standardise=probe.standardise,
        sgd=probe.sgd(profile.tasks[task].probe),
        ridge_alpha=probe.ridge_alpha,
        cka_estimators=list(cka.estimators) if task in profile.cka_tasks() else [],
        cka_images=cka.images,
        augmentation=augmentation(profile, task),
    )


def augmentation(profile: Profile, task: str) -> dict:
    """Return what the augmentation of train images adds to a cell's identity; nothing where there is none."""
    settings = profile.extraction
    kind = profile.tasks[task].augmentation or settings.augmentation
    if kind == "none":
        return {}
    kind = kind if isinstance(kind, str) else kind.model_dump()
    return {"kind": kind, "recipe": settings.recipe, "seed": profile.subset_seed}


def request(profile: Profile, network: str, task: str) -> str:
    """Identify what the profile asks of a cell, without loading its network or images.

    The sources stand for the content: they pin the hashes of the registry's networks and of the images.
    """
    asked = {
        "task": profile.tasks[task].model_dump(),
        "subset_seed": profile.subset_seed,
        "extraction": profile.extraction.model_dump(),
        "spec": asdict(spec(profile, network, task)),
        "code": source_hash(*index.NUMERIC_SOURCES, *index.CONTENT_SOURCES),
    }
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
