"""A notebook's rows of the claims table, laid out for reading."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dr_utils.checks import unknown
from dr_utils.claims.estimates import DIFFERS, HOLDS, NO_DATA, OPEN
from dr_utils.claims.registry import CLAIMS

# Colours of the colour-blind palette, light enough for black text; the word stands beside them.
_SHADES = {HOLDS: "#cfe8dd", DIFFERS: "#f9d9c0", OPEN: "#e8e8e8", NO_DATA: "#ffffff"}
CAPTION = (
    "Thresholds are fixed in advance. 'Clearly' means by the 95 % interval over seeds and test images. A claim about many "
    "networks and tasks holds if it is clear in more than half of them and clearly wrong in none. 'open': measured, "
    "but the difference is within noise."
)
_TITLES = {"statement": "the paper says", "paper_figure": "where", "rule": 'the rule for "holds"', "measured": "ours",
            "difference": "ours less printed"}  # fmt: skip


def show(table: pd.DataFrame, only: Sequence[str]):
    """Return some claims (ids, in the order wanted) of the table of `evaluate` as a Styler; one it lacks: ValueError.

    The columns: the paper's statement, our rule, the published number, ours, the verdict, why.
    """
    rows = table.set_index("claim")
    for name in only:
        if name not in rows.index:
            raise unknown("claim", name, rows.index)
    rows = rows.loc[list(only)]
    if "difference" in rows and not rows["difference"].fillna("").any():
        rows = rows.drop(columns="difference")  # nothing was printed that these could be compared with
    rows.insert(0, "statement", [CLAIMS[name].statement for name in rows.index])
    rows.insert(3, "rule", [CLAIMS[name].rule for name in rows.index])
    return (
        rows.rename(columns=_TITLES)
        .style.set_caption(CAPTION)
        .set_properties(**{"text-align": "left", "vertical-align": "top", "white-space": "normal"})
        .map(lambda verdict: f"background-color: {_SHADES[verdict]}; color: black", subset=["verdict"])
        .set_table_styles([{"selector": "th", "props": "text-align: left; vertical-align: top"}])
    )
