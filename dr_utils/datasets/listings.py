"""Pictures that lie somewhere on disk, not yet decoded: folders of classes, and Hugging Face datasets saved there."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dr_utils.checks import short
from dr_utils.store import AssetError

# What a split may be called, in the order of preference.
TRAIN, TEST = ("train",), ("test", "val", "validation", "valid")
LAYOUTS = "PATH/<class>/* to be split, or PATH/train/<class>/* and PATH/test/<class>/*"
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
_HIDDEN = ("thumbs.db", "desktop.ini", "__macosx")
_NAMED = 5


@dataclass(frozen=True)
class Listing:
    """The pictures of one split.

    Attributes
    ----------
    split : str
        How the source calls it; empty if it is the only one, and to be split.
    names : list of n str
        What messages call the pictures.
    classes : list of n str
        Class name of each.
    read : callable
        Gives the bytes of a picture by its number.
    """

    split: str
    names: list[str]
    classes: list[str]
    read: Callable[[int], bytes]


def list_pictures(root: Path) -> list[Listing]:
    """List what there is: train and test, or one listing to be split.

    Raises
    ------
    ValueError
        Another layout than expected; the message says which, and what was found.
    AssetError
        No such folder, or a damaged dataset.
    """
    if not root.is_dir():
        raise AssetError(f"{root}: no such folder; give a folder of pictures ({LAYOUTS}) or a saved dataset.")
    if (root / "dataset_dict.json").is_file():
        names = _read_json(root / "dataset_dict.json").get("splits", [])
        return _named(_list_dataset, root, names)
    if (root / "state.json").is_file() and (root / "dataset_info.json").is_file():
        return [_list_dataset(root, "")]
    # A class may be called "train" too: a split is a folder of folders.
    splits = [name for name in TRAIN + TEST if (root / name).is_dir() and _folders(root / name)]
    if splits:
        return _named(_list_folder, root, splits)
    return [_list_folder(root, "")]


def _named(list_split: Callable[[Path, str], Listing], root: Path, names: list[str]) -> list[Listing]:
    if len(names) == 1:
        return [list_split(root / names[0], "")]
    train, test = (next((n for n in wanted if n in names), None) for wanted in (TRAIN, TEST))
    if train is None or test is None:
        raise ValueError(
            f"{root} has the splits {', '.join(names) or '(none)'}; expected train and one of {', '.join(TEST)}, "
            "or a single one to be split: rename them."
        )
    return [list_split(root / name, name) for name in (train, test)]


# ---------------------------------------------------------------- folders


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _HIDDEN


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not _is_hidden(path))


def _list_folder(folder: Path, split: str) -> Listing:
    """List a folder of class folders; pictures may lie deeper in them."""
    files = {
        inside.name: sorted(
            path
            for path in inside.rglob("*")
            if path.is_file() and not any(_is_hidden(part) for part in (path, *path.relative_to(inside).parents))
        )
        for inside in _folders(folder)
    }
    if not files:
        loose = sorted(path.name for path in folder.iterdir() if not _is_hidden(path))
        held = f"{len(loose)} files ({', '.join(loose[:3])}{', ...' if len(loose) > 3 else ''})" if loose else "nothing"
        raise ValueError(f"{folder} has no class folders but {held}; expected {LAYOUTS}.")
    if empty := [name for name, inside in files.items() if not inside]:
        listed = ", ".join(empty[:_NAMED]) + (", ..." if len(empty) > _NAMED else "")
        raise ValueError(
            f"{folder}: {len(empty)} of {len(files)} class folders are empty ({listed}); fill or remove them."
        )
    paths = [path for inside in files.values() for path in inside]
    return Listing(
        split,
        [str(path.relative_to(folder)) for path in paths],
        [name for name, inside in files.items() for _ in inside],
        lambda i: paths[i].read_bytes(),
    )


# ---------------------------------------------------------------- Hugging Face datasets


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
        tables = [pa.ipc.open_stream(pa.memory_map(str(path))).read_all() for path in files]
        table = pa.concat_tables(tables)
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

    def read(i: int) -> bytes:
        entry = pictures[i].as_py() or {}
        if entry.get("bytes") is not None:
            return entry["bytes"]
        return Path(entry["path"]).read_bytes()

    classes = [str(value) if names is None else names[value] for value in labels]
    return Listing(split, [f"row {i}" for i in range(len(labels))], classes, read)


def _columns(features: dict, folder: Path) -> tuple[str, str]:
    """Names of the column of pictures and of the one of labels."""
    kinds = {name: kind if isinstance(kind, dict) else {} for name, kind in features.items()}
    images = [name for name, kind in kinds.items() if kind.get("_type") == "Image"]
    labels = [name for name, kind in kinds.items() if kind.get("_type") == "ClassLabel"]
    if not labels:
        fits = ("string", "large_string", "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")
        labels = [name for name in kinds if name in LABEL_COLUMNS and kinds[name].get("dtype") in fits]
    labels = ["label"] if "label" in labels else labels
    if len(images) == 1 and len(labels) == 1:
        return images[0], labels[0]
    found = ", ".join(f"{name} ({kind.get('dtype') or kind.get('_type', 'nested')})" for name, kind in kinds.items())
    raise ValueError(
        f"the dataset in {folder} has {len(images)} columns of type Image and {len(labels)} of labels; expected one of "
        f"each, labels as ClassLabel or as whole numbers or strings named {', '.join(LABEL_COLUMNS)}; "
        f"columns: {found or 'none'}. Cast or remove some: dataset.cast_column(...), dataset.remove_columns(...)."
    )
