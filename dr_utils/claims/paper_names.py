"""Which of our networks and tasks are the paper's, and what the paper's tables of numbers call them."""

from __future__ import annotations

import re
from collections.abc import Mapping

# Architecture in a network's name, without punctuation -> its name in Table 1; the first that fits counts.
_ARCHITECTURES = (
    (r"wide_?resnet_?50_?2|wrn_?50_?2", "WRN50-2"),
    (r"wide|resnext|resnet_?50_?ff|resnetv2", None),  # like a ResNet50 in name only
    (r"(?<!\d)resnet_?50(?!\d)", "ResNet50"),
    (r"(?<!\d)resnet_?18(?!\d)", "ResNet18"),
    (r"vgg_?16", "VGG16"),
    (r"vit_s(mall)?_?(patch)?_?16", "ViT S-16"),
    (r"vit_s(mall)?_?(patch)?_?32", "ViT S-32"),
)
WIDTHS = {"ViT S-16": 384, "ViT S-32": 384, "ResNet18": 512, "ResNet50": 2048, "WRN50-2": 2048, "VGG16": 4096}
# Training of a ResNet50 -> how the published code names its curves of accuracy and of part-whole CKA.
ACCURACY = {
    "standard": "resnet50|nonrob|pretrain=imagenet|mode=random",
    "adversarial": "resnet50|robustl2eps3|pretrain=imagenet|mode=random",
}
PART_WHOLE = {
    "standard": "resnet50|nonrob|random",
    "adversarial": "resnet50|robustl2eps3|random",
    "mrl": "resnet50_mrl|random",
}

_TASKS = {
    "pets": "oxford-iiit-pets",
    "oxford_pets": "oxford-iiit-pets",
    "oxford_iiit_pets": "oxford-iiit-pets",
    "oxford_iiit_pet": "oxford-iiit-pets",
    "imagenet1k": "imagenet",
    "flowers102": "flowers",
    "oxford_flowers": "flowers",
}


def paper_network(card: Mapping) -> str | None:
    """Name of a network's architecture in Table 1; None where the paper has no such network.

    Parameters
    ----------
    card : mapping
        A row of networks.csv: model, family, width and kind are looked at. How it was trained is not.
    """
    if card["kind"] != "imagenet":
        return None
    for text in (card["model"], card["family"]):
        plain = re.sub(r"[^a-z0-9]+", "_", str(text).lower())
        for pattern, name in _ARCHITECTURES:
            if re.search(pattern, plain):
                return name if name and int(card["width"]) == WIDTHS[name] else None
    return None


def paper_task(dataset: str) -> str:
    """Name of a task in the tables of published numbers; unknown ones keep theirs."""
    return _TASKS.get(dataset.lower(), dataset.lower())
