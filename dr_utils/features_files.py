"""Ready-made features: a matrix and labels from .npy, .npz, .safetensors or .parquet files, or from memory."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path

import numpy as np

from dr_utils.checks import check_features, short
from dr_utils.datasets.task import draw
from dr_utils.features import Features
from dr_utils.store import AssetError

# What a matrix and its labels may be called in a file, whatever the case; "_train" or "_test" may follow.
MATRIX_NAMES = ("x", "features", "embeddings")
LABEL_NAMES = ("y", "labels", "label", "targets", "target")
SUFFIXES = (".npy", ".npz", ".safetensors", ".parquet")
_NAMED = 5


def open_features(
    features,
    labels=None,
    *,
    test_features=None,
    test_labels=None,
    test_share: float = 0.3,
    seed: int = 0,
) -> tuple[Features, Features, tuple[str, ...]]:
    """Open features that were computed elsewhere.

    Parameters
    ----------
    features : path or array of shape [n, D]
        A .npy, .npz, .safetensors or .parquet file, or the matrix itself. Arrays of .npz and .safetensors are found by
        name, in any case: "x", "features" or "embeddings", beside "y", "labels", "label", "targets" or "target";
        where they come with "_train" and "_test", both parts are read. In .parquet the features are a column of
        lists under one of these names, or else all columns of numbers but the labels'.
    labels : path or array of shape [n], optional
        Class indices, whole numbers or strings; a file likewise. By default those beside the features.
    test_features, test_labels : optional
        Likewise, for the test part.
    test_share : float
        Share of the rows that become test where there is no test part, in proportion to the classes.
    seed : int
        Fixes that split.

    Returns
    -------
    train, test : Features
        float32 features, labels 0 .. C-1; the key is a hash of both.
    classes : tuple of C str
        What the labels were, sorted; label i means classes[i].

    Raises
    ------
    ValueError
        No matrix, rows that do not match the labels, NaN, labels that are no classes, one class only, a class that one
        part lacks.
    dr_utils.store.AssetError
        A file that is missing, damaged, of another kind, or that only a pickle could load.
    """
    if not isinstance(test_share, Real) or not 0 < test_share < 1:
        raise ValueError(f"test_share must lie between 0 and 1; got {test_share!r}.")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"seed must be an integer, not negative; got {seed!r}.")
    arrays = _arrays(features)
    in_file = _find(arrays, MATRIX_NAMES, ["_test"]) is not None
    if test_features is None and test_labels is not None and not in_file:
        raise ValueError("test_labels were given without test_features; give both, or neither to have a split made.")
    x, y = _part(arrays, labels, "train", _called(features))
    if test_features is not None:
        x_test, y_test = _part(_arrays(test_features), test_labels, "test", _called(test_features))
    elif in_file:
        x_test, y_test = _part(arrays, test_labels, "test", _called(features))
    else:
        classes, (y,) = _encode(y)
        if rare := [classes[c] for c in np.flatnonzero(np.bincount(y) < 2)]:
            raise ValueError(f"{_some(rare)} with fewer than 2 rows; a split needs one for train, one for test.")
        n_test = min(max(len(classes), round(test_share * len(y))), len(y) - len(classes))
        test = draw(y, n_test, int(seed), "test")
        train = np.setdiff1d(np.arange(len(y)), test)
        if lacking := sorted(set(y) - set(y[train])):
            raise ValueError(
                f"test_share={test_share} leaves no train row of {_some([classes[c] for c in lacking])}; take less."
            )
        # Rows may be sorted by class, and some of what is measured looks at the first so many.
        train = np.random.default_rng(int(seed)).permutation(train)
        return _features(x[train], y[train], "train", features), _features(x[test], y[test], "test", features), classes
    classes, (y, y_test) = _encode(y, y_test)
    if x.shape[1] != x_test.shape[1]:
        raise ValueError(f"train and test features differ in width: {x.shape[1]} and {x_test.shape[1]}.")
    source = features if test_features is None else test_features
    return _features(x, y, "train", features), _features(x_test, y_test, "test", source), classes


def _features(x: np.ndarray, y: np.ndarray, split: str, source) -> Features:
    check_features(x, name=f"{split} features", allow_constant=split == "test")
    content = hashlib.sha256(x.tobytes() + y.tobytes()).hexdigest()
    return Features(x, y, content[:32], {"source": _called(source), "split": split, "content": content})


def _called(source) -> str:
    return Path(source).name if isinstance(source, (str, Path)) else "an array"


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f"{len(names)} {'class' if len(names) == 1 else 'classes'} ({listed})"


# ---------------------------------------------------------------- what is what


def _find(arrays: Mapping[str, np.ndarray | None], names: Sequence[str], endings: Sequence[str]) -> str | None:
    """Name of the array that has one of the names and endings, the first ending first."""
    wanted = [name + ending for ending in endings for name in names]
    by_lower = {key.lower(): key for key in arrays}
    return next((by_lower[name] for name in wanted if name in by_lower), None)


def _part(arrays: Mapping[str, np.ndarray | None], labels, part: str, source: str) -> tuple[np.ndarray, np.ndarray]:
    """The matrix and the raw labels of a part, which fit each other."""
    endings = [f"_{part}", ""]
    if "" in arrays:
        x = arrays[""]
    elif key := _find(arrays, MATRIX_NAMES, endings):
        x = arrays[key]
    else:
        raise ValueError(
            f"{source} has no matrix of features: expected one of {_expected(MATRIX_NAMES, part, arrays)}."
        )
    beside = arrays if labels is None else _arrays(labels)
    if labels is not None and "" in beside:
        y = beside[""]
    elif key := _find(beside, LABEL_NAMES, endings):
        y = beside[key]
    else:
        raise ValueError(
            f"no {part} labels: {source if labels is None else _called(labels)} has none of "
            f"{_expected(LABEL_NAMES, part, beside)}; pass {'' if part == 'train' else 'test_'}labels=..."
        )
    x, y = _as_matrix(x, f"{part} features"), _as_labels(y, f"{part} labels")
    if len(x) != len(y):
        raise ValueError(
            f"{part} features have {len(x)} rows, but there are {len(y)} {part} labels; give one for each row."
        )
    return x, y


def _expected(names: Sequence[str], part: str, arrays: Mapping) -> str:
    found = ", ".join(filter(None, arrays)) or "no named arrays"
    return f"{', '.join(names)}, with or without _{part}; found {found}"


def _as_matrix(x: np.ndarray, what: str) -> np.ndarray:
    if x.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be numbers; got type {x.dtype}.")
    if x.ndim > 2:
        raise ValueError(
            f"{what} have shape {x.shape}, expected [n, D]; pool them to one vector per image first, such as "
            f"x.mean(axis={tuple(range(2, x.ndim)) if x.ndim > 3 else 1})."
        )
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
        x = np.ascontiguousarray(x, dtype=np.float32)
    check_features(x, name=what, allow_constant=True)
    return x


def _as_labels(y: np.ndarray, what: str) -> np.ndarray:
    """Labels as int64 or strings."""
    if y.ndim != 1:
        raise ValueError(f"{what} must be one class per row, [n]; got shape {y.shape}.")
    if y.dtype.kind in "iu":
        return y.astype(np.int64)
    if y.dtype.kind in "bUST":
        return y.astype(str)
    if y.dtype.kind == "O" and all(isinstance(value, str) for value in y):
        return y.astype(str)
    if y.dtype.kind == "O" and all(isinstance(value, Integral) for value in y):
        return y.astype(np.int64)
    kinds = sorted({type(value).__name__ for value in y}) if y.dtype.kind == "O" else [str(y.dtype)]
    raise ValueError(
        f"{what} must be whole numbers or strings, one for every row; got {', '.join(kinds)}: "
        "name the classes, or write class indices as y.astype(int)."
    )


def _encode(*raw: np.ndarray) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Class names, and the labels of each part as indices of them."""
    if len({y.dtype.kind for y in raw}) > 1:
        raise ValueError("train and test labels differ in kind: one has numbers, the other strings; write both alike.")
    classes = np.unique(raw[0])
    if len(classes) < 2:
        raise ValueError(f"there is only one class ({classes[0]}); a probe needs at least two.")
    for y in raw[1:]:
        if absent := [str(name) for name in np.setdiff1d(y, classes)]:
            raise ValueError(f"{_some(absent)} in test but not in train; a probe cannot learn them: drop those rows.")
        if absent := [str(name) for name in np.setdiff1d(classes, y)]:
            raise ValueError(
                f"{_some(absent)} in train but not in test, where probes are measured class by class: add test rows, "
                "or drop those of train."
            )
    return tuple(str(name) for name in classes), [np.searchsorted(classes, y).astype(np.int64) for y in raw]


