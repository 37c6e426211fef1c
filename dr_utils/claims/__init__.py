"""The paper's 29 claims against our tables: claim, published, measured, verdict, and why.

The rule that gives a verdict stands beside each claim, in one file per section; how noise enters, and how
many networks and tasks make one verdict, is in `stats`.
"""

from __future__ import annotations

import hashlib

import pandas as pd

from dr_utils import store
from dr_utils.checks import unknown
from dr_utils.claims import (  # noqa: F401  (importing a section registers its claims)
    architectures,
    fairness,
    prevalence,
    projections_shift,
    similarity,
    width_mrl,
)
from dr_utils.claims.against import against_paper, difference_of
from dr_utils.claims.registry import NOT_OURS, NOT_TESTED, ORDER, SCHEMA, Claim, missing, registered
from dr_utils.claims.show import show
from dr_utils.claims.view import View

__all__ = ["CLAIMS", "COLUMNS", "Claim", "NOT_TESTED", "against_paper", "evaluate", "judge", "show"]

# Part of the key of stored verdicts. Raise it when a rule, or a text of the table, changes.
VERSION = 1

COLUMNS = ("claim", "paper_figure", "published", "measured", "verdict", "why", "difference")

CLAIMS: dict[str, Claim] = {name: registered[name] for name in ORDER}


def judge(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the verdicts on all claims by these tables, from the store or by `evaluate`.

    They are stored under the content of the tables and `VERSION`, so that a run judges once and its notebooks read.

    Parameters
    ----------
    tables : dict of DataFrame
        As `Study.run` returns them or `read_tables` reads them.

    Returns
    -------
    DataFrame
        As `evaluate` returns it.

    Raises
    ------
    ValueError
        As `evaluate`.
    dr_utils.store.CacheError
        The store cannot be written.
    """
    content = {name: _content(table) for name, table in tables.items() if name in SCHEMA}
    key = store.key_of({"version": VERSION, "tables": content})
    found = store.read("claims", key)
    if found is None:
        claims = evaluate(tables)
        store.write("claims", key, about={"version": VERSION, "tables": content}, tables={"claims": claims})
        return claims
    return found.tables["claims"]


def _content(table: pd.DataFrame) -> str:
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    return hashlib.sha256(" ".join(table.columns).encode() + rows.tobytes()).hexdigest()


def evaluate(tables: dict[str, pd.DataFrame], only=None) -> pd.DataFrame:
    """Judge the paper's claims by the tables of one run.

    Parameters
    ----------
    tables : dict of DataFrame
        Tables by name as `Study.run` returns them: probes, per_class, cka, redundancy, fairness, networks, tasks. A
        missing or empty table makes the claims that need it "not_tested"; so do published
        numbers in place of measured ones, which are no evidence for what was published.
    only : str or sequence of str, optional
        Claim ids, such as ["P1", "P2"]; all 29 by default.

    Returns
    -------
    pandas.DataFrame
        One row per claim in the order of the paper's sections: claim, paper_figure, published, measured,
        verdict ("holds", "differs" or "not_tested"), why, and difference: how far ours are from the printed
        numbers that the claim is about, in standard deviations of ours; "" where none were printed.

    Raises
    ------
    ValueError
        Unknown claim, or a table that lacks columns or holds text where numbers belong.
    """
    wanted = list(CLAIMS) if only is None else [only] if isinstance(only, str) else list(only)
    for name in wanted:
        if name not in CLAIMS:
            raise unknown("claim", name, CLAIMS)
    view = View(tables)
    rows, against = [], against_paper(view)
    for entry in (CLAIMS[name] for name in CLAIMS if name in wanted):
        absent = [name for name in entry.needs if name not in view.tables]
        if view.from_paper:
            outcome = missing(NOT_OURS)
        else:
            outcome = missing(f"this run has no table {' and no '.join(absent)}") if absent else entry.test(view)
        difference = difference_of(entry.id, against, view)
        rows.append(
            (entry.id, entry.figure, entry.published, outcome.measured, outcome.verdict, outcome.why, difference)
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))
