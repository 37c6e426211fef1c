"""The table of the paper's networks: what they are, whether their weights are here, and how to get the others."""

from __future__ import annotations

from pathlib import Path

from dr_utils.models.paper.cards import CARDS, PaperCard
from dr_utils.models.paper.finding import FOLDER, state, steps

COLUMNS = ("name", "neurons", "training", "upstream", "top-1", "weights (file)", "state")
_NUMBERS = ("neurons", "top-1")


def rows(data: str | Path | None = None) -> list[dict[str, str]]:
    """Return a row per network, the paper's 21 first, as text by column; `data` is a person's data folder."""
    return [dict(zip(COLUMNS, _row(card, data), strict=True)) for card in CARDS.values()]


def _row(card: PaperCard, data: str | Path | None) -> tuple[str, ...]:
    top1 = "-" if card.top1 is None else f"{card.top1:.1%}"
    return card.name, str(card.width), card.training, card.upstream, top1, card.file, state(card, data)


def table(data: str | Path | None = None) -> str:
    """Return the aligned table, what is here, and exact steps for the weights that a person has to fetch.

    Raises
    ------
    AssetError
        The data folder was named and is no folder.
    """
    found = rows(data)
    extras = {card.name for card in CARDS.values() if card.extra}
    widths = {column: max(len(column), *(len(row[column]) for row in found)) for column in COLUMNS}
    lines = [f"The paper's {len(found) - len(extras)} networks", "", _line({c: c for c in COLUMNS}, widths)]
    lines += [_line(row, widths) for row in found if row["name"] not in extras]
    lines += ["", "Extras of the published code", ""]
    lines += [_line(row, widths) for row in found if row["name"] in extras]
    here = sum(row["state"].startswith("present") for row in found)
    lines += ["", f"{here} of {len(found)} have their weights here; those on the hub are fetched when first used."]
    lines += _instructions([CARDS[row["name"]] for row in found if row["state"] in ("missing", "manual download")])
    return "\n".join(lines)


def _line(row: dict[str, str], widths: dict[str, int]) -> str:
    cells = [row[c].rjust(widths[c]) if c in _NUMBERS else row[c].ljust(widths[c]) for c in COLUMNS]
    return "  ".join(cells).rstrip()


def _instructions(cards: list[PaperCard]) -> list[str]:
    lines = []
    for layout, title in (("augreg", "AugReg"), ("matryoshka", "Matryoshka release")):
        wanted = [card for card in cards if card.layout == layout]
        if not wanted:
            continue
        lines += ["", f"{title}: what to fetch by hand, with DIR a folder of yours"]
        if layout == "matryoshka":
            files = ", ".join(card.file for card in wanted)
            todo = [
                steps(wanted[0])[0],
                f"Download from it: {files}.",
                f"Move them to DIR/{FOLDER}/ under these names.",
            ]
        else:
            todo = [step for card in wanted for step in steps(card)]
        lines += [f"  {i}. {step}" for i, step in enumerate([*todo, _LAST], start=1)]
    return lines


_LAST = "see that they are there: python -m dr_utils models --data DIR"
