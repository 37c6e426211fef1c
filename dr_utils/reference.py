"""The numbers that the paper and its public code published, as a table."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
import pandas as pd

from dr_utils.checks import unknown


def published(**filters) -> pd.DataFrame:
    """Published numbers, optionally only those that match.

    Parameters
    ----------
    **filters
        Column name = value, or a list of values. Columns: source, figure_or_table, model, dataset, quantity,
        delta_or_fraction, value, quote as in the file, and three parsed ones: ``fraction`` and ``delta``
        (from delta_or_fraction, NaN where it is the other) and ``number`` (value as a float, NaN where it is
        text, such as ">0.90"). None matches an empty field.

    Returns
    -------
    pandas.DataFrame
        One row per published number, in the file's order; empty where nothing matches, since most networks
        and tasks were never published.

    Raises
    ------
    ValueError
        Unknown column.

    Examples
    --------
    >>> curve = published(model="resnet50|nonrob|pretrain=imagenet|mode=random", dataset="cifar10",
    ...                   quantity="probe_test_accuracy_mean")
    """
    table = _table()
    keep = pd.Series(True, index=table.index)
    for column, wanted in filters.items():
        if column not in table.columns:
            raise unknown("column", column, table.columns)
        wanted = wanted if isinstance(wanted, (list, tuple, set, np.ndarray, pd.Series)) else [wanted]
        keep &= pd.concat([_matches(table[column], value) for value in wanted], axis=1).any(axis=1)
    return table[keep].reset_index(drop=True)


def _matches(column: pd.Series, value) -> pd.Series:
    if value is None:
        return column.isna()
    if pd.api.types.is_float_dtype(column):
        return pd.Series(np.isclose(column, value, rtol=1e-9, atol=0), index=column.index)
    return column == value


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    with resources.files("dr_utils.data").joinpath("reference_values.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=str)
    for name in ("fraction", "delta"):
        text = table["delta_or_fraction"].str.extract(rf"^{name}=([0-9.eE+-]+)$", expand=False)
        table[name] = text.astype(float)
    table["number"] = pd.to_numeric(table["value"], errors="coerce")
    return table
