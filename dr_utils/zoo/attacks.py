"""Attacks in the l2 ball: projected gradient descent, and the single step with its safeguard.

References
----------
Madry et al., Towards deep learning models resistant to adversarial attacks, ICLR 2018.
Wong, Rice and Kolter, Fast is better than free: revisiting adversarial training, ICLR 2020.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.functional import cross_entropy

Score = Callable[[torch.Tensor], torch.Tensor]

_TINY = 1e-12  # gradients of saturated scores may vanish; their direction is then left at zero


def lengths(x: torch.Tensor) -> torch.Tensor:
    """Return the l2 norm of each sample of x [B, C, H, W], shaped [B, 1, 1, 1]."""
    return x.flatten(1).norm(dim=1).view(-1, *(1,) * (x.ndim - 1))


def project(delta: torch.Tensor, radius: float) -> torch.Tensor:
    """Bring each perturbation [B, C, H, W] into the l2 ball of this radius, along the line to its centre."""
    return delta * (radius / lengths(delta).clamp(min=_TINY)).clamp(max=1.0)


def random_in_ball(like: torch.Tensor, radius: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Draw perturbations of the shape of `like`, uniformly from the l2 ball."""
    source = like.device if generator is None else generator.device
    direction = torch.randn(like.shape, generator=generator, device=source).to(like.device)
    share = torch.rand(len(like), generator=generator, device=source).to(like.device) ** (1 / like[0].numel())
    return direction / lengths(direction).clamp(min=_TINY) * (radius * share).view(-1, *(1,) * (like.ndim - 1))


def pgd(
    score: Score,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    radius: float,
    steps: int,
    step_size: float | None = None,
    start_radius: float | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """Raise the cross-entropy of each image within an l2 ball around it, by projected gradient descent.

    Parameters
    ----------
    score : callable
        From images to scores [B, C], differentiable; an image's scores must not depend on the other images.
    images, labels : float tensor of shape [B, C, H, W] in [0, 1], int tensor of shape [B]
    radius, steps, step_size
        Of the ball, in units of the images; gradient steps and their length, by default 2 * radius / steps.
    start_radius, generator
        The random start is uniform in the ball of this radius, by default `radius`; 0 is the image itself.

    Returns
    -------
    float tensor of shape [B, C, H, W]
        In [0, 1], at most `radius` from `images`; detached.

    Raises
    ------
    ValueError
        Settings that are not positive, images outside [0, 1], or a start outside the ball.
    """
    step_size = 2 * radius / max(steps, 1) if step_size is None else step_size
    start_radius = radius if start_radius is None else start_radius
    if radius <= 0 or steps < 1 or step_size <= 0 or not 0 <= start_radius <= radius:
        raise ValueError(
            "an attack needs radius > 0, steps >= 1, step_size > 0 and 0 <= start_radius <= radius; "
            f"got {radius}, {steps}, {step_size} and {start_radius}."
        )
    images = images.detach()
    if not images.is_floating_point() or images.min() < 0 or images.max() > 1:
        raise ValueError(f"images must be floating point in [0, 1]; got {images.dtype}: divide uint8 pixels by 255.")
    attacked = images
    if start_radius > 0:
        attacked = (images + random_in_ball(images, start_radius, generator)).clamp(0, 1)
    for _ in range(steps):
        attacked.requires_grad_(True)
        with torch.enable_grad():
            # The sum, not the mean: an image's gradient does not depend on how many others are in the batch.
            loss = cross_entropy(score(attacked).float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, attacked)
        moved = attacked.detach() + step_size * gradient / lengths(gradient).clamp(min=_TINY)
        # Clamping moves each pixel towards the image, which lies in [0, 1]: it never leaves the ball.
        attacked = (images + project(moved - images, radius)).clamp(0, 1)
    return attacked.detach()


def single_step(score: Score, images: torch.Tensor, labels: torch.Tensor, *, radius: float, generator=None):
    """Attack by one step from a random start, as fast adversarial training does; parameters and result as in `pgd`.

    A uniform start lies almost on the ball's surface, at right angles to the gradient, and wastes much of the radius.
    So the start is drawn from the ball of half the radius, and the step is 1.25 radii long.
    """
    step = {"steps": 1, "step_size": 1.25 * radius, "start_radius": radius / 2}
    return pgd(score, images, labels, radius=radius, generator=generator, **step)


def has_collapsed(single: float, multi: float) -> bool:
    """Return whether accuracy under several steps is less than half that under one, and at least 5 points lower."""
    return multi < 0.5 * single and single - multi > 0.05


def safeguard(score: Score, images: torch.Tensor, labels: torch.Tensor, *, radius: float, generator=None) -> bool:
    """Return whether single-step training has overfitted catastrophically, judged on a few training images.

    A network trained by single steps may learn to resist only these: from one epoch to the next, accuracy under 10
    steps falls to nothing while accuracy under the single step rises (Wong et al. 2020).
    """
    given = {"radius": radius, "generator": generator}
    single = single_step(score, images, labels, **given)
    multi = pgd(score, images, labels, steps=10, step_size=radius / 4, **given)
    with torch.no_grad():
        return has_collapsed(*(float((score(x).argmax(1) == labels).float().mean()) for x in (single, multi)))
