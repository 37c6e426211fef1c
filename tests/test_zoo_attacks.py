"""Attacks stay in the ball and in [0, 1], raise the loss, and equal a linear network's closed form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dr_utils.zoo.attacks import lengths, pgd, random_in_ball


def linear_network(shape=(3, 4, 4), n_classes=3, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), n_classes))


def some_images(n=16, shape=(3, 4, 4), seed=0):
    generator = torch.Generator().manual_seed(seed)
    # Some at the ends of the range, where clamping matters.
    images = (torch.rand(n, *shape, generator=generator) * 1.6 - 0.3).clamp(0, 1)
    return images, torch.randint(0, 3, (n,), generator=generator)


@pytest.mark.parametrize("radius", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("steps", [1, 7])
def test_ball_and_range(radius, steps):
    network, (images, labels) = linear_network(), some_images()
    generator = torch.Generator().manual_seed(1)
    for attacked in (
        pgd(network, images, labels, radius=radius, steps=steps, step_size=radius, generator=generator),
        pgd(network, images, labels, radius=radius, steps=1, step_size=1.25 * radius, start_radius=radius / 2),
    ):
        assert lengths(attacked - images).max() <= radius * (1 + 1e-5)
        assert attacked.min() >= 0 and attacked.max() <= 1
        assert not attacked.requires_grad


def test_loss_rises_and_more_steps_do_no_worse():
    images, labels = some_images()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 3))

    def loss(x):
        return cross_entropy(network(x), labels, reduction="none").detach()

    one = pgd(network, images, labels, radius=0.3, steps=1, start_radius=0.0)
    many = pgd(network, images, labels, radius=0.3, steps=20, step_size=0.04, start_radius=0.0)
    assert (loss(one) > loss(images)).all()
    assert loss(many).mean() >= loss(one).mean() - 1e-4


def test_one_step_of_a_linear_network_by_hand():
    """With z = Wx + b the gradient is W'(softmax(z) - onehot(y)); away from 0 and 1 the step is its direction."""
    network = linear_network()
    images, labels = torch.full((5, 3, 4, 4), 0.5), torch.tensor([0, 1, 2, 0, 1])
    images += torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(2)) * 0.2
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    probabilities = torch.softmax(images.flatten(1) @ weight.T + bias, dim=1)
    gradient = (probabilities - torch.eye(3)[labels]) @ weight
    step = 0.1 * gradient / gradient.norm(dim=1, keepdim=True)
    attacked = pgd(network, images, labels, radius=0.2, steps=1, step_size=0.1, start_radius=0.0)
    torch.testing.assert_close((attacked - images).flatten(1), step, atol=1e-6, rtol=1e-4)
    # A longer step ends on the ball's surface, in the same direction.
    attacked = pgd(network, images, labels, radius=0.05, steps=1, step_size=0.1, start_radius=0.0)
    torch.testing.assert_close((attacked - images).flatten(1), step / 2, atol=1e-6, rtol=1e-4)


def test_two_classes_reach_the_optimum():
    """Against two classes the worst point of the ball is along the difference of their weights, whatever the start."""
    network, images = linear_network(n_classes=2), torch.full((4, 3, 4, 4), 0.5)
    labels = torch.tensor([0, 1, 0, 1])
    difference = (network[1].weight[1] - network[1].weight[0]).detach()
    best = 0.3 * difference / difference.norm() * torch.where(labels == 0, 1.0, -1.0)[:, None]
    attacked = pgd(network, images, labels, radius=0.3, steps=20, step_size=0.3)
    torch.testing.assert_close((attacked - images).flatten(1), best, atol=1e-4, rtol=0)


def test_weights_get_no_gradient_and_neighbours_do_not_matter():
    network, (images, labels) = linear_network(), some_images()
    together = pgd(network, images, labels, radius=0.3, steps=3, start_radius=0.0)
    assert all(parameter.grad is None for parameter in network.parameters())
    alone = pgd(network, images[:1], labels[:1], radius=0.3, steps=3, start_radius=0.0)
    torch.testing.assert_close(together[:1], alone, atol=1e-6, rtol=1e-5)


def test_works_without_gradients_switched_on():
    network, (images, labels) = linear_network(), some_images()
    with torch.no_grad():
        attacked = pgd(network, images, labels, radius=0.3, steps=2)
    assert (attacked != images).any()


def test_random_start_is_seeded_and_uniform_in_the_ball():
    like = torch.zeros(4000, 2, 1, 1)
    drawn = random_in_ball(like, 2.0, torch.Generator().manual_seed(3))
    assert torch.equal(drawn, random_in_ball(like, 2.0, torch.Generator().manual_seed(3)))
    inside = lengths(drawn).flatten()
    assert inside.max() <= 2.0
    # In two dimensions half the radius holds a quarter of the area.
    assert (inside < 1.0).float().mean() == pytest.approx(0.25, abs=0.03)
