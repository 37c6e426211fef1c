"""Renew README's claims table from the results that come with the suite: ``python -m dr_utils readme``."""

from __future__ import annotations

import re
from pathlib import Path
from statistics import median

import pandas as pd

from dr_utils.claims import CLAIMS
from dr_utils.claims.estimates import DIFFERS, HOLDS, NO_DATA, NOTHING, OPEN
from dr_utils.profiles import CHECKOUT, SHIPPED
from dr_utils.store import atomic_path

MARKED = re.compile(r"(<!-- claims -->\n).*(<!-- /claims -->)", re.DOTALL)


def claims_table(claims: pd.DataFrame) -> str:
    """Return the claims as a Markdown table: id, what the paper says, one measured number, verdict."""
    lines = ["| claim | the paper says | measured | verdict |", "|---|---|---|---|"]
    for row in claims.itertuples():
        number = "" if row.measured == NOTHING else short_number(row.measured)
        cells = (row.claim, CLAIMS[row.claim].statement, number, row.verdict)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def short_number(measured: str) -> str:
    """Return a measurement as one short number: the median over cells, or what stands first.

    >>> short_number("56 cells, median 0.800, lowest and highest small_vit/cifar10: 0.62; small_vgg/digits: 0.95")
    'median 0.800 (56 cells)'
    >>> short_number("small_resnet/cifar10: 0.80 [0.75, 0.85]; small_resnet/digits: 0.62 [0.60, 0.70]")
    'median 0.710 (2 cells)'
    """
    if found := re.search(r"(\d+) cells, median (-?\d[\d.]*)", measured):
        return f"median {found[2]} ({found[1]} cells)"
    cells = re.findall(r"(?:^|; )[^;:]*: (-?\d+\.\d+)", measured)
    if len(cells) > 1:
        return f"median {median(map(float, cells)):.3f} ({len(cells)} cells)"
    return re.split(r"[;(]", measured)[0].strip()


def counts(claims: pd.DataFrame) -> str:
    """Return one sentence: how many claims hold, differ, stay open and lack data."""
    holds, differs, open_, without = (sum(claims.verdict == verdict) for verdict in (HOLDS, DIFFERS, OPEN, NO_DATA))
    verdicts = (
        f"{holds} hold, {differs} differ, {open_} were measured but stay open, and for {without} data are lacking."
    )
    return f"Of {len(claims)} claims of the paper and its later version, {verdicts}"


def renew(results: Path = SHIPPED, readme: Path = CHECKOUT / "README.md") -> None:
    """Write the claims table of a finished run between README's markers."""
    claims = pd.read_csv(results / "tables" / "claims.csv", keep_default_na=False)
    block = f"{counts(claims)}\n\n{claims_table(claims)}\n"
    text = MARKED.sub(lambda found: found[1] + block + found[2], readme.read_text(encoding="utf-8"))
    with atomic_path(readme) as part:
        part.write_text(text, encoding="utf-8")
