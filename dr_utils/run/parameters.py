"""Parameters of single notebooks, from the command line: ``-p model resnet18 -p data photos/``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import papermill
import yaml

from dr_utils.checks import unknown

COMMON = ("profile", "out", "device")  # every notebook has these; each is an option of its own


def names_in(notebook: Path) -> list[str]:
    """Return the names of a notebook's parameters, without those that all notebooks share."""
    return [name for name in papermill.inspect_notebook(str(notebook)) if name not in COMMON]


def read_parameters(pairs: Sequence[Sequence[str]], notebooks: Sequence[Path]) -> dict[Path, dict[str, object]]:
    """Turn pairs of name and value into what each notebook is given.

    Values are read as YAML: numbers, true, null and [lists] are what they look like. A value that is a file or folder
    becomes its full path, because notebooks run in their own folder.

    Raises
    ------
    ValueError
        None of these notebooks has such a parameter, it has an option of its own, or it is given twice.
    """
    known = {notebook: names_in(notebook) for notebook in notebooks} if pairs else {}
    every = dict.fromkeys(name for names in known.values() for name in names)
    values: dict[str, object] = {}
    for name, text in pairs:
        if name in COMMON:
            raise ValueError(f"-p {name}: this has an option of its own, --{name}.")
        if name in values:
            raise ValueError(f"-p {name} is given twice; give it once.")
        if not every:
            raise ValueError(f"-p {name}: {', '.join(path.stem for path in notebooks)} takes no -p options.")
        if name not in every:
            raise unknown("parameter of these notebooks", name, every)
        values[name] = _value(text)
    return {notebook: {n: v for n, v in values.items() if n in names} for notebook, names in known.items()}


def _value(text: str) -> object:
    path = Path(text).expanduser()
    if path.exists():
        return str(path.resolve())
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def names_files(values: Iterable[object]) -> bool:
    """Return whether any value is the full path of something that exists."""
    paths = [Path(value) for value in values if isinstance(value, str)]
    return any(path.is_absolute() and path.exists() for path in paths)