# ---------------------------------------------------------------- files


def _arrays(given) -> Mapping[str, np.ndarray | None]:
    """Arrays by name, or one without a name; None for those of other names than `open_features` looks for."""
    if not isinstance(given, (str, Path)):
        given = given.detach().cpu() if hasattr(given, "detach") else given  # a tensor
        return {"": np.asarray(given)}
    path = Path(given).expanduser()
    if not path.is_file():
        raise AssetError(f"{path}: no such file; give a {', '.join(SUFFIXES)} file, or the array itself.")
    if path.suffix not in _READERS:
        raise AssetError(
            f"{path.name}: features are read from {', '.join(SUFFIXES)} files; got {path.suffix or path.name!r}."
        )
    try:
        return _READERS[path.suffix](path)
    except Exception as error:  # what a damaged file makes its reader raise is anybody's guess
        if "pickle" in str(error):
            raise AssetError(
                f"{path.name} is refused: it holds Python objects, which only a pickle can load, or is damaged; save "
                "plain numbers, x.astype(np.float32), and labels as whole numbers or y.astype(str)."
            ) from error
        raise AssetError(
            f"{path.name} cannot be read as {path.suffix} ({type(error).__name__}: {short(error)}); save it again."
        ) from error


def _is_known(name: str) -> bool:
    return name.lower().removesuffix("_train").removesuffix("_test") in MATRIX_NAMES + LABEL_NAMES


