"""Profiles: the YAML files that decide what a run covers. Nothing else does."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from dr_utils.checks import nearest_first, unknown
from dr_utils.profiles.profile import CHECKOUT, CKA, CellSpec, Part, Probe, Profile, Views

__all__ = [
    "CHECKOUT", "CKA", "CellSpec", "Probe", "Profile", "ProfileError", "available", "find_profile", "load_profile",
]  # fmt: skip

PROFILES = CHECKOUT / "notebooks" / "profiles"
# The notebooks that published numbers suffice for, and the shipped profile that holds these.
REFERENCE, REFERENCE_NOTEBOOKS = "reference", ("01", "03")


class ProfileError(ValueError):
    """A profile that cannot be used; the message has one line per mistake."""


def available(folder: Path = PROFILES) -> list[str]:
    """Return the names of the profiles in a folder."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


def find_profile(name_or_path: str | Path) -> Path:
    """Return the file of a profile, given by name ("mini") or as a path to a YAML file.

    Raises
    ------
    ProfileError
        No such profile or file; the message lists the profiles that exist.
    """
    text = os.fspath(name_or_path)
    if text.endswith((".yaml", ".yml")) or os.sep in text:
        path = Path(text).expanduser()
        if not path.is_file():
            known = ", ".join(available()) or "none"
            raise ProfileError(f"no profile file {text!r}; give a path to a YAML file or one of: {known}.")
        return path.resolve()
    path = PROFILES / f"{text}.yaml"
    if not path.is_file():
        raise ProfileError(str(unknown("profile", text, available(), hint="You can also give a path to a YAML file.")))
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

    Examples
    --------
    >>> load_profile("mini").seeds
    [1, 2, 3, 4, 5]
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
        raise ProfileError("\n".join(f"profile {path.name}: {line}" for line in _lines(error))) from None


def _lines(error: ValidationError) -> list[str]:
    """Say each mistake in one line, with the nearest names for a key that nobody knows."""
    lines, expected, meant = [], {}, set()
    # Unknown keys first: a key that was misspelled is not missing too.
    for mistake in sorted(error.errors(), key=lambda mistake: mistake["type"] != "extra_forbidden"):
        kind, given, location = mistake["type"], mistake["input"], mistake["loc"]
        # The branches of a union appear in the location too: "Views", "constrained-float", "literal['all']".
        steps = [str(s) for s in location if not re.match(rf"{Views.__name__}|constrained-|\w+(-\w+)*\[", str(s))]
        where = "".join(f"{'.'.join(steps[: -1 if kind == 'extra_forbidden' else None])}: ").removeprefix(": ")
        if kind == "extra_forbidden":
            known = _part_at(location[:-1]).model_fields
            meant.add((*location[:-1], nearest_first(str(location[-1]), known)[0]))
            lines.append(f"{where}{unknown('profile key', location[-1], known)}")
        elif kind == "value_error":
            for text in str(mistake["ctx"]["error"]).splitlines():
                told = "; got " in text or "known, nearest" in text or isinstance(given, BaseModel | Mapping)
                lines.append(f"{where}{text.rstrip('.')}{'' if told else f'; got {given!r}'}.")
        elif kind == "missing":
            lines += [] if location in meant else [f"{where}this key is missing."]
        elif not (kind == "literal_error" and isinstance(given, Mapping)):
            text = mistake["msg"].replace("Input should be", "expected").replace("List should", "expected to")
            text = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping", text)
            expected.setdefault((where, repr(given)), []).append(text)
    for (where, given), texts in expected.items():  # the branches of a union make one line
        lines.append(
            f"{where}{texts[0]}{''.join(text.replace('expected', ' or', 1) for text in texts[1:])}; got {given}."
        )
    return list(dict.fromkeys(lines))


def _part_at(location: tuple) -> type[Part]:
    """Return the part of a profile that this location is in."""
    part: type[Part] = Profile
    for step in location:
        if step in part.model_fields:
            part = _part_in(part.model_fields[step].annotation) or part
    return part


def _part_in(annotation: Any) -> type[Part] | None:
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _part_in(inner))), None)
