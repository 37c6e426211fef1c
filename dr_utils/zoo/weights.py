"""Trained weights become files: float16, measured as stored, with a card beside them."""

from __future__ import annotations

import platform
from pathlib import Path

import torch
from safetensors.torch import load, save_file

from dr_utils import store
from dr_utils.models.small import WEIGHTS, Card, weights_path
from dr_utils.models.small_networks import SmallNetwork, build
from dr_utils.store import sha256_of
from dr_utils.zoo.cards import write_card
from dr_utils.zoo.data import Images
from dr_utils.zoo.evaluation import ATTACK_STEPS, count_multiply_adds, count_parameters, evaluate
from dr_utils.zoo.recipes import Recipe
from dr_utils.zoo.training import Trained


def save_weights(network: SmallNetwork, name: str, folder: Path | str = WEIGHTS) -> str:
    """Store a network's weights in float16, in one piece; return the SHA-256 of the file.

    Raises
    ------
    ValueError
        Weights that are not finite in float16.
    """
    state = {}
    for key, tensor in network.state_dict().items():
        if key.endswith("num_batches_tracked"):  # a counter of training steps, no weight
            continue
        state[key] = tensor.detach().to("cpu", torch.float16).contiguous()
        if not state[key].isfinite().all():
            raise ValueError(f"{name}: {key} is not finite in float16; train with a lower lr.")
    path = weights_path(name, folder)
    with store.atomic_path(path) as part:
        save_file(state, part)
        part.chmod(0o644)  # safetensors keeps files to their owner; these are installed for everybody
    return sha256_of(path)


def store_weights(
    trained: Trained,
    recipe: Recipe,
    train_images: Images,
    val_images: Images,
    *,
    folder: Path | str = WEIGHTS,
    device: str | torch.device = "auto",
) -> Card:
    """Store a trained network's weights, measure it as stored, and write its card.

    The card is written last: a weight file whose measuring was interrupted has none, or one that refuses it.

    Parameters
    ----------
    trained : Trained
    recipe : Recipe
        What it was trained by.
    train_images, val_images : Images
        What it was trained on, and what it is measured on.
    folder : path
        Where both files go.
    device : {"auto", "cpu", "cuda"}
        For the measuring.

    Returns
    -------
    Card
    """
    sha256 = save_weights(trained.network, recipe.name, folder)
    stored = build(recipe)
    stored.load_state_dict(
        {key: tensor.float() for key, tensor in load(weights_path(recipe.name, folder).read_bytes()).items()},
        strict=False,
    )
    measured = evaluate(stored, val_images, radius=recipe.radius, device=device)
    at = trained.progress
    card = Card(
        name=recipe.name, title=recipe.title, width=recipe.head_reads, family=recipe.family, training=recipe.training,
        upstream=recipe.upstream, kind=recipe.kind, robust_of=recipe.robust_of, recipe=recipe.as_dict(),
        upstream_images=len(train_images), upstream_classes=len(train_images.classes),
        upstream_sha256=train_images.digest, epochs=at.epoch,
        attack_steps=at.attack_steps if recipe.training == "adversarial" else 0,
        clean_accuracy=round(measured["clean_accuracy"], 5), robust_accuracy=round(measured["robust_accuracy"], 5),
        robust_radius=recipe.radius, robust_steps=ATTACK_STEPS, validation_images=measured["images"],
        parameters=count_parameters(stored), multiply_adds=count_multiply_adds(stored),
        training_seconds=round(at.seconds, 1), hardware=" and ".join(at.hardware), precision=trained.precision,
        versions={"python": platform.python_version(), "torch": torch.__version__}, sha256=sha256,
    )  # fmt: skip
    write_card(card, folder)
    return card
