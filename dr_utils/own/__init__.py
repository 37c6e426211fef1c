"""One's own network and data: how many of these neurons do I need?

>>> source = load("resnet18", "photos/", layer="layer3")  # doctest: +SKIP
>>> source.answer().recommendation()  # doctest: +SKIP
"""

from dr_utils.own.answer import HELD_OUT, KEEP, Answer, answer
from dr_utils.own.loading import Source, load, registry_images

__all__ = ["HELD_OUT", "KEEP", "Answer", "Source", "answer", "load", "registry_images"]
