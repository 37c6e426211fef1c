"""The zoo's registry, its networks' sizes, and what each last layer sees."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.functional import cross_entropy
from zoo_parts import tiny

from dr_utils.zoo import RECIPES, find_recipe
from dr_utils.zoo.evaluation import count_multiply_adds, count_parameters
from dr_utils.zoo.networks import build

EXPECTED = {
    "resnet_standard", "resnet_adversarial", "resnet_mrl", "resnet_ff8", "resnet_ff16", "resnet_ff32", "resnet_ff64",
    "resnet_ff128", "resnet_ff256", "wide_resnet", "wide_resnet_adversarial", "vgg", "vit", "resnet_quarter",
    "vit_quarter",
}  # fmt: skip
FREE = {"name", "title"}


def test_all_networks_of_the_issue_fit_the_package():
    assert set(RECIPES) == EXPECTED
    stored = 0
    for recipe in RECIPES.values():
        network = build(recipe)
        # The seven nested heads take the Matryoshka network a little above the 1.5 M of the others.
        assert 0.3e6 < count_parameters(network) < (1.6e6 if recipe.nesting else 1.5e6), recipe.name
        stored += sum(2 * tensor.numel() for tensor in network.state_dict().values())
    assert stored < 39.5e6


@pytest.mark.parametrize("name", ["resnet_standard", "resnet_mrl", "wide_resnet", "vgg", "vit", "resnet_ff8"])
def test_widths_and_scores(name):
    recipe = RECIPES[name]
    network = build(recipe).eval()
    x = torch.rand(2, 3, 32, 32)
    width = {"vit": 192, "resnet_ff8": 8}.get(name, 512)
    with torch.no_grad():
        assert network.features(x).shape == (2, width) == (2, recipe.head_reads)
        assert network(x).shape == (2, 202)
        torch.testing.assert_close(network.all_logits(x)[-1], network(x))


@pytest.mark.parametrize(
    ("name", "base", "factors"),
    [
        ("resnet_adversarial", "resnet_standard", {"training", "robust_of"}),
        ("resnet_mrl", "resnet_standard", {"training", "nesting"}),
        ("resnet_ff8", "resnet_standard", {"training", "head_reads"}),
        ("wide_resnet", "resnet_standard", {"family", "widths"}),
        ("resnet_quarter", "resnet_standard", {"n_classes", "repeats"}),
        ("vit_quarter", "vit", {"n_classes", "repeats"}),
        ("wide_resnet_adversarial", "wide_resnet", {"training", "robust_of"}),
    ],
)
def test_only_the_named_factor_differs(name, base, factors):
    a, b = (dataclasses.asdict(RECIPES[n]) for n in (name, base))
    assert {key for key in a if a[key] != b[key]} - FREE == factors


def test_networks_of_one_trunk_start_from_the_same_weights():
    trunk = build(RECIPES["resnet_standard"]).body.state_dict()
    for name in ("resnet_adversarial", "resnet_mrl", "resnet_quarter"):
        for key, tensor in build(RECIPES[name]).body.state_dict().items():
            assert torch.equal(tensor, trunk[key])
    narrow = build(RECIPES["resnet_ff8"]).body.state_dict()
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
    network = build(RECIPES["resnet_mrl"])
    assert [head.in_features for head in network.heads] == [8, 16, 32, 64, 128, 256, 512]
    x = torch.rand(2, 3, 32, 32)
    for i, head in enumerate(network.heads):
        features = network.features(x).detach().requires_grad_(True)
        network.features, keep = lambda images, f=features: f, network.features
        network.all_logits(x)[i].sum().backward()
        network.features = keep
        assert features.grad[:, head.in_features :].abs().sum() == 0
        assert (features.grad[:, : head.in_features] != 0).all()


def test_multiply_adds_by_hand():
    # 3x3 convolutions 3-4 and twice 4-4 at 32 x 32, a 1x1 one to 4, and the head.
    network = build(tiny(widths=(4,), trunk_width=4, head_reads=4))
    assert count_multiply_adds(network) == 1024 * (27 * 4 + 2 * 36 * 4 + 16) + 4 * 3


def test_refusals():
    with pytest.raises(ValueError, match="unknown network of the zoo 'resnet_f8'; known, nearest first: resnet_ff8"):
        find_recipe("resnet_f8")
    with pytest.raises(ValueError, match="unknown family"):
        build(tiny(family="lstm"))
    with pytest.raises(ValueError, match="between 1 and all 16 features"):
        build(tiny(head_reads=17))
