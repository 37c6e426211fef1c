"""Parameters for single notebooks, from the command line: ``-p model resnet18 -p data photos/``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from dr_utils.checks import unknown

# Every notebook has these, each with an option of its own.
COMMON = ("profile", "out", "device")


def names_in(notebook: Path) -> list[str]:
    """Names of a notebook's parameters, those that all notebooks share left out."""
    import papermill

    return [name for name in papermill.inspect_notebook(str(notebook)) if name not in COMMON]


def read_parameters(pairs: Sequence[Sequence[str]], notebooks: Sequence[Path]) -> dict[Path, dict[str, object]]:
    """Turn pairs of name and value into what each notebook is given.

    Values are read as YAML: numbers, true, null and [lists] are what they look like. What is a file or folder from
    where the command was given becomes its full path, since notebooks run in their own folder.

    Parameters
    ----------
    pairs : sequence of (str, str)
    notebooks : sequence of Path
        Those that are to run.

    Returns
    -------
    dict of Path to dict
        For each notebook that has any of them, its parameters.

    Raises
    ------
    ValueError
        None of these notebooks has such a parameter, it has an option of its own, or it is given twice.
    """
    known = {notebook: names_in(notebook) for notebook in notebooks} if pairs else {}
    found: dict[Path, dict[str, object]] = {}
    for i, (name, text) in enumerate(pairs):
        if name in COMMON:
            raise ValueError(f"-p {name}: this has an option of its own, --{name}.")
        if name in [earlier for earlier, _ in pairs[:i]]:
            raise ValueError(f"-p {name} is given twice; give it once.")
        having = [notebook for notebook, names in known.items() if name in names]
        if not having:
            every = dict.fromkeys(other for names in known.values() for other in names)
            raise unknown("parameter of these notebooks", name, every)
        for notebook in having:
            found.setdefault(notebook, {})[name] = _value(text)
    return found


def _value(text: str) -> object:
    path = Path(text).expanduser()
    if path.exists():
        return str(path.resolve())
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def names_files(parameters: Mapping[str, object]) -> bool:
    """Whether any value is the path of something that is there."""
    return any(isinstance(value, str) and Path(value).is_absolute() and Path(value).exists()
               for value in parameters.values())  # fmt: skip
