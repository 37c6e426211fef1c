"""Renew README's gallery and claims table from a finished run: ``python -m dr_utils.readme [outputs/mini]``."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pandas as pd

from dr_utils.assets import atomic_path
from dr_utils.claims import CLAIMS
from dr_utils.claims.registry import DIFFERS, HOLDS, NOT_TESTED, NOTHING
from dr_utils.profiles import CHECKOUT

GALLERY = (
    "fig01_prevalence", "fig02_random_subset_cka", "fig03_architectures", "fig07_gini", "fig14_pca", "fig15_shift",
)  # fmt: skip
LONGEST = 170  # characters of a measurement in README; claims.csv has the whole


def claims_table(claims: pd.DataFrame) -> str:
    """Return the claims table as Markdown, one row per claim, measurements cut to `LONGEST` characters."""
    lines = ["| claim | the paper says | published | measured by mini | verdict |", "|---|---|---|---|---|"]
    for row in claims.itertuples():
        reason = f"{row.measured}; {row.why}" if row.measured == NOTHING else row.measured
        cells = (row.claim, CLAIMS[row.claim].statement, row.published, reason, row.verdict.replace("_", " "))
        lines.append("| " + " | ".join(_cut(str(cell)) for cell in cells) + " |")
    return "\n".join(lines)


def _cut(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST else text[: LONGEST - 2].rstrip(" ,;:(") + " …"


def counts(claims: pd.DataFrame) -> str:
    """Return one sentence: how many claims hold, differ, stay open and cannot be tested."""
    lacking = claims.measured.eq(NOTHING)
    open_ = claims.verdict.eq(NOT_TESTED) & ~lacking
    holds, differs = (int(claims.verdict.eq(verdict).sum()) for verdict in (HOLDS, DIFFERS))
    return (
        f"Of the paper's {len(claims)} claims: holds {holds}, differs {differs}, measured but open {int(open_.sum())} "
        f"(within noise, or too few networks or tasks of a kind), nothing to measure it with {int(lacking.sum())}."
    )


def renew(results: Path, readme: Path = CHECKOUT / "README.md") -> None:
    """Write the claims table between README's markers and copy the gallery's figures.

    Parameters
    ----------
    results : Path
        Folder of a finished run, such as outputs/mini.
    readme : Path
        The file; figures go to outputs/gallery beside it.

    Raises
    ------
    ValueError
        The run has no claims table or lacks a figure, or README lacks the markers.
    """
    table, figures = results / "tables" / "claims.csv", [results / "figures" / f"{name}.png" for name in GALLERY]
    absent = [str(path) for path in (table, *figures) if not path.is_file()]
    if absent:
        raise ValueError(f"{results} is not a finished run: it lacks {', '.join(absent)}; run ./run_all.sh first.")
    claims = pd.read_csv(table, keep_default_na=False)
    text = readme.read_text(encoding="utf-8")
    block = f"<!-- claims -->\n{counts(claims)}\n\n{claims_table(claims)}\n<!-- /claims -->"
    renewed, found = re.subn(r"<!-- claims -->.*<!-- /claims -->", lambda _: block, text, flags=re.DOTALL)
    if not found:
        raise ValueError(f"{readme} lacks the markers <!-- claims --> and <!-- /claims --> around its claims table.")
    gallery = readme.parent / "outputs" / "gallery"
    gallery.mkdir(parents=True, exist_ok=True)
    for path in figures:
        shutil.copyfile(path, gallery / path.name)
    with atomic_path(readme) as part:
        part.write_text(renewed, encoding="utf-8")


if __name__ == "__main__":
    renew(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / "outputs" / "mini")
