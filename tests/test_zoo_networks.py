"""The zoo's registry, its networks' sizes, and what each last layer sees."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy
from zoo_parts import tiny

from dr_utils.models.small_networks import build
from dr_utils.zoo import RECIPES
from dr_utils.zoo.training import count_multiply_adds

EXPECTED = {
    "small_resnet", "small_resnet_adversarial", "small_resnet_mrl", "small_resnet_ff8", "small_resnet_ff16",
    "small_resnet_ff32", "small_resnet_ff64", "small_resnet_ff128", "small_resnet_ff256", "small_wide_resnet",
    "small_resnet_dropout", "small_resnet_decov", "small_vgg", "small_vgg_adversarial", "small_vit",
    "small_resnet_quarter", "small_vit_quarter",
}  # fmt: skip
FREE = {"name", "title"}


def test_all_networks_of_the_issue_fit_the_package():
    assert set(RECIPES) == EXPECTED
    stored = 0
    for recipe in RECIPES.values():
        network = build(recipe)
        assert 0.3e6 < sum(p.numel() for p in network.parameters()) < 1.5e6, recipe.name
        stored += sum(2 * tensor.numel() for tensor in network.state_dict().values())
    assert stored < 39.5e6


@pytest.mark.parametrize(
    "name",
    ["small_resnet", "small_resnet_mrl", "small_wide_resnet", "small_vgg", "small_vit", "small_resnet_ff8"],
)
def test_widths_and_scores(name):
    recipe = RECIPES[name]
    network = build(recipe).eval()
    x = torch.rand(2, 3, 32, 32)
    width = {"small_vit": 128, "small_resnet_ff8": 8}.get(name, 512)
    with torch.no_grad():
        assert network.features(x).shape == (2, width) == (2, recipe.head_reads)
        assert network(x).shape == (2, 202)
        torch.testing.assert_close(network.scores(network.features(x))[-1], network(x))


@pytest.mark.parametrize(
    ("name", "base", "factors"),
    [
        ("small_resnet_adversarial", "small_resnet", {"training", "robust_of"}),
        ("small_resnet_mrl", "small_resnet", {"training", "nesting"}),
        ("small_resnet_ff8", "small_resnet", {"training", "head_reads"}),
        ("small_resnet_dropout", "small_resnet", {"training", "dropout"}),
        ("small_resnet_decov", "small_resnet", {"training", "decov"}),
        ("small_wide_resnet", "small_resnet", {"family", "widths"}),
        ("small_resnet_quarter", "small_resnet", {"n_classes", "repeats"}),
        ("small_vit_quarter", "small_vit", {"n_classes", "repeats"}),
        ("small_vgg_adversarial", "small_vgg", {"training", "robust_of"}),
    ],
)
def test_only_the_named_factor_differs(name, base, factors):
    a, b = (dataclasses.asdict(RECIPES[n]) for n in (name, base))
    assert {key for key in a if a[key] != b[key]} - FREE == factors


def test_networks_of_one_trunk_start_from_the_same_weights():
    trunk = build(RECIPES["small_resnet"]).body.state_dict()
    for name in ("small_resnet_adversarial", "small_resnet_mrl", "small_resnet_quarter"):
        for key, tensor in build(RECIPES[name]).body.state_dict().items():
            assert torch.equal(tensor, trunk[key])
    narrow = build(RECIPES["small_resnet_ff8"]).body.state_dict()
    assert all(torch.equal(tensor, trunk[key][:8] if tensor.shape != trunk[key].shape else trunk[key])
               for key, tensor in narrow.items())  # fmt: skip


def test_building_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    build(tiny())
    assert torch.equal(torch.rand(1), expected)


def test_narrow_head_sees_its_features_only():
    """A ResNet that computes all features but whose head reads 8: the others get no gradient, the rest is our ff8."""
    recipe = tiny(trunk_width=32, head_reads=8, training="narrow")
    narrow, whole = build(recipe), build(dataclasses.replace(recipe, head_reads=32))
    x, y = torch.rand(6, 3, 32, 32), torch.arange(6) % 3
    features = whole.features(x)
    features.retain_grad()
    cross_entropy(narrow.heads[0](features[:, :8]), y).backward()
    assert features.grad[:, 8:].abs().max() == 0 < features.grad[:, :8].abs().max()
    torch.testing.assert_close(narrow.features(x), features[:, :8])
    ours = build(recipe)
    cross_entropy(ours(x), y).backward()
    gradients = dict(whole.body.named_parameters())
    for name, parameter in ours.body.named_parameters():
        gradient = gradients[name].grad
        if parameter.shape != gradient.shape:
            assert gradient[8:].abs().max() == 0
            gradient = gradient[:8]
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)


def test_matryoshka_heads_are_nested():
    network = build(RECIPES["small_resnet_mrl"])
    assert [head.in_features for head in network.heads] == [8, 16, 32, 64, 128, 256, 512]
    x = torch.rand(2, 3, 32, 32)
    for i, head in enumerate(network.heads):
        features = network.features(x).detach().requires_grad_(True)
        network.features, keep = lambda images, f=features: f, network.features
        network.scores(network.features(x))[i].sum().backward()
        network.features = keep
        assert features.grad[:, head.in_features :].abs().sum() == 0
        assert (features.grad[:, : head.in_features] != 0).all()


def test_multiply_adds_by_hand():
    # A 3x3 convolution 3-4 at 32 x 32; at 16 x 16 a block 4-6 with its shortcut and a 1x1 one to 5; the head.
    network = build(tiny(widths=(4, 6), trunk_width=5, head_reads=5))
    assert count_multiply_adds(network) == 1024 * 27 * 4 + 256 * (36 * 6 + 54 * 6 + 4 * 6 + 6 * 5) + 5 * 3
