"""The paper's claims against our tables: claim, published, measured, verdict, and why.

claims.yaml holds texts and thresholds, a file per section of the paper the rules, `estimates` how noise enters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from dr_utils import store
from dr_utils.claims import section2, section3, section4
from dr_utils.claims.against import PUBLISHED, against_paper, difference_of
from dr_utils.claims.estimates import DIFFERS, FEWEST_SEEDS, HOLDS, NO_DATA, NOTHING, OPEN, Outcome, decided
from dr_utils.claims.view import SCHEMA, View

__all__ = ["CLAIMS", "COLUMNS", "against_paper", "evaluate", "judge", "show"]

# Part of the key of stored verdicts. Raise it when a rule, or a text of the table, changes.
VERSION = 10
COLUMNS = ("claim", "paper_figure", "published", "measured", "verdict", "why", "difference")
NOT_OURS = "published numbers: not a measurement of this suite"
# Colours of the colour-blind palette, light enough for black text; the word stands beside them.
_SHADES = {HOLDS: "#cfe8dd", DIFFERS: "#f9d9c0", OPEN: "#e8e8e8", NO_DATA: "#ffffff"}
_HEAD = {HOLDS: "What holds", DIFFERS: "What differs", OPEN: "What stays open", NO_DATA: "Without data"}
_CAPTION = (
    "'Clearly' means by the 95 % interval over seeds and test images. A claim about many networks and tasks holds if "
    "it is clear in more than half of them and clearly wrong in none."
)
_TITLES = {"statement": "the paper says", "paper_figure": "where", "published": "published",
           "rule": 'the rule for "holds"', "measured": "ours", "verdict": "verdict", "why": "why",
           "difference": "ours less printed"}  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """One claim of the paper: what claims.yaml says of it, and explains there, and its rule in code, `test`."""

    test: Callable[..., Outcome]
    figure: str
    statement: str
    published: str
    rule: str
    needs: str
    parameters: dict
    note: str = ""
    printed: str = ""


def _claims() -> dict[str, Claim]:
    rules, found = vars(section2) | vars(section3) | vars(section4), {}
    for name, texts in yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8")).items():
        parameters = texts.pop("parameters", {})
        braces = {"FEWEST_SEEDS": FEWEST_SEEDS, "estimator": "{estimator}", **parameters}
        texts = {key: text.format_map(braces) for key, text in texts.items()}
        found[name] = Claim(rules[name.lower()], statement=texts.pop("claim"), parameters=parameters, **texts)
    return found


CLAIMS = _claims()


def judge(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the verdicts on all claims by these tables, from the store or by `evaluate`.

    They are stored under the content of the tables and `VERSION`, so that a run judges once and its notebooks read.
    """
    content = {name: store.sha256_of(tables[name].to_parquet(index=False)) for name in SCHEMA if name in tables}
    key = store.key_of(about := {"version": VERSION, "tables": content})
    if found := store.read("claims", key):
        return found.tables["claims"]
    claims = evaluate(tables)
    store.write("claims", key, about=about, tables={"claims": claims})
    return claims


def evaluate(tables: dict[str, pd.DataFrame], only: Sequence[str] = tuple(CLAIMS)) -> pd.DataFrame:
    """Judge the paper's claims, or `only` some, by the tables of one run as `Study.run` returns them.

    Returns a row per claim in the paper's order: claim, paper_figure, published, measured, verdict ("holds", "differs",
    "open" or "no data"), why, and difference: how far ours are from the printed numbers that it is about, also in
    standard deviations of ours. Published numbers in place of measured ones are no data. Raises ValueError for a table
    that lacks columns.
    """
    view, rows = View(tables), []
    against = against_paper(view) if any(CLAIMS[name].printed for name in only) else pd.DataFrame()
    missing = "needs the table networks of a run" if view.networks.empty else ""
    missing = NOT_OURS if set(view.networks.get("source", [])) == {PUBLISHED} else missing
    for name, claim in ((name, CLAIMS[name]) for name in CLAIMS if name in only):
        decide = partial(decided, needs=claim.needs, note=claim.note.replace("{estimator}", view.estimator))
        found = Outcome(NOTHING, NO_DATA, missing) if missing else claim.test(view, decide, **claim.parameters)
        difference = difference_of(claim.printed, against, view.networks)
        rows.append((name, claim.figure, claim.published, found.measured, found.verdict, found.why, difference))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def show(table: pd.DataFrame, only: Sequence[str]):
    """Lay out some claims (ids, in the order wanted) of the table of `evaluate` for reading, as a Styler."""
    texts = {"statement": [CLAIMS[name].statement for name in only], "rule": [CLAIMS[name].rule for name in only]}
    rows = table.set_index("claim").loc[list(only)].assign(**texts)[list(_TITLES)].rename(columns=_TITLES)
    said = [f"{head}: {', '.join(rows.index[rows.verdict == v])}." for v, head in _HEAD.items() if v in {*rows.verdict}]
    rows = rows.loc[:, rows.astype(bool).any()]  # without "ours less printed" where nothing was printed
    return (
        rows.style.set_caption(" ".join([*said, _CAPTION]))
        .set_properties(**{"text-align": "left", "vertical-align": "top", "white-space": "normal"})
        .map(lambda verdict: f"background-color: {_SHADES[verdict]}; color: black", subset=["verdict"])
        .set_table_styles([{"selector": "th", "props": "text-align: left; vertical-align: top"}])
    )
