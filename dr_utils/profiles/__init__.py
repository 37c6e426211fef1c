"""Profiles: the YAML files that decide what a run covers. Nothing else does."""

from dr_utils.profiles.files import (
    PROFILES,
    REFERENCE,
    REFERENCE_NOTEBOOKS,
    ProfileError,
    available,
    find_profile,
    load_profile,
)
from dr_utils.profiles.parts import CKA, Extraction, Probe, Selection, Task, TaskProbe, Views
from dr_utils.profiles.profile import CHECKOUT, Profile

__all__ = [
    "CHECKOUT",
    "CKA",
    "Extraction",
    "PROFILES",
    "Probe",
    "Profile",
    "ProfileError",
    "REFERENCE",
    "REFERENCE_NOTEBOOKS",
    "Selection",
    "Task",
    "TaskProbe",
    "Views",
    "available",
    "find_profile",
    "load_profile",
]
