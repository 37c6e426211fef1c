"""The weights that come with the package: complete, unchanged, and as accurate as their cards say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from dr_utils.models import available, load_model
from dr_utils.models.cards import WEIGHTS, read_card, weights_path
from dr_utils.models.small_networks import load_weights
from dr_utils.profiles import CHECKOUT
from dr_utils.store import sha256_of
from dr_utils.zoo import RECIPES
from dr_utils.zoo.attacks import evaluate
from dr_utils.zoo.data import load_images
from dr_utils.zoo.training import count_multiply_adds

SHIPPED = [name for name in RECIPES if read_card(name)]
IMAGES = 400  # of the validation split, measured again


def pictures() -> Path | None:
    """Return the folder of Tiny-ImageNet, which the repository does not have."""
    for folder in (os.environ.get("DR_TINY_IMAGENET"), CHECKOUT.parent / "shared" / "data"):
        if folder and (Path(folder) / "tiny_imagenet_val.tar").is_file():
            return Path(folder)
    return None


def test_weights_and_cards_come_in_pairs_and_fit_the_package():
    files = {path.name for path in WEIGHTS.iterdir() if not path.name.startswith(".")}
    assert files == {f"{name}{suffix}" for name in SHIPPED for suffix in (".json", ".safetensors")}
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 40e6


@pytest.mark.parametrize("name", SHIPPED)
def test_card_is_that_of_the_file_and_of_the_recipe(name):
    network, card = load_weights(name)
    assert card.sha256 == sha256_of(weights_path(name)) and card.recipe == RECIPES[name].as_dict()
    assert card.parameters == sum(p.numel() for p in network.parameters())
    assert card.multiply_adds == count_multiply_adds(network)
    assert card.epochs == card.recipe["epochs"] and card.training_seconds > 0 and card.hardware
    assert card.upstream_images == 300 * card.upstream_classes and card.validation_images == 50 * card.upstream_classes
    assert 0 <= card.robust_accuracy < card.clean_accuracy < 1


@pytest.mark.parametrize("name", SHIPPED)
def test_network_is_in_the_registry(name):
    card, network = available()[name], load_model(name)
    assert (card.kind, card.side, card.width) == ("small", 32, RECIPES[name].head_reads) and card == network.card
    assert not card.robust_of or card.robust_of in RECIPES
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert network(images).shape == (2, card.width)
        # The suite's normalisation is the one that it was trained with.
        torch.testing.assert_close(network.logits(images), load_weights(name)[0](images), atol=1e-4, rtol=1e-4)


def test_adversarial_training_bought_robustness():
    for name in SHIPPED:
        card = read_card(name)
        if card.robust_of:
            standard = read_card(card.robust_of)
            assert card.robust_accuracy >= 4 * standard.robust_accuracy
            assert card.clean_accuracy < standard.clean_accuracy


@pytest.mark.skipif(pictures() is None, reason="needs Tiny-ImageNet's tar files: DR_TINY_IMAGENET=folder")
@pytest.mark.parametrize("name", [n for n in ("small_resnet", "small_resnet_adversarial", "small_vit") if n in SHIPPED])
def test_accuracies_are_measured_again_on_a_slice(name):
    network, card = load_weights(name)
    images = load_images(pictures(), "val", n_classes=card.upstream_classes, limit=IMAGES)
    found = evaluate(network, images, radius=card.robust_radius, steps=card.robust_steps, device="cpu")
    for key in ("clean_accuracy", "robust_accuracy"):
        expected = getattr(card, key)
        # Four standard errors of a share of so few images, and a few images where there is hardly any.
        assert abs(found[key] - expected) < 4 * (expected * (1 - expected) / IMAGES) ** 0.5 + 0.01, key
