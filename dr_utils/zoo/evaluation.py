"""What the cards say of a network, measured: clean and robust accuracy, parameters, multiply-adds."""

from __future__ import annotations

import torch

from dr_utils.device import pick_device
from dr_utils.models.small_networks import SmallNetwork
from dr_utils.progress import progress
from dr_utils.zoo.attacks import pgd
from dr_utils.zoo.data import Images, to_batch
from dr_utils.zoo.recipes import IMAGES_SIDE

ATTACK_STEPS = 20
ATTACK_SEED = 0


def evaluate(
    network: SmallNetwork,
    images: Images,
    *,
    radius: float,
    steps: int = ATTACK_STEPS,
    device: str | torch.device = "auto",
    batch_size: int = 500,
) -> dict[str, float | int]:
    """Measure accuracy on a split, clean and under PGD in the l2 ball, in float32.

    Only images that are right to begin with are attacked: one that an attack happens to put right counts for nothing.

    Parameters
    ----------
    network : SmallNetwork
    images : Images
        Of the validation split, with the network's classes.
    radius, steps
        Of the attack; its steps are 2.5 * radius / steps long, its random start is seeded.
    device : {"auto", "cpu", "cuda"}
    batch_size : int
        Images at a time.

    Returns
    -------
    dict
        "clean_accuracy" and "robust_accuracy" in [0, 1], "images".
    """
    device = pick_device(device)
    network = network.eval().to(device, memory_format=torch.channels_last)
    # The attack needs no gradients of weights; asking for none is faster.
    wanted = [parameter.requires_grad for parameter in network.parameters()]
    network.requires_grad_(False)
    noise = torch.Generator(device).manual_seed(ATTACK_SEED)
    clean = robust = 0
    try:
        with progress(total=len(images), desc="evaluating", unit="images") as bar:
            for start in range(0, len(images), batch_size):
                batch = to_batch(torch.from_numpy(images.pixels[start : start + batch_size]).to(device))
                labels = torch.from_numpy(images.labels[start : start + batch_size]).to(device)
                with torch.no_grad():
                    right = network(batch).argmax(1) == labels
                clean += int(right.sum())
                if right.any():
                    batch, labels = batch[right].contiguous(memory_format=torch.channels_last), labels[right]
                    attacked = pgd(
                        network, batch, labels, radius=radius, steps=steps, step_size=2.5 * radius / steps,
                        generator=noise,
                    )  # fmt: skip
                    with torch.no_grad():
                        robust += int((network(attacked).argmax(1) == labels).sum())
                bar.update(len(right))
    finally:
        for parameter, value in zip(network.parameters(), wanted, strict=True):
            parameter.requires_grad_(value)
    return {"clean_accuracy": clean / len(images), "robust_accuracy": robust / len(images), "images": len(images)}


def count_parameters(network: torch.nn.Module) -> int:
    """Count the trained numbers of a network."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_multiply_adds(network: SmallNetwork) -> int:
    """Count multiply-adds of one image through convolutions, linear layers and attention's products."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, IMAGES_SIDE, IMAGES_SIDE, device=device))
    network.train(training)
    return counter.get_total_flops() // 2
