"""Files that a person has to put somewhere before a profile can run: looked for before any work starts."""

from __future__ import annotations

from collections.abc import Iterable

from dr_utils.datasets import missing_files
from dr_utils.fetch import data_dir, hub_within_reach
from dr_utils.models import PAPER, listing, split_layer
from dr_utils.profiles import Profile


def absent(profile: Profile, cells: Iterable[tuple[str, str]]) -> list[str]:
    """Say what these cells lack, a line each; what the suite fetches by itself is not among it.

    Parameters
    ----------
    profile : Profile
    cells : iterable of (network, task)
        Those that are still to be computed.

    Returns
    -------
    list of str
        Weight files of the paper's networks that are neither in the data folder nor on a hub within reach, and files of
        data sets; empty if nothing is missing.
    """
    cells = list(cells)
    names = dict.fromkeys(split_layer(network)[0] for network, _ in cells)
    cards = [PAPER[name] for name in names if name in PAPER]
    lacking = [card for card in cards if not listing.state(card).startswith("present")]
    if any(card.hub for card in lacking):
        with hub_within_reach() as reachable:
            lacking = [card for card in lacking if not (card.hub and reachable)]
    lines = [f"{listing.FOLDER}/{card.file}, the weights of {card.name}" for card in lacking]
    for task in dict.fromkeys(t for _, t in cells):
        lines += [f"{path}, for {task}" for path in missing_files(task, ("train", *profile.tasks[task].eval_sets))]
    return lines


def told(profile: Profile, lines: list[str]) -> str:
    """The message for what is absent."""
    root = data_dir()
    where = f"{root} (--data, DR_DATA) lacks" if root else "no data folder is named (--data DIR, or DR_DATA); it lacks"
    return "\n".join(
        [
            f"profile {profile.name} needs {len(lines)} files or folders that are not there; {where}:",
            *(f"  {line}" for line in lines),
            "How to get weights: python -m dr_utils models --data DIR. Data sets lie as their makers publish them.",
        ]
    )
