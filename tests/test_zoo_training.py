"""Data, training and resuming it, cards and weight files, and the command line; without Tiny-ImageNet."""

from __future__ import annotations

import dataclasses
import json
import tarfile

import numpy as np
import pytest
import torch
from zoo_parts import WNIDS, add_file, jpeg, tiny, toy_images, write_tars

from dr_utils import store
from dr_utils.__main__ import main
from dr_utils.models.cards import read_card, weights_path
from dr_utils.models.small_networks import build, load_weights
from dr_utils.store import AssetError
from dr_utils.zoo import RECIPES
from dr_utils.zoo.data import batches, load_images
from dr_utils.zoo.training import Optimiser, Training, decorrelation, one_cycle, store_weights


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DR_HOME", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_tars(folder)
    return folder


def weights_of(trained):
    return trained.network.state_dict()


def assert_equal_weights(a, b):
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


# ---------------------------------------------------------------- data


def test_tar_is_decoded_once(data, monkeypatch):
    images = load_images(data, "train", n_classes=3)
    assert images.images.shape == (24, 32, 32, 3) and images.images.dtype == np.uint8
    assert images.classes == tuple(sorted(WNIDS))
    assert images.labels.tolist() == [2] * 8 + [0] * 8 + [1] * 8
    # The class's colour has stayed: red, green, blue are the classes in order.
    assert (images.images.mean(axis=(1, 2)).argmax(1) == images.labels).all()
    monkeypatch.setattr("dr_utils.zoo.data._decode", lambda *_: pytest.fail("decoded again"))
    again = load_images(data, "train", n_classes=3)
    assert (again.images == images.images).all() and again.digest == images.digest


def test_damaged_cache_is_made_again(data):
    images = load_images(data, "val", n_classes=3)
    (path,) = (store.cache_dir() / "datasets").glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x55")
    assert (load_images(data, "val", n_classes=3).labels == images.labels).all()
    path.write_bytes(b"short")
    assert (load_images(data, "val", n_classes=3).images == images.images).all()


def test_fewer_classes_are_the_same_in_both_splits(data):
    train_images, val_images = (load_images(data, split, n_classes=2) for split in ("train", "val"))
    assert train_images.classes == val_images.classes and len(train_images.classes) == 2
    assert len(train_images) == 16 and set(train_images.labels) == {0, 1}
    whole = load_images(data, "train", n_classes=3)
    place = whole.classes.index(train_images.classes[1])
    assert (train_images.images[train_images.labels == 1] == whole.images[whole.labels == place]).all()


def test_limit_and_refusals(data, tmp_path):
    assert len(load_images(data, "train", n_classes=3, limit=5)) == 5
    with pytest.raises(ValueError, match="must lie in"):
        load_images(data, "train", n_classes=3, limit=0)
    with pytest.raises(ValueError, match="202 classes are needed; tiny_imagenet_train.tar has 3"):
        load_images(data, "train", n_classes=202)
    with pytest.raises(AssetError, match="tiny_imagenet_train.tar is not in"):
        load_images(tmp_path, "train", n_classes=3)


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("train/n01/a.JPEG", b"no image", "train/n01/a.JPEG: not a picture"),
        ("val/n01/a.JPEG", jpeg((9, 9, 9)), "not laid out as train/<wnid>/<name>.JPEG .val/n01/a.JPEG: another folder"),
        (None, b"", "no images"),
    ],
)
def test_bad_tar_is_refused(tmp_path, member, content, message):
    with tarfile.open(tmp_path / "tiny_imagenet_train.tar", "w") as archive:
        if member:
            add_file(archive, member, content)
    with pytest.raises(AssetError, match=message):
        load_images(tmp_path, "train", n_classes=3)
    (tmp_path / "tiny_imagenet_train.tar").write_bytes(b"no tar")
    with pytest.raises(AssetError, match="damaged .* fetch it again"):
        load_images(tmp_path, "train", n_classes=3)


