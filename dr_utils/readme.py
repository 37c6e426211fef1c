"""Renew README's gallery, claims table and zoo from a finished run: ``python -m dr_utils.readme [outputs/mini]``."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pandas as pd

from dr_utils.claims import CLAIMS
from dr_utils.claims.registry import DIFFERS, HOLDS, NOT_TESTED, NOTHING
from dr_utils.profiles import CHECKOUT
from dr_utils.store import atomic_path
from dr_utils.zoo import RECIPES
from dr_utils.zoo.cards import WEIGHTS, read_card

GALLERY = (
    "fig01_prevalence", "fig02_random_subset_cka_small", "fig03_architectures_imagenet", "fig05_width_ablation",
    "fig06_matryoshka", "fig07_gini_small", "fig14_pca", "fig15_shift_imagenet",
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


def zoo_table(folder: Path = WEIGHTS) -> str:
    """Return the table of the small networks' cards as Markdown; networks without weights stay out."""
    lines = [
        "| network | neurons | upstream classes | accuracy | under attack | parameters | multiply-adds | training |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for card in filter(None, (read_card(name, folder) for name in RECIPES)):
        cells = (
            f"`{card.name}`", card.width, card.upstream_classes, f"{card.clean_accuracy:.3f}",
            f"{card.robust_accuracy:.3f}", f"{card.parameters / 1e6:.2f} M", f"{card.multiply_adds / 1e6:.0f} M",
            f"{card.epochs} epochs, {card.training_seconds / 60:.0f} min",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _between(text: str, marker: str, block: str) -> str | None:
    """`text` with `block` between the comments of this name; None if they are not there."""
    renewed, found = re.subn(
        rf"<!-- {marker} -->.*<!-- /{marker} -->",
        lambda _: f"<!-- {marker} -->\n{block}\n<!-- /{marker} -->",
        text,
        flags=re.DOTALL,
    )
    return renewed if found else None


def renew(results: Path, readme: Path = CHECKOUT / "README.md") -> None:
    """Write the claims table and the zoo's between README's markers and copy the gallery's figures.

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
    for marker, block in (("claims", f"{counts(claims)}\n\n{claims_table(claims)}"), ("zoo", zoo_table())):
        renewed = _between(text, marker, block)
        if renewed is None:
            raise ValueError(f"{readme} lacks the markers <!-- {marker} --> and <!-- /{marker} --> around its table.")
        text = renewed
    gallery = readme.parent / "outputs" / "gallery"
    gallery.mkdir(parents=True, exist_ok=True)
    for path in figures:
        shutil.copyfile(path, gallery / path.name)
    with atomic_path(readme) as part:
        part.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    renew(Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKOUT / "outputs" / "mini")
