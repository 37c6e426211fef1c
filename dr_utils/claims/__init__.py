"""The paper's claims against our tables: claim, published, measured, verdict, and why.

The rule that gives a verdict stands beside each claim, a file per section of the paper; how noise enters, and how many
networks and tasks make one verdict, is in `estimates`.
"""

from __future__ import annotations

import hashlib

import pandas as pd

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.claims.against import against_paper, difference_of
from dr_utils.claims.estimates import no_data
from dr_utils.claims.registry import CLAIMS
from dr_utils.claims.show import show
from dr_utils.claims.view import SCHEMA, View

__all__ = ["CLAIMS", "COLUMNS", "against_paper", "evaluate", "judge", "show"]

# Part of the key of stored verdicts. Raise it when a rule, or a text of the table, changes.
VERSION = 4
COLUMNS = ("claim", "paper_figure", "published", "measured", "verdict", "why", "difference")
NOT_OURS = "published numbers: not a measurement of this suite"


def judge(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the verdicts on all claims by these tables, from the store or by `evaluate`.

    They are stored under the content of the tables and `VERSION`, so that a run judges once and its notebooks read.
    Raises as `evaluate`, and `dr_utils.store.CacheError` where the store cannot be written.
    """
    content = {name: _content(table) for name, table in tables.items() if name in SCHEMA}
    key = store.key_of({"version": VERSION, "tables": content})
    if found := store.read("claims", key):
        return found.tables["claims"]
    claims = evaluate(tables)
    store.write("claims", key, about={"version": VERSION, "tables": content}, tables={"claims": claims})
    return claims


def _content(table: pd.DataFrame) -> str:
    found = hashlib.sha256(" ".join(table.columns).encode())
    if "quantity" in table:  # "draws", a column of arrays
        found.update(b"".join(draws.tobytes() for draws in table["draws"]))
        table = table.drop(columns="draws")
    found.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return found.hexdigest()


def evaluate(tables: dict[str, pd.DataFrame], only=None) -> pd.DataFrame:
    """Judge the paper's claims by the tables of one run.

    Parameters
    ----------
    tables : dict of DataFrame
        Tables by name as `Study.run` returns them. For a claim whose tables are missing or empty there are "no data";
        nor are published numbers, in place of measured ones, evidence for what was published.
    only : str or sequence of str, optional
        Claim ids, such as ["P1", "P2"]; all by default.

    Returns
    -------
    pandas.DataFrame
        One row per claim in the order of the paper: claim, paper_figure, published, measured, verdict ("holds",
        "differs", "open" or "no data"), why, and difference: how far ours are from the printed numbers that the claim
        is about, in standard deviations of ours; "" where none were printed.

    Raises
    ------
    ValueError
        Unknown claim, or a table that lacks columns or holds text where numbers belong.
    """
    wanted = list(CLAIMS) if only is None else [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in CLAIMS:
            raise unknown("claim", name, CLAIMS)
    view, rows = View(tables), []
    against = against_paper(view)
    for claim in (CLAIMS[name] for name in CLAIMS if name in wanted):
        if "networks" not in view.tables:
            outcome = no_data("needs the table networks of a run")
        else:
            outcome = no_data(NOT_OURS) if view.from_paper else claim.test(view)
        difference = difference_of(claim.id, against, view)
        found = outcome.measured, outcome.verdict, outcome.why, difference
        rows.append((claim.id, claim.figure, claim.published, *found))
    return pd.DataFrame(rows, columns=list(COLUMNS))
