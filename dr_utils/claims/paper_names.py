"""Which of our networks and tasks are the paper's, and what the paper's tables of numbers call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import yaml

NAMES = yaml.safe_load(Path(__file__).with_name("paper_names.yaml").read_text(encoding="utf-8"))


def paper_network(card: Mapping) -> str | None:
    """Name in Table 1 of a network, a row of networks.csv, however it was trained; None where the paper has no such."""
    for text in (card["model"], card["family"]) if card["kind"] == "imagenet" else ():
        plain = re.sub(r"[^a-z0-9]+", "_", str(text).lower())
        for pattern, name, width in NAMES["architectures"]:
            if re.search(pattern, plain):
                return name if card["width"] == width else None
    return None


def paper_task(dataset: str) -> str:
    """Name of a task in the tables of published numbers; unknown ones keep theirs."""
    return NAMES["tasks"].get(dataset, dataset)
