"""The claims' registry: what a claim is, which tables it needs, and the order of the claims table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from dr_utils.reference import SOURCE as PUBLISHED  # noqa: F401 - tables of published numbers have this source
from dr_utils.study.cell import COLUMNS

HOLDS, DIFFERS, NOT_TESTED = "holds", "differs", "not_tested"
NOTHING = "nothing measured"
NOT_OURS = "published numbers: not a measurement of this suite"

ORDER = (
    "P1", "P2", "P3", "P4", "P5", "P6", "P7", "P8", "S1", "S2", "A1", "A2", "A3", "A4", "A5",
    "W1", "W2", "M1", "M2", "M3", "M4", "F1", "F2", "F3", "F4", "C1", "C2", "I1", "I2",
)  # fmt: skip

SCHEMA = {
    **COLUMNS,
    "networks": ("model", "title", "width", "family", "training", "upstream", "kind", "robust_of"),
    "tasks": ("dataset", "title", "eval_set", "n_classes", "n_train", "n_test"),
    "spread": ("model", "dataset", "eval_set", "fraction", "std"),  # published numbers only: they have no single seeds
}  # fmt: skip
NUMBERS = (
    "fraction", "n_neurons", "seed", "accuracy", "class_accuracy", "seed_a", "seed_b", "cka", "delta", "dr",
    "low", "high", "gini", "coefficient_of_variation", "width", "n_classes", "n_train", "n_test", "std",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of one claim: the numbers with their spread, the verdict, and why it is what it is."""

    measured: str
    verdict: str
    why: str


@dataclass(frozen=True)
class Claim:
    """One claim of the paper with the rule that judges it.

    `test` takes a `View` of the tables and returns an `Outcome`; `needs` names the tables it cannot lack; `rule` says
    in a sentence what it takes to hold.
    """

    id: str
    figure: str
    statement: str
    published: str
    rule: str
    needs: tuple[str, ...]
    test: Callable[..., Outcome]


registered: dict[str, Claim] = {}


def claim(claim_id: str, *, figure: str, statement: str, published: str, rule: str, needs: tuple[str, ...]):
    """Register the decorated function as the rule of one claim."""

    def register(test: Callable[..., Outcome]) -> Callable[..., Outcome]:
        registered[claim_id] = Claim(claim_id, figure, statement, published, rule, needs, test)
        return test

    return register


def missing(what: str, measured: str = NOTHING) -> Outcome:
    """The outcome of a claim that this run cannot test, naming what it lacks."""
    return Outcome(measured, NOT_TESTED, what)


def check_tables(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the non-empty tables.

    Raises
    ------
    ValueError
        A table that is not a DataFrame, lacks columns, or holds text where numbers belong.
    """
    kept = {}
    for name, columns in SCHEMA.items():
        table = tables.get(name)
        if table is None:
            continue
        if not isinstance(table, pd.DataFrame):
            raise ValueError(f"table {name!r} must be a pandas DataFrame; got {type(table).__name__}.")
        if table.empty:
            continue
        absent = [column for column in columns if column not in table.columns]
        if absent:
            raise ValueError(
                f"table {name!r} lacks the column(s) {', '.join(absent)}; expected {', '.join(columns)}. "
                "Run the study again to write it anew."
            )
        for column in columns:
            if column in NUMBERS and not pd.api.types.is_numeric_dtype(table[column]):
                raise ValueError(
                    f"table {name!r}: column {column!r} must hold numbers; got {table[column].iloc[0]!r}. "
                    "Run the study again to write it anew."
                )
        kept[name] = table
    return kept
