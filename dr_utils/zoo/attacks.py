"""Attacks in the l2 ball (Madry et al., ICLR 2018; Wong, Rice and Kolter, ICLR 2020), and accuracy under them."""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from dr_utils.datasets import ImageTask
from dr_utils.device import pick_device
from dr_utils.models.small_networks import SmallNetwork
from dr_utils.progress import progress
from dr_utils.zoo.data import to_batch

EVALUATION_STEPS = 20
EVALUATION_BATCH = 500  # images; the attack's random starts depend on it
_TINY = 1e-12  # gradients of saturated scores may vanish; their direction is then left at zero


def lengths(x: torch.Tensor) -> torch.Tensor:
    """Return each sample's l2 norm, [B, 1, 1, 1]."""
    return x.flatten(1).norm(dim=1)[:, None, None, None]


def random_in_ball(like: torch.Tensor, radius: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw perturbations of the shape of `like` [B, C, H, W], uniformly."""
    direction = torch.randn(like.shape, generator=generator, device=like.device)
    share = torch.rand(len(like), generator=generator, device=like.device) ** (1 / like[0].numel())
    return direction / lengths(direction) * (radius * share)[:, None, None, None]


def pgd(
    score, images: torch.Tensor, labels: torch.Tensor, *, radius: float, steps: int, step_size: float | None = None,
    start_radius: float | None = None, generator: torch.Generator | None = None,
) -> torch.Tensor:  # fmt: skip
    """Raise the cross-entropy of each image within an l2 ball around it, by projected gradient descent.

    `score` gives [B, C] of images in [0, 1], each independent of the others. The start is random in the ball of
    `start_radius` (`radius`), steps are `step_size` (2 * radius / steps) long.
    """
    step_size = 2 * radius / steps if step_size is None else step_size
    start_radius = radius if start_radius is None else start_radius
    images = images.detach()
    attacked = (images + random_in_ball(images, start_radius, generator)).clamp(0, 1)
    for _ in range(steps):
        attacked.requires_grad_(True)
        with torch.enable_grad():
            # The sum, not the mean: an image's gradient does not depend on how many others are in the batch.
            loss = cross_entropy(score(attacked).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        moved = attacked.detach() + step_size * gradient / lengths(gradient).clamp(min=_TINY) - images
        inside = moved * (radius / lengths(moved).clamp(min=_TINY)).clamp(max=1.0)
        # Clamping moves each pixel towards the image, which lies in [0, 1]: it never leaves the ball.
        attacked = (images + inside).clamp(0, 1)
    return attacked.detach()


@torch.no_grad()
def evaluate(network: SmallNetwork, images: ImageTask, *, radius: float, steps=EVALUATION_STEPS, device="auto") -> dict:
    """Return "clean_accuracy" and "robust_accuracy" in [0, 1] on validation images, the second under PGD."""
    device = pick_device(device)
    network = network.eval().to(device, memory_format=torch.channels_last)
    clean, robust, noise = 0, 0, torch.Generator(device).manual_seed(0)
    attack = {"radius": radius, "steps": steps, "step_size": 2.5 * radius / steps, "generator": noise}
    for start in progress(range(0, len(images), EVALUATION_BATCH), desc="evaluating", unit="batches"):
        batch = to_batch(torch.from_numpy(images.images[start : start + EVALUATION_BATCH]).to(device))
        labels = torch.from_numpy(images.labels[start : start + EVALUATION_BATCH]).to(device)
        right = network(batch).argmax(1) == labels
        clean += int(right.sum())
        if right.any():  # the others are not attacked, so that an attack cannot put an image right
            batch, labels = batch[right].contiguous(memory_format=torch.channels_last), labels[right]
            robust += int((network(pgd(network, batch, labels, **attack)).argmax(1) == labels).sum())
    return {"clean_accuracy": clean / len(images), "robust_accuracy": robust / len(images)}
