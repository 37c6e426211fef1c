"""Where a user's own pictures are: folders of classes, and Hugging Face datasets saved on disk. Nothing is decoded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dr_utils.checks import short
from dr_utils.datasets.folders import is_hidden
from dr_utils.store import AssetError

# What a split may be called, in the order of preference.
TRAIN, TEST = ("train",), ("test", "val", "validation", "valid")
LAYOUTS = "PATH/<class>/* to be split, or PATH/train/<class>/* and PATH/test/<class>/*"
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
_NAMED = 5


@dataclass(frozen=True)
class Listing:
    """The pictures of one split.

    Attributes
    ----------
    split : str
        How the source calls it; empty if it is the only one, and to be split.
    names, classes : list of n str
        What messages call each picture, and its class.
    read : callable
        From a picture's number to its file, or the content of it.
    """

    split: str
    names: list[str]
    classes: list[str]
    read: Callable[[int], Path | bytes]


def list_pictures(root: Path) -> list[Listing]:
    """List train and test, or one listing to be split.

    Raises
    ------
    ValueError
        Another layout than expected; the message says which, and what was found.
    AssetError
        No such folder, or a damaged dataset.
    """
    if not root.is_dir():
        raise AssetError(f"{root}: no such folder; give a folder of pictures ({LAYOUTS}) or a saved dataset.")
    list_split = _list_folder
    if (root / "dataset_dict.json").is_file():
        list_split, splits = _list_dataset, _read_json(root / "dataset_dict.json").get("splits", [])
    elif (root / "state.json").is_file() and (root / "dataset_info.json").is_file():
        return [_list_dataset(root, "")]
    else:  # a class may be called "train" too: a split is a folder of folders
        splits = [name for name in TRAIN + TEST if (root / name).is_dir() and _folders(root / name)]
        if not splits:
            return [_list_folder(root, "")]
    if len(splits) == 1:
        return [list_split(root / splits[0], "")]
    chosen = [next((name for name in wanted if name in splits), None) for wanted in (TRAIN, TEST)]
    if None in chosen:
        raise ValueError(
            f"{root} has the splits {', '.join(splits) or '(none)'}; expected train and one of {', '.join(TEST)}, "
            "or a single one to be split: rename them."
        )
    return [list_split(root / name, name) for name in chosen]


def some(names: Iterable[str]) -> str:
    """Say how many classes, and name the first."""
    names = list(names)
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({listed})"


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name))


def _list_folder(folder: Path, split: str) -> Listing:
    """List a folder of class folders; pictures may be in folders inside them."""
    files = {
        inside.name: sorted(
            path
            for path in inside.rglob("*")
            if path.is_file() and not any(map(is_hidden, path.relative_to(inside).parts))
        )
        for inside in _folders(folder)
    }
    if not files:
        loose = sorted(path.name for path in folder.iterdir() if not is_hidden(path.name))
        held = f"{len(loose)} files ({', '.join(loose[:3])}{', ...' if len(loose) > 3 else ''})" if loose else "nothing"
        raise ValueError(f"{folder} has no class folders but {held}; expected {LAYOUTS}.")
    if empty := [name for name, inside in files.items() if not inside]:
        raise ValueError(f"{folder}: {some(empty)} of {len(files)} have no files; fill or remove the folders.")
    paths = [path for inside in files.values() for path in inside]
    classes = [name for name, inside in files.items() for _ in inside]
    return Listing(split, [str(path.relative_to(folder)) for path in paths], classes, paths.__getitem__)


def _read_json(path: Path) -> dict:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise AssetError(f"{path} is missing or damaged ({short(error)}); save the dataset again.") from error


def _list_dataset(folder: Path, split: str) -> Listing:
    """List what `datasets.Dataset.save_to_disk` wrote: Arrow streams, and what their columns mean in JSON."""
    import pyarrow as pa

    features = _read_json(folder / "dataset_info.json").get("features") or {}
    try:
        files = [folder / entry["filename"] for entry in _read_json(folder / "state.json")["_data_files"]]
        table = pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in files])
        image, label = _columns(features, folder)
        pictures, labels = table[image], table[label].to_pylist()
    except (OSError, KeyError, TypeError, pa.ArrowException) as error:
        raise AssetError(f"the dataset in {folder} is damaged ({short(error)}); save it again.") from error
    names = features[label].get("names") if features[label].get("_type") == "ClassLabel" else None
    missing = sum(value is None or (names is not None and not 0 <= value < len(names)) for value in labels)
    if missing:
        raise ValueError(
            f"{folder}: {missing} of {len(labels)} rows have no {label}; remove them: dataset.filter(...)."
        )

    def read(i: int) -> Path | bytes:
        entry = pictures[i].as_py() or {}
        content, path = entry.get("bytes"), entry.get("path")
        return Path(path) if content is None and path else content or b""

    classes = [str(value) if names is None else names[value] for value in labels]
    return Listing(split, [f"row {i}" for i in range(len(labels))], classes, read)


def _columns(features: dict, folder: Path) -> tuple[str, str]:
    """Return the names of the column of pictures and of the one of labels."""
    kinds = {name: kind if isinstance(kind, dict) else {} for name, kind in features.items()}
    images, labels = ([n for n, kind in kinds.items() if kind.get("_type") == t] for t in ("Image", "ClassLabel"))
    if not labels:
        whole = ("string", "large_string", "bool", "int", "uint")
        labels = [n for n in LABEL_COLUMNS if str(kinds.get(n, {}).get("dtype")).startswith(whole)]
    if "label" in labels:
        labels = ["label"]
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    found = ", ".join(f"{name} ({kind.get('dtype') or kind.get('_type', 'nested')})" for name, kind in kinds.items())
    raise ValueError(
        f"the dataset in {folder} has {len(images)} columns of type Image and {len(labels)} of labels; expected one of "
        f"each, labels as ClassLabel or as whole numbers or strings named {', '.join(LABEL_COLUMNS)}; "
        f"columns: {found or 'none'}. Cast or remove some: dataset.cast_column(...), dataset.remove_columns(...)."
    )
