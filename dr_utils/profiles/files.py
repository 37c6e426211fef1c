"""Profiles as YAML files: found by name or path, read, and refused with one line per mistake."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from dr_utils.checks import unknown
from dr_utils.profiles.profile import CHECKOUT, Profile

PROFILES = CHECKOUT / "notebooks" / "profiles"
# The notebooks that published numbers suffice for, and the shipped profile that holds these.
REFERENCE, REFERENCE_NOTEBOOKS = "reference", ("01", "03")


class ProfileError(ValueError):
    """A profile that cannot be used; the message has one line per mistake."""


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
