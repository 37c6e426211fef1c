"""Measure a trained network, and store its weights in float16 with a card beside them."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from dr_utils import store
from dr_utils.datasets import ImageTask
from dr_utils.device import pick_device
from dr_utils.models.small import IMAGES_SIDE, WEIGHTS, Card, card_path, weights_path
from dr_utils.models.small_networks import SmallNetwork
from dr_utils.progress import progress
from dr_utils.zoo.attacks import pgd
from dr_utils.zoo.data import to_batch
from dr_utils.zoo.training import Training

ATTACK_STEPS = 20
BATCH_SIZE = 500  # images; the attack's random starts depend on it


def evaluate(
    network: SmallNetwork, images: ImageTask, *, radius: float, steps: int = ATTACK_STEPS, device: str = "auto"
) -> dict[str, float]:
    """Return "clean_accuracy" and "robust_accuracy" in [0, 1] on validation images; the second is under PGD.

    The attack's steps are 2.5 * radius / steps long and its random start is seeded. Only images that are right to begin
    with are attacked, so that an attack cannot put an image right. All is computed in float32.
    """
    device = pick_device(device)
    network = network.eval().to(device, memory_format=torch.channels_last)
    noise = torch.Generator(device).manual_seed(0)
    attack = {"radius": radius, "steps": steps, "step_size": 2.5 * radius / steps, "generator": noise}
    clean = robust = 0
    for start in progress(range(0, len(images), BATCH_SIZE), desc="evaluating", unit="batches"):
        batch = to_batch(torch.from_numpy(images.images[start : start + BATCH_SIZE]).to(device))
        labels = torch.from_numpy(images.labels[start : start + BATCH_SIZE]).to(device)
        with torch.no_grad():
            right = network(batch).argmax(1) == labels
        if right.any():
            batch, labels = batch[right].contiguous(memory_format=torch.channels_last), labels[right]
            attacked = pgd(network, batch, labels, **attack)
            with torch.no_grad():
                robust += int((network(attacked).argmax(1) == labels).sum())
        clean += int(right.sum())
    return {"clean_accuracy": clean / len(images), "robust_accuracy": robust / len(images)}


def count_parameters(network: torch.nn.Module) -> int:
    """Count the trained numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: SmallNetwork) -> int:
    """Count multiply-adds of one image through convolutions, linear layers and attention's products."""
    image = torch.zeros(1, 3, IMAGES_SIDE, IMAGES_SIDE, device=next(network.parameters()).device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.eval()(image)
    return counter.get_total_flops() // 2


def store_weights(trained: Training, images: ImageTask, folder: Path | str = WEIGHTS) -> Card:
    """Store a trained network in float16, measure it as stored on validation `images`, and write its card.

    The card is written last: a weight file whose measuring was interrupted has none, or one that refuses it.

    Raises
    ------
    ValueError
        Weights that are not finite in float16.
    """
    recipe, network, at = trained.recipe, trained.network, trained.progress
    # Without the counters of training steps, which are not weights.
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    state = {key: tensor.to("cpu", torch.float16).contiguous() for key, tensor in state.items()}
    if bad := [key for key, tensor in state.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{recipe.name}: {bad[0]} is not finite in float16; train with a lower lr.")
    path = weights_path(recipe.name, folder)
    with store.atomic_path(path) as part:
        save_file(state, part)
        part.chmod(0o644)  # safetensors keeps files to their owner; these are installed for everybody
    network.load_state_dict(state, strict=False)
    measured = evaluate(network, images, radius=recipe.radius, device=trained.device)
    card = Card(
        **{key: getattr(recipe, key) for key in ("name", "title", "family", "training", "robust_of")},
        width=recipe.head_reads, upstream=f"tinyimagenet{recipe.n_classes}", kind="small", recipe=recipe.as_dict(),
        upstream_images=len(trained.images), upstream_classes=recipe.n_classes, upstream_sha256=trained.images.digest,
        epochs=at.epoch, attack_steps=at.attack_steps if recipe.training == "adversarial" else 0,
        **{key: round(value, 5) for key, value in measured.items()}, robust_radius=recipe.radius,
        robust_steps=ATTACK_STEPS, validation_images=len(images), parameters=count_parameters(network),
        multiply_adds=count_multiply_adds(network), training_seconds=round(at.seconds, 1),
        hardware=" and ".join(at.hardware), precision=trained.precision, sha256=store.sha256_of(path),
        versions={"python": platform.python_version(), "torch": torch.__version__},
    )  # fmt: skip
    with store.atomic_path(card_path(card.name, folder)) as part:
        part.write_text(json.dumps(asdict(card), indent=2) + "\n")
    return card
