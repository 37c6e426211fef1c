"""One's own network and images, or features: from a name or a path to train and test features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dr_utils.datasets import ImageTask, load_dataset
from dr_utils.datasets import available as available_tasks
from dr_utils.datasets.own import open_images
from dr_utils.features import Features, extract
from dr_utils.features_files import open_features
from dr_utils.models import NetworkCard
from dr_utils.models.opening import open_model
from dr_utils.own.answer import Answer, answer


@dataclass(frozen=True)
class Source:
    """Train and test features, class names, and the network's card (None for features given as files)."""

    train: Features
    test: Features
    classes: tuple[str, ...]
    card: NetworkCard | None
    task: str

    def answer(self, **options) -> Answer:
        """Measure them: see `answer`."""
        return answer(self.train, self.test, self.classes, card=self.card, task=self.task, **options)


def load(
    model: str | nn.Module = "",
    data: str | Path = "",
    *,
    checkpoint: str | Path | None = None,
    layer: str | int | None = None,
    features: str | Path | None = None,
    labels: str | Path | None = None,
    resolution: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Source:
    """Open one's own network and images and extract features, or read ready-made ones.

    Parameters
    ----------
    model, checkpoint, layer
        As `dr_utils.models.opening.open_model` takes them.
    data : str or path
        The name of a task of the suite, an image folder, or a Hugging Face dataset saved on disk.
    features, labels : path, optional
        Ready-made features instead of a network and images, as `dr_utils.features_files.open_features` takes them.
    resolution : int, optional
        Pixels: side to which images are resized. By default what the network takes or was trained at, else 224.
    limit : int, optional
        At most so many images of each split.
    seed : int
        Draws the split of data that have none, and the images under a limit.
    device : {"auto", "cpu", "cuda"}

    Returns
    -------
    Source

    Raises
    ------
    ValueError, dr_utils.store.AssetError
        As the loaders do; each message says what was given, what was expected and what to do.
    """
    if features is not None:
        train, test, classes = open_features(features, labels, seed=seed)
        return Source(train, test, classes, None, Path(features).stem)
    if not data:
        raise ValueError("no data given: name a task of the suite, an image folder, or a file of features.")
    # The network first: a slip in its name is told before thousands of pictures are decoded.
    if isinstance(layer, int):  # a numbered layer, as -p layer 20 reads it
        layer = str(layer)
    network = open_model(model, checkpoint=checkpoint, layer=layer)
    if str(data) in available_tasks():
        train_images, test_images = registry_images(str(data), limit=limit, seed=seed)
    else:
        train_images, test_images = open_images(data, limit=limit, seed=seed)
    side = network.card.side or resolution or network.side
    found = [extract(network, images, resolution=side, device=device) for images in (train_images, test_images)]
    return Source(*found, train_images.classes, network.card, train_images.name)


def registry_images(name: str, *, limit: int | None = None, seed: int = 0) -> tuple[ImageTask, ImageTask]:
    """Train and test images of a task of the suite, by its name, so that one's own network can be tried on them.

    Raises
    ------
    ValueError
        Unknown task.
    dr_utils.store.AssetError
        Its archive cannot be had.
    """
    splits = available_tasks()[name].splits if name in available_tasks() else {"train": 0, "test": 0}
    return tuple(
        load_dataset(name, split, size=None if limit is None else min(limit, splits[split]), seed=seed)
        for split in ("train", "test")
    )