def drawn(recipe, n=48, epoch=0):
    """Return an epoch's images and their places in the data, end to end."""
    pixels, steps = torch.from_numpy(toy_images(n).images), max(1, round(n * recipe.repeats) // recipe.batch_size)
    images, rows = zip(*batches(pixels, recipe, epoch, steps), strict=True)
    return torch.cat(images), torch.cat(rows)


def test_epoch_is_a_function_of_seed_and_epoch():
    recipe = tiny(batch_size=8)
    (a, rows), (b, again), (_, other) = drawn(recipe), drawn(recipe), drawn(recipe, epoch=1)
    assert torch.equal(a, b) and torch.equal(rows, again) and not torch.equal(rows, other)
    assert sorted(rows.tolist()) == list(range(48))
    _, repeated = drawn(tiny(batch_size=8, repeats=3.5))
    assert len(repeated) == 3.5 * 48 and set(np.bincount(repeated)) == {3, 4}


def test_augmentation_is_a_shifted_and_perhaps_mirrored_copy():
    pixels = torch.from_numpy(toy_images(6).images)
    batch, rows = drawn(tiny(early_share=0.0), 6)
    assert batch.shape == (6, 3, 32, 32) and batch.min() >= 0 and batch.max() <= 1
    seen = set()
    for image, row in zip(batch, rows, strict=True):
        found = []
        for mirrored in (False, True):
            source = pixels[row].flip(1) if mirrored else pixels[row]
            padded = torch.nn.functional.pad(source.permute(2, 0, 1)[None].float(), (4,) * 4, mode="replicate")[0] / 255
            found += [mirrored for dy in range(9) for dx in range(9)
                      if torch.equal(padded[:, dy : dy + 32, dx : dx + 32], image)]  # fmt: skip
        assert len(found) == 1
        seen.add(found[0])
    assert seen == {False, True}


# ---------------------------------------------------------------- training


def test_one_cycle():
    shares = [one_cycle(step, 100, 0.25) for step in range(100)]
    assert shares[0] == pytest.approx(0.04) and max(shares) == shares[25] == pytest.approx(1.0)
    assert shares[:26] == sorted(shares[:26]) and shares[25:] == sorted(shares[25:], reverse=True) and shares[-1] < 1e-3


def test_windows_come_first_then_whole_images():
    recipe = tiny(epochs=8, early_side=24, early_share=0.75)
    assert [drawn(recipe, epoch=epoch)[0].shape[-1] for epoch in range(8)] == [24] * 6 + [32] * 2
    (window, rows), (whole, again) = drawn(recipe), drawn(dataclasses.replace(recipe, early_share=0.0))
    # The same draw: a window is the middle of the shifted whole image, but for columns beyond the edge.
    assert torch.equal(rows, again) and torch.equal(whole[:, :, 4:28, 4:28], window)


@pytest.mark.parametrize("family", ["resnet", "vgg", "vit"])
def test_hidden_layers_step_along_orthonormal_matrices_and_the_rest_as_sgd_does(family):
    changes = {
        "resnet": {},
        "vgg": {"widths": (8, 16, 16, 16)},
        "vit": {"widths": (64, 64), "trunk_width": 64, "head_reads": 64},
    }
    recipe = tiny(family=family, weight_decay=0.01, **changes[family])
    network = build(recipe).to(memory_format=torch.channels_last)
    optimiser = Optimiser(network, recipe)
    layers = {n: m for n, m in network.body.named_modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))}
    hidden = {f"body.{n}.weight": m for n, m in list(layers.items())[1:]}
    rest = {n: p for n, p in network.named_parameters() if n not in hidden}
    twins = {n: p.detach().clone().requires_grad_() for n, p in rest.items()}
    decayed = {n for n, p in rest.items() if p.ndim >= 2 and p.shape[0] > 1}
    reference = torch.optim.SGD(
        [{"params": [t], "weight_decay": 0.01 * (n in decayed)} for n, t in twins.items()],
        lr=0.5 * recipe.lr, momentum=recipe.momentum, nesterov=True,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for turn in range(2):
        before = {n: m.weight.detach().clone() for n, m in hidden.items()}
        for name, parameter in network.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=generator).contiguous(
                memory_format=torch.channels_last if parameter.ndim == 4 else torch.contiguous_format
            )
            if name in twins:
                twins[name].grad = parameter.grad.clone()
        slopes = {n: m.weight.grad.clone().flatten(1) for n, m in hidden.items()}
        optimiser.step(0.5)
        reference.step()
        if turn:  # the momentum of Muon is torch's; here the first step is followed, whose momentum is the gradient
            continue
        for name, layer in hidden.items():
            rows, columns = slopes[name].shape
            length = 0.5 * recipe.hidden_lr * max(1.0, rows / columns) ** 0.5
            u, _, v = torch.linalg.svd(slopes[name], full_matrices=False)
            decay = 0.0 if layer.bias is None else 0.5 * recipe.hidden_lr * 0.01
            expected = before[name].flatten(1) * (1 - decay) - length * (u @ v)
            if layer.bias is None:
                expected *= rows**0.5 / expected.norm()
                assert float(layer.weight.detach().norm()) == pytest.approx(rows**0.5, rel=1e-4)
            # Newton-Schulz ends with singular values of 0.7 to 1.2, or less; a wrong direction would be off by 1.4.
            error = (layer.weight.detach().flatten(1) - expected).norm()
            assert error < 0.6 * length * min(rows, columns) ** 0.5
    for name, twin in twins.items():
        torch.testing.assert_close(network.get_parameter(name), twin)


