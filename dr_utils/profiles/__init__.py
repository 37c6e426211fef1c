"""Profiles: the YAML files that decide what a run covers. Nothing else does."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import ValidationError

from dr_utils.checks import unknown
from dr_utils.profiles.profile import CHECKOUT, CKA, CellSpec, Probe, Profile

__all__ = ["CHECKOUT", "CKA", "CellSpec", "Probe", "Profile", "available", "find_profile", "load_profile"]

PROFILES = CHECKOUT / "notebooks" / "profiles"
SHIPPED = CHECKOUT / "outputs" / "full"  # the results that come with the suite, but for the executed notebooks
# The notebooks that published numbers suffice for.
REFERENCE_NOTEBOOKS = ("01", "03")


def available() -> list[str]:
    """Return the names of the shipped profiles."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def find_profile(name_or_path: str | Path) -> Path:
    """Return the file of a profile, given by name ("mini") or as a path to a YAML file; ValueError if there is none."""
    path = Path(name_or_path).expanduser()
    if path.suffix not in (".yaml", ".yml"):
        path = PROFILES / f"{name_or_path}.yaml"
    if not path.is_file():
        raise unknown("profile", name_or_path, available(), hint="You can also give a path to a YAML file.")
    return path.resolve()


def load_profile(name_or_path: str | Path | Profile) -> Profile:
    """Read and check a profile, given as for `find_profile` or already read.

    ValueError has one line per mistake: the key's dotted path, what is expected, and what was given.

    >>> load_profile("mini").seeds
    [1, 2, 3, 4, 5]
    """
    if isinstance(name_or_path, Profile):
        return name_or_path
    path = find_profile(name_or_path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"profile {path.name} is not YAML: {' '.join(str(error).split())}.") from None
    # Two profiles must not share a folder of results, so a copied file cannot keep the old name.
    if isinstance(content, dict) and content.setdefault("name", path.stem) != path.stem:
        raise ValueError(f"profile {path.name}: name: expected {path.stem!r}, the file's own; got {content['name']!r}.")
    try:
        return Profile.model_validate(content)
    except ValidationError as error:
        raise ValueError("\n".join(f"profile {path.name}: {line}" for line in mistakes(error))) from None


def mistakes(error: ValidationError) -> list[str]:
    """Say each mistake in one line."""
    lines = []
    for mistake in error.errors():
        where = ".".join(map(str, mistake["loc"]))
        text = f"{mistake['msg'].replace('Input should be', 'expected')}; got {mistake['input']!r}."
        if mistake["type"] == "missing":
            text = "this key is missing."
        elif mistake["type"] == "value_error":  # raised by a check of ours, which says what was given
            text = str(mistake["ctx"]["error"])
        lines += [f"{where}: {line}" if where else line for line in text.splitlines()]
    return lines
