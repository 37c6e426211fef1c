"""Which of our networks and tasks are the paper's, and what the paper's tables of numbers call them."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Architecture in a network's name, without punctuation -> its name in Table 1, width; the first that fits counts.
_ARCHITECTURES = (
    (r"wide_?resnet_?50_?2|wrn_?50_?2", "WRN50-2", 2048),
    (r"wide|resnext|resnet_?50_?ff|resnetv2", None, None),  # like a ResNet50 in name only
    (r"(?<!\d)resnet_?50(?!\d)", "ResNet50", 2048),
    (r"(?<!\d)resnet_?18(?!\d)", "ResNet18", 512),
    (r"vgg_?16", "VGG16", 4096),
    (r"vit_s(mall)?_?(patch)?_?16", "ViT S-16", 384),
    (r"vit_s(mall)?_?(patch)?_?32", "ViT S-32", 384),
)
_TASKS = {"pets": "oxford-iiit-pets", "imagenet1k": "imagenet"}


def paper_network(card: Mapping) -> str | None:
    """Name of the architecture in Table 1 of a network, a row of networks.csv; None where the paper has no such one.

    How it was trained does not matter.
    """
    if card["kind"] != "imagenet":
        return None
    for text in (card["model"], card["family"]):
        plain = re.sub(r"[^a-z0-9]+", "_", str(text).lower())
        for pattern, name, width in _ARCHITECTURES:
            if re.search(pattern, plain):
                return name if card["width"] == width else None
    return None


def paper_task(dataset: str) -> str:
    """Name of a task in the tables of published numbers; unknown ones keep theirs."""
    return _TASKS.get(dataset, dataset)