def run_until(training, epochs):
    """Train, interrupted after so many epochs."""
    save = training._save

    def save_and_stop():
        save()
        if training.progress.epoch == epochs:
            raise KeyboardInterrupt

    training._save = save_and_stop
    with pytest.raises(KeyboardInterrupt):
        training.run()
    return training


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training": "mrl", "nesting": (4, 8, 16)},
        {"training": "narrow", "head_reads": 4},
        {"training": "dropout", "dropout": 0.25},
        {"training": "decov", "decov": 0.1},
        {"training": "adversarial", "attack_steps": 2},
        {"training": "adversarial", "attack_steps": 1},
        {"family": "vit", "widths": (64,), "trunk_width": 64, "head_reads": 64, "optimiser": "adamw", "lr": 1e-3},
    ],
)
def test_training_lowers_the_loss_and_resuming_changes_nothing(changes, monkeypatch, tmp_path):
    recipe, images = tiny(epochs=4, **changes), toy_images()
    whole = Training(recipe, images, device="cpu").run()
    losses = whole.progress.losses
    assert len(losses) == 4 and losses[-1] < 0.7 * losses[0]
    monkeypatch.setenv("DR_HOME", str(tmp_path / "another"))
    part = run_until(Training(recipe, images, device="cpu"), 2)
    assert part.progress.epoch == 2
    resumed = Training(recipe, images, device="cpu")
    assert resumed.progress == part.progress
    assert resumed.run().progress.losses == losses
    assert_equal_weights(weights_of(whole), weights_of(resumed))


