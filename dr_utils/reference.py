"""The numbers that the paper and its public code published, as a table."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

import numpy as np
import pandas as pd

from dr_utils.checks import unknown

# The source in networks.csv where the tables hold the paper's own numbers (profile key reference).
SOURCE = "published numbers (reference_values.csv)"


def published(**filters) -> pd.DataFrame:
    """Return published numbers, all of them or those that match.

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
    >>> published(model="resnet50|nonrob|pretrain=imagenet|mode=random", dataset="cifar10",
    ...           quantity="probe_test_accuracy_mean", fraction=[0.1, 0.2])["number"].round(3).tolist()
    [0.779, 0.832]
    """
    table = _table()
    keep = np.ones(len(table), dtype=bool)
    for name, wanted in filters.items():
        if name not in table.columns:
            raise unknown("column", name, table.columns)
        column = table[name]
        wanted = list(wanted) if isinstance(wanted, (list, tuple, set, np.ndarray, pd.Series)) else [wanted]
        if pd.api.types.is_float_dtype(column):
            keep &= np.isclose(column.to_numpy()[:, None], wanted, rtol=1e-9, atol=0).any(axis=1)
        else:
            keep &= (column.isin(wanted) | (column.isna() if None in wanted else False)).to_numpy()
    return table[keep].reset_index(drop=True)


def read(name: str) -> pd.DataFrame:
    """Read a table of the folder "data" as it is, an empty field as an empty name."""
    with resources.files("dr_utils.data").joinpath(name).open(encoding="utf-8") as file:
        return pd.read_csv(file, keep_default_na=False, na_values={"side": [""], "top1": [""]})


@lru_cache(maxsize=1)
def _table() -> pd.DataFrame:
    with resources.files("dr_utils.data").joinpath("reference_values.csv").open(encoding="utf-8") as file:
        table = pd.read_csv(file, dtype=str)
    for name in ("fraction", "delta"):
        table[name] = table["delta_or_fraction"].str.extract(rf"^{name}=([0-9.eE+-]+)$", expand=False).astype(float)
    table["number"] = pd.to_numeric(table["value"], errors="coerce")
    return table