def _read_npy(path: Path) -> dict[str, np.ndarray]:
    return {"": np.load(path, allow_pickle=False)}


def _read_npz(path: Path) -> dict[str, np.ndarray | None]:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] if _is_known(name) else None for name in file.files}


def _read_safetensors(path: Path) -> dict[str, np.ndarray | None]:
    from safetensors import safe_open

    # Through torch, which knows bfloat16.
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) if _is_known(name) else None for name in file.keys()}  # noqa: SIM118
    return {
        name: None if tensor is None else (tensor.float() if tensor.is_floating_point() else tensor).numpy()
        for name, tensor in tensors.items()
    }


def _read_parquet(path: Path) -> dict[str, np.ndarray | None]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    arrays: dict[str, np.ndarray | None] = dict.fromkeys(table.column_names)
    index = (table.schema.pandas_metadata or {}).get("index_columns", [])  # pandas writes its row names as columns
    columns = [field for field in table.schema if field.name not in index]
    numbers, lists = [], False
    for field in columns:
        column, kind = table[field.name], field.type
        if field.name.lower() in LABEL_NAMES:
            arrays[field.name] = np.array(column.to_pylist() or [], dtype=object)
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            numbers.append(column.to_numpy())
        elif field.name.lower() in MATRIX_NAMES and isinstance(
            kind, (pa.ListType, pa.LargeListType, pa.FixedSizeListType)
        ):
            rows, lists = column.combine_chunks(), True
            if column.null_count or len(pc.unique(pc.list_value_length(rows))) > 1:
                raise ValueError(f"the lists of column {field.name} differ in length")
            arrays[field.name] = pc.list_flatten(rows).to_numpy(zero_copy_only=False).reshape(len(column), -1)
    if numbers and not lists:
        arrays = {name: array for name, array in arrays.items() if name.lower() not in MATRIX_NAMES}
        arrays["x"] = np.stack(numbers, axis=1)
    return arrays


_READERS = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors, ".parquet": _read_parquet}