def test_penalty_is_the_sum_over_pairs_of_features():
    x = torch.rand(50, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    covariance = np.cov(x.numpy().T, bias=True)
    expected = sum(covariance[i, j] ** 2 for i in range(7) for j in range(i))
    assert float(decorrelation(x)) == pytest.approx(expected, rel=1e-5)


def test_penalty_lowers_the_correlation_of_neurons():
    images, found = toy_images(n=288), {}
    for weight in (0.0, 30.0):
        network = Training(tiny(epochs=6, decov=weight), images, device="cpu").run().network
        with torch.no_grad():
            x = network.features(torch.from_numpy(images.images).permute(0, 3, 1, 2) / 255).numpy()
        found[weight] = np.nanmean(np.abs(np.corrcoef(x[:, x.std(axis=0) > 0].T)))
    assert found[30.0] < found[0.0]


def test_without_penalty_and_dropout_training_is_what_it_was():
    plain, named = (Training(tiny(training=name), toy_images(), device="cpu").run() for name in ("standard", "dropout"))
    assert plain.progress.losses == named.progress.losses


def test_checkpoints_belong_to_one_recipe_and_damaged_ones_start_afresh():
    recipe, images = tiny(epochs=2), toy_images()
    training = run_until(Training(recipe, images, device="cpu"), 1)
    assert Training(dataclasses.replace(recipe, lr=0.2), images, device="cpu").progress.epoch == 0
    assert Training(recipe, images, device="cpu").progress.epoch == 1
    path = store.path_of("checkpoints", training.key)
    path.write_bytes(path.read_bytes()[:1000])
    assert Training(recipe, images, device="cpu").progress.epoch == 0


def test_quarter_takes_as_many_steps():
    assert Training(tiny(epochs=1, repeats=2.0), toy_images(48), device="cpu").steps == 3


def test_bfloat16_trains_on_the_cpu():
    trained = Training(tiny(epochs=2), toy_images(), device="cpu", precision="bfloat16").run()
    assert trained.precision == "bfloat16" and trained.progress.losses[-1] < trained.progress.losses[0]
    assert next(trained.network.parameters()).dtype == torch.float32


def test_loss_that_is_not_finite_is_refused():
    with pytest.raises(FloatingPointError, match="the loss is"):
        Training(tiny(lr=1e30, epochs=1, warmup=0.0), toy_images(), device="cpu").run()


# ---------------------------------------------------------------- cards and weights


@pytest.fixture
def stored(tmp_path):
    recipe, images = tiny(epochs=2, training="mrl", nesting=(4, 16)), toy_images()
    trained = Training(recipe, images, device="cpu").run()
    card = store_weights(trained, toy_images(30, seed=1), tmp_path / "out")
    return tmp_path / "out", card, trained


def test_card_and_weights_round_trip(stored):
    folder, card, trained = stored
    assert read_card("tiny", folder) == card
    assert card.sha256 == store.sha256_of(weights_path("tiny", folder))
    assert card.validation_images == 30 and card.clean_accuracy >= card.robust_accuracy
    assert card.clean_accuracy > 0.5 and card.width == 16 and card.epochs == 2 and card.upstream_images == 96
    network, _ = load_weights("tiny", folder)
    for key, tensor in weights_of(trained).items():
        if not key.endswith("num_batches_tracked"):
            assert torch.equal(network.state_dict()[key], tensor.half().float())
    x = torch.rand(2, 3, 32, 32)
    assert network.features(x).shape == (2, 16) and not network.training
    assert (card.width, card.kind, card.upstream) == (16, "small", "tinyimagenet3")


def test_tampered_and_truncated_weights_are_refused(stored):
    folder, card, _ = stored
    path = weights_path("tiny", folder)
    good = path.read_bytes()
    for bad in (good[:-1] + bytes([good[-1] ^ 1]), good[: len(good) // 2], b""):
        path.write_bytes(bad)
        with pytest.raises(AssetError, match=f"expected SHA-256 {card.sha256}, found {store.sha256_of(bad)}"):
            load_weights("tiny", folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match="tiny.safetensors"):
        load_weights("tiny", folder)


# ---------------------------------------------------------------- the command


def test_command_trains_once(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(RECIPES, "tiny", tiny(batch_size=8))
    told = ["tiny", "--epochs", "2", "--data", str(data), "--device", "cpu", "--out", str(tmp_path / "out")]
    assert main(["train", *told]) == 0
    card = read_card("tiny", tmp_path / "out")
    said = capsys.readouterr().out
    assert "tiny: 2 epochs on cpu, 24 images" in said
    assert f"clean {card.clean_accuracy:.3f}, robust {card.robust_accuracy:.3f}" in said
    assert not list((store.cache_dir() / "checkpoints").iterdir())
    assert json.loads((tmp_path / "out" / "tiny.json").read_text())["recipe"]["epochs"] == 2
    assert main(["train", *told]) == 0
    assert "kept, trained earlier" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small_vit"], "tiny_imagenet_train.tar is not in"),
        (["small_vit", "--attack-steps", "0"], "attack_steps"),
        (["small_vit", "--epochs", "0"], "Input should be greater than 0"),
    ],
)
def test_command_refuses(arguments, message, tmp_path, capsys):
    told = ["--data", str(tmp_path), "--out", str(tmp_path / "out")]
    assert main(["train", *arguments, *told]) == 2
    assert message in capsys.readouterr().err


def test_command_knows_its_networks(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["train", "small_resnt", "--data", str(tmp_path)])
    assert "invalid choice: 'small_resnt'" in capsys.readouterr().err


def test_command_says_where_it_cannot_write(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "small_vit", "--data", str(data), "--out", str(tmp_path / "file")]) == 2
    assert "choose another folder with --out" in capsys.readouterr().err
